"""Layouts of a layer's output, found by a trial, and what is refused."""

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from explainers import Explanandum
from explainers.explanandum import layouts
from explainers.explanandum.layouts import Layout

SIZES = [(32, 32), (32, 48), (60, 36)]


@pytest.mark.parametrize("prefix", range(6))
@pytest.mark.parametrize(("rows", "columns"), [(3, 4), (4, 3), (5, 5), (2, 8)])
def test_tokens_are_laid_out_as_the_image_is(prefix, rows, columns):
    maps = torch.arange(2.0 * 3 * rows * columns).view(2, 3, rows, columns)
    tokens = torch.cat([torch.full((2, prefix, 3), -1.0), maps.flatten(2).mT], dim=1)
    layout = Layout("tokens", (rows, columns), prefix)
    assert torch.equal(layout.to_maps(tokens, (2, 3, 8 * rows, 8 * columns)), maps)


def test_maps_of_both_layouts_become_maps_and_what_is_no_grid_is_refused():
    maps, shape = torch.rand(2, 5, 3, 4), (2, 3, 30, 40)
    assert Layout("maps", (3, 4)).to_maps(maps, shape) is maps
    last = Layout("channels_last", (3, 4))
    assert torch.equal(last.to_maps(maps.movedim(1, -1), shape), maps)
    with pytest.raises(ValueError, match=r"cannot lay 15 tokens out as a grid of aspect 1\.00"):
        Layout("tokens", (4, 4)).to_maps(torch.zeros(1, 15, 2), (1, 3, 8, 8))
    with pytest.raises(ValueError, match=r"expected tokens of 2 images from a layer, got \(8, "):
        Layout("tokens", (4, 4)).to_maps(torch.zeros(8, 16, 2), (2, 3, 8, 8))


def windows(x, side=2):
    """Windows (B * number, side * side, C) of maps (B, C, h, w), as in a Swin transformer."""
    parts = F.unfold(x, side, stride=side).unflatten(1, (x.shape[1], -1))
    return parts.permute(0, 3, 2, 1).flatten(0, 1)


FORMS = {
    "maps": lambda x: x,
    "channels_last": lambda x: x.movedim(1, -1),
    "tokens": lambda x: x.flatten(2).mT,
    "class token": lambda x: F.pad(x.flatten(2).mT, (0, 0, 1, 0)),
    "four registers": lambda x: F.pad(x.flatten(2).mT, (0, 0, 4, 0), value=2.0),
    "transposed": lambda x: x.mT,
    "channels by positions": lambda x: x.flatten(2),
    "positions first": lambda x: x.flatten(2).permute(2, 0, 1),
    "windows": windows,
    "windows in order": lambda x: windows(x).reshape(len(x), -1, x.shape[1]),
    "class token behind": lambda x: F.pad(x.flatten(2).mT, (0, 0, 0, 1)),
    "pooled": lambda x: x.mean(dim=(2, 3)),
    "list": lambda x: [x],
    "integers": lambda x: (9 * x).long(),
    "attention": lambda x: (x.flatten(2).mT @ x.flatten(2)).softmax(dim=-1)[:, None],
    "shuffled": lambda x: x.flatten(2)[..., torch.randperm(x[0, 0].numel())].view_as(x),
}
KINDS = {
    "maps": ("maps", 0),
    "channels_last": ("channels_last", 0),
    "tokens": ("tokens", 0),
    "class token": ("tokens", 1),
    "four registers": ("tokens", 4),
}


class Shaped(nn.Module):
    """A layer whose maps, at a quarter of the resolution, are given in another form."""

    num_classes = 2

    def __init__(self, form, channels) -> None:
        super().__init__()
        self.patches, self.form, self.shape = nn.Conv2d(3, channels, 4, 4), form, nn.Identity()

    def forward(self, images):
        x = self.patches(images)
        self.shape(self.form(x))
        return x.mean(dim=(2, 3))[:, :2]  # logits


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("form", FORMS)
def test_forms_are_recognized_or_refused(form, size):
    """Also with as many channels as rows, columns or positions."""
    torch.manual_seed(0)
    grid = (size[0] // 4, size[1] // 4)
    for channels in {5, 6, *grid, grid[0] * grid[1], 30}:
        plain = {"mean": [0.0] * 3, "std": [1.0] * 3, "input_size": list(size)}
        explanandum = Explanandum(Shaped(FORMS[form], channels), **plain)
        if form in KINDS:
            layout = layouts.of(explanandum, "shape")
            assert (layout.kind, layout.prefix, layout.grid) == (*KINDS[form], grid)
            assert layout.locality > 10
        else:
            with pytest.raises(ValueError, match=r"layer 'shape' (gives|runs)") as told:
                layouts.of(explanandum, "shape")
            assert "\n" not in str(told.value)


class Twice(nn.Module):
    """A ReLU that runs twice, one that does not run, and one behind the pooling."""

    num_classes = 4

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 4, 4, 4), nn.BatchNorm2d(4))
        self.act, self.idle, self.pooled = nn.ReLU(), nn.ReLU(), nn.ReLU()

    def forward(self, images):
        x = self.act(self.first(self.act(images)))
        return self.pooled(x.mean(dim=(2, 3), keepdim=True)).flatten(1)


