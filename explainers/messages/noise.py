"""What Lightning says in every run and its users need not mend."""

import logging
import warnings

QUIET = ("Tip:", "TPU available", "was configured so", "`weights_only` was not set")
IGNORED = (
    ".*LeafSpec.*",
    ".*does not have many workers.*",
    "This DataLoader will create .* worker processes",
    "Found .* in eval mode",
    "The number of training batches .* is smaller than the logging interval",
    "Precision .* is not supported by the model summary",
    "The dirpath has changed",
    "Checkpoint directory",  # no other fit is in it: `FitFolder` sees to that
)


def mute() -> None:
    """Leaves out these lines and warnings from now on."""
    for name in ("utilities.rank_zero", "trainer.connectors.checkpoint_connector"):
        logger = logging.getLogger(f"lightning.pytorch.{name}")
        logger.addFilter(_tells)
    warnings.formatwarning = _one_line
    for message in IGNORED:
        warnings.filterwarnings("ignore", message)


def _one_line(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    line: str | None = None,
) -> str:
    """A warning as its reader needs it, without the place in the code that gave it."""
    text = " ".join(str(message).split())
    if issubclass(category, UserWarning):
        return f"warning: {text}\n"
    return f"{category.__name__}: {text} ({filename}:{lineno})\n"


def _tells(record: logging.LogRecord) -> bool:
    return not any(text in record.getMessage() for text in QUIET)
