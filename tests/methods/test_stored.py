import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from explainers import mapstore
from explainers.callbacks.save import SaveMaps
from explainers.callbacks.score import Score
from explainers.evaluation.scorefile import read
from explainers.methods.constant import CentredGaussian
from explainers.methods.stored import StoredMaps
from explainers.metrics.faithfulness import RISECurves
from explainers.metrics.localization import SoftIoU
from explainers.metrics.randomization import MPRT
from explainers.metrics.sensitivity import AverageSensitivity
from tests import planted
from tests.support import Scenes, Truth, trainer

BATCH = {"image": torch.rand(3, 3, 8, 8), "name": ["cats/1.jpg", "cats/2.jpg", "3"]}
TARGETS = torch.eye(4).bool()[:3]


def stored(folder, **arguments):
    method = StoredMaps(planted.explanandum(), str(folder), **arguments)
    method.observe(BATCH)
    return method


def score(folder, module, keep, **arguments):
    metrics = [SoftIoU(), RISECurves(steps=4), AverageSensitivity(draws=2), MPRT()]
    callback = Score(
        name="truth",
        metrics=metrics,
        target="label",
        bootstrap=10,
        keep=keep,
        output_dir=str(folder),
        sanity=False,
        **arguments,
    )
    trainer(folder, callback).test(module, Scenes(count=5), verbose=False)
    return read(folder / "scores.csv")


def values(rows, *names):
    return np.array([[float(row[n] or "nan") for n in names] for row in rows])


def test_a_run_s_kept_maps_score_as_they_did(tmp_path):
    wide = {"wide": lambda explanandum: CentredGaussian(explanandum, sigma=0.5)}
    rows = score(tmp_path / "run", Truth(planted.explanandum()), "maps,curves", methods=wide)
    entries = list(mapstore.read(tmp_path / "run"))
    assert [entry.name for entry in entries] == [f"folder/{i}.jpg" for i in range(5)]
    assert mapstore.about(tmp_path / "run")["masks"] == ["wide"]
    for method, own in (("truth", rows[:5]), ("wide", rows[5:])):
        module = StoredMaps(planted.explanandum(), str(tmp_path / "run"), method=method)
        assert module.is_mask == (method == "wide")
        again = score(tmp_path / method, module, "nothing")
        shared = ("SoftIoU", "InsertionAUC", "DeletionAUC")
        # The bump's values are rounded to float16; quadrants are exact. Both keep their order.
        np.testing.assert_allclose(values(again, *shared), values(own, *shared), atol=2.0**-11)
        assert np.isnan(values(again, "AverageSensitivity", "MPRT")).all()
        assert not (tmp_path / method / "kept").exists()


def test_curves_are_those_of_the_areas(tmp_path):
    rows = score(tmp_path, Truth(planted.explanandum()), "curves")
    for row, entry in zip(rows, mapstore.read(tmp_path), strict=True):
        assert not entry.maps
        curves = entry.curves["truth", row["target"]]
        for name in ("InsertionAUC", "DeletionAUC"):
            shares, heights = curves[name]
            np.testing.assert_allclose(shares, [0, 0.25, 0.5, 0.75, 1], atol=1e-3)
            area = ((heights[1:] + heights[:-1]) / 2 * np.diff(shares)).sum()
            assert area == pytest.approx(float(row[name]), abs=2e-3)
        # The quadrant that decides is the first quarter: without it, the class is not likely.
        assert curves["DeletionAUC"][1, 0] > 0.9 > 0.5 > curves["DeletionAUC"][1, 1]
        assert curves["InsertionAUC"][1, 0] < 0.5 < 0.9 < curves["InsertionAUC"][1, 1]


def test_an_image_that_is_another_one_is_refused(tmp_path):
    score(tmp_path, Truth(planted.explanandum()), "maps")
    module = StoredMaps(planted.explanandum(), str(tmp_path), method="truth")
    module.observe({"image": 1 - Scenes().samples[0]["image"][None], "name": ["folder/0.jpg"]})
    with pytest.raises(ValueError, match="not the one whose maps"):
        module.attribute(module._known[0], Scenes().samples[0]["target"][None])


