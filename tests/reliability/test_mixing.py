"""Runs that differ in anything that decides the numbers never share a folder."""

import shutil

import pytest
import torch

from tests.reliability import runs, trials
from tests.reliability.own import command_that_dies, command_that_waits, save_classifier
from tests.reliability.trials import config, merged, nested, out

pytestmark = pytest.mark.slow
MODEL = "model.init_args"
SUBJECT = f"{MODEL}.explanandum.init_args"
DATA = "data.init_args"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Two folders of images, classifiers, and the finished runs of `test`, `predict` and `fit`."""
    folder = tmp_path_factory.mktemp("mixing")
    pets = ["cats", "dogs"]
    for name, names, seed in (
        ("pets", pets, 0),
        ("others", pets, 1),
        ("shapes", list("abcdef"), 0),
    ):
        job = trials.run(save_classifier, str(folder / f"{name}.ckpt"), names, seed)
        assert job.code == 0, job.err
        state = torch.load(folder / f"{name}.ckpt", weights_only=True)["state_dict"]
        own = {key.removeprefix("network."): v for key, v in state.items() if "network." in key}
        torch.save(own, folder / f"{name}.pth")
    trials.pictures(folder / "photos")
    shutil.copytree(folder / "photos", folder / "elsewhere")
    blur = {
        "class_path": "explainers.methods.constant.CentredGaussian",
        "init_args": {"sigma": 0.2},
    }
    # By name, so that every argument of the explanandum counts.
    arguments = {"model": "test_resnet", "num_classes": 2, "class_names": pets}
    subject = nested(SUBJECT, {**arguments, "weights": str(folder / "pets.pth")})
    made = {
        "test": merged(
            runs.trainer(),
            runs.method("constant.Random", "test_resnet", seed=0),
            subject,
            runs.folder(folder / "photos"),
            runs.score(runs.curves(), methods={"blur": blur}),
        ),
        "predict": merged(
            runs.trainer(),
            runs.method("constant.Random", "test_resnet", seed=0),
            subject,
            runs.folder(folder / "photos", labelled=False),
        ),
        "fit": runs.fit(folder / "shapes.ckpt", epochs=1),
    }
    for kind, settings in made.items():
        go(kind, config(folder / f"{kind}.yaml", settings), folder / kind).passed()
    return folder, made


def go(kind, path, folder, *more):
    program = "train" if kind == "fit" else "evaluate"
    return trials.run(trials.command, program, kind, "-c", path, *out(folder), *more)


BUMP = {"bump": {"class_path": "explainers.methods.constant.Constant"}}
CHANGES = [
    # name, key, value ("{}" is the folder of this module), words of the refusal
    ("data-root", f"{DATA}.root", "{}/elsewhere", ["root"]),
    ("mean", f"{SUBJECT}.mean", [0.4, 0.5, 0.5], ["mean"]),
    ("std", f"{SUBJECT}.std", [0.3, 0.25, 0.25], ["std"]),
    ("resize", f"{DATA}.resize", "crop", ["resize"]),
    ("interpolation", f"{DATA}.interpolation", "bicubic", ["interpolation"]),
    ("image-size", f"{DATA}.image_size", [24, 24], ["image_size"]),
    ("split-seed", f"{DATA}.split_seed", 5, ["split_seed"]),
    ("fractions", f"{DATA}.fractions", [0.5, 0.0, 0.5], ["fractions"]),
    ("split", f"{DATA}.test_on", "all", ["test_on"]),
    ("multi-label", f"{SUBJECT}.multi_label", True, ["multi_label"]),
    ("weights", f"{SUBJECT}.weights", "{}/others.pth", ["weights"]),
    ("fewer-images", f"{DATA}.limit", 2, ["limit"]),
    ("fewer-batches", "trainer.limit_test_batches", 1, []),
    ("target", "score.target", "predicted", ["target"]),
    ("metric-argument", "score.metrics", runs.score(runs.curves(5))["score"]["metrics"], ["steps"]),
    ("metric-gone", "score.metrics", runs.score(runs.curves()[:1])["score"]["metrics"], ["metric"]),
    ("method-argument", f"{MODEL}.seed", 1, ["seed"]),
    ("row-argument", "score.methods.blur.init_args.sigma", 0.3, ["sigma"]),
    ("row-renamed", "score.methods", BUMP, ["bump"]),
    ("precision", "trainer.precision", "64-true", ["precision"]),
]  # fmt: skip


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [each[1:] for each in CHANGES],
    ids=[f"mix-test-{each[0]}" for each in CHANGES],
)
def test_another_run_is_refused(base, place, value, words, tmp_path, say):
    told = refused(base, "test", place, value, words, tmp_path)
    say(f"refused, nothing changed: {told[-110:]}")


def refused(base, kind, place, value, words, tmp_path):
    """Starts the run with one change in a copy of the first one's folder."""
    folder, made = base
    value = value.format(folder) if isinstance(value, str) else value
    there = tmp_path / "run"
    shutil.copytree(folder / kind, there)
    before = trials.tree(there)
    changed = config(tmp_path / "changed.yaml", made[kind], nested(place, value))
    if place == "score.methods":
        changed = config(tmp_path / "changed.yaml", replaced(made[kind], "methods", value))
    told = go(kind, changed, there).refused(*words)
    assert trials.tree(there) == before
    return told


