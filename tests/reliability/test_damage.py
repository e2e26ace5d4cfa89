"""Damaged pictures, methods that fail, damaged files of runs."""

import json
import os
import shutil

import pytest

from tests.reliability import own, runs, trials
from tests.reliability.own import save_classifier
from tests.reliability.trials import config, merged, nested, out

pytestmark = pytest.mark.slow
METHOD = "tests.reliability.own.Fragile"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("damage")
    made = trials.run(save_classifier, str(folder / "pets.ckpt"), ["cats", "dogs"])
    assert made.code == 0, made.err
    trials.pictures(folder / "photos", 6)
    return folder


def settings(base, photos, method=None, **model):
    """The configuration of a run of two methods over a folder, in batches of two."""
    method = method or "constant.Random"
    row = {"class_path": "explainers.methods.constant.CentredGaussian"}
    return merged(
        runs.trainer(),
        runs.method(method, base / "pets.ckpt", **model),
        runs.folder(photos, test_on="all"),
        runs.score(("classification.MaskedClassification",), methods={"centred": row}),
    )


def go(kind, path, folder, *more, **how):
    return trials.evaluate(kind, "-c", path, *out(folder), *more, **how)


def spoil(path, kind):
    data = path.read_bytes()
    if kind == "truncated":
        path.write_bytes(data[: len(data) // 2])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("<html>404</html>")
    elif kind == "noise":
        path.write_bytes(data[:60] + os.urandom(300) + data[360:])
    elif kind == "bomb":
        path.write_bytes(_huge())
    else:
        path.write_bytes(data[:8])


def _huge():
    """A small PNG of 60000 x 60000 pixels, which Pillow calls a decompression bomb."""
    import struct
    import zlib

    def chunk(name, data):
        body = name + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"")), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


SPOILED = ["truncated", "empty", "text", "noise", "header", "bomb"]
KINDS = [(kind, how) for kind in ("test", "predict") for how in SPOILED]


@pytest.mark.parametrize(
    ("kind", "how"), KINDS, ids=[f"damage-{kind}-{how}-picture" for kind, how in KINDS]
)
def test_damaged_pictures_are_skipped(base, kind, how, tmp_path, say):
    photos = tmp_path / "photos"
    shutil.copytree(base / "photos", photos)
    path = config(tmp_path / "run.yaml", settings(base, photos))
    go(kind, path, tmp_path / "whole").passed()
    names = ["cats/2.png", "dogs/3.png", "dogs/5.png"]
    for name in names:
        spoil(photos / name, how)
    job = go(kind, path, tmp_path / "run").passed()
    assert [name for name in names if name not in job.text] == [], "not listed"
    assert "3" in job.text.replace("3.png", "")
    if kind == "test":
        whole = trials.numbers(tmp_path / "whole")
        assert len(whole) == 12
        expected = {key: value for key, value in whole.items() if key[0] not in names}
        assert trials.numbers(tmp_path / "run") == expected
        summary = json.loads((tmp_path / "run" / "summary.json").read_text())
        assert summary["images"] == 3
    else:
        whole, found = maps(tmp_path / "whole"), maps(tmp_path / "run")
        assert found == {n: v for n, v in whole.items() if n.removesuffix(".npy") not in names}
        assert len(found) == 3
    say("3 of 6 skipped and listed, exit 0, the others' figures unchanged")


def maps(folder):
    return {name: data for name, data in trials.tree(folder).items() if name.endswith(".npy")}


@pytest.mark.parametrize(
    "kind", ["test", "predict"], ids=["damage-repair-test", "damage-repair-predict"]
)
def test_a_repaired_picture_is_explained(base, kind, tmp_path, say):
    photos = shutil.copytree(base / "photos", tmp_path / "photos")
    victim = photos / "cats" / "2.png"
    whole = victim.read_bytes()
    spoil(victim, "truncated")
    path = config(tmp_path / "run.yaml", settings(base, photos))
    for _ in range(2):
        go(kind, path, tmp_path / "run").passed()
    assert (tmp_path / "run" / "errors.csv").exists()
    victim.write_bytes(whole)
    go(kind, path, tmp_path / "run").passed()
    go(kind, path, tmp_path / "whole").passed()
    assert not (tmp_path / "run" / "errors.csv").exists()
    if kind == "test":
        assert trials.numbers(tmp_path / "run") == trials.numbers(tmp_path / "whole")
    else:
        own, other = (
            {n: v for n, v in trials.tree(tmp_path / f).items() if n.endswith(".npy")}
            for f in ("run", "whole")
        )
        assert own == other
    trials.picture(victim, 99, size=48)
    told = go(kind, path, tmp_path / "run").refused("another image", "--out")
    say(f"repaired: as if it had never been damaged; replaced: {told[-70:]}")


