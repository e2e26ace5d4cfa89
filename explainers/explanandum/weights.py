"""Loading of weights into a plain network."""

import hashlib
import sys
from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from explainers import files

State = dict[str, Tensor]


def load_weights(
    network: nn.Module, path: str, new_head: bool = False, key: str | None = None
) -> None:
    """Loads a file of weights into a network. Half precision is converted to float32.

    The file may hold the state dict in an entry, such as "model" or "state_dict", and its names may
    have a prefix, such as "module." or "model.", under which all names of the network are found.

    Args:
        network: Network that receives the weights.
        path: Path of the file.
        new_head: Whether tensors of another shape are left out instead of refused.
        key: Entry of the file, prefix of the names, or both joined by a dot. It is needed only if
            several fit.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file holds no weights, or none or several that fit.
    """
    states, own = files.read_states(path), set(network.state_dict())
    found: dict[str, State] = {}
    for entry, state in states.items():
        for prefix in prefixes(state, own):
            place = f"{entry}.{prefix}".strip(".")
            found[place] = {
                n.removeprefix(prefix): v for n, v in state.items() if n.startswith(prefix)
            }
    if key is not None:
        chosen = {p: state for p, state in found.items() if p == key or p.startswith(f"{key}.")}
        if not chosen:
            raise ValueError(f"{path} has no weights {key!r}; it has {_listed(found)}")
        found = chosen
    fitting = {place: state for place, state in found.items() if not _differing(own, state)}
    if len(fitting) > 1:
        raise ValueError(
            f"{path} holds several weights that fit: {_listed(fitting)}; set weights_key to one"
        )
    nearest = sorted(found.values(), key=lambda state: len(_differing(own, state)))
    load_state(network, [*fitting.values(), *nearest][0], new_head, source=path)


def prefixes(state: Iterable[str], own: set[str]) -> list[str]:
    """Prefixes of names in a state dict before names of the network, the most frequent first."""
    counts: Counter[str] = Counter({"": 0})
    for name in state:
        parts = name.split(".")
        for i in range(len(parts)):
            if ".".join(parts[i:]) in own:
                counts["".join(f"{part}." for part in parts[:i])] += 1
    return [prefix for prefix, n in counts.most_common() if not prefix or n > len(own) / 2]


def load_state(network: nn.Module, state: State, new_head: bool, source: str) -> None:
    """Loads a state dict into a network.

    Position embeddings of a timm network that was built for another image size are resized.

    Args:
        network: Network that receives the weights.
        state: State dict by parameter name.
        new_head: Whether tensors of another shape are left out instead of refused.
        source: Name of the weights in error messages.

    Raises:
        ValueError: If a shape or the set of names does not fit.
    """
    own = network.state_dict()
    if wrong := _differing(set(own), state):
        raise ValueError(
            f"{source} does not fit {type(network).__name__}: "
            f"{len(wrong)} keys differ, first {wrong[0]!r}"
        )
    other = _reshaped(own, state)
    if other and not _is_head(own, state, other):
        state = _resized(network, state)
        other = _reshaped(own, state)
    if other and not new_head:
        name = other[0]
        hint = f"; set num_classes to the file's {len(state[name])}"
        raise ValueError(
            f"{source}: {name} has shape {tuple(state[name].shape)}, the network expects "
            f"{tuple(own[name].shape)}"
            + (hint if _is_head(own, state, other) else ": it is of another architecture or size")
        )
    kept = {name: value for name, value in state.items() if name not in other}
    network.load_state_dict(kept, strict=False)


def _differing(own: set[str], state: State) -> list[str]:
    """Names that only the network has, then names that only the file has."""
    # Files of early versions lack the counters of BatchNorm, which evaluation does not use.
    missing = {name for name in own - set(state) if not name.endswith("num_batches_tracked")}
    return sorted(missing) + sorted(set(state) - own)


def _reshaped(own: State, state: State) -> list[str]:
    return [
        name for name, value in own.items() if name in state and state[name].shape != value.shape
    ]


def _is_head(own: State, state: State, names: list[str]) -> bool:
    """Whether tensors differ in the number of classes alone."""
    last = list(own)[-1].rpartition(".")[0]
    pairs = [(tuple(own[name].shape), tuple(state[name].shape)) for name in names]
    return (
        any(name.rpartition(".")[0] == last for name in names)
        and all(a[1:] == b[1:] for a, b in pairs)
        and len({(a[:1], b[:1]) for a, b in pairs}) == 1
    )


def _resized(network: nn.Module, state: State) -> State:
    """A state dict as timm adapts it to the image size of its network; others as they are."""
    adapt: Any = getattr(
        sys.modules[type(network).__module__], "checkpoint_filter_fn", lambda state, _: state
    )
    try:
        with torch.no_grad():
            adapted = adapt(dict(state), network)
    except (KeyError, RuntimeError, AttributeError):  # of another architecture
        return state
    return adapted if adapted.keys() == state.keys() else state


def fingerprint(module: nn.Module, leave_out: str | None = None) -> str:
    """Short hash of a module's weights, except those whose names start with `leave_out`."""
    digest = hashlib.sha256()
    for name, value in module.state_dict().items():
        if leave_out is None or not name.startswith(leave_out):
            digest.update(name.encode())
            digest.update(
                value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
            )
    return digest.hexdigest()[:16]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in names)
