import warnings

import numpy as np
import pytest
import torch

from explainers import mapstore
from explainers.callbacks.score import Score
from explainers.evaluation import keeping
from explainers.evaluation.sanity import SANITY
from explainers.metrics.faithfulness import RISECurves
from explainers.metrics.localization import SoftIoU
from tests import planted
from tests.support import Scenes, Truth, trainer


class Partly(Truth):
    """Truth, which gives no map for the fourth image."""

    def attribute(self, images, targets):
        maps = super().attribute(images, targets)
        fourth = Scenes().samples[3]["image"]
        lost = torch.tensor([torch.equal(image, fourth) for image in images])
        return maps.masked_fill(lost[:, None, None], torch.nan)


def score(folder, keep="shown", module=None, data=None, **arguments):
    settings = {
        "name": "truth",
        "metrics": [SoftIoU(), RISECurves(steps=4)],
        "target": "label",
        "bootstrap": 10,
        "panels": 0,
        "output_dir": str(folder),
    }
    callback = Score(**(settings | {"keep": keep} | arguments))
    module = module or Truth(planted.explanandum())
    trainer(folder, callback).test(module, data or Scenes(), verbose=False)
    return list(mapstore.read(folder))


def test_only_the_images_of_the_page_are_kept_by_default(tmp_path, monkeypatch):
    monkeypatch.setattr(keeping, "SHOWN", 12)  # the scenes begin with number 10
    entries = score(tmp_path)
    assert [entry.index for entry in entries] == [10, 11]
    assert all(entry.maps and entry.curves for entry in entries)


@pytest.mark.parametrize(
    ("keep", "maps", "curves"),
    [("maps", True, False), ("curves", False, True), ("maps,curves", True, True)],
)
def test_what_is_asked_for_is_kept_of_all_images(tmp_path, monkeypatch, keep, maps, curves):
    monkeypatch.setattr(keeping, "SHOWN", 0)
    entries = score(tmp_path, keep)
    assert len(entries) == 5
    assert {bool(entry.maps) for entry in entries} == {maps}
    assert {bool(entry.curves) for entry in entries} == {curves}


def test_nothing_is_kept_if_so_asked(tmp_path):
    assert score(tmp_path, "nothing") == []
    assert not (tmp_path / mapstore.FOLDER).exists()


def test_rows_that_do_not_look_at_the_image_are_not_kept(tmp_path):
    for entry in score(tmp_path):
        assert not {method for method, _ in entry.maps} & set(SANITY)


def test_maps_are_kept_as_the_method_gave_them_with_the_facts_of_the_image(tmp_path):
    entries = score(tmp_path, data=Scenes(two=(1,)))
    samples = Scenes(two=(1,)).samples
    names = planted.explanandum().class_names
    for entry, sample in zip(entries, samples, strict=True):
        ids = sample["target"].nonzero().flatten().tolist()
        joined = "|".join(map(str, ids))
        expected = 3 * sample["mask"].any(dim=0).numpy()
        np.testing.assert_array_equal(entry.maps["truth", joined], expected)
        assert {target for _, target in entry.maps} == {joined, *map(str, ids)}
        assert entry.facts["target"] == {str(i): names[i] for i in ids}
        assert entry.facts["labels"] == [names[i] for i in ids]
        assert entry.facts["size"] == [8, 8]
        assert set(entry.facts["predicted"]) == {"class", "probability"}
    assert entries[0].facts["predicted"]["class"] == next(iter(entries[0].facts["target"].values()))


def test_a_map_that_is_not_finite_is_not_kept(tmp_path):
    entries = score(tmp_path, module=Partly(planted.explanandum()))
    assert [bool(entry.maps) for entry in entries] == [True, True, True, False, True]
    assert not entries[3].curves


def test_a_run_that_goes_on_keeps_what_there_is(tmp_path, monkeypatch):
    write = mapstore.write

    def stop(folder, entry):
        if entry.index == 13:
            raise KeyboardInterrupt
        write(folder, entry)

    with monkeypatch.context() as patch:
        patch.setattr(mapstore, "write", stop)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            score(tmp_path)
    assert [entry.index for entry in mapstore.read(tmp_path)] == [10, 11, 12]
    before = {entry.index: entry.maps for entry in mapstore.read(tmp_path)}
    entries = score(tmp_path)
    assert [entry.index for entry in entries] == [10, 11, 12, 13, 14]
    for entry in entries[:3]:
        for key, values in entry.maps.items():
            np.testing.assert_array_equal(values, before[entry.index][key])


def test_images_scored_while_less_was_kept_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(keeping, "SHOWN", 12)
    score(tmp_path)
    with pytest.warns(UserWarning, match="3 images of .* were scored while less was kept"):
        assert len(score(tmp_path, "maps,curves")) == 2
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*less was kept")
        score(tmp_path)


def test_a_word_that_is_none_of_them_is_refused():
    with pytest.raises(ValueError, match="keep"):
        Score(keep="all")


class Masks(Truth):
    is_mask = True

    def attribute(self, images, targets):
        return super().attribute(images, targets) / 3

    def class_maps(self, images, classes):
        return super().class_maps(images, classes) / 3


def test_trained_masks_are_kept_of_the_most_probable_classes(tmp_path, monkeypatch):
    monkeypatch.setattr(keeping, "LAYERS", 3)
    entries = score(tmp_path, module=Masks(planted.explanandum()), data=Scenes(two=(1,)))
    explanandum = planted.explanandum()
    for entry, sample in zip(entries, Scenes(two=(1,)).samples, strict=True):
        shares = explanandum.probabilities(sample["image"][None])[0]
        own = {str(i) for i in sample["target"].nonzero().flatten().tolist()}
        top = {str(i) for i in shares.topk(3).indices.tolist()}
        rows = {target for _, target in entry.maps} - set(entry.facts["layers"])
        assert set(entry.facts["layers"]) == (own | top) - rows
        for target in entry.facts["layers"]:
            expected = planted.quadrant_masks(8, 8)[int(target)].numpy()
            np.testing.assert_array_equal(entry.maps["truth", target], expected)
        for target, share in entry.facts["probabilities"].items():
            assert share == pytest.approx(float(shares[int(target)]), abs=1e-6)