def test_damage_every_picture(base, tmp_path, say):
    photos = trials.pictures(tmp_path / "photos", 4)
    for picture in photos.rglob("*.png"):
        spoil(picture, "truncated")
    path = config(tmp_path / "run.yaml", settings(base, photos))
    for kind in ("test", "predict"):
        job = go(kind, path, tmp_path / kind)
        assert job.code in (0, 2)
        assert "Traceback" not in job.text
        assert ".png" in job.text
    say("a folder without one readable picture ends in words")


@pytest.mark.parametrize("kind", ["test", "predict"], ids=lambda kind: f"damage-strict-{kind}")
def test_strict_data_stop(base, kind, tmp_path, say):
    photos = trials.pictures(tmp_path / "photos", 4)
    spoil(photos / "cats" / "2.png", "truncated")
    strict = nested("data.init_args.on_error", "raise")
    path = config(tmp_path / "run.yaml", settings(base, photos), strict)
    say(f"on_error raise: {go(kind, path, tmp_path / 'run').refused('2.png')[-90:]}")


def test_damage_fit(base, tmp_path, say):
    photos = trials.pictures(tmp_path / "photos", 8)
    for picture in photos.rglob("*.png"):
        spoil(picture, "truncated")
    more = {"trainer": {"max_steps": 2}, **runs.method("nem_u.NEMU", base / "pets.ckpt")}
    path = config(
        tmp_path / "run.yaml",
        runs.trainer(),
        more,
        runs.folder(photos, fractions=[0.5, 0.25, 0.25]),
    )
    job = trials.train("fit", "-c", path, *out(tmp_path / "run"))
    say(f"fit stops: {job.refused('.png')[-90:]}")


FRAGILE = {
    "as-model": ({}, {}),
    "as-row": ({"row": True}, {}),
    "in-a-batch": ({}, {"score": {"one_by_one": False}}),
    "out-of-memory": ({"memory": True}, {"score": {"one_by_one": False}}),
}


def troubled(folder, count=6, where="cats/2.png"):
    """Pictures of which one makes `Fragile` raise."""
    import numpy as np
    from PIL import Image

    trials.pictures(folder, count)
    values = np.array(Image.open(folder / where))
    values[0, 0, 0] = own.TROUBLED
    Image.fromarray(values).save(folder / where)
    return folder


@pytest.mark.parametrize("name", FRAGILE, ids=[f"damage-method-{name}" for name in FRAGILE])
def test_a_method_that_fails_costs_one_cell(base, name, tmp_path, say):
    photos = troubled(tmp_path / "photos")
    options, more = FRAGILE[name]
    memory = options.get("memory", False)
    if options.get("row"):

        def made(fragile):
            row = {"class_path": METHOD, "init_args": {"fragile": fragile}}
            return merged(settings(base, photos), nested("score.methods.fragile", row))
    else:

        def made(fragile):
            return settings(base, photos, METHOD, fragile=fragile, memory=memory and fragile)

    go("test", config(tmp_path / "calm.yaml", made(False), more), tmp_path / "calm").passed()
    path = config(tmp_path / "run.yaml", made(True), more)
    calm = trials.numbers(tmp_path / "calm")
    for _ in range(2):  # the run, and its resume
        job = go("test", path, tmp_path / "run").passed()
        found = trials.numbers(tmp_path / "run")
        found = {key: values for key, values in found.items() if any(values.values())}
        missing = [key for key in calm if key[0] == "cats/2.png" and key[1] == "fragile"]
        assert len(missing) == 1
        assert {key: v for key, v in calm.items() if key not in missing} == found
        errors = read_errors(tmp_path / "run")
        assert [(e["image"], e["method"]) for e in errors] == [("cats/2.png", "fragile")]
        assert "this image is trouble" in errors[0]["error"]
        assert "errors.csv" in job.text
    say("one cell missing and told in errors.csv, exit 0, all others equal, also when resumed")


