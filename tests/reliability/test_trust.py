"""A user's own method and classifier go on working: by `trust`, or by the user's own file."""

import pytest

from tests.reliability import runs, trials
from tests.reliability.own import load, save_classifier, save_explainer
from tests.reliability.trials import config, out

pytestmark = pytest.mark.slow
NET = """
open({marker!r}, "a").close()
import torch
class Net(torch.nn.Module):
    def __init__(self, num_classes=6, width=8):
        super().__init__()
        self.body = torch.nn.Conv2d(3, width, 3)
        self.head = torch.nn.Linear(width, num_classes)
    def forward(self, images):
        return self.head(self.body(images).relu().mean((2, 3)))
"""
METHOD = """
open({marker!r}, "a").close()
from explainers import Explainer
class Mine(Explainer):
    def attribute(self, images, targets):
        return images.mean(1)
"""
KNOWN = {"num_classes": 6, "multi_label": True, "class_names": list("abcdef")}
SETTINGS = {"mean": [0.5] * 3, "std": [0.25] * 3, "input_size": [32, 32]}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A user's packages, and the checkpoints that name them."""
    folder = tmp_path_factory.mktemp("trust")
    for name, text in (
        ("mynets", NET),
        ("mymethods", METHOD),
        ("mymethods_evil", METHOD),
        ("mymethodsx", METHOD),
    ):
        package = folder / name
        package.mkdir()
        marker = str(folder / f"{name}.marker")
        (package / "__init__.py").write_text("")
        (package / "core.py").write_text(text.format(marker=marker))
    mine, net = "mymethods.core.Mine", "mynets.core:Net"
    save(folder, "own.ckpt", net, mine)
    save(folder, "evil.ckpt", net, "mymethods_evil.core.Mine")
    save(folder, "prefix.ckpt", net, "mymethodsx.core.Mine")
    save(folder, "net.ckpt", net, "")
    save(folder, "method.ckpt", "test_resnet", mine)
    config(folder / "test.yaml", runs.trainer(), runs.shapes(test_images=2), runs.score())
    return folder


def save(folder, name, model, kind):
    made = trials.run(save_explainer, str(folder / name), model, kind, KNOWN, path=[folder])
    assert made.code == 0, made.err


@pytest.fixture
def fresh(base):
    for marker in base.glob("*.marker"):
        marker.unlink()
    return base


def imported(base):
    return sorted(path.stem for path in base.glob("*.marker"))


REFUSED = [
    # name, file, what is trusted, a word of the refusal, what may have been imported
    ("nothing-trusted", "own.ckpt", [], "my", []),
    ("method-alone", "own.ckpt", ["mymethods"], "mynets", ["mymethods"]),
    ("classifier-alone", "own.ckpt", ["mynets"], "mymethods", ["mynets"]),
    ("another-package", "own.ckpt", ["numpy", "torch"], "my", []),
    ("same-beginning", "prefix.ckpt", ["mymethods", "mynets"], "mymethodsx", ["mynets"]),
    ("same-word", "evil.ckpt", ["mymethods", "mynets"], "mymethods_evil", ["mynets"]),
    ("empty-word", "own.ckpt", [""], "", []),
    ("classifier-untrusted", "net.ckpt", ["mymethods"], "mynets", []),
]


@pytest.mark.parametrize("entry", ["load", "test"])
@pytest.mark.parametrize(
    ("file", "trust", "word", "may"),
    [each[1:] for each in REFUSED],
    ids=[f"trust-{each[0]}" for each in REFUSED],
)
def test_what_is_not_trusted_is_refused(fresh, file, trust, word, may, entry, tmp_path, say):
    if entry == "load":
        job = trials.run(load, "load", str(fresh / file), {"trust": trust}, path=[fresh])
    else:
        words = [each for name in trust for each in ("--trust", name)]
        words += ["--ckpt_path", fresh / file, *out(tmp_path / "run")]
        job = trials.evaluate("test", "-c", fresh / "test.yaml", *words, path=[fresh])
    assert set(imported(fresh)) <= set(may), f"IMPORTED: {imported(fresh)}"
    told = job.refused("trust", word) if trust != [""] else job.refused()
    say(f"refused: {told[-100:]}")


