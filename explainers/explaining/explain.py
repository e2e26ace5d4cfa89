"""The command `explain`: photographs in, pictures of explanations out."""

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser
from matplotlib.figure import Figure
from torch import Tensor
from tqdm import tqdm

from explainers.base import Explainer
from explainers.explaining import byname, clips, photofiles, plotting, scale
from explainers.explaining.explanation import explanation, faithfulness, title
from explainers.explaining.manifest import Manifest
from explainers.explaining.plotting import Explanation
from explainers.explanandum import Explanandum
from explainers.messages import near
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
    frames: bool = False,
    trust: Sequence[str] = (),
) -> int:
    """Explains photographs: writes a picture of each, and a line of `manifest.jsonl`.

    A video, or the numbered frames of one with `frames`, has one picture, that of its first frame,
    an animation, and the figures of `clips.Clip`.

    Args:
        images: Image files, video files, and folders of them.
        method: Methods separated by commas: names of files in configs/methods, checkpoints of
            trained explainers, or NAME=CHECKPOINT. The default is three fast ones.
        model: Classifier: name of a file in configs/explananda or of a timm model,
            torchvision/<name>, package.module:callable, or a Classifier checkpoint (.ckpt). The
            default is that of the first checkpoint of `method`, else EfficientNet-Lite0.
        weights: File with the weights of the classifier.
        classes: top1, top3, ..., second (the runner-up), all, or names or indices of classes
            separated by commas. Two classes also give the difference of their maps.
        out: Folder of the pictures. Those of other images stay.
        image_size: Height and width to which the center of each image is resized. The default is
            the size that the classifier was made for.
        score: Whether to compute the Faithfulness of each map, which at 224 pixels takes about 450
            forward passes.
        save_maps: Whether to write the maps to an .npz file beside each picture.
        frames: Whether the images of each folder are the frames of one video, in the order of the
            numbers in their names.
        trust: Packages whose classes and functions checkpoints may name, see SECURITY.md.

    Returns:
        Number of files that could not be explained; stderr and the manifest say why.

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
    listed, wrong = photofiles.listed(images, Path(out))
    manifest = Manifest(Path(out))
    files = clips.clips(listed, frames, manifest.fail)
    if (score or save_maps) and any(files.values()):
        raise ValueError("a video takes neither --score nor --save_maps: give photographs")
    for name, error in wrong.items():
        manifest.fail(name, error)
    for file, clip in tqdm(
        files.items(), "explain", leave=False, disable=None if len(files) > 1 else True
    ):
        started = time.perf_counter()
        try:
            if clip:
                found = clip.explain(explainers, classes, size)
            else:
                image, cut = photofiles.center(photofiles.read(file), size)
                found = explanation(explainers, image, classes, f"{file.name}: {cut}")
        except photofiles.ImageError as error:
            manifest.fail(str(file), str(error))
            continue
        if score:
            found.scores = {name: faithfulness(name, found, subject) for name in explainers}
        facts = _facts(explainers, found, checkpoints)
        facts["seconds"] = round(time.perf_counter() - started, 2)
        if clip:
            animation = manifest.picture(str(file)).with_suffix(".animation.webp")
            clip.save(animation)
            facts |= {"animation": animation.name, "video": clip.facts()}
        picture = manifest.add(str(file), found, facts, save_maps)
        best = found.top[0]
        told = f"{plotting.short(found.names[best])} {found.probabilities[best]:.1%}"
        tqdm.write(f"{file.name}: {told} -> {picture} ({facts['seconds']:.1f} s)")
        for line in clip.lines() if clip else ():
            tqdm.write(f"  {line}")
    manifest.close()
    failed = len(manifest.failed)
    if not manifest.done:
        raise ValueError(f"none of {failed} images could be explained")
    if failed:
        told = f"{failed} of {failed + manifest.done} could not be explained"
        tqdm.write(f"{told}: {manifest.path} says why", file=sys.stderr)
    return failed


def show(
    explainer: Explainer | str,
    image: str | Path | Tensor,
    classes: str = "top1",
    image_size: Sequence[int] | None = None,
) -> Figure:
    """The picture of one image and its maps, as a matplotlib figure.

    Args:
        explainer: An explainer, or names of methods as `explain` takes them.
        image: Path of a photograph, or an image (3, H, W) in [0, 1].
        classes: Classes to explain, as `explain` takes them.
        image_size: Height and width to which the center of a photograph is resized. None takes
            the size that the classifier was made for. An image of pixels is taken as it is.

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
    if isinstance(image, Tensor):
        pixels, note = image, f"{image.shape[-1]} x {image.shape[-2]} pixels"
    else:
        pixels, cut = photofiles.center(photofiles.read(Path(image)), _size(image_size, subject))
        note = f"{Path(image).name}: {cut}"
    return plotting.figure(explanation(explainers, pixels, classes, note))


class Line(ArgumentParser):
    """The command line of `explain`, which names its own options where a flag is unknown."""

    def parse_args(self, args: Any = None, *more: Any, **options: Any) -> Any:
        """The arguments of some words.

        Raises:
            ValueError: If a flag is unknown.
        """
        known = {flag for action in self._actions for flag in action.option_strings}
        for word in args or ():
            if word.startswith("--") and (flag := word.partition("=")[0]) not in known:
                advice = near.nearest(flag, sorted(known - {"-h", "--help"}))
                if flag.startswith("--ckpt"):
                    advice = "; a checkpoint is one of the methods: --method NAME=CHECKPOINT"
                raise ValueError(f"explain has no option {flag}{advice}")
        return super().parse_args(args, *more, **options)


def parser() -> Line:
    """The command line of `explain`: `explain(**parser().parse_args(words).as_dict())`."""
    line = Line(prog="explain", exit_on_error=False, allow_abbrev=False)
    line.add_argument("images", type=str, nargs="+", help="image and video files, and folders")
    own = {"images", "image_size", "score", "save_maps", "frames", "trust"}
    line.add_function_arguments(explain, as_group=False, skip=set(own))
    line.add_argument("--image_size", type=int, nargs=2, help="height and width of the images")
    line.add_argument("--score", action="store_true", help="compute the Faithfulness of each map")
    line.add_argument("--save_maps", action="store_true", help="write the maps to .npz files")
    line.add_argument(
        "--frames", action="store_true", help="the images of a folder are the frames of a video"
    )
    line.add_argument(
        "--trust", type=str, action="append", default=[], help="package that checkpoints may name"
    )
    return line


def _size(asked: Sequence[int] | None, subject: Explanandum) -> list[int]:
    size = list(subject.input_size if asked is None else asked)
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"expected image_size as height and width, such as 224 224, got {size}")
    return size


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
        "classifier": title(subject),
        "top": [_class(found, index) for index in found.top],
        "methods": methods,
        "maps": maps,
    }
