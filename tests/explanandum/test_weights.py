"""State dicts that fit, and what is said of those that do not."""

from argparse import Namespace

import pytest
import torch
from safetensors.torch import save_file
from timm.models import create_model
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


def prefixed(prefix, state):
    return {prefix + name: value for name, value in state.items()}


OTHERS = {"criterion.weight": torch.ones(2), "metric.total": torch.zeros(())}
FORMS = {
    "plain": lambda s: s,
    "model": lambda s: {"model": s, "epoch": 3, "lr": 0.1},
    "model_state_dict": lambda s: {
        "model_state_dict": s,
        "optimizer_state_dict": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": []},
    },
    "net": lambda s: {"net": s, "acc": 91.5},
    "arguments": lambda s: {"model": s, "args": Namespace(lr=0.1)},
    "parallel": lambda s: {"state_dict": prefixed("module.", s)},
    "compiled": lambda s: prefixed("_orig_mod.", s),
    "parallel and compiled": lambda s: {"network": prefixed("module._orig_mod.", s)},
    "lightning": lambda s: {"state_dict": prefixed("model.", s) | OTHERS, "hyper_parameters": {}},
    "a backbone's": lambda s: prefixed("backbone.net.", s),
    "nested": lambda s: {"checkpoint": {"ema": {"state_dict": s}}},
    "beside another network": lambda s: {"model": s, "critic": {"a": torch.zeros(2)}},
    "with a version": lambda s: {**s, "version": "1.0"},
    "half": lambda s: {"model": {name: value.half() for name, value in s.items()}},
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("ending", ["pth", "ckpt", "bin", "safetensors"])
def test_weights_are_found_wherever_they_are(form, ending, tmp_path):
    source, own = network(), network()
    path = str(tmp_path / f"w.{ending}")
    torch.save(form(source.state_dict()), path)
    weights.load_weights(own, path)
    torch.testing.assert_close(own.state_dict(), source.state_dict(), rtol=1e-3, atol=1e-3)


def test_a_key_chooses_among_weights_that_fit(tmp_path):
    first, second = network().state_dict(), network().state_dict()
    forms = {
        "entries": ({"state_dict": first, "state_dict_ema": second}, "state_dict_ema"),
        "prefixes": (prefixed("model.", first) | prefixed("ema.module.", second), "ema.module"),
        "both": ({"a": prefixed("module.", first), "b": prefixed("module.", second)}, "b"),
    }
    for name, (content, key) in forms.items():
        path, own = str(tmp_path / f"{name}.pth"), network()
        torch.save(content, path)
        with pytest.raises(
            ValueError, match=f"several weights that fit: .*'{key}.*; set weights_k"
        ):
            weights.load_weights(own, path)
        with pytest.raises(ValueError, match=f"has no weights 'no'; it has .*'{key}"):
            weights.load_weights(own, path, key="no")
        weights.load_weights(own, path, key=key)
        torch.testing.assert_close(own.state_dict(), second, rtol=0, atol=0)


def test_a_prefix_is_not_stripped_from_some_names_alone():
    state = prefixed("model.", network().state_dict())
    state["head.bias"] = state.pop("model.head.bias")
    assert weights.prefixes(state, set(network().state_dict())) == ["model.", ""]


def test_only_the_head_is_told_to_change_the_number_of_classes(tmp_path):
    torch.save(network(width=5).state_dict(), tmp_path / "w.pth")
    told = r"body\.weight has shape \(5, 4\), .* \(3, 4\): it is of another architecture or size"
    with pytest.raises(ValueError, match=told):
        weights.load_weights(network(), str(tmp_path / "w.pth"))


def test_position_embeddings_are_resized_as_by_timm(tmp_path):
    small = {"num_classes": 2, "embed_dim": 24, "num_heads": 2, "depth": 1}
    source = create_model("vit_tiny_patch16_224", **small)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    own = create_model("vit_tiny_patch16_224", img_size=[32, 64], **small)
    weights.load_weights(own, str(tmp_path / "w.pth"))
    assert own.pos_embed.shape == (1, 1 + 2 * 4, 24)
    assert torch.equal(own.pos_embed[:, 0], source.pos_embed[:, 0])
    assert torch.equal(own.head.weight, source.head.weight)
