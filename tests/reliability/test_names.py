"""Odd names of pictures in scores.csv and as files of predict."""

import csv
import os

import pytest

from tests.reliability import runs, trials
from tests.reliability.own import save_classifier
from tests.reliability.trials import config, out

pytestmark = pytest.mark.slow
NAMES = {
    "carriage-return": b"a\rb.png",
    "carriage-return-newline": b"a\r\nb.png",
    "newline": b"new\nline.png",
    "quote": b'q"uo"te.png',
    "comma": b"com,ma, .png",
    "long": b"l" * 246 + b".png",
    "not-utf8": b"\xff\xfe\xe9.png",
    "unicode": "\u00fcn\u00ef \u4e2d\u6587 \U0001f408.png".encode(),
    "formula": b"=1+1.png",
    "nan": b"nan.png",
    "tab-and-semicolon": b"a\tb;c.png",
    "line-separators": "a\u2028b\x0bc\x1cd\u0085e.png".encode(),
    "space": b" lead and trail .png",
    "dash": b"-- --out x.png",
    "percent": b"%s%d{}{0}.png",
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The folders of a test and a predict over pictures with these names."""
    folder = tmp_path_factory.mktemp("names")
    job = trials.run(save_classifier, str(folder / "pets.ckpt"), ["cats", "dogs"])
    assert job.code == 0, job.err
    for number, name in enumerate(NAMES.values()):
        trials.picture(folder / "photos" / "cats" / os.fsdecode(name), number)
        trials.picture(folder / "plainly" / "cats" / f"{number:02d}.png", number)
    for root in ("photos", "plainly"):
        trials.picture(folder / root / "dogs" / "dog.png", 99)
    parts = (
        runs.trainer(),
        runs.method("captum_methods.Saliency", folder / "pets.ckpt"),
        runs.score(("classification.MaskedClassification",)),
    )
    path = config(folder / "run.yaml", *parts, runs.folder(folder / "photos", test_on="all"))
    plain = config(folder / "plain.yaml", *parts, runs.folder(folder / "plainly", test_on="all"))
    trials.evaluate("predict", "-c", plain, *out(folder / "plain")).passed()
    jobs = {}
    for kind in ("test", "predict"):
        jobs[kind] = trials.evaluate(kind, "-c", path, *out(folder / kind))
    again = trials.evaluate("test", "-c", path, *out(folder / "test"))
    return folder, jobs, again


@pytest.mark.parametrize("name", NAMES, ids=[f"name-{name}" for name in NAMES])
def test_a_name_is_read_back(made, name, say):
    folder, jobs, _ = made
    for job in jobs.values():
        job.passed()
    wanted = "cats/" + os.fsdecode(NAMES[name])
    spelled = wanted.encode("utf-8", "backslashreplace").decode()  # bytes that are no text
    found = [row for row in trials.rows(folder / "test") if row["name"] in (wanted, spelled)]
    assert len(found) == 1
    assert float(found[0]["seconds"]) >= 0
    # Its map is that of the same picture under a plain name, whatever the file is called.
    plain = maps(folder / "plain")[f"cats/{list(NAMES).index(name):02d}.png.npy"]
    own = [path for path, data in maps(folder / "predict").items() if data == plain]
    assert len(own) == 1
    assert len(maps(folder / "predict")) == len(NAMES) + 1
    say(f"read back by the csv module; its map is {ascii(own[0])[-60:]}")


def maps(folder):
    return {name: data for name, data in trials.tree(folder).items() if name.endswith(".npy")}


def test_name_table(made, say):
    folder, jobs, again = made
    jobs["test"].passed()
    again.passed()
    rows = trials.rows(folder / "test")
    assert len(rows) == len(NAMES) + 1
    assert all(None not in row and None not in row.values() for row in rows)
    with (folder / "test" / "scores.csv").open(
        newline="", encoding="utf-8", errors="surrogateescape"
    ) as file:
        assert len({len(line) for line in csv.reader(file, strict=True)}) == 1
    say(f"{len(rows)} rows, all with the same columns, also after a resume")


def test_name_pandas(made, say):
    pandas = pytest.importorskip("pandas")
    folder, jobs, _ = made
    jobs["test"].passed()
    read = {"keep_default_na": False, "encoding_errors": "surrogateescape"}
    table = pandas.read_csv(folder / "test" / "scores.csv", **read)
    assert sorted(table["name"]) == sorted(row["name"] for row in trials.rows(folder / "test"))
    say(f"pandas reads {len(table)} rows and the same names")