def replaced(settings, key, value):
    return {**settings, "score": {**settings["score"], key: value}}


PREDICTIONS = [
    ("method-argument", f"{MODEL}.seed", 1, ["seed"]),
    ("data-root", f"{DATA}.root", "{}/elsewhere", ["root"]),
    ("mean", f"{SUBJECT}.mean", [0.4, 0.5, 0.5], ["mean"]),
    ("class-names", f"{SUBJECT}.class_names", ["x", "y"], ["class_names"]),
    ("resize", f"{DATA}.resize", "crop", ["resize"]),
    ("weights", f"{SUBJECT}.weights", "{}/others.pth", ["weights"]),
    ("classes", "save.classes", "all", ["save.classes"]),
]


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [each[1:] for each in PREDICTIONS],
    ids=[f"mix-predict-{each[0]}" for each in PREDICTIONS],
)
def test_other_maps_are_refused(base, place, value, words, tmp_path, say):
    told = refused(base, "predict", place, value, words, tmp_path)
    say(f"refused, no map touched: {told[-110:]}")


@pytest.mark.parametrize(
    "kind", ["test", "predict"], ids=lambda kind: f"mix-changed-picture-{kind}"
)
def test_a_picture_that_was_replaced_is_another_data_set(base, kind, tmp_path, say):
    made = base[1]
    photos = trials.pictures(tmp_path / "photos")
    path = config(tmp_path / "run.yaml", made[kind], nested(f"{DATA}.root", str(photos)))
    go(kind, path, tmp_path / "run").passed()
    before = trials.tree(tmp_path / "run")
    for picture in photos.rglob("*.png"):
        trials.picture(picture, seed=99, size=40)
    go(kind, path, tmp_path / "run").refused()
    assert trials.tree(tmp_path / "run") == before
    say("refused after the files changed in place")


def test_mix_speed_only(base, tmp_path, say):
    folder, made = base
    path = config(tmp_path / "run.yaml", made["test"], nested(f"{DATA}.batch_size", 3))
    shutil.copytree(folder / "test", tmp_path / "run")
    go("test", path, tmp_path / "run").passed()
    assert trials.rows(tmp_path / "run") == trials.rows(folder / "test")
    say("another batch_size resumes, the same rows")


def waiting(folder, seed):
    return runs.method("rise.RISE", "test_resnet", masks=10, grid=4, seed=seed)


def at_once(words, tmp_path):
    """What two commands left that explain their first image at the same moment."""
    (tmp_path / "here").mkdir()
    jobs = [trials.start(command_that_waits, str(tmp_path / "here"), *each) for each in words]
    return [job.wait() for job in jobs]


