"""The progress bars of a run."""

import sys

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from tqdm import tqdm


def show(trainer: Trainer, text: str) -> None:
    """Writes a text beside the progress bar of the test, if there is one."""
    bar = trainer.progress_bar_callback
    if isinstance(bar, TQDMProgressBar) and not bar.is_disabled:
        bar.test_progress_bar.set_postfix_str(text)
    elif (
        isinstance(bar, RichProgressBar)
        and bar.progress is not None
        and bar.test_progress_bar_id is not None
    ):
        bar.progress.update(bar.test_progress_bar_id, description=f"{bar.test_description} {text}")


class CloseBars(Callback):
    """Closes the progress bars when a run fails, so that the error begins on a line of its own."""

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        """Closes all bars, which Lightning leaves open."""
        for bar in vars(trainer.progress_bar_callback or self).values():
            if isinstance(bar, tqdm):
                bar.close()
        sys.stdout.flush()
