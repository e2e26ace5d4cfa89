"""A logger for Weights & Biases that runs offline if there is no account."""

import netrc
import os
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import WandbLogger


def has_account() -> bool:
    """Whether an API key is configured, in the environment or by `wandb login`."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    path = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    try:
        return path.is_file() and netrc.netrc(path).authenticators("api.wandb.ai") is not None
    except netrc.NetrcParseError:
        return False


class OfflineFirstWandbLogger(WandbLogger):
    """Lightning's WandbLogger, which runs offline if there is no account.

    `wandb sync FOLDER` uploads such a run later.

    Args:
        save_dir: Folder for the files of the run, which is created if needed.
        project: Name of the project.
        offline: Whether to run offline. None runs offline if no account is configured.
        artifacts: Whether to send the last and best checkpoints of a fit, and the report.html of an
            evaluation, as artifacts. An offline run keeps copies of them in W&B's own data folder,
            from which `wandb sync` sends them.
        **kwargs: Further arguments of Lightning's WandbLogger.
    """

    def __init__(
        self,
        save_dir: str = "runs",
        project: str = "learned-explainers",
        offline: bool | None = None,
        artifacts: bool = False,
        **kwargs: Any,
    ) -> None:
        Path(save_dir).mkdir(parents=True, exist_ok=True)
        super().__init__(
            save_dir=save_dir,
            project=project,
            offline=not has_account() if offline is None else offline,
            **kwargs,
        )
        self._wandb_init.pop("anonymous", None)  # wandb warns of it, whatever its value
        self.artifacts = artifacts
        if artifacts:
            self._log_model = True  # Lightning refuses this argument offline, W&B does not