def read_errors(folder):
    import csv

    with (folder / "errors.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_damage_method_strict(base, tmp_path, say):
    photos = troubled(tmp_path / "photos")
    path = config(tmp_path / "run.yaml", settings(base, photos, METHOD))
    job = go("test", path, tmp_path / "run", "--score.errors", "raise")
    assert job.code != 0
    assert "trouble" in job.text
    say(f"--score.errors raise stops, exit {job.code}")


def test_damage_method_predict(base, tmp_path, say):
    photos = troubled(tmp_path / "photos")
    for name, fragile in (("calm", False), ("run", True)):
        path = config(tmp_path / f"{name}.yaml", settings(base, photos, METHOD, fragile=fragile))
        go("predict", path, tmp_path / name).passed()
    calm, found = maps(tmp_path / "calm"), maps(tmp_path / "run")
    assert found == {name: v for name, v in calm.items() if name != "cats/2.png.npy"}
    assert len(found) == 5
    assert [e["image"] for e in read_errors(tmp_path / "run")] == ["cats/2.png"]
    say("one map missing and told in errors.csv, exit 0, all others equal")


@pytest.fixture(scope="module")
def finished(base, tmp_path_factory):
    """A folder with a finished test, and its configuration file."""
    folder = tmp_path_factory.mktemp("finished")
    path = config(folder / "run.yaml", settings(base, base / "photos"))
    go("test", path, folder / "run").passed()
    return folder / "run", path


SCORES = {
    # name: what happens to the lines, and the number of the line that is told
    "half-line": (lambda lines: [*lines[:-1], lines[-1][: len(lines[-1]) // 2]], None),
    "without-last-newline": (lambda lines: [*lines[:-1], lines[-1].rstrip(b"\n")], None),
    "header-alone": (lambda lines: lines[:1], None),
    "empty": (lambda lines: [], None),
    "garbage-line": (lambda lines: [*lines[:3], b"garbage\n", *lines[3:]], 4),
    "short-line": (lambda lines: [*lines[:3], lines[3][:12] + b"\n", *lines[4:]], 4),
    "no-number": (lambda lines: [*lines[:2], b"x" + lines[2], *lines[3:]], 3),
    "wrong-figure": (lambda lines: [*lines[:2], lines[2][:-2] + b"x\n", *lines[3:]], 3),
    "nul-bytes": (lambda lines: [*lines[:2], b"\0" * 40 + b"\n", *lines[3:]], 3),
    "foreign-header": (lambda lines: [b"a,b,c\n", *lines[1:]], 1),
}  # fmt: skip


@pytest.mark.parametrize("name", SCORES, ids=[f"damage-scores-{name}" for name in SCORES])
def test_damaged_scores(finished, name, tmp_path, say):
    folder, path = finished
    there = tmp_path / "run"
    shutil.copytree(folder, there)
    change, line = SCORES[name]
    lines = (there / "scores.csv").read_bytes().splitlines(keepends=True)
    (there / "scores.csv").write_bytes(b"".join(change(lines)))
    before = trials.tree(there)
    job = go("test", path, there)
    if line is None:
        job.passed()
        assert trials.numbers(there) == trials.numbers(folder)
        say("what is missing is computed again, all figures equal")
    else:
        told = job.refused("scores.csv", f"line {line}")
        assert trials.tree(there) == before
        say(f"refused: {told[-100:]}")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "\0\0", "{}"],
    ids=[f"damage-settings-{n}" for n in ("empty", "half", "list", "null", "nul", "bare")],
)
def test_damaged_settings(finished, text, tmp_path, say):
    folder, path = finished
    there = tmp_path / "run"
    shutil.copytree(folder, there)
    (there / "settings.json").write_text(text)
    before = trials.tree(there)
    told = go("test", path, there).refused("settings.json" if text != "{}" else "")
    assert trials.tree(there) == before
    say(f"refused: {told[:100]}")
