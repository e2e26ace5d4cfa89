"""Trained explainers as one graph for ONNX Runtime or `torch.export`, from images to maps."""

import inspect
import json
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from explainers.base import Explainer
from explainers.learned import LearnedExplainer
from explainers.methods.deeplab import DeepLabExplainer
from explainers.methods.rtis import RTIS
from explainers.tracing import BATCH, trace

FREE = (DeepLabExplainer, RTIS)  # of the classifier, they only use its mean and std
CLOSE = 0.05  # largest difference from the explainer's maps, as a share of their range


def graph(
    explainer: Explainer,
    image_size: Sequence[int] | None = None,
    classes: int = 1,
    maps_only: bool = False,
) -> ExportedProgram:
    """The graph of a trained explainer, for any number of images of one size.

    Inputs:
        - `images` (B, 3, H, W) float32 in [0, 1]. They are not checked.
        - `classes` (B, k) int64, if the maps depend on the class. -1 is the predicted class.

    Outputs:
        - `logits` (B, K) of the classifier, unless `maps_only`.
        - `maps` (B, k, H, W). k is 1 if the maps do not depend on the class. With `maps_only`, a
          method that needs no classifier has no input `classes`, and k is the number K of classes.

    Gradients that the method takes are ordinary operators of the graph.

    Args:
        explainer: Trained explainer on the CPU.
        image_size: Height and width of the images. None takes the input size of the classifier.
        classes: Number k of classes for each image.
        maps_only: Whether to leave out the logits.

    Raises:
        ValueError: If the explainer is not a trained one, or cannot be exported.
    """
    name = type(explainer).__name__
    size = list(image_size or explainer.explanandum.input_size)
    if not isinstance(explainer, LearnedExplainer):
        raise ValueError(f"{name} is not trained: only trained explainers become a graph")
    if getattr(explainer, "refine", {}).get("steps"):
        raise ValueError(
            f"{name} goes on learning for each image, which no graph can: set refine.steps: 0"
        )
    if len(size) != 2 or min(size) < 1 or classes < 1:
        raise ValueError(
            f"expected image_size [height, width] and at least one class, got {size} and {classes}"
        )
    function, inputs = example(explainer, size, classes, maps_only, BATCH)
    function(*(each[:1] for each in inputs))  # what a first pass finds out is not for the graph
    try:
        return trace(function, inputs)
    except (RuntimeError, ValueError, TypeError, NotImplementedError, AssertionError) as error:
        model = type(explainer.explanandum.model).__name__
        raise ValueError(f"{name} of {model} cannot be exported: {_fault(error)}") from error


def example(
    explainer: Explainer,
    image_size: Sequence[int] | None = None,
    classes: int = 1,
    maps_only: bool = False,
    count: int = 3,
) -> tuple[Callable[..., tuple[Tensor, ...]], tuple[Tensor, ...]]:
    """The function that becomes a graph, and inputs of it with random images, see `graph`."""
    size = image_size or explainer.explanandum.input_size
    inputs = _inputs(explainer, size, classes, maps_only, count)
    return _function(explainer, maps_only), inputs


def _function(explainer: Explainer, maps_only: bool) -> Callable[..., tuple[Tensor, ...]]:
    """The function from images, and perhaps classes, to logits and maps, without the door."""
    kind, explanandum = type(explainer), explainer.explanandum
    attribute, class_maps = inspect.unwrap(kind.attribute), inspect.unwrap(kind.class_maps)
    if hasattr(explainer, "warned"):
        vars(explainer)["warned"] = True  # whether another class is asked for depends on values

    def each_class(images: Tensor, classes: Tensor) -> Tensor:
        if class_maps is not inspect.unwrap(Explainer.class_maps):
            found: Tensor = class_maps(explainer, images, classes)
            return found
        numbers = torch.arange(explanandum.num_classes)
        columns = [each[:, None] == numbers for each in classes.unbind(1)]
        return torch.stack([attribute(explainer, images, each) for each in columns], dim=1)

    def result(images: Tensor, maps: Tensor) -> tuple[Tensor, ...]:
        maps = maps.detach().float()
        if maps_only:
            return (maps,)
        with torch.no_grad():
            return explanandum(images), maps

    def of_classes(images: Tensor, classes: Tensor) -> tuple[Tensor, ...]:
        with torch.no_grad():
            top = explanandum(images).argmax(dim=1, keepdim=True)
        with torch.set_grad_enabled(explainer.needs_gradients):
            return result(images, each_class(images, torch.where(classes < 0, top, classes)))

    def of_images(images: Tensor) -> tuple[Tensor, ...]:
        shape = images.shape[0], explanandum.num_classes
        with torch.set_grad_enabled(explainer.needs_gradients):
            if _is_free(explainer, maps_only):
                every = torch.arange(shape[1]).expand(shape)
                return result(images, each_class(images, every))
            targets = torch.ones(shape, dtype=torch.bool)  # which are not used
            return result(images, attribute(explainer, images, targets)[:, None])

    single = not explainer.class_specific or _is_free(explainer, maps_only)
    return of_images if single else of_classes


