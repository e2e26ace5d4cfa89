"""Pictures of explanations: what their colors, numbers and words say."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from explainers.explaining import plotting, scale
from explainers.explaining.plotting import Explanation
from explainers.methods.cam import GradCAM
from explainers.methods.constant import Constant
from explainers.methods.lime import LIME
from explainers.methods.sliding_patch import SlidingPatch
from explainers.methods.sloc import SLOC
from tests import planted


def explained(maps, kinds, classes=(0,), names=("left", "right"), size=(40, 40)):
    """An explanation of a gray image by methods of these kinds."""
    found = Explanation(
        torch.full((3, *size), 0.5), list(names), torch.tensor([0.75, 0.25]), list(classes)
    )
    found.maps, found.kinds = maps, kinds
    found.seconds = dict.fromkeys(maps, 0.1)
    return found


def words(figure):
    texts = [*figure.texts, *(text for axes in figure.axes for text in axes.texts)]
    return [text.get_text() for text in texts]


def drawn(figure, column=0):
    """The map that is drawn in a column, (H, W, 3)."""
    images = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    return [each for each in images if each.ndim == 3][1 + column]


def test_kinds_say_whether_values_have_a_scale_and_a_zero():
    subject = planted.explanandum()
    kinds = [scale.kind(kind(subject)) for kind in (Constant, LIME, SLOC, SlidingPatch, GradCAM)]
    assert kinds == ["mask", "signed", "signed", "signed", "score"]


def test_limits_of_each_kind():
    values = np.arange(101.0).reshape(1, -1) - 20  # -20 to 80
    assert scale.limits(values, "mask") == (0.0, 1.0)
    assert scale.limits(values, "score") == (-19.0, 79.0)
    assert scale.limits(values, "signed") == (-79.0, 79.0)
    sparse = np.zeros((20, 20))
    sparse[0, 0] = 3.0  # less than 1 % of the pixels
    assert scale.limits(sparse, "score") == (0.0, 3.0)
    assert scale.limits(sparse, "signed") == (-3.0, 3.0)


def test_scores_are_scaled_before_they_are_compared_and_masks_are_not():
    ramp = torch.linspace(0, 1, 101).view(1, -1)
    maps = torch.stack([ramp, 100 * ramp.flip(1)])
    ends = scale.difference(maps, "score")[0, [0, 50, 100]]
    assert ends == pytest.approx([-1, 0, 1], abs=1e-6)
    assert scale.difference(maps, "signed")[0, [0, 100]] == pytest.approx([-100, 1])
    maps[0, 0, 0] = torch.nan
    assert np.isnan(scale.difference(maps, "score")).all()


@pytest.mark.parametrize(
    ("value", "told"),
    [(0.0, "all zero"), (0.5, "constant, 0.5"), (torch.nan, "100% of the pixels\nare not finite")],
)
def test_worthless_maps_say_so_instead_of_a_color_bar(value, told):
    maps = {"flat": torch.full((1, 40, 40), value)}
    figure = plotting.figure(explained(maps, {"flat": "score"}))
    assert told in words(figure)
    assert len(figure.axes) == 3  # photograph, top classes, map


def test_zero_of_a_signed_map_is_white_and_its_sides_red_and_blue():
    values = torch.linspace(-1, 1, 41).expand(1, 40, 41)[:, :, :40]
    figure = plotting.figure(explained({"lime": values}, {"lime": "signed"}))
    red, _, blue = np.moveaxis(drawn(figure)[0], -1, 0)
    assert blue[0] > 2 * red[0]
    assert red[-1] > 2 * blue[-1]
    assert red[20] == pytest.approx(blue[20], abs=0.02)


def test_masks_use_the_whole_scale_even_if_their_values_do_not():
    maps = torch.full((1, 40, 40), 0.5)
    maps[0, 0, 0] = 0.6
    as_mask = plotting.figure(explained({"m": maps}, {"m": "mask"}))
    as_score = plotting.figure(explained({"m": maps}, {"m": "score"}))
    assert "0" in words(as_mask)
    assert "1" in words(as_mask)
    assert "0.6" in words(as_score)
    gap = np.abs(drawn(as_mask)[0, 0] - drawn(as_mask)[1, 1]).max()
    assert 0 < gap < 0.2 < np.abs(drawn(as_score)[0, 0] - drawn(as_score)[1, 1]).max()


def test_two_classes_give_their_difference():
    ramp = torch.linspace(0, 1, 40).expand(2, 40, 40)
    one = plotting.figure(explained({"m": ramp[:1]}, {"m": "score"}))
    two = plotting.figure(explained({"m": ramp}, {"m": "score"}, classes=(1, 0)))
    assert "right\nminus left" in words(two)
    assert "all zero" in words(two)
    assert not any("minus" in text for text in words(one))
    assert {"right\n25.0%", "left\n75.0%"} <= set(words(two))


def test_the_picture_names_classes_probabilities_seconds_and_scores():
    found = explained({"m": torch.rand(1, 40, 40)}, {"m": "score"}, names=["a$b$", "r" * 60])
    found.scores, found.notes = {"m": [0.1234]}, ["photo.jpg: 40 x 40 pixels"]
    told = words(plotting.figure(found))
    for text in ("a$b$", "75.0%", "m  (0.1 s)", "Faithfulness 0.123", "photo.jpg: 40 x 40 pixels"):
        assert text in told
    assert max(map(len, told)) < 60


def test_notebooks_show_the_figure_as_png():
    found = explained({"m": torch.rand(1, 20, 60)}, {"m": "score"}, size=(20, 60))
    figure = plotting.figure(found)
    with Image.open(io.BytesIO(figure._repr_png_())) as shown:
        assert shown.size == pytest.approx(figure.get_size_inches() * plotting.DPI, abs=1)


def test_names_in_other_scripts_are_no_warning(tmp_path):
    found = explained({"m": torch.rand(1, 40, 40)}, {"m": "score"}, names=["虎猫", "犬"])
    plotting.save(plotting.figure(found), tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 1000
