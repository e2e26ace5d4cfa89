"""The frozen network inside a trained module: exact in every checkpoint, or left out of it."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from torch import Tensor, nn

from explainers.explanandum.weights import fingerprint

STATES = {"state_dict", "current_model_state"}  # the second one: of a moving average's callback


def leave_out(checkpoint: dict[str, Any], name: str, network: nn.Module) -> None:
    """Replaces the weights of the submodule `name` by a hash of them, in a checkpoint."""
    checkpoint[f"{name}_weights"] = fingerprint(network)
    for key in STATES & checkpoint.keys():
        kept = {n: v for n, v in checkpoint[key].items() if not n.startswith(f"{name}.")}
        checkpoint[key] = kept


def fill_in(checkpoint: dict[str, Any], name: str, network: nn.Module, otherwise: str) -> None:
    """Puts the weights that `leave_out` took out of a checkpoint back into it.

    Raises:
        ValueError: If they have another hash. The message starts with `otherwise`.
    """
    stored, given = checkpoint.get(f"{name}_weights"), fingerprint(network)
    if stored not in (None, given):
        raise ValueError(f"{otherwise}: its weights have the hash {stored}, these {given}")
    own = {f"{name}.{n}": v for n, v in network.state_dict().items()}
    for key in STATES & checkpoint.keys():
        checkpoint[key].update(own)


class KeepFrozen(Callback):
    """Keeps a frozen submodule exact, bit for bit, beside a moving average of the weights.

    Lightning averages all weights, and rounds those that never change by up to 1e-6 of their size.
    The network would then not be recognized as the same one.

    Args:
        name: Name of the submodule.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._exact: dict[str, Tensor] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Copies the weights, if there is a moving average."""
        if any(isinstance(callback, WeightAveraging) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            weights = getattr(pl_module, self.name).state_dict()
            self._exact = {n: value.detach().cpu().clone() for n, value in weights.items()}

    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Writes the weights as they are, after the moving average has written its own."""
        for n, value in self._exact.items():
            checkpoint["state_dict"][f"{self.name}.{n}"] = value

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Puts them back, after the moving average has taken the place of all weights."""
        if self._exact:
            getattr(pl_module, self.name).load_state_dict(self._exact)
