"""The differences that a run tells of its precision are those of the same run in float32."""

import json

import pytest

from explainers.callbacks.score import Score
from explainers.evaluation.scorefile import read
from tests import planted
from tests.support import Scenes, Truth, trainer

LOW = {"precision": "bf16-mixed"}


def run(folder, changes=LOW, **arguments):
    score = Score(
        name="truth", output_dir=str(folder), target="label", bootstrap=5, panels=0, keep="nothing",
        sanity=False, **arguments,
    )  # fmt: skip
    trainer(folder, score, **changes).test(Truth(planted.explanandum()), Scenes(), verbose=False)
    return read(folder / "scores.csv")


def told(folder):
    return json.loads((folder / "precision.json").read_text())


def test_it_tells_the_largest_difference_from_float32(tmp_path):
    low = run(tmp_path / "low", check_precision=3)
    plain, high = run(tmp_path / "plain"), run(tmp_path / "high", {})
    for ours, theirs in zip(low, plain, strict=True):  # scores stay as they are
        assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}
    found = told(tmp_path / "low")
    assert found["images"] == [f"folder/{i}.jpg" for i in range(3)]
    assert found["changed"] == found["missing"] == 0
    gaps = {
        name: max(abs(float(a[name]) - float(b[name])) for a, b in zip(low, high, strict=False))
        for name in found["largest"]
    }
    first = {
        name: max(
            abs(float(a[name]) - float(b[name])) for a, b in zip(low[:3], high[:3], strict=True)
        )
        for name in found["largest"]
    }
    assert {name: value for name, (value, _) in found["largest"].items()} == pytest.approx(first)
    assert 0 < first["MaskSaliency"] <= gaps["MaskSaliency"] < 0.2
    assert first["SoftIoU"] == 0  # computed in float32, from maps that no pass decides
    table = (tmp_path / "low" / "table.md").read_text()
    assert "bf16-mixed against float32 on 3 images, largest differences of an image: " in table
    assert f"MaskSaliency {first['MaskSaliency']:.2g} (truth)" in table
    assert "against float32" not in (tmp_path / "plain" / "table.md").read_text()


def test_a_resumed_run_keeps_what_it_has_checked(tmp_path):
    run(tmp_path, {**LOW, "limit_test_batches": 1}, check_precision=3)
    before = told(tmp_path)
    assert len(before["images"]) == 2
    run(tmp_path, check_precision=3)
    assert told(tmp_path)["images"] == [f"folder/{i}.jpg" for i in range(3)]
    for name, (value, _) in before["largest"].items():
        assert told(tmp_path)["largest"][name][0] >= value


def test_only_a_mixed_precision_can_be_checked(tmp_path):
    with pytest.raises(ValueError, match=r"precision is 32-true: give --trainer.precision bf16-mi"):
        run(tmp_path, {}, check_precision=2)
    with pytest.raises(ValueError, match="check_precision must be a number of images, got -1"):
        Score(check_precision=-1)