def test_another_classifier_and_another_row_are_told(tmp_path):
    score(tmp_path, Truth(planted.explanandum()), "maps")
    with pytest.warns(UserWarning, match="explain another classifier"):
        StoredMaps(planted.explanandum("vit"), str(tmp_path))
    with pytest.raises(ValueError, match="has the methods truth"):
        StoredMaps(planted.explanandum(), str(tmp_path), method="rise")


def test_maps_of_a_prediction_know_their_classes(tmp_path):
    truth = Truth(planted.explanandum())
    trainer(tmp_path, SaveMaps(str(tmp_path / "out"))).predict(
        truth, Scenes(), return_predictions=False
    )
    sample = Scenes().samples[2]
    batch = {"image": sample["image"][None], "name": [sample["name"]]}
    module = StoredMaps(planted.explanandum(), str(tmp_path / "out"))
    module.observe(batch)
    target = sample["target"][None]
    assert torch.equal(
        module.attribute(batch["image"], target), truth.attribute(batch["image"], target)
    )
    with pytest.raises(ValueError, match="none for"):
        module.attribute(batch["image"], target.roll(1, dims=1))


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".npz":
        np.savez(path, values)
    elif path.suffix == ".npy":
        np.save(path, values)
    else:
        Image.fromarray(values).save(path)


@pytest.mark.parametrize("file", ["cats/1.jpg.npy", "cats/1.npy", "cats/1.npz", "cats/1.jpg.png"])
def test_files_of_any_program_are_found_by_the_image_s_name(tmp_path, file):
    given = np.arange(64).reshape(8, 8).astype(np.uint8)
    save(tmp_path / file, given)
    found = stored(tmp_path).attribute(BATCH["image"][:1], TARGETS[:1])[0].numpy()
    np.testing.assert_allclose(found, given / 255 if file.endswith("png") else given, rtol=1e-6)


def test_deep_gray_pictures(tmp_path):
    given = (np.arange(64).reshape(8, 8) * 1000).astype(np.uint16)
    save(tmp_path / "cats/1.png", given)
    found = stored(tmp_path).attribute(BATCH["image"][:1], TARGETS[:1])[0].numpy()
    np.testing.assert_allclose(found, given / 65535, rtol=1e-6)


def test_arrays_of_a_zarr(tmp_path):
    zarr = pytest.importorskip("zarr")
    group = zarr.open_group(tmp_path / "maps.zarr", mode="w")
    given = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    group.create_array("cats/1.jpg", data=given)
    found = stored(tmp_path / "maps.zarr").attribute(BATCH["image"][:1], TARGETS[:1])[0]
    np.testing.assert_array_equal(found.numpy(), given)
    group.create_array("cats/2", data=given)
    with pytest.raises(ValueError, match=r"both 'cats/2.jpg' and 'cats/2.png'"):
        stored(tmp_path / "maps.zarr").expect(["cats/2.jpg", "cats/2.png"], {})


def test_images_that_were_not_observed_have_no_map(tmp_path):
    save(tmp_path / "3.npy", np.ones((8, 8)))
    maps = stored(tmp_path).attribute(torch.rand(1, 3, 8, 8), TARGETS[:1])
    assert maps.isnan().all()


def test_a_map_that_lacks_or_does_not_fit_is_told(tmp_path):
    save(tmp_path / "3.npy", np.ones((4, 4)))
    save(tmp_path / "cats/1.npy", np.ones((2, 3, 4, 4)))
    save(tmp_path / "cats/2.npy", np.array([{"a": 1}], dtype=object))
    method = stored(tmp_path)
    for row, message in ((2, "set resize: true"), (0, r"must be a map \(H, W\)"), (1, "be read")):
        with pytest.raises(ValueError, match=message):
            method.attribute(BATCH["image"][row : row + 1], TARGETS[:1])
    resized = stored(tmp_path, resize=True).attribute(BATCH["image"][2:], TARGETS[:1])
    assert torch.equal(resized, torch.ones(1, 8, 8))
    save(tmp_path / "3.npy", np.full((8, 8), 2.0))
    with pytest.raises(ValueError, match="no mask in"):
        stored(tmp_path, is_mask=True).attribute(BATCH["image"][2:], TARGETS[:1])
    (tmp_path / "3.npy").unlink()
    with pytest.raises(ValueError, match="holds no map of '3'"):
        stored(tmp_path).attribute(BATCH["image"][2:], TARGETS[:1])


