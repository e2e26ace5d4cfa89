"""The differences that a run tells of its precision are those of the same run in float32."""

import json

import pytest
import torch
from torch import nn

from explainers import Explanandum
from explainers.callbacks.score import Score
from explainers.evaluation.precisioncheck import merge_checks
from explainers.evaluation.scorefile import read
from explainers.metrics.randomization import MPRT
from tests import planted
from tests.support import Scenes, Truth, trainer

LOW = {"precision": "bf16-mixed"}


class Normed(nn.Module):
    """The planted classifier, behind a convolution and a batch norm that change little."""

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3)
        self.first.weight.data = torch.eye(3)[..., None, None] + 0.1
        self.norm.running_var.fill_(1.3)
        self.rest = planted.PlantedCNN()

    def forward(self, images):
        return self.rest(self.norm(self.first(images)))


def run(folder, changes=LOW, subject=None, **arguments):
    score = Score(
        name="truth", output_dir=str(folder), target="label", bootstrap=5, panels=0, keep="nothing",
        sanity=False, **arguments,
    )  # fmt: skip
    subject = subject or planted.explanandum()
    trainer(folder, score, **changes).test(Truth(subject), Scenes(), verbose=False)
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
    with pytest.raises(ValueError, match="panels and check_precision >= 0, got 1000, 8 and -1"):
        Score(check_precision=-1)


def test_a_folded_classifier_is_told_and_exact_where_it_is_checked(tmp_path):
    own = Explanandum(Normed(), mean=[0.0] * 3, std=[1.0] * 3, input_size=[32, 32])
    before = {name: values.clone() for name, values in own.state_dict().items()}
    run(tmp_path / "folded", {}, passes="folded", subject=own)
    assert all(torch.equal(values, before[name]) for name, values in own.state_dict().items())
    exact = run(tmp_path / "exact", {}, subject=own)
    found = told(tmp_path / "folded")
    assert len(found["images"]) == len(exact)
    ours = read(tmp_path / "folded" / "scores.csv")
    for name, (value, _) in found["largest"].items():
        pairs = zip(ours, exact, strict=True)
        gaps = [abs(float(one[name]) - float(other[name])) for one, other in pairs]
        assert value == pytest.approx(max(gaps))
        assert value < 1e-4
    assert "32-true, folded against float32" in (tmp_path / "folded" / "table.md").read_text()
    settings = [
        json.loads((tmp_path / n / "settings.json").read_text()) for n in ("folded", "exact")
    ]
    assert settings[0].pop("precision") == "32-true, folded"
    assert settings[1].pop("precision") == "32-true"
    assert settings[0] == settings[1]  # the weights of the classifier are its own
    with pytest.raises(ValueError, match="has no batch norms that the convolutions"):
        run(tmp_path / "none", {}, passes="folded")


def test_a_compiled_classifier_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda forward: lambda images: forward(0.1 * images))
    subject = Explanandum(Normed(), mean=[0.0] * 3, std=[1.0] * 3, input_size=[32, 32])
    monkeypatch.setattr("explainers.explanandum.compiling.TOLERANCE", 1.0)
    run(tmp_path, {}, passes="compiled", subject=subject, one_by_one=False)
    largest = told(tmp_path)["largest"]
    assert largest["MaskSaliency"][0] > 0.1
    assert "32-true, compiled against float32 on 5 images" in (tmp_path / "table.md").read_text()
    assert "forward" not in vars(subject.model)


def test_what_needs_the_classifier_s_own_layers_is_refused_where_they_are_folded():
    with pytest.raises(ValueError, match="of which MPRT needs the classifier's own; leave it out"):
        Score(metrics=[MPRT()], passes="folded")
    Score(metrics=[MPRT()], passes="compiled")


def test_parts_of_a_run_tell_the_largest_difference_of_all(tmp_path):
    first = {"images": ["a", "b"], "changed": 1, "missing": 0}
    second = {"images": ["c"], "changed": 0, "missing": 2}
    parts = [
        first | {"largest": {"F": [0.5, "x"], "G": [0.1, "x"]}},
        second | {"largest": {"F": [0.2, "y"], "G": [0.3, "y"]}},
    ]
    folders = [tmp_path / name for name in ("0", "1", "2", "whole")]
    for folder, part in zip(folders, [*parts, None, None], strict=True):
        folder.mkdir()
        if part:
            (folder / "precision.json").write_text(json.dumps(part))
    note = merge_checks(folders[:3], folders[3], "32-true, folded")
    assert note == (
        "32-true, folded against float32 on 3 images, largest differences of an image: "
        "F 0.5 (x), G 0.3 (y); another class is explained in 1; 2 values exist in one of both only"
    )
    assert told(folders[3])["images"] == ["a", "b", "c"]
    assert merge_checks(folders[2:3], tmp_path, "32-true") is None