BOTH = {"trust": ["mymethods", "mynets"]}
PYTHON = [
    ("load", "load", "own.ckpt", BOTH),
    ("load-net", "load", "net.ckpt", {"trust": ["mynets"]}),
    ("load-method", "load", "method.ckpt", {"trust": ["mymethods"]}),
    ("submodule", "load", "own.ckpt", {"trust": ["mymethods.core", "mynets.core"]}),
    ("own-class", "mymethods.core.Mine", "own.ckpt", {"trust": ["mynets"]}),
    ("explanandum-passed", "load", "own.ckpt",
     {"trust": ["mymethods"], "explanandum": {"model": "mynets.core:Net", **SETTINGS}}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("entry", "file", "options"),
    [each[1:] for each in PYTHON],
    ids=[f"trust-python-{each[0]}" for each in PYTHON],
)
def test_trusted_packages_load(fresh, entry, file, options, say):
    trials.run(load, entry, str(fresh / file), options, path=[fresh]).passed()
    assert imported(fresh) != []
    say(f"loads, with {', '.join(options['trust'])} trusted")


COMMANDS = ["flags", "config", "own-file"]


@pytest.mark.parametrize("how", COMMANDS, ids=[f"trust-command-{how}" for how in COMMANDS])
@pytest.mark.parametrize("kind", ["test", "predict"])
def test_trusted_packages_run(fresh, how, kind, tmp_path, say):
    words = ["-c", fresh / "test.yaml", "--ckpt_path", fresh / "own.ckpt", *out(tmp_path / "run")]
    if how == "flags":
        words += ["--trust", "mymethods", "--trust", "mynets"]
    if how == "config":
        words += ["-c", config(tmp_path / "trust.yaml", BOTH)]
    if how == "own-file":
        subject = {"model": "mynets.core:Net", **SETTINGS}
        named = {"class_path": "explainers.Explanandum", "init_args": subject}
        model = {"class_path": "mymethods.core.Mine", "init_args": {"explanandum": named}}
        words += ["-c", config(tmp_path / "mine.yaml", {"model": model})]
    trials.evaluate(kind, *words, path=[fresh]).passed()
    found = trials.tree(tmp_path / "run")
    assert any(name.endswith("scores.csv" if kind == "test" else ".npy") for name in found)
    say(f"{kind} runs, by {how}")


def test_trust_own_file_without_checkpoint(fresh, tmp_path, say):
    subject = {"model": "mynets.core:Net", **SETTINGS, "multi_label": True}
    named = {"class_path": "explainers.Explanandum", "init_args": subject}
    model = {"class_path": "mymethods.core.Mine", "init_args": {"explanandum": named}}
    path = config(tmp_path / "mine.yaml", {"model": model})
    words = ("-c", fresh / "test.yaml", "-c", path, *out(tmp_path / "run"))
    trials.evaluate("test", *words, path=[fresh]).passed()
    say("a user's own file names a foreign class and needs no trust")


def test_trust_missing_class(fresh, tmp_path, say):
    subject = {"model": "mynets.core:Net", **SETTINGS}
    named = {"class_path": "explainers.Explanandum", "init_args": subject}
    model = {"class_path": "mymethodz.core.Mine", "init_args": {"explanandum": named}}
    path = config(tmp_path / "mine.yaml", {"model": model})
    job = trials.evaluate("test", "-c", fresh / "test.yaml", "-c", path)
    say(f"refused: {job.refused('mymethodz')[-100:]}")


def test_trust_classifier_of_own_network(fresh, tmp_path, say):
    path = tmp_path / "classifier.ckpt"
    made = trials.run(
        save_classifier, str(path), list("abcdef"), 0, "mynets.core:Net", path=[fresh]
    )
    assert made.code == 0, made.err
    for marker in fresh.glob("*.marker"):
        marker.unlink()
    for entry in ("classifier", "explanandum"):
        trials.run(load, entry, str(path), path=[fresh]).refused("trust", "mynets")
        assert imported(fresh) == []
        trials.run(load, entry, str(path), {"trust": ["mynets"]}, path=[fresh]).passed()
        for marker in fresh.glob("*.marker"):
            marker.unlink()
    say("a Classifier of a user's network is refused, and loads with trust")