@pytest.mark.parametrize("same", [False, True], ids=["mix-two-runs-at-once", "mix-one-run-twice"])
def test_two_at_once(base, same, tmp_path, say):
    folder, made = base
    paths = [
        config(tmp_path / f"{i}.yaml", made["test"], waiting(folder, seed))
        for i, seed in enumerate((7, 7 if same else 8))
    ]
    for i, path in enumerate(paths):
        go("test", path, tmp_path / f"alone{i}").passed()
    words = [("evaluate", "test", "-c", path, *out(tmp_path / "run")) for path in paths]
    ended = at_once(words, tmp_path)
    codes = [job.code for job in ended]
    assert 0 in codes
    assert same or sorted(codes) == [0, 2]
    told = [job.refused() for job in ended if job.code != 0]
    winner = tmp_path / f"alone{codes.index(0)}"
    assert trials.numbers(tmp_path / "run") == trials.numbers(winner)
    say(f"exit codes {codes}, figures of the first; {(told or ['both resume'])[0][:90]}")


def test_mix_two_predicts_at_once(base, tmp_path, say):
    folder, made = base
    paths = [
        config(tmp_path / f"{seed}.yaml", made["predict"], waiting(folder, seed)) for seed in (7, 8)
    ]
    for i, path in enumerate(paths):
        go("predict", path, tmp_path / f"alone{i}").passed()
    words = [("evaluate", "predict", "-c", path, *out(tmp_path / "run")) for path in paths]
    codes = [job.code for job in at_once(words, tmp_path)]
    assert sorted(codes) == [0, 2]
    assert maps(tmp_path / "run") == maps(tmp_path / f"alone{codes.index(0)}")
    say(f"exit codes {codes}, all maps of one run")


def maps(folder):
    return {name: data for name, data in trials.tree(folder).items() if name.endswith(".npy")}


def test_mix_foreign_files(base, tmp_path, say):
    folder, made = base
    foreign = {
        "scores-old.csv": "index,name,target,method,SoftIoU\n0,cats/0.png,0,random,0.5\n",
        "scores-1.csv.bak": "old\n",
        "scores-2024-1.csv": "mine\n",
        "scores_0.csv": "x",
        "settings-old.json": "{",
        "errors-old.csv": "image\n",
        "notes.tmp": "mine",
        "a.txt.tmp": "mine",
        "maps/x.npy": "not ours",
        "last.ckpt.part": "",
    }
    there = tmp_path / "run"
    for name, text in foreign.items():
        (there / name).parent.mkdir(parents=True, exist_ok=True)
        (there / name).write_text(text)
    path = config(tmp_path / "run.yaml", made["test"])
    for _ in range(2):
        go("test", path, there).passed()
        found = trials.tree(there)
        assert {name: found[name].decode() for name in foreign} == foreign
        assert trials.numbers(there) == trials.numbers(folder / "test")
    say(f"{len(foreign)} files of others untouched, not one read as a shard")


@pytest.mark.parametrize(
    ("place", "value"),
    [("seed_everything", 0), ("seed_everything", 3), (f"{MODEL}.optimizer", {"lr": 0.01})],
    ids=["mix-fit-again", "mix-fit-other-seed", "mix-fit-other-rate"],
)
def test_a_second_fit_is_refused(base, place, value, tmp_path, say):
    told = refused(base, "fit", place, value, [], tmp_path)
    say(f"refused, nothing changed: {told[-110:]}")