def twice():
    torch.manual_seed(0)
    return Explanandum(Twice(), mean=[0.0] * 3, std=[1.0] * 3, input_size=[32, 32])


def test_layers_that_run_twice_never_or_without_positions():
    explanandum = twice()
    for name, told in (
        ("act", "layer 'act' runs more than once in each pass: name a layer that gives maps"),
        ("idle", "layer 'idle' does not run: name"),
        ("nope", r"no module 'nope' in the explanandum; its last ones: \["),
    ):
        with pytest.raises(ValueError, match=told):
            layouts.of(explanandum, name)
    assert layouts.of(explanandum, "pooled") == Layout("maps", (1, 1))


def test_the_trial_leaves_nothing_behind_and_is_made_once():
    explanandum, count = twice(), []
    before = copy.deepcopy(explanandum.state_dict())
    hook = explanandum.model.first.register_forward_hook(lambda *a: count.append(len(a[2])))
    state = torch.get_rng_state()
    with torch.inference_mode():
        found = dict(explanandum.layers)
    assert torch.equal(torch.get_rng_state(), state)
    assert copy.deepcopy(explanandum).layers == found
    layouts.of(explanandum, "first.1")
    assert count == [5]
    hook.remove()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in explanandum.modules())
    torch.testing.assert_close(explanandum.state_dict(), before, rtol=0, atol=0)
    assert not any(p.requires_grad or p.is_inference() for p in explanandum.parameters())
    with torch.enable_grad():
        assert twice().layers == found


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_dtype_does_not_matter(dtype):
    kinds = [
        {name: layer.layout and layer.layout[:3] for name, layer in each.layers.items()}
        for each in (twice(), twice().to(dtype))
    ]
    assert kinds[0] == kinds[1]


def test_locality_by_hand():
    rows = torch.tensor([[8.0, 2.0], [1.0, 1.0]])[:, :, None].expand(2, 2, 2)
    columns = torch.tensor([[[2.0, 1.0]] * 2, [[1.0, 2.0]] * 2])
    # Changes of the upper half are 8 to 1, of the lower one 2 to 1: half of ln 4, as along columns.
    assert layouts.locality(torch.cat([rows, columns]))[0] == pytest.approx(math.log(2))
    assert layouts.locality(torch.cat([rows, columns.flip(0)]))[0] <= 0
    for nothing in (torch.ones(4, 3, 3), torch.zeros(4, 3, 3)):
        assert layouts.locality(nothing) == (pytest.approx(0.0, abs=1e-6),) * 2
    crowd = torch.cat([rows, columns]).repeat_interleave(4, 1).repeat_interleave(4, 2)
    assert layouts.locality(crowd)[0] == pytest.approx(math.log(2))
    crowd[2:, ::2] = crowd[2:, ::2].sqrt().flip(2)  # every other row tells the wrong half
    assert layouts.locality(crowd)[0] == 0.0


def test_few_positions_need_no_more_than_one_reading():
    """Layers that see the whole image, as the last ones of a deep network for small images."""
    blind = torch.rand(5, 16, 1, 1).expand(5, 16, 2, 3)
    assert layouts.seen(blind, (64, 96)).layout[:2] == ("maps", (2, 3))
    assert layouts.seen(0 * blind, (64, 96)).layout[:2] == ("maps", (2, 3))  # a dead layer
    assert layouts.seen(blind.movedim(1, -1), (64, 96)).layout[:2] == ("channels_last", (2, 3))
    for output in (blind[:, :2, :, :2], blind.flatten(2).mT, blind.repeat(1, 1, 9, 9)):
        assert layouts.seen(output, (64, 96)).layout is None


def test_effects_of_swapped_outputs():
    explanandum = twice()
    for name in ("first", "first.0", "pooled"):
        change, rest = layouts.swapped(explanandum, name, positions=True)
        assert change == pytest.approx(1.0, rel=1e-4)  # both round, in either memory layout
        assert rest == pytest.approx(0.0, abs=1e-4)
