"""SIGKILL at random: by the clock, and right before a random change of the run folder."""

import os
import random
import subprocess
import sys
import time
from subprocess import DEVNULL

import pytest
import torch

from tests.reliability import runs, trials
from tests.reliability.own import save_classifier
from tests.reliability.trials import config, out

pytestmark = pytest.mark.slow
TRIALS = [(kind, number) for kind in ("test", "predict", "fit") for number in range(1, 9)]
IDS = [f"kill-{kind}-{number:02d}" for kind, number in TRIALS]
METHOD = {"masks": 60, "grid": 4}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The commands, and what each leaves if nobody disturbs it."""
    folder = tmp_path_factory.mktemp("kills")
    names = list("abcdef")
    assert trials.run(save_classifier, str(folder / "shapes.ckpt"), names).code == 0
    model = folder / "shapes.ckpt"
    rise = runs.method("rise.RISE", model, **METHOD)
    row = {"class_path": "explainers.methods.constant.CentredGaussian"}
    scored = runs.score(methods={"centred": row})
    parts = {
        "test": (runs.trainer(), rise, runs.shapes(), scored),
        "predict": (runs.trainer(), rise, runs.shapes()),
        "fit": (runs.fit(model),),
    }
    found = {}
    for kind, each in parts.items():
        program = "train" if kind == "fit" else "evaluate"
        words = (program, kind, "-c", config(folder / f"{kind}.yaml", *each))
        undisturbed = folder / kind
        job = trials.run(trials.command, *words, *out(undisturbed), watch=undisturbed)
        assert job.passed().events > 5
        found[kind] = words, undisturbed, job.seconds, job.events
    return found


def killed(words, folder, moment, event, begun):
    """Starts the command and kills it; says whether it still ran then.

    The moment counts from the first file in the folder, if there `begun`.
    """
    job = trials.start(trials.command, *words, *out(folder), watch=folder, kill_at=event)
    while begun and job.process.is_alive() and not (folder.exists() and os.listdir(folder)):
        time.sleep(0.005)
    if event is None:
        time.sleep(moment)
        job.kill()
    return job.wait().code == -9


@pytest.mark.parametrize(("kind", "number"), TRIALS, ids=IDS)
def test_a_killed_run_goes_on(base, kind, number, tmp_path, say):
    words, undisturbed, seconds, events = base[kind]
    chance = random.Random(f"{kind} {number}")
    begun = number > 1  # the first is killed while it starts
    moment, event = chance.uniform(0.0, 0.4) * seconds, None
    if number % 2 == 0:
        moment, event = None, chance.randint(events // 6, events)
    for attempt in range(4):
        folder = tmp_path / f"run{attempt}"
        if killed(words, folder, moment, event, begun and event is None):
            break
        moment, event = moment and 0.7 * moment, event and event // 2
    else:
        pytest.fail("the run always ended before it was killed")
    when = (
        f"{moment:.2f} s after {'its first file' if begun else 'its start'}"
        if event is None
        else f"before change {event} of {events}"
    )
    more = resumed_from(folder) if kind == "fit" else []
    left = len(trials.tree(folder)) if folder.exists() else 0
    trials.run(trials.command, *words, *out(folder), *more).passed()
    compare(kind, folder, undisturbed)
    say(f"SIGKILL {when}, {left} files left: resumed, {EQUAL[kind]} equal to the uninterrupted")


def test_kill_real_process(base, tmp_path, say):
    (_, *words), undisturbed, *_ = base["test"]
    command = [sys.executable, "evaluate.py", *words, *out(tmp_path / "run")]
    scores = tmp_path / "run" / "scores.csv"
    with subprocess.Popen(command, cwd=trials.ROOT, stdout=DEVNULL, stderr=DEVNULL) as process:
        while process.poll() is None and not (scores.exists() and scores.stat().st_size > 500):
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -9
    rows = len(trials.rows(tmp_path / "run"))
    subprocess.run(command, cwd=trials.ROOT, check=True, capture_output=True, timeout=120)
    compare("test", tmp_path / "run", undisturbed)
    say(f"python evaluate.py killed after {rows} rows, and once more: {EQUAL['test']} equal")


EQUAL = {
    "test": "all figures and summary.json",
    "predict": "all maps and pictures",
    "fit": "weights, optimizer and steps",
}


def resumed_from(folder):
    """The words that resume a fit, which begins anew if no checkpoint was written."""
    found = sorted(folder.rglob("*.ckpt")) if folder.exists() else []
    if not found:
        return []
    steps = {torch.load(path, weights_only=False)["global_step"]: path for path in found}
    return ["--ckpt_path", str(steps[max(steps)])]


def compare(kind, folder, undisturbed):
    now, then = trials.tree(folder), trials.tree(undisturbed)
    assert sorted(now) == sorted(then)  # and no temporary file
    if kind == "test":
        assert trials.numbers(folder) == trials.numbers(undisturbed)  # all but the seconds
        assert len(trials.numbers(folder)) >= 2 * 24
        names = ["summary.json"]
    elif kind == "predict":
        names = [name for name in then if name.endswith((".npy", ".png", ".txt"))]
        assert len(names) == 4 * 24
    else:
        compare_fits(folder / "last.ckpt", undisturbed / "last.ckpt")
        return
    assert [name for name in names if now[name] != then[name]] == []


def compare_fits(own, reference):
    own, reference = (torch.load(path, weights_only=False) for path in (own, reference))
    assert own["global_step"] == reference["global_step"] == 24
    weights, others = own["state_dict"], reference["state_dict"]
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in others)
    moments, theirs = (each["optimizer_states"][0]["state"] for each in (own, reference))
    assert moments.keys() == theirs.keys()
    for key, values in theirs.items():
        for name, value in values.items():
            assert torch.equal(torch.as_tensor(moments[key][name]), torch.as_tensor(value))