def test_one_file_is_the_map_of_one_image(tmp_path):
    save(tmp_path / "cats/1.npy", np.ones((8, 8)))
    method = stored(tmp_path)
    method.expect(["cats/1.jpg", "cats/2.jpg", "cats/2.png"], {})
    with pytest.raises(ValueError, match=r"both 'cats/1.jpg' and 'cats/1.png'"):
        method.expect(["cats/1.jpg", "cats/1.png"], {})
    for name in ("2.jpg", "2.png"):
        save(tmp_path / f"cats/{name}.npy", np.ones((8, 8)))
    method.expect(["cats/2.jpg", "cats/2.png"], {})  # each has its own
    save(tmp_path / "cats/2.npy", np.ones((8, 8)))
    method.expect(["cats/2.jpg", "cats/2.png"], {})
    with pytest.raises(ValueError, match=r"both 'cats/2.gif' and 'cats/2.bmp'"):
        method.expect(["cats/2.jpg", "cats/2.gif", "cats/2.bmp"], {})
    save(tmp_path / "cats/1.png", np.ones((8, 8), np.uint8))
    with pytest.raises(ValueError, match="several maps"):
        method.attribute(BATCH["image"][:1], TARGETS[:1])


def test_images_that_are_cut_in_another_way_are_refused(tmp_path):
    save(tmp_path / "3.npy", np.ones((8, 8)))
    made = {"data": {"arguments": {"resize": "squash", "seed": 0}}}
    (tmp_path / "predict.json").write_text(json.dumps(made))
    method = stored(tmp_path)
    method.expect(["3"], {"arguments": {"resize": "squash", "seed": 1}})
    method.expect(["3"], {"class": "Scenes"})
    with pytest.raises(ValueError, match="prepared with resize: squash"):
        method.expect(["3"], {"arguments": {"resize": "crop"}})


def test_pictures_in_colors_are_refused(tmp_path):
    pixels = np.zeros((8, 8, 3), np.uint8)
    pixels[0, 0, 0] = 200
    save(tmp_path / "3.png", pixels)
    with pytest.raises(ValueError, match="in colors"):
        stored(tmp_path).attribute(BATCH["image"][2:], TARGETS[:1])


def test_names_do_not_lead_out_of_the_folder(tmp_path):
    save(tmp_path / "secret.npy", np.ones((8, 8)))
    save(tmp_path / "maps" / "other.npy", np.ones((8, 8)))
    method = stored(tmp_path / "maps")
    method.observe(BATCH | {"name": ["../secret", "b", "c"]})
    with pytest.raises(ValueError, match="holds no map"):
        method.attribute(BATCH["image"][:1], TARGETS[:1])


def test_folders_without_maps(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        StoredMaps(planted.explanandum(), str(tmp_path / "none"))
    with pytest.raises(ValueError, match="is no run folder with kept maps"):
        StoredMaps(planted.explanandum(), str(tmp_path), method="rise")
    with pytest.raises(ValueError, match="is empty"):
        StoredMaps(planted.explanandum(), str(tmp_path))


def test_other_maps_are_another_method(tmp_path):
    save(tmp_path / "3.npy", np.ones((8, 8)))
    before = StoredMaps(planted.explanandum(), str(tmp_path)).listing
    save(tmp_path / "3.npy", np.zeros((8, 8)))
    assert not torch.equal(before, StoredMaps(planted.explanandum(), str(tmp_path)).listing)


def test_files_of_a_prediction_are_listed_by_image(tmp_path):
    with (tmp_path / "files.csv").open("w") as file:
        csv.writer(file).writerows([["image", "file", "identity"], ["a", "b", "c"]])
    with pytest.raises(ValueError, match="holds no map of '3'"):
        stored(tmp_path).attribute(BATCH["image"][2:], TARGETS[:1])