@pytest.mark.parametrize("kind", ["test", "predict"], ids=lambda kind: f"mix-fits-config-{kind}")
def test_the_fits_own_config_leaves_the_fit_alone(base, kind, tmp_path, say):
    made = base[1]
    there = tmp_path / "fitted"
    logger = {
        "class_path": "lightning.pytorch.loggers.CSVLogger",
        "init_args": {"name": "", "version": "logs"},
    }
    more = {"logger": [logger], "default_root_dir": str(there), "log_every_n_steps": 1}
    settings = merged(made["fit"], {"trainer": more}, runs.score())
    path = config(tmp_path / "fit.yaml", settings)
    trials.train("fit", "-c", path).passed()
    before = trials.tree(there)
    assert "logs/metrics.csv" in before
    words = ["-c", path, "--ckpt_path", there / "last.ckpt"]
    trials.evaluate(kind, *words).passed()
    after = trials.tree(there)
    changed = [name for name in before if after.get(name) != before[name]]
    assert changed == []
    new = [name for name in after if name not in before]
    assert new, "nothing below the fit's folder"
    assert [name for name in new if "/" not in name or name.startswith("logs/")] == []
    assert any(name.endswith("/scores.csv" if kind == "test" else ".npy") for name in new)
    say(f"{len(before)} files of the fit unchanged, {len(new)} below in {new[0].split('/')[0]}")


PAIRS = [
    (first, second)
    for first in ("test", "predict", "fit")
    for second in ("test", "predict", "fit")
    if first != second
]


@pytest.mark.parametrize(
    ("first", "second"), PAIRS, ids=[f"mix-{first}-then-{second}" for first, second in PAIRS]
)
def test_commands_do_not_share_a_folder(base, first, second, tmp_path, say):
    folder, made = base
    there = tmp_path / "run"
    shutil.copytree(folder / first, there)
    before = trials.tree(there)
    job = go(second, config(tmp_path / "second.yaml", made[second]), there)
    after = trials.tree(there)
    if first == "fit":  # a test goes into a folder of its own below
        job.passed()
        assert {name: after[name] for name in before} == before
        assert not any("/" not in name for name in after.keys() - before.keys())
        return say(f"{len(before)} files of the fit unchanged, the others in a folder below")
    told = job.refused("--out")
    assert after == before
    say(f"refused, nothing changed: {told[-100:]}")


def test_mix_failed_predict_blocks_nothing(base, tmp_path, say):
    folder, made = base
    first = config(tmp_path / "first.yaml", made["predict"], nested(f"{MODEL}.seed", 5))
    words = ("evaluate", "predict", "-c", first, *out(tmp_path / "run"))
    assert trials.run(command_that_dies, *words).code == -9
    go("predict", config(tmp_path / "second.yaml", made["predict"]), tmp_path / "run").passed()
    assert maps(tmp_path / "run") == maps(folder / "predict")
    say("a predict that died before its first map leaves the folder to another run")


def test_mix_failed_test_blocks_nothing(base, tmp_path, say):
    folder, made = base
    first = config(tmp_path / "first.yaml", made["test"], nested(f"{MODEL}.seed", 5))
    words = ("evaluate", "test", "-c", first, *out(tmp_path / "run"))
    assert trials.run(command_that_dies, *words).code == -9
    go("test", config(tmp_path / "second.yaml", made["test"]), tmp_path / "run").passed()
    assert trials.numbers(tmp_path / "run") == trials.numbers(folder / "test")
    say("a test that died before its first row leaves the folder to another run")


def test_mix_names_of_one_file(base, tmp_path, say):
    folder = base[0]
    names = ["sub/z.png", "../sub/z.png", "/sub/z.png", "sub/../sub/z.png", "z.png", "../../z.png"]
    arguments = {"names": names, "image_size": [32, 32], "batch_size": 4}
    data = {"data": {"class_path": "tests.reliability.own.Flat", "init_args": arguments}}
    method = runs.method("tests.reliability.own.Fragile", folder / "pets.ckpt")
    path = config(tmp_path / "run.yaml", runs.trainer(), method, data)
    there = tmp_path / "deep" / "run"
    job = go("predict", path, there)
    inside = maps(there) if there.exists() else {}
    assert maps(tmp_path).keys() == {f"deep/run/{name}" for name in inside}, "outside the folder"
    if job.code == 0:
        assert len(inside) == len(set(inside.values())) == len(names)
        say(f"{len(names)} images called z.png have a map each, all inside the folder")
    else:
        told = job.refused("z.png")
        assert inside == {}
        say(f"refused: {told[-100:]}")
