"""The figures of docs/figures show what their pages say, computed at small size."""

import importlib.util
from pathlib import Path

import pytest
import torch
from PIL import Image


def load(name):
    spec = importlib.util.spec_from_file_location(f"docs_{name}", f"docs/figures/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_sums_over_four_masks_put_all_mass_on_the_central_stripe():
    stripes = load("stripes")
    kept = stripes.masks()
    assert stripes.responses(kept).tolist() == pytest.approx([0.8] * 4)
    local = stripes.smallest_map(kept)
    left, right = stripes.EDGES
    assert local[:, left:right].sum().item() == pytest.approx(0.8, abs=1e-6)
    outside = torch.cat([local[:, :left], local[:, right:]], dim=1)
    assert outside.abs().max() < 1e-9


def test_the_sum_over_the_whole_image_alone_does_not_find_the_stripe():
    stripes = load("stripes")
    spread = stripes.smallest_map(stripes.masks()[:1])
    assert spread.sum().item() == pytest.approx(0.8, abs=1e-6)
    assert (spread.max() - spread.min()).item() < 1e-9


def test_free_pixels_show_any_label_and_long_intervals_the_true_one_only():
    intervals = load("intervals")
    found = intervals.curves(50, [20, 300])
    assert found["true label, free pixels"] == [1, 1]
    assert found["wrong label, free pixels"] == [1, 1]
    assert found["true label, an interval"] == [1, 1]
    assert found["wrong label, an interval"] == [1, 0]


def test_intervals_by_hand():
    intervals = load("intervals")
    values = torch.tensor([[3.0, -2.0, -2.0, 3.0], [-1.0, -1.0, 5.0, -9.0]])
    assert intervals.shown_by_intervals(values, 2) == 1
    assert intervals.shown_by_intervals(values, 3) == 0.5  # sums -1 and -1; 3 and -5
    assert intervals.shown_by_subsets(values, 3) == 1


@pytest.mark.parametrize("name", ["stripes", "intervals"])
def test_pictures_can_be_drawn_and_are_small(name, tmp_path):
    module = load(name)
    file = tmp_path / "figure.webp"
    module.draw(file, *([20] if name == "intervals" else []))
    with Image.open(module.PICTURE) as committed, Image.open(file) as drawn:
        assert drawn.size == committed.size
    assert Path(module.PICTURE).stat().st_size < 40_000
