"""Loading weights into a plain network."""

from torch import Tensor, nn

from explainers import files


def load_weights(network: nn.Module, path: str, new_head: bool = False) -> None:
    """Load a state dict file into a network; half precision is widened."""
    load_state(network, files.read_state(path), new_head, source=path)


def load_state(network: nn.Module, state: dict[str, Tensor], new_head: bool, source: str) -> None:
    """Load a state dict into a network; `source` is what an error calls it."""
    own = network.state_dict()
    other = [name for name in state if name in own and own[name].shape != state[name].shape]
    if other and not new_head:
        name = other[0]
        raise ValueError(
            f"{source}: {name} has shape {tuple(state[name].shape)}, the network expects "
            f"{tuple(own[name].shape)}; set num_classes to the file's"
        )
    result = network.load_state_dict(
        {n: v for n, v in state.items() if n not in other}, strict=False
    )
    wrong = sorted(set(result.missing_keys) - set(other)) + result.unexpected_keys
    if wrong:
        raise ValueError(
            f"{source} does not fit {type(network).__name__}: "
            f"{len(wrong)} keys differ, first {wrong[0]!r}"
        )
