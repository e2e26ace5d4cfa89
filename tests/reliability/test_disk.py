"""Folders that cannot be written, and disks that are full."""

import contextlib
import subprocess

import pytest
import torch

from tests.reliability import runs, trials
from tests.reliability.own import save_classifier
from tests.reliability.trials import config, out

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Pictures, and the configuration files of the commands."""
    folder = tmp_path_factory.mktemp("disk")
    for name, names in (("pets", ["cats", "dogs"]), ("shapes", list("abcdef"))):
        made = trials.run(save_classifier, str(folder / f"{name}.ckpt"), names)
        assert made.code == 0, made.err
    trials.pictures(folder / "photos", 6)
    photos = (
        runs.trainer(),
        runs.method("constant.Random", folder / "pets.ckpt"),
        runs.folder(folder / "photos", test_on="all"),
        runs.score(("classification.MaskedClassification",)),
    )
    config(folder / "test.yaml", *photos)
    config(folder / "predict.yaml", *photos)
    config(folder / "fit.yaml", runs.fit(folder / "shapes.ckpt", epochs=1))
    config(  # 30 kB of scores
        folder / "long.yaml",
        runs.trainer(),
        runs.method("constant.Random", folder / "shapes.ckpt"),
        runs.shapes(test_images=40),
        runs.score(sanity=True),
    )
    return folder


def go(base, kind, folder, *more, file=""):
    program = "train" if kind == "fit" else "evaluate"
    path = base / f"{file or kind}.yaml"
    return trials.run(trials.command, program, kind, "-c", str(path), *out(folder), *more)


NOWHERE = [(kind, where) for kind in ("test", "predict", "fit") for where in ("proc", "file")]


@pytest.mark.parametrize(
    ("kind", "where"), NOWHERE, ids=[f"disk-{kind}-into-{where}" for kind, where in NOWHERE]
)
def test_a_folder_that_cannot_be_written(base, kind, where, tmp_path, say):
    (tmp_path / "file").write_text("mine")
    folder = {"proc": "/proc/1/run", "file": tmp_path / "file" / "run"}[where]
    job = go(base, kind, folder)
    say(f"refused: {job.refused(str(folder).rpartition('/')[0])[-100:]}")


# Room for nothing, for the first rows or maps, for no checkpoint, and for one but not for two.
DISKS = [("test", "8k"), ("test", "24k"), ("predict", "40k"), ("fit", "400k"), ("fit", "10m")]


@pytest.mark.parametrize(
    ("kind", "size"), DISKS, ids=[f"disk-full-{kind}-{size}" for kind, size in DISKS]
)
def test_a_full_disk(base, kind, size, tmp_path, say):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    if subprocess.run(mounted, capture_output=True).returncode:
        pytest.skip("no right to mount a small disk")
    try:
        say(full(base, kind, "long" if size == "24k" else kind, disk, tmp_path))
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def newest(folder):
    """The words that resume from the newest checkpoint that is whole, if any."""
    found = {}
    for path in folder.glob("*.ckpt"):
        with contextlib.suppress(RuntimeError):  # torch cannot read it
            found[torch.load(path, weights_only=False)["global_step"]] = path
    return ["--ckpt_path", str(found[max(found)])] if found else []


def full(base, kind, file, disk, tmp_path):
    """Runs the command until the disk is full, and again on a larger one."""
    go(base, kind, tmp_path / "whole", file=file).passed()
    told = go(base, kind, disk / "run", file=file).refused("space")
    left = len(trials.tree(disk / "run"))
    subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)
    more = newest(disk / "run") if kind == "fit" else []
    go(base, kind, disk / "run", *more, file=file).passed()
    now, whole = trials.tree(disk / "run"), trials.tree(tmp_path / "whole")
    assert sorted(now) == sorted(whole)
    if kind == "test":
        assert trials.numbers(disk / "run") == trials.numbers(tmp_path / "whole")
    if kind == "predict":
        assert [name for name in whole if name.endswith(".npy") and now[name] != whole[name]] == []
    return f"{told[-60:]}, {left} files left; with space it goes on, equal"
