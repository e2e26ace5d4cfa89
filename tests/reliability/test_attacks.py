"""A checkpoint is data: nothing in it runs, is imported, is read or is downloaded."""

import os
import shutil

import pytest
import torch

from tests.reliability import attacks, runs, trials
from tests.reliability.own import load, save_classifier, save_explainer
from tests.reliability.trials import config, out

pytestmark = pytest.mark.slow
DEEPLAB = "explainers.methods.deeplab.DeepLabExplainer"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Genuine checkpoints, and the configuration files that use them."""
    folder = tmp_path_factory.mktemp("attacks")
    names = list("abcdef")
    jobs = (
        (save_classifier, str(folder / "classifier.ckpt"), names),
        (save_explainer, str(folder / "constant.ckpt"), str(folder / "classifier.ckpt")),
        (save_explainer, str(folder / "deeplab.ckpt"), str(folder / "classifier.ckpt"), DEEPLAB),
    )
    for job in jobs:
        made = trials.run(*job)
        assert made.code == 0, made.err
    data = runs.shapes(test_images=2)
    config(folder / "test.yaml", runs.trainer(), data, runs.score())
    config(folder / "fit.yaml", runs.fit(folder / "classifier.ckpt", epochs=1), data)
    trials.train("fit", "-c", folder / "fit.yaml", *out(folder / "fit")).passed()
    state = torch.load(folder / "classifier.ckpt", weights_only=False)["state_dict"]
    weights = {name.removeprefix("network."): value for name, value in state.items()}
    torch.save({n: v for n, v in weights.items() if "." in n}, folder / "secret.pth")
    return folder


def opened(entry, path, base, tmp_path, **how):
    """Opens a file by one of the entries of Python or of the command line."""
    how = {"path": [tmp_path], **how}
    test, fit = base / "test.yaml", base / "fit.yaml"
    there = out(tmp_path / "run")
    if entry in ("test", "predict"):
        return trials.evaluate(entry, "-c", test, "--ckpt_path", path, *there, **how)
    if entry == "fit":
        return trials.train("fit", "-c", fit, "--ckpt_path", path, *there, **how)
    model = path if entry == "as-explanandum" else base / "classifier.ckpt"
    method = runs.method("constant.Constant", model)
    beside = {"score": {"checkpoints": {"beside": str(path)}}} if entry == "score" else {}
    if entry in ("score", "as-explanandum"):
        file = config(tmp_path / "opened.yaml", method, beside)
        return trials.evaluate("test", "-c", test, "-c", file, *there, **how)
    return trials.run(load, entry, str(path), **how)


def unharmed(job, tmp_path):
    """Nothing was run, read or downloaded."""
    markers = sorted(str(path.name) for path in tmp_path.rglob("*.marker"))
    assert markers == [], f"EXECUTED: {markers}"
    assert job.seen == [], f"READ: {job.seen}"


def test_genuine(base, tmp_path, say):
    entries = {"load": "constant", "test": "constant", "score": "constant", "explanandum": ""}
    entries |= {"classifier": "", "from_checkpoint": "constant", "as-explanandum": ""}
    for entry, name in entries.items():
        path = base / f"{name or 'classifier'}.ckpt"
        folder = tmp_path / entry
        folder.mkdir()
        opened(entry, path, base, folder).passed()
    opened("load", base / "deeplab.ckpt", base, tmp_path).passed()
    opened("fit", base / "fit" / "last.ckpt", base, tmp_path).passed()
    say("the unchanged files open by every entry")


CORE = ("os-system", "hub-load", "through-us")
MODELS = [(name, "load") for name in (
    "os-system", "posix-system", "subprocess-run", "subprocess-call", "builtins-exec", "runpy",
    "hub-load", "hub-download", "import-module", "through-us", "through-torchvision",
    "through-data", "foreign-callable", "prefix-of-ours", "timm-hub",
)]  # fmt: skip
MODELS += [(name, entry) for name in CORE for entry in ("from_checkpoint", "test", "score")]
MODELS += [("os-system", "predict"), ("subprocess-run", "test")]


@pytest.mark.parametrize(
    ("name", "entry"), MODELS, ids=[f"attack-{entry}-{name}" for name, entry in MODELS]
)
def test_a_stored_callable_is_not_called(base, name, entry, tmp_path, say):
    changes = attacks.model_attacks(tmp_path)[name]
    if entry == "score":  # compares a stored explanandum with its own, if it has no weights
        changes["explanandum"]["in_checkpoint"] = False
        changes["state_dict"] = None
    path = attacks.tampered(base / "constant.ckpt", tmp_path / "evil.ckpt", changes)
    job = opened(entry, path, base, tmp_path)
    unharmed(job, tmp_path)
    if entry == "score" and job.code == 0:
        say("scored with the explanandum at hand; the stored one was not built")
    else:
        say(f"refused: {job.refused('trust')[-100:]}")


CLASSES = [(name, "load") for name in (
    "foreign-module", "foreign-network", "prefix-of-our-name", "foreign-submodule", "function",
    "no-explainer", "classifier-class", "through-our-import", "torch-module", "missing-class",
    "class-of-no-text", "nested-model", "nested-shell",
)]  # fmt: skip
CLASSES += [
    (name, "test")
    for name in ("foreign-module", "foreign-network", "function", "no-explainer", "torch-module")
]
CLASSES += [
    (name, "test")
    for name in ("nested-model", "nested-shell", "nested-argument", "nested-shell-argument")
]
CLASSES += [("nested-model-argument", "test"), ("yaml-tag", "test")]
CLASSES += [("foreign-module", "score"), ("no-explainer", "score"), ("foreign-module", "predict")]
FOREIGN = ("foreign-module", "foreign-network", "prefix-of-our-name", "foreign-submodule")


@pytest.mark.parametrize(
    ("name", "entry"), CLASSES, ids=[f"attack-{entry}-{name}" for name, entry in CLASSES]
)
def test_a_stored_class_is_not_imported(base, name, entry, tmp_path, say):
    changes = attacks.class_attacks(tmp_path)[name]
    path = attacks.tampered(base / "constant.ckpt", tmp_path / "evil.ckpt", changes)
    job = opened(entry, path, base, tmp_path)
    unharmed(job, tmp_path)
    told = job.refused("trust") if name in FOREIGN else job.refused()
    say(f"refused: {told[-100:]}")


KINDS = {"constant": attacks.source_attacks, "deeplab": attacks.encoder_attacks}
SOURCES = [
    (name, kind, entry)
    for kind, known in KINDS.items()
    for name in known("")
    for entry in ("load", "test")
]


@pytest.mark.parametrize(
    ("name", "kind", "entry"), SOURCES, ids=[f"attack-{e}-{name}" for name, _, e in SOURCES]
)
def test_reading_reads_nothing_else(base, name, kind, entry, tmp_path, say):
    secret = tmp_path / "secret" / "secret.pth"
    secret.parent.mkdir()
    shutil.copy(base / "secret.pth", secret)
    os.utime(secret, (1, os.stat(secret).st_mtime))
    changes = KINDS[kind](secret)[name]
    path = attacks.tampered(base / f"{kind}.ckpt", tmp_path / "evil.ckpt", changes)
    job = opened(entry, path, base, tmp_path, secret=[secret])
    unharmed(job, tmp_path)
    assert os.stat(secret).st_atime == 1, "READ: the file was opened"
    if job.code == 0:
        job.passed()
        say("opened, and no other file or address with it")
    else:
        say(f"refused: {job.refused()[-100:]}")


BUILDS = [
    (name, entry)
    for name in ("hub-load", "through-data", "foreign-callable", "timm-hub", "os-system")
    for entry in ("explanandum", "classifier", "as-explanandum")
]


@pytest.mark.parametrize(
    ("name", "entry"), BUILDS, ids=[f"attack-{entry}-{name}" for name, entry in BUILDS]
)
def test_a_stored_classifier_is_not_called(base, name, entry, tmp_path, say):
    changes = attacks.model_attacks(tmp_path)[name]["explanandum"]
    hyper = {"model": changes["model"], "model_args": changes["model_args"]}
    changes = {"hyper_parameters": hyper}
    path = attacks.tampered(base / "classifier.ckpt", tmp_path / "evil.ckpt", changes)
    job = opened(entry, path, base, tmp_path)
    unharmed(job, tmp_path)
    say(f"refused: {job.refused('trust')[-100:]}")


PICKLES = [
    (name, "ckpt", entry)
    for entry in ("load", "explanandum", "classifier", "test", "fit")
    for name in ("archive", "pickle-2", "old-torch")
]
PICKLES += [("beside", "ckpt", entry) for entry in ("load", "test", "fit", "score")]
PICKLES += [("pickle-0", "ckpt", "load"), ("archive", "ckpt", "as-explanandum")]
PICKLES += [
    (name, ending, "weights")
    for name in ("archive", "pickle-2", "old-torch")
    for ending in ("pth", "safetensors")
]
PICKLES += [("archive", "pth", "backbone"), ("pickle-0", "pth", "weights")]


@pytest.mark.parametrize(
    ("name", "ending", "entry"),
    PICKLES,
    ids=[f"attack-{e}-{name}.{ending}" for name, ending, e in PICKLES],
)
@pytest.mark.filterwarnings("ignore")
def test_a_pickle_is_not_loaded(base, name, ending, entry, tmp_path, say):
    path = attacks.pickles(tmp_path)[name, ending]
    # As with an older Lightning: what does not insist on plain data loads pickles.
    env = {"TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1"}
    if entry == "weights":
        method = runs.method("constant.Constant", "test_resnet")
        subject = {"weights": path, "num_classes": 6, "multi_label": True}
        more = {"model": {"init_args": {"explanandum": {"init_args": subject}}}}
        file = config(tmp_path / "weights.yaml", method, more)
        job = trials.evaluate(
            "test", "-c", base / "test.yaml", "-c", file, *out(tmp_path / "run"), env=env
        )
    elif entry == "backbone":
        network = {"network": {"backbone_weights": path}}
        file = config(tmp_path / "fit.yaml", {"model": {"init_args": network}})
        words = ("-c", base / "fit.yaml", "-c", file)
        job = trials.train("fit", *words, *out(tmp_path / "run"), env=env)
    else:
        job = opened(entry, path, base, tmp_path, env=env)
    unharmed(job, tmp_path)
    say(f"refused: {job.refused(os.path.basename(path))[-100:]}")


def test_attack_fit_tampered(base, tmp_path, say):
    changes = attacks.model_attacks(tmp_path)["os-system"] | {"class_path": "evilnets.Net"}
    path = attacks.tampered(base / "fit" / "last.ckpt", tmp_path / "evil.ckpt", changes)
    job = opened("fit", path, base, tmp_path)
    unharmed(job, tmp_path)
    assert job.code in (0, 2)
    say("fit --ckpt_path ignores or refuses a foreign class and model")


TRAINING = list(attacks.training_attacks("/"))


@pytest.mark.parametrize("name", TRAINING, ids=[f"attack-fit-{name}" for name in TRAINING])
def test_a_training_state_harms_nothing(base, name, tmp_path, say):
    folder = tmp_path / "run"
    shutil.copytree(base / "fit", folder)
    (folder / "precious" / "deep").mkdir(parents=True)
    shutil.copytree(folder / "precious", folder / "precious.ckpt")
    for each in ("precious", "precious.ckpt"):
        (folder / each / "deep" / "scores.csv").write_text("precious")
    (tmp_path / "elsewhere.ckpt").write_text("precious")
    # Genuine states name their folder; the files of a run that was moved name the old one.
    content = torch.load(folder / "last.ckpt", weights_only=True)
    for state in content["callbacks"].values():
        if "best_model_path" in state:
            state |= {"dirpath": str(folder), "best_model_path": "", "last_model_path": ""}
            state |= {"best_k_models": {}, "kth_best_model_path": ""}
    attacks.training_attacks(folder)[name](content)
    torch.save(content, folder / "last.ckpt")
    before = trials.tree(tmp_path)
    more = config(tmp_path / "more.yaml", {"trainer": {"max_epochs": 2}})
    words = ("-c", base / "fit.yaml", "-c", more, "--ckpt_path", folder / "last.ckpt")
    job = trials.train("fit", *words, *out(folder), path=[tmp_path])
    after = trials.tree(tmp_path)
    lost = [path for path in before if path not in after and not path.endswith(".ckpt")]
    assert lost == [], f"LOST: {lost}"
    assert (tmp_path / "elsewhere.ckpt").read_text() == "precious"
    if job.code == 0:
        job.passed()
        say("resumed, with this machine's kernels; no file is lost")
    else:
        say(f"refused: {job.refused()[-100:]}")


def test_attack_images_that_are_pickles(base, tmp_path, say):
    bombs = attacks.pickles(tmp_path)
    trials.pictures(tmp_path / "photos", 4)
    for number, ending in enumerate(("png", "jpg", "npy", "gif", "tiff")):
        shutil.copy(bombs["pickle-2", "ckpt"], tmp_path / "photos" / "cats" / f"9{number}.{ending}")
    there = tmp_path / "run"
    (there / "cats").mkdir(parents=True)
    shutil.copy(bombs["pickle-2", "ckpt"], there / "cats" / "0.png.npy")
    data = runs.folder(tmp_path / "photos", labelled=False)
    method = runs.method("constant.Random", base / "classifier.ckpt")
    path = config(tmp_path / "run.yaml", runs.trainer(), method, data)
    job = trials.evaluate("predict", "-c", path, *out(there))
    unharmed(job, tmp_path)
    assert job.code in (0, 2)
    assert "Traceback" not in job.text
    say("pickles as pictures and in the place of a map are never loaded")


def test_attack_yaml_tag(base, tmp_path, say):
    (tmp_path / "evil.yaml").write_text(
        f"score: !!python/object/apply:os.system ['touch {tmp_path}/yaml.marker']\n"
    )
    words = ("-c", base / "test.yaml", "-c", tmp_path / "evil.yaml")
    job = trials.evaluate("test", *words, "--ckpt_path", base / "constant.ckpt")
    unharmed(job, tmp_path)
    say(f"refused: {job.refused()[-100:]}")
