"""A fit that diverges or is interrupted keeps a good checkpoint and says how to go on."""

import re
from pathlib import Path

import pytest
import torch

from tests.reliability import runs, trials
from tests.reliability.own import save_classifier
from tests.reliability.trials import config, merged, out

pytestmark = pytest.mark.slow
METHOD = "tests.reliability.own.Diverging"
STEPS = 24  # of three epochs


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A classifier, and the checkpoints of an undisturbed fit."""
    folder = tmp_path_factory.mktemp("training")
    made = trials.run(save_classifier, str(folder / "shapes.ckpt"), list("abcdef"))
    assert made.code == 0, made.err
    path = config(folder / "fit.yaml", settings(folder))
    trials.train("fit", "-c", path, *out(folder / "fit")).passed()
    return folder


def settings(base, every=4, epochs=3, **model):
    return merged(
        runs.trainer(max_epochs=epochs, callbacks=runs.checkpoints(every), num_sanity_val_steps=0),
        runs.method(METHOD, base / "shapes.ckpt", **model),
        runs.shapes(),
    )


def read(path):
    return torch.load(path, weights_only=False)


def same(path, other):
    own, reference = read(path), read(other)
    assert own["global_step"] == reference["global_step"] == STEPS
    weights, others = own["state_dict"], reference["state_dict"]
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in others)


def finite(path):
    return all(torch.isfinite(v).all() for v in read(path)["state_dict"].values())


BAD = [("nan", 10), ("inf", 10), ("nan", 0)]


@pytest.mark.parametrize(("value", "step"), BAD, ids=[f"train-{v}-at-step-{s}" for v, s in BAD])
def test_a_loss_that_is_not_finite(base, value, step, tmp_path, say):
    path = config(tmp_path / "fit.yaml", settings(base, value=value, start=step))
    job = trials.train("fit", "-c", path, *out(tmp_path / "run"))
    told = job.refused("weird")
    kept = sorted((tmp_path / "run").rglob("*.ckpt"))
    assert all(finite(each) for each in kept)
    if step:
        steps = [read(each)["global_step"] for each in kept]
        assert max(steps) >= 8, "no good checkpoint was kept"
        assert max(steps) <= step
    say(f"{told[-80:]}; {len(kept)} finite checkpoints kept")


def test_train_classifier_diverges(base, tmp_path, say):
    model = {
        "class_path": "explainers.explanandum.classifier.Classifier",
        "init_args": {
            "model": "test_resnet",
            "num_classes": 6,
            "multi_label": True,
            "optimizer": {"lr": 1e30},
        },
    }
    trainer = runs.trainer(max_epochs=2, callbacks=runs.checkpoints(1), num_sanity_val_steps=0)
    path = config(tmp_path / "fit.yaml", trainer, {"model": model}, runs.shapes())
    job = trials.train("fit", "-c", path, *out(tmp_path / "run"))
    told = job.refused("loss")
    assert all(finite(each) for each in (tmp_path / "run").rglob("*.ckpt"))
    say(told[-100:])


SIGNALS = [("SIGINT", 3), ("SIGTERM", 3), ("SIGINT", 12), ("SIGTERM", 12)]


@pytest.mark.parametrize(
    ("name", "step"), SIGNALS, ids=[f"train-{name}-at-step-{step}" for name, step in SIGNALS]
)
def test_a_signal_leaves_a_checkpoint(base, name, step, tmp_path, say):
    # No checkpoint by steps: at step 3 the first epoch has not ended.
    path = config(tmp_path / "fit.yaml", settings(base, every=None))
    words = ("-c", path, *out(tmp_path / "run"))
    job = trials.train("fit", *words, env={"TRIAL_SIGNAL": f"{name}@{step}"})
    assert "Traceback" not in job.text
    told = re.search(r"--ckpt_path[ =](\S+\.ckpt)", job.text)
    assert told, f"does not say how to resume: {job.last}"
    left = Path(trials.ROOT, told[1].strip("'\""))
    assert left.is_file()
    kept = read(left)["global_step"]
    assert step <= kept <= step + 2
    trials.train("fit", *words, "--ckpt_path", left).passed()
    same(tmp_path / "run" / "last.ckpt", base / "fit" / "last.ckpt")
    say(f"exit {job.code}, {left.name} of step {kept} resumes to equal weights")


RESUMED = [4, 8, 12, 16, 20]


@pytest.mark.parametrize("step", RESUMED, ids=[f"train-resume-step-{step}" for step in RESUMED])
def test_resuming_is_exact(base, step, tmp_path, say):
    found = {read(path)["global_step"]: path for path in (base / "fit").glob("*step*.ckpt")}
    copied = tmp_path / "from.ckpt"
    copied.write_bytes(found[step].read_bytes())
    words = ("-c", base / "fit.yaml", *out(tmp_path / "run"), "--ckpt_path", copied)
    trials.train("fit", *words).passed()
    same(tmp_path / "run" / "last.ckpt", base / "fit" / "last.ckpt")
    say(f"{STEPS} steps, weights equal" + (", an epoch's last batch" if step % 8 == 0 else ""))


CHAINS = [(4, 8, 12), (8, 12, 16), (8, 16, 20)]


@pytest.mark.parametrize(
    "steps", CHAINS, ids=[f"train-resume-chain-{'-'.join(map(str, steps))}" for steps in CHAINS]
)
def test_resuming_again_and_again_is_exact(base, steps, tmp_path, say):
    folder = base / "fit"
    for step in steps:
        found = {read(path)["global_step"]: path for path in folder.glob("*step*.ckpt")}
        folder = tmp_path / f"from{step}"
        words = ("-c", base / "fit.yaml", *out(folder), "--ckpt_path", found[step])
        trials.train("fit", *words).passed()
        same(folder / "last.ckpt", base / "fit" / "last.ckpt")
    say(f"{len(steps)} times, each from the run before: {STEPS} steps, weights equal")


def test_train_untrained_is_refused(base, tmp_path, say):
    path = config(tmp_path / "test.yaml", settings(base), runs.score())
    job = trials.evaluate("test", "-c", path, *out(tmp_path / "run"))
    told = job.refused("--ckpt_path", "--untrained")
    assert not (tmp_path / "run" / "scores.csv").exists()
    say(told[-100:])


def test_train_untrained_insisted(base, tmp_path, say):
    path = config(tmp_path / "test.yaml", settings(base), runs.score())
    trials.evaluate("test", "-c", path, *out(tmp_path / "run"), "--untrained").passed()
    assert len(trials.numbers(tmp_path / "run")) >= 24
    say("--untrained tests it all the same")


def test_train_wrong_checkpoint(base, tmp_path, say):
    wrong = tmp_path / "wrong.ckpt"
    torch.save({"weights": torch.ones(2)}, wrong)
    words = ("-c", base / "fit.yaml", *out(tmp_path / "run"), "--ckpt_path")
    told = trials.train("fit", *words, wrong).refused("wrong.ckpt")
    trials.train("fit", *words, tmp_path / "missing.ckpt").refused("missing.ckpt")
    trials.train("fit", *words, base / "shapes.ckpt").refused("shapes.ckpt")
    say(told[-100:])


def test_train_resume_with_callbacks(base, tmp_path, say):
    """Whatever usual callbacks and schedules store is taken up again."""
    kind = "lightning.pytorch.callbacks"
    best = {"filename": "best", "monitor": "val/loss", "save_top_k": 2, "save_last": True}
    listed = [
        {"class_path": f"{kind}.ModelCheckpoint", "init_args": best},
        {"class_path": f"{kind}.EarlyStopping", "init_args": {"monitor": "val/loss"}},
        {"class_path": f"{kind}.EMAWeightAveraging", "init_args": {"decay": 0.5}},
    ]
    for schedule in ("constant", "cosine", "annealing"):
        changes = {"trainer": {"callbacks": listed}}
        made = merged(settings(base, schedule=schedule), changes)
        whole, half = tmp_path / f"{schedule}-whole", tmp_path / f"{schedule}-half"
        path = config(tmp_path / "fit.yaml", made)
        trials.train("fit", "-c", path, *out(whole)).passed()
        # Half way by a signal, since the schedule depends on the number of epochs.
        words = ("-c", path, *out(half))
        trials.train("fit", *words, env={"TRIAL_SIGNAL": "SIGTERM@12"})
        (left,) = half.rglob("interrupted.ckpt")
        trials.train("fit", *words, "--ckpt_path", left).passed()
        (one,), (other,) = whole.rglob("last.ckpt"), half.rglob("last.ckpt")
        same(one, other)
    say("monitored checkpoints, early stopping, moving average, three schedules: equal")
