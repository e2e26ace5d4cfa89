"""Weights & Biases, offline unless there is an account."""

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
    """Lightning's WandbLogger that runs offline without an account.

    `wandb sync FOLDER` uploads such a run later.

    Args:
        save_dir: Folder of the run's files; made if it does not exist.
        project: Name of the project.
        offline: None decides by whether an account is configured.
        **kwargs: As for Lightning's WandbLogger.
    """

    def __init__(
        self,
        save_dir: str = "runs",
        project: str = "learned-explainers",
        offline: bool | None = None,
        **kwargs: Any,
    ) -> None:
        Path(save_dir).mkdir(parents=True, exist_ok=True)
        super().__init__(
            save_dir=save_dir,
            project=project,
            offline=not has_account() if offline is None else offline,
            **kwargs,
        )
