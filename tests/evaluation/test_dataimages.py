"""What decides an image: maps of changed images are refused, however many images there are."""

import csv

import numpy as np
import pytest
from PIL import Image

from datamodules.folder import ImageFolder
from explainers.callbacks.save import SaveMaps
from explainers.callbacks.score import Score
from explainers.metrics.saliency import MaskSaliency
from tests import planted
from tests.support import Truth, trainer

pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers")


def photo(path, shade, side=8):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(shade).integers(0, 20, (side, side, 3), dtype=np.uint8)
    Image.fromarray(noise + shade).save(path)


@pytest.fixture
def photos(tmp_path):
    for i in range(4):
        photo(tmp_path / "photos" / f"{i}.png", 50 * i)
    return tmp_path / "photos"


def predict(photos, out="out", batches=None, **changes):
    arguments = {"image_size": [8, 8], "batch_size": 2} | changes
    data = ImageFolder(root=str(photos), **arguments)
    Truth.calls = 0
    folder = photos.parent / out
    trainer(photos.parent, SaveMaps(str(folder)), limit_predict_batches=batches).predict(
        Truth(planted.explanandum()), data
    )
    return Truth.calls


def tree(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_more_and_fewer_images_are_the_same_run(photos):
    assert predict(photos, batches=1) == 2
    assert predict(photos, limit=1) == 0
    photo(photos / "00.png", 30)  # which comes before the others
    assert predict(photos) == 3
    (photos / "1.png").unlink()
    with pytest.warns(UserWarning, match=r"results of 1 image\(s\) .* not among the data.* 1\.png"):
        assert predict(photos) == 0


@pytest.mark.parametrize("side", [8, 12])
def test_an_image_that_was_replaced_is_refused_before_anything_is_written(photos, side):
    predict(photos)
    size = (photos / "2.png").stat().st_size
    photo(photos / "2.png", 255 - 60, side)
    assert (photos / "2.png").stat().st_size != size
    before = tree(photos.parent / "out")
    with pytest.raises(
        ValueError, match=r"another image '2\.png'.*another folder \(--out FOLDER\)"
    ):
        predict(photos)
    assert tree(photos.parent / "out") == before


def test_other_data_are_refused(photos, tmp_path):
    predict(photos)
    for i in range(4):
        photo(tmp_path / "other" / f"{i}.png", 50 * i)
    for folder, changes, told in (
        (tmp_path / "other", {}, r"data\.arguments\.root was .*photos, is .*other"),
        (photos, {"resize": "crop"}, r"data\.arguments\.resize was squash, is crop"),
        (photos, {"image_size": [8, 16]}, r"data\.image_size was \[8, 8\], is \[8, 16\]"),
    ):
        with pytest.raises(ValueError, match=told):
            predict(folder, **changes)
    assert predict(photos, batch_size=4) == 0


def score(photos):
    arguments = {"image_size": [8, 8], "batch_size": 2, "labelled": False, "test_on": "all"}
    data = ImageFolder(root=str(photos), **arguments)
    folder = photos.parent / "scores"
    Truth.calls = 0
    listed = Score(
        metrics=[MaskSaliency()], sanity=False, panels=0, bootstrap=1, output_dir=str(folder)
    )
    trainer(photos.parent, listed).test(Truth(planted.explanandum()), data)
    with (folder / "scores.csv").open(newline="") as file:
        return {row["name"]: row["identity"] for row in csv.DictReader(file)}


def test_an_image_repaired_after_a_test_is_scored_and_one_replaced_is_refused(photos):
    whole = (photos / "1.png").read_bytes()
    (photos / "1.png").write_bytes(whole[:60])
    with pytest.warns(UserWarning, match="1 of 4 images"):
        before = score(photos)
    assert set(before) == {"0.png", "2.png", "3.png"}
    (photos / "1.png").write_bytes(whole)
    after = score(photos)
    assert Truth.calls == 1
    assert set(after) == {*before, "1.png"}
    assert len(set(after.values())) == 4
    photo(photos / "1.png", 50, side=12)
    with pytest.raises(ValueError, match=r"another image '1\.png': its file or label has changed"):
        score(photos)
    (photos / "1.png").rename(photos / "4.png")
    with pytest.raises(ValueError, match=r"data\.names: the images are others, by name"):
        score(photos)


def test_a_damaged_file_is_listed_and_its_map_made_later(photos):
    whole = (photos / "1.png").read_bytes()
    (photos / "1.png").write_bytes(whole[:60])
    with pytest.warns(UserWarning, match="1 of 4 images"):
        predict(photos)
    lines = (photos.parent / "out" / "errors.csv").read_text().splitlines()
    assert len(lines) == 2
    assert lines[1].startswith('"1.png","",')
    (photos / "1.png").write_bytes(whole)
    assert predict(photos) == 1
    assert not (photos.parent / "out" / "errors.csv").exists()
