"""What a user gives wrongly is named in one line, whatever its type."""

import numpy as np
import pytest

from datamodules.arguments import check_choice, check_names, check_size, check_whole
from datamodules.photos import Photos
from datamodules.shapes import Shapes


def test_what_is_right_passes():
    check_whole(0, seed=0, limit=np.int64(3))
    check_choice("how", None, [None, "a"])
    check_size((2, np.int64(3)))
    check_names("names", ("a", "b"))


@pytest.mark.parametrize("value", ["3", 2.5, True, None, [1]])
def test_what_is_no_whole_number_is_named(value):
    with pytest.raises(ValueError, match=r"^limit must be a whole number, got "):
        check_whole(1, limit=value)


@pytest.mark.parametrize("value", [5, "ab", [8], [8, 0], [8.0, 8], [1, 2, 3], ["8", "8"]])
def test_what_is_no_size_is_named(value):
    with pytest.raises(ValueError, match=r"^image_size must be \[height, width\], both positive"):
        check_size(value)


@pytest.mark.parametrize("value", ["cat.png", [1], 3])
def test_what_is_no_list_of_names_is_named(value):
    with pytest.raises(ValueError, match=r"^names must be a list of names, got "):
        Photos(names=value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"num_workers": -1}, "num_workers must be at least 0, got -1"),
        ({"batch_size": 2.5}, "batch_size must be a whole number, got 2.5"),
        ({"crop_pct": float("nan")}, r"crop_pct must be in \(0, 1\], got nan"),
        ({"crop_pct": "1"}, r"crop_pct must be in \(0, 1\], got '1'"),
        (
            {"on_error": "ignore"},
            r"on_error must be one of \[None, 'skip', 'raise'\], got 'ignore'",
        ),
        ({"image_size": None}, r"image_size must be \[height, width\], both positive, got None"),
        ({"test_images": -5}, "test_images must be at least 0, got -5"),
        ({"scene_seed": 0.5}, "scene_seed must be a whole number, got 0.5"),
    ],
)
def test_data_modules_check_theirs(settings, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        Shapes(**settings)


def test_a_split_without_images_is_named():
    with pytest.raises(ValueError, match="split 'test' has no images; check the data"):
        Shapes(test_images=0).setup("test")
