"""Memory of predict over many images."""

import time
from pathlib import Path

import pytest

from tests.reliability import runs, trials
from tests.reliability.own import save_classifier
from tests.reliability.trials import config, out

pytestmark = pytest.mark.slow
IMAGES, FIRST, ALLOWED = 2000, 200, 30  # megabytes; all maps together have 72


def test_predict_memory(tmp_path, say):
    job = trials.run(save_classifier, str(tmp_path / "pets.ckpt"), ["cats", "dogs"])
    assert job.code == 0, job.err
    # 96 x 96, because the maps of 2000 images of 32 x 32 are no more than 8 MB.
    arguments = {"count": IMAGES, "batch_size": 16, "image_size": [96, 96]}
    data = {"data": {"class_path": "tests.reliability.own.Flat", "init_args": arguments}}
    method = runs.method("constant.Random", tmp_path / "pets.ckpt")
    path = config(tmp_path / "run.yaml", runs.trainer(), method, data)
    words = ("evaluate", "predict", "-c", path, *out(tmp_path / "run"))
    running = trials.start(trials.command, *words)
    first, most = None, 0.0
    while running.process.is_alive():
        now = resident(running.process.pid)
        if first is None and (tmp_path / "run" / f"{FIRST:05d}.png.npy").exists():
            first = now
        most = max(most, now)
        time.sleep(0.1)
    running.wait().passed()
    assert len(list((tmp_path / "run").glob("*.npy"))) == IMAGES
    assert first, "never measured"
    assert most - first < ALLOWED, f"grew by {most - first:.0f} MB from {first:.0f} MB"
    say(f"RSS {first:.0f} MB at image {FIRST}, at most {most:.0f} MB until image {IMAGES}")


def resident(process):
    """Resident memory in MB; 0 of a process that has ended."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0.0
    found = [line.split()[1] for line in lines if line.startswith("VmRSS")]
    return int(found[0]) / 1024 if found else 0.0
