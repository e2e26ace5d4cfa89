"""The command `explain`: photographs in, pictures of explanations out."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser
from matplotlib.figure import Figure
from torch.nn import functional as F
from tqdm import tqdm

from explainers.base import Explainer
from explainers.explaining import byname, photofiles, plotting, scale
from explainers.explaining.manifest import Manifest
from explainers.explaining.plotting import Explanation
from explainers.explanandum import Explanandum
from explainers.metrics.faithfulness import RISECurves
from explainers.naming import class_path, method_name
from explainers.trust import granting


def explain(
    images: list[str],
    method: str | None = None,
    model: str | None = None,
    weights: str | None = None,
    classes: str = "top1",
    out: str = "runs/explain",
    image_size: list[int] | None = None,
    score: bool = False,
    save_maps: bool = False,
    trust: Sequence[str] = (),
) -> None:
    """Explains photographs: writes a picture of each, and a line of `manifest.jsonl`.

    Args:
        images: Image files, and folders of them.
        method: Methods separated by commas: names of files in configs/methods, checkpoints of
            trained explainers, or NAME=CHECKPOINT. The default is three fast ones.
        model: Classifier: name of a file in configs/explananda or of a timm model,
            torchvision/<name>, package.module:callable, or a Classifier checkpoint (.ckpt). The
            default is that of the first checkpoint of `method`, else EfficientNet-Lite0.
        weights: File with the weights of the classifier.
        classes: top1, top3, ..., or names or indices of classes separated by commas. Two classes
            also give the difference of their maps.
        out: Folder of the pictures. Those of other images stay.
        image_size: Height and width to which the center of each image is resized. The default is
            the size that the classifier was made for.
        score: Whether to compute the Faithfulness of each map, which at 224 pixels takes about 450
            forward passes.
        save_maps: Whether to write the maps to an .npz file beside each picture.
        trust: Packages whose classes and functions checkpoints may name, see SECURITY.md.

    Raises:
        ValueError: If an argument is wrong, or no image can be explained.
        FileNotFoundError: If a file of the classifier or of a method does not exist.
    """
    with granting(trust):
        given = byname.classifier(model, weights) if model or weights else None
        explainers = byname.methods(method, given)
    for explainer in explainers.values():
        explainer.to("cuda" if torch.cuda.is_available() else "cpu")
    checkpoints = {name: path for name, path in byname.entries(method or "").items() if path}
    # An unknown class is refused before anything is written.
    subject = next(iter(explainers.values())).explanandum
    byname.class_indices(classes, subject.class_names, range(subject.num_classes))
    size = _size(image_size, subject)
    files, wrong = photofiles.listed(images, Path(out))
    manifest = Manifest(Path(out))
    for name, error in wrong.items():
        manifest.fail(name, error)
    for file in tqdm(files, "explain", leave=False, disable=None if len(files) > 1 else True):
        started = time.perf_counter()
        try:
            found = explanation(explainers, file, classes, size)
        except photofiles.ImageError as error:
            manifest.fail(str(file), str(error))
            continue
        if score:
            found.scores = {name: faithfulness(name, found, subject) for name in explainers}
        facts = _facts(explainers, found, checkpoints)
        facts["seconds"] = round(time.perf_counter() - started, 2)
        picture = manifest.add(str(file), found, facts, save_maps)
        best = found.top[0]
        told = f"{plotting.short(found.names[best])} {found.probabilities[best]:.1%}"
        tqdm.write(f"{file.name}: {told} -> {picture} ({facts['seconds']:.1f} s)")
    manifest.close()
    if not manifest.done:
        raise ValueError(f"none of {len(manifest.failed)} images could be explained")


def show(
    explainer: Explainer | str,
    image: str | Path,
    classes: str = "top1",
    image_size: Sequence[int] | None = None,
) -> Figure:
    """The picture of one photograph and its maps, as a matplotlib figure.

    Args:
        explainer: An explainer, or names of methods as `explain` takes them.
        image: Path of the photograph.
        classes: Classes to explain, as `explain` takes them.
        image_size: Height and width to which the center of the photograph is resized. None takes
            the size that the classifier was made for.

    Raises:
        ValueError: If the image is not readable, or a name is unknown.

    Example:
        >>> show("pyramid_cam,grad_cam", "photo.jpg", classes="top2")  # doctest: +SKIP
    """
    if isinstance(explainer, str):
        explainers = byname.methods(explainer, None)
    else:
        explainers = {method_name(class_path(type(explainer))): explainer}
    subject = next(iter(explainers.values())).explanandum
    found = explanation(explainers, Path(image), classes, _size(image_size, subject))
    return plotting.figure(found)


def explanation(
    explainers: Mapping[str, Explainer], file: Path, classes: str, size: Sequence[int]
) -> Explanation:
    """The maps of all methods for one photograph.

    Args:
        explainers: Methods by name, all of the same classifier.
        file: Path of the photograph.
        classes: Classes to explain, as `explain` takes them.
        size: Height and width to which the center of the photograph is resized.

    Raises:
        photofiles.ImageError: If the photograph is not readable, or the output of the classifier is
            not finite.
        ValueError: If a class is unknown.
    """
    subject = next(iter(explainers.values())).explanandum
    image, cut = photofiles.center(photofiles.read(file), size)
    batch = image[None].to(subject.mean.device)
    with torch.no_grad():
        probabilities = subject.probabilities(batch)[0].double().cpu()
    if not bool(probabilities.isfinite().all()):
        raise photofiles.ImageError("the output of the classifier is not finite")
    ranked = probabilities.argsort(descending=True, stable=True).tolist()
    chosen = byname.class_indices(classes, subject.class_names, ranked)
    found = Explanation(image, subject.class_names, probabilities, chosen)
    indices = torch.tensor([chosen], device=batch.device)
    for name, explainer in explainers.items():
        started = time.perf_counter()
        found.maps[name] = explainer.class_maps(batch, indices)[0].detach().cpu()
        found.seconds[name] = time.perf_counter() - started
        found.kinds[name] = scale.kind(explainer)
    found.notes = [f"{file.name}: {cut}", f"classifier: {_title(subject)}"]
    found.notes += plotting.meanings(found)
    return found


@torch.no_grad()
def faithfulness(name: str, found: Explanation, subject: Explanandum) -> list[float]:
    """Faithfulness of a method's map of each explained class; NaN if a map is not finite."""
    metric, device = RISECurves(), subject.mean.device
    images, values = found.image[None].to(device), []
    for index, one in zip(found.classes, found.maps[name], strict=True):
        if not bool(one.isfinite().all()):
            values.append(float("nan"))
            continue
        target = F.one_hot(torch.tensor([index], device=device), subject.num_classes).bool()
        areas = metric.score(images, one[None].to(device), target, subject)
        values.append(areas["Faithfulness"].item())
    return values


