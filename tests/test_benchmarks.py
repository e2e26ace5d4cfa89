"""What the comparisons of benchmarks/ are made of."""

import csv
import json
import re
import shlex
import subprocess
import sys

import numpy as np
import pytest
import torch
from lightning.pytorch import Trainer
from torch.nn import functional as F

from benchmarks import agreement, cost_rows, costs, papers, passes, ra_nem_sweep, split_photos
from benchmarks.variants import EvidenceWithOmega, RaNEMWithAreas, Saved
from explainers import Explanandum, configfiles, mapstore
from explainers.methods.evidence_nem import EvidenceNEM
from tests import planted

SIZE = (32, 32)


@pytest.mark.parametrize("kind", [EvidenceWithOmega, RaNEMWithAreas])
def test_a_variant_learns_from_its_own_loss(kind):
    torch.manual_seed(0)
    method = kind(planted.explanandum())
    images, _ = planted.scenes(16, SIZE, seed=3)
    optimizer = torch.optim.Adam(method.network.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        terms = method.loss_terms({"image": images}, torch.Generator().manual_seed(0))
        loss = sum(terms.values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    assert losses[-1] < losses[0] - 0.01


def test_the_omega_variant_by_hand():
    """Scores far apart leave the noise no say: then the masks are the first k pixels."""
    method = EvidenceWithOmega(
        planted.explanandum(), estimator={"insertion": {"mean": 1.0}, "deletion": {"mean": 1.0}}
    )
    images, targets = planted.scenes(4, SIZE, seed=3)
    classes = targets.int().argmax(1)
    scores = 100 * torch.arange(1024.0).view(1, 32, 32).expand(4, -1, -1)
    inserted, deleted = method.estimate(images, scores, classes, torch.Generator().manual_seed(0))
    explanandum = method.explanandum
    for found, first in ((inserted, True), (deleted, False)):
        possible = []
        for k in range(1025):  # every number of pixels that could have been drawn
            rank = torch.arange(1024).view(32, 32) >= 1024 - k
            shown = torch.where(rank == first, images, explanandum.mean)
            probabilities = explanandum.probabilities(shown).gather(1, classes[:, None])
            possible.append(probabilities[:, 0])
        nearest = (torch.stack(possible) - found).abs().amin(dim=0)
        torch.testing.assert_close(nearest, torch.zeros(4), rtol=0, atol=1e-5)


def test_a_saved_explainer_is_a_row_with_or_without_its_texture(tmp_path):
    method = EvidenceNEM(planted.explanandum()).eval()
    trainer = Trainer(accelerator="cpu", logger=False, default_root_dir=tmp_path)
    trainer.strategy.connect(method)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    images, targets = planted.scenes(2, SIZE, seed=3)
    plain = method.attribute(images, targets).detach()
    whole, boxed = (
        Saved(method.explanandum, str(tmp_path / "last.ckpt"), cell).attribute(images, targets)
        for cell in (1, 4)
    )
    torch.testing.assert_close(whole, plain)
    expected = F.avg_pool2d(plain, 4).repeat_interleave(4, dim=-1).repeat_interleave(4, dim=-2)
    torch.testing.assert_close(boxed, expected)


def test_photographs_are_linked_by_the_lists(tmp_path, monkeypatch, capsys):
    photos, out, lists = tmp_path / "photos", tmp_path / "out", tmp_path / "lists.csv"
    photos.mkdir()
    for name in "abcd":
        (photos / f"{name}.jpg").touch()
    lists.write_text("split,file\ntest/first,a.jpg\nval,b.jpg\n")
    monkeypatch.setattr(split_photos, "LISTS", lists)
    monkeypatch.setattr(sys, "argv", ["split_photos.py", str(photos), "--out", str(out)])
    split_photos.main()
    assert (out / "test/first/a.jpg").resolve() == (photos / "a.jpg").resolve()
    assert "train: 2" in capsys.readouterr().out
    with pytest.raises(SystemExit):  # an old folder is not mixed with a new one
        split_photos.main()
    lists.write_text("split,file\nval,z.jpg\n")
    with pytest.raises(SystemExit):
        split_photos.main()
    assert "1 photographs" in capsys.readouterr().err


def test_no_photograph_is_in_two_lists():
    with split_photos.LISTS.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len({row["file"] for row in rows}) == len(rows) == 198


def test_the_sweeps_tables_hold_each_training_once():
    names = list(ra_nem_sweep.variants())
    found = {
        name: (10.0 * i, {"mean": i / 100, "ci95": [i / 100 - 0.01, i / 100 + 0.02]})
        for i, name in enumerate(names)
    }
    assert names[:5] == ["seed_0", "seed_1", "seed_2", "seed_3", "seed_4"]
    text = ra_nem_sweep.tables(found)
    # Deviation of 0, .01, .02, .03, .04 with n - 1; the paper's: 0.602, 0.581, 0.595, 0.597, 0.582.
    assert "standard deviation 0.016, in the paper 0.009" in text
    assert "| 2 | 0.020 ± 0.015 | 0.595 |" in text
    for k, name in {1: "k_1", 6: "seed_0", 8: "k_8"}.items():
        i = names.index(name)
        assert f"| {k} | {10 * i} | {i / 100:.3f} ± 0.015 |" in text
    assert f"| NEMt | {10 * names.index('nem_t')} |" in text


def tiny(*_):
    subject = Explanandum(cost_rows.Pyramid(), input_size=[32, 32], mean=[0.5] * 3, std=[0.25] * 3)
    return {"real": subject, "light": subject}


def test_the_costs_of_a_method_and_a_metric_count_their_passes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(cost_rows, "classifiers", tiny)
    out = tmp_path / "costs.json"
    names = ["integrated_gradients", "RISECurves"]
    costs.main(["--quick", "--only", *names, "--out", str(out)])
    found = {row["name"]: row for row in json.loads(out.read_text())["rows"]}
    counts = {name: (row["forwards"], row["backwards"]) for name, row in found.items()}
    assert counts == {"integrated_gradients": (16, 16), "RISECurves": (17, 0)}  # 2 n + 1, n = 8
    for row in found.values():
        assert row["over_floor"] == pytest.approx(row["seconds"] / row["floor_seconds"])
        assert row["memory_mib"] >= 0 or sys.platform != "linux"
    assert set(found["integrated_gradients"]["growth"]) == {"images", "classes", "size"}
    assert set(found["RISECurves"]["growth"]) == {"images", "size"}
    assert "| integrated_gradients |" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        costs.main(["--only", "nothing", "--out", str(out)])


def test_passes_are_timed_in_every_way_that_the_classifier_allows(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch, "compile", lambda forward: forward)
    out, model = tmp_path / "passes.json", "tests.planted:PlantedCNN"
    passes.main(["--model", model, "--size", "32", "--out", str(out)])
    found = json.loads(out.read_text())["milliseconds"]
    assert {"plain", "compiled"} <= set(found)
    assert all(value > 0 for row in found.values() for value in row.values())
    told = capsys.readouterr().out
    assert "folded: this classifier has no batch norms" in told
    assert "| compiled " in told


def test_the_floor_of_passes_by_hand():
    floor = costs.Floor(tiny()["real"], batch=2)
    seconds = dict(zip(floor.contenders(), (2.0, 6.0, 1.0, 7.0), strict=True))
    # A forward pass of an image takes 1 / 2, with the backward pass 6 / 2.
    assert floor.seconds(seconds, (3, 2)) == 3 * 0.5 + 2 * 2.5
    for run in floor.contenders().values():
        run()
    assert floor.explanandum.channels_last


def test_agreement_of_kept_maps_by_hand(tmp_path, monkeypatch, capsys):
    rising = np.arange(6, dtype=np.float32).reshape(2, 3)
    photo = mapstore.photo(np.zeros((2, 3, 3), np.uint8))
    for index, own in enumerate((rising, -rising, rising**3)):
        maps = {("teacher", "0"): rising, ("pupil", "0"): own, ("pupil", "1"): rising}
        facts = {"size": [2, 3], "target": {"0": "a", "1": "b"}}
        mapstore.write(tmp_path, mapstore.Entry(index, f"{index}.png", photo, facts, maps, {}))
    mapstore.describe(tmp_path, {"methods": ["teacher", "pupil"]})
    assert agreement.correlations(tmp_path, "teacher") == {"pupil": {0: [1], 1: [-1], 2: [1]}}
    monkeypatch.setattr(sys, "argv", ["agreement.py", str(tmp_path), "teacher"])
    agreement.main()
    assert "0.333" in capsys.readouterr().out
    with pytest.raises(ValueError, match="kept no maps of 'other'"):
        agreement.correlations(tmp_path, "other")


def test_the_papers_commands_stand_in_an_order_that_works():
    todo, own = papers.commands([])
    places = [papers.order(words) for words in todo]
    assert places == sorted(places)
    assert set(places) == {0, 1, 2, 3}
    assert [words for words in todo if any(word.endswith("...") for word in words)] == []
    assert own


def test_what_the_papers_commands_load_is_trained_by_one_of_them():
    trained, missing = set(), []
    for words in papers.commands([])[0]:
        paths, flags = configfiles.split(words[2:])
        given = configfiles.given(flags, ("model", "data", "score", "trainer"))
        merged = configfiles.merge(configfiles.load(paths), given)
        if words[0] == "train.py":
            out = words[words.index("--out") + 1] if "--out" in words else None
            trained.add(out or merged["trainer"]["default_root_dir"])
        for file in re.findall(r"runs/[^'\"]+(?=/last\.ckpt)", str(merged)):
            missing += [f"{file}: {shlex.join(words)}"] if file not in trained else []
    assert missing == []


def test_papers_that_ended_well_are_not_run_again(tmp_path, monkeypatch, capsys):
    statuses, ran = iter([0, 3, 0]), []

    def call(words, **_):
        ran.append(words[1:])
        return subprocess.CompletedProcess(words, next(statuses))

    monkeypatch.setattr(papers.subprocess, "run", call)
    line = ["--only", "sloc/table_14", "sloc/table_6", "--out", str(tmp_path / "papers.json")]
    with pytest.raises(SystemExit):
        papers.main([*line, "--", "--data.init_args.limit", "25"])
    first = capsys.readouterr().out
    assert "1 of 2 commands ended well" in first
    assert f"failed: python {shlex.join(ran[1])}" in first
    assert [words[-2:] for words in ran] == [["--data.init_args.limit", "25"]] * 2
    papers.main([*line, "--", "--data.init_args.limit", "25"])
    assert ran[2:] == ran[1:2]
    with pytest.raises(SystemExit, match="2"):
        papers.main(["--only", "no such file"])
