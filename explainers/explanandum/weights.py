"""Loading of weights into a plain network."""

from torch import Tensor, nn

from explainers import files


def load_weights(network: nn.Module, path: str, new_head: bool = False) -> None:
    """Loads a file with a state dict into a network. Half precision is converted to float32."""
    load_state(network, files.read_state(path), new_head, source=path)


def load_state(network: nn.Module, state: dict[str, Tensor], new_head: bool, source: str) -> None:
    """Loads a state dict into a network.

    Args:
        network: Network that receives the weights.
        state: State dict by parameter name.
        new_head: Whether tensors of another shape are left out instead of refused.
        source: Name of the weights in error messages.

    Raises:
        ValueError: If a shape or the set of names does not fit.
    """
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