def parser() -> ArgumentParser:
    """The command line of `explain`: `explain(**parser().parse_args(words).as_dict())`."""
    line = ArgumentParser(prog="explain", exit_on_error=False, allow_abbrev=False)
    line.add_argument("images", type=str, nargs="+", help="image files, and folders of them")
    own = {"images", "image_size", "score", "save_maps", "trust"}
    line.add_function_arguments(explain, as_group=False, skip=set(own))
    line.add_argument("--image_size", type=int, nargs=2, help="height and width of the images")
    line.add_argument("--score", action="store_true", help="compute the Faithfulness of each map")
    line.add_argument("--save_maps", action="store_true", help="write the maps to .npz files")
    line.add_argument(
        "--trust", type=str, action="append", default=[], help="package that checkpoints may name"
    )
    return line


def _size(asked: Sequence[int] | None, subject: Explanandum) -> list[int]:
    size = list(subject.input_size if asked is None else asked)
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"expected image_size as height and width, such as 224 224, got {size}")
    return size


def _title(subject: Explanandum) -> str:
    name = subject.architecture or type(subject.model).__name__
    return name.rpartition(":")[2]


def _class(found: Explanation, index: int) -> dict[str, Any]:
    probability = round(found.probabilities[index].item(), 6)
    return {"class": found.names[index], "index": index, "probability": probability}


def _facts(
    explainers: Mapping[str, Explainer], found: Explanation, checkpoints: Mapping[str, str | None]
) -> dict[str, Any]:
    """What the manifest tells of an explanation."""
    subject = next(iter(explainers.values())).explanandum
    methods = {}
    for name, explainer in explainers.items():
        methods[name] = {
            "class_path": class_path(type(explainer)),
            "arguments": dict(explainer.hparams),
            "seconds": round(found.seconds[name], 3),
        }
        if path := checkpoints.get(name):
            methods[name]["checkpoint"] = path
    maps = []
    for name, each in found.maps.items():
        for row, (index, values) in enumerate(zip(found.classes, each, strict=True)):
            line: dict[str, Any] = {
                "method": name,
                "class": found.names[index],
                "kind": found.kinds[name],
            }
            line |= {"minimum": values.min().item(), "maximum": values.max().item()}
            if fault := scale.fault(values.double().numpy()):
                line["fault"] = " ".join(fault.split())
            if found.scores:
                line["Faithfulness"] = found.scores[name][row]
            maps.append(line)
    return {
        "image": found.notes[0],
        "classifier": _title(subject),
        "top": [_class(found, index) for index in found.top],
        "methods": methods,
        "maps": maps,
    }
