"""State dicts that fit, and what is said of those that do not."""

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from explainers.explanandum import weights


def network(classes=2, width=3):
    """A body and a head of random weights."""
    layers = nn.Sequential()
    layers.add_module("body", nn.Linear(4, width))
    layers.add_module("head", nn.Linear(width, classes))
    return layers


def test_half_precision_is_widened(tmp_path):
    source, own = network(), network()
    half = {name: value.half() for name, value in source.state_dict().items()}
    save_file(half, tmp_path / "w.safetensors")
    weights.load_weights(own, str(tmp_path / "w.safetensors"))
    for name, value in own.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, half[name].float())


def test_a_new_head_keeps_its_own_weights_and_the_rest_is_loaded(tmp_path):
    source, own = network(classes=5), network()
    torch.save({"state_dict": source.state_dict()}, tmp_path / "w.pth")
    head = own.head.weight.clone()
    with pytest.raises(
        ValueError,
        match=r"w\.pth: head\.weight has shape \(5, 3\), the network expects \(2, 3\); set num_cl",
    ):
        weights.load_weights(own, str(tmp_path / "w.pth"))
    weights.load_weights(own, str(tmp_path / "w.pth"), new_head=True)
    assert torch.equal(own.body.weight, source.body.weight)
    assert torch.equal(own.head.weight, head)


def test_keys_that_differ_are_told():
    state = network().state_dict()
    state["tail.weight"] = state.pop("head.weight")
    with pytest.raises(
        ValueError, match=r"a file does not fit Sequential: 2 keys differ, first 'head\.weight'"
    ):
        weights.load_state(network(), state, new_head=True, source="a file")