def _is_free(explainer: Explainer, maps_only: bool) -> bool:
    return maps_only and isinstance(explainer, FREE)


def _inputs(
    explainer: Explainer, size: Sequence[int], classes: int, maps_only: bool, count: int
) -> tuple[Tensor, ...]:
    """Random images, and for each of them the predicted class and k - 1 others."""
    images = torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(0))
    if not explainer.class_specific or _is_free(explainer, maps_only):
        return (images,)
    return images, (torch.arange(classes) % explainer.explanandum.num_classes - 1).repeat(count, 1)


def save(program: ExportedProgram, path: Path, class_names: Sequence[str]) -> None:
    """Writes a graph to a .onnx or .pt2 file, with the names of the classes as JSON in it.

    Raises:
        ValueError: If ONNX does not have one of its operators.
        ModuleNotFoundError: If the libraries for ONNX are missing: they are the extra `onnx`.
    """
    names = json.dumps(list(class_names))
    if path.suffix == ".pt2":
        torch.export.save(program, path, extra_files={"class_names.json": names})
        return
    import onnxscript  # noqa: F401  # its absence has a clear error here

    outputs = ["logits", "maps"][-len(program.graph_signature.user_outputs) :]
    try:
        converted = torch.onnx.export(program, dynamo=True, verbose=False, output_names=outputs)
    except RuntimeError as error:
        raise ValueError(f"{path} cannot be written: {_fault(error)}") from error
    assert converted is not None
    converted.model.metadata_props["class_names"] = names
    converted.save(path)


def compare(path: Path, function: Callable[..., Any], inputs: Sequence[Tensor]) -> str:
    """A line on how far the maps in a new file are from those of the function that it is of.

    Raises:
        ValueError: If they differ by more than 5 % of their range.
    """
    wanted = function(*inputs)[-1].flatten(2)
    start = time.perf_counter()
    found, by = run(path, inputs)
    seconds = time.perf_counter() - start
    difference = (found[-1].flatten(2) - wanted).abs().amax(dim=2)
    share = float((difference / (wanted.amax(2) - wanted.amin(2)).clamp(min=1e-12)).max())
    if not share <= CLOSE:
        raise ValueError(
            f"{path} gives other maps in {by} than the explainer: they differ by {share:.1%} of "
            "their range"
        )
    return (
        f"{path}: maps of {len(inputs[0])} random images differ by at most {share:.1e} of their "
        f"range in {by}, which takes {seconds / len(inputs[0]):.3f} s an image"
    )


def run(path: Path, inputs: Sequence[Tensor]) -> tuple[list[Tensor], str]:
    """Outputs of a .onnx or .pt2 file for some inputs, and what has computed them.

    Raises:
        ModuleNotFoundError: If the library that runs an .onnx file is missing.
    """
    if path.suffix == ".pt2":
        return list(torch.export.load(path).module()(*inputs)), "torch"
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]
    feed = {name: each.numpy() for name, each in zip(names, inputs, strict=True)}
    return [torch.from_numpy(each) for each in session.run(None, feed)], "ONNX Runtime"


def _fault(error: BaseException) -> str:
    """What is at fault: the operator, if the error names one."""
    found = re.search(r"OpOverload\(op='([\w.]+)'", str(error))
    if found:
        return f"it has no counterpart of the operator {found[1]}"
    return next(iter(str(error).splitlines()), "") or type(error).__name__
