"""What `benchmarks/costs.py` measures: methods, metrics, the classifiers and their inputs."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional as F

from docs import metrics as metrics_page
from explainers import Explanandum, LearnedExplainer
from explainers.base import Explainer
from explainers.explanandum.features import NotDefinedError
from explainers.methods.captum_methods import Saliency
from explainers.metrics.base import PerImageMetric
from explainers.metrics.faithfulness import RISECurves

METHODS = Path(__file__).parents[1] / "configs" / "methods"
# Arguments that a cost grows with, and the most that the quick setting takes.
SIZES = {"masks": 32, "samples": 16, "n_steps": 16, "steps": 8, "passes": 8, "draws": 4}
QUICK: dict[str, dict[str, Any]] = {
    "CompletenessSoundness": {"points": 8, "top": 2},
    "ExtremalPerturbation": {"areas": [0.1, 0.4], "steps": 4},
    "GreedyOrder": {"grid": 3},
    "IGOSPlusPlus": {"size": 14, "steps": 2, "ig_steps": 4},
    "MP": {"size": 14},
    "MP2": {"size": 14, "pixels": 8},
    "SlidingPatch": {"stride": 28},
    "SLOC": {"patches": {"probability": 0.5}},
}
EXAMPLES: dict[str, dict[str, Any]] = {
    "BlurredMaps": {"metric": RISECurves(steps=8)},
    "CurveAUC": {"steps": 24},
    "MapSimilarity": {"seeds": [0, 1]},
    "RISECurves": {"steps": 24},
}
PARTS = 5

Work = Callable[[Tensor, int], object]  # of images (B, 3, H, W) and a number of classes each


class Row(NamedTuple):
    """A method or a metric.

    Attributes:
        name: Name of its configuration, or of its class.
        kind: "method" or "metric".
        size: Argument that its cost grows with, or "".
        make: From a classifier and a factor of that argument, the work.
    """

    name: str
    kind: str
    size: str
    make: Callable[[Explanandum, int], Work]


class Pyramid(nn.Module):
    """A light classifier with five stages, so that every method of a CNN finds its layers."""

    num_classes = 10

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 4, 8, 8, 16, 16)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(a, b, 3, stride=2, padding=1), nn.ReLU())
            for a, b in pairwise(widths)
        )
        self.head = nn.Linear(widths[-1], self.num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> logits (B, 10)."""
        for stage in self.stages:
            images = stage(images)
        logits: Tensor = self.head(images.mean(dim=(2, 3)))
        return logits


def classifiers(model: str, size: int) -> dict[str, Explanandum]:
    """The classifier, a light one, and a vision transformer and a light one, with random weights.

    Args:
        model: Name of a timm model.
        size: Height and width of the images.
    """
    torch.manual_seed(0)
    kind, small = "vit_tiny_patch16_224", {"embed_dim": 24, "depth": 6, "num_heads": 2}
    layers = [f"stages.{i}" for i in range(5)]
    found = {
        "real": Explanandum(model, input_size=[size, size]),
        "light": Explanandum(
            Pyramid(),
            mean=[0.5] * 3,
            std=[0.25] * 3,
            input_size=[size, size],
            feature_layers=layers,
        ),
        "real_vit": Explanandum(kind, model_args={"img_size": size}),
        "light_vit": Explanandum(kind, model_args={"img_size": size, **small}),
    }
    for each in found.values():
        each.untrained = False  # as intended, so without the warning
    return found


def arguments(kind: type, given: Mapping[str, Any], quick: bool, factor: int) -> dict[str, Any]:
    """Arguments of a method or metric, with the size that its cost grows with times the factor."""
    known = {
        name: parameter.default for name, parameter in inspect.signature(kind).parameters.items()
    }
    found = dict(given)
    if quick:
        for name, most in SIZES.items():
            value = found.get(name, known.get(name))
            if isinstance(value, int) and value > most:
                found[name] = most
        found |= QUICK.get(kind.__name__, {})
    if (name := size_of(kind, given)) and factor != 1:
        found[name] = factor * found.get(name, known[name])
    return found


def size_of(kind: type, given: Mapping[str, Any]) -> str:
    """The first of the `SIZES` that is a number among the arguments of a class."""
    values = {n: each.default for n, each in inspect.signature(kind).parameters.items()}
    values |= given
    return next((n for n in SIZES if isinstance(values.get(n), int)), "")


def methods(quick: bool) -> list[Row]:
    """The methods of `configs/methods` that need no training."""
    rows = []
    for path in sorted(METHODS.glob("*.yaml")):
        config = yaml.safe_load(path.read_text())["model"]
        module, _, name = config["class_path"].rpartition(".")
        kind = getattr(importlib.import_module(module), name)
        if not issubclass(kind, LearnedExplainer):
            given = config.get("init_args", {})
            make = partial(_method, kind, given, quick)
            rows.append(Row(path.stem, "method", size_of(kind, given), make))
    return rows


def _method(
    kind: type[Explainer], given: dict[str, Any], quick: bool, explanandum: Explanandum, factor: int
) -> Work:
    method: Any = kind(explanandum, **arguments(kind, given, quick, factor))
    method.to(explanandum.mean.device)
    if hasattr(method, "estimate"):  # statistics of a layer's features, which are no part of a map
        method.estimate(torch.rand(4, 3, *explanandum.input_size).to(explanandum.mean))
    return Explanation(method)


class Explanation:
    """Maps of the first classes of images.

    Args:
        method: The explainer.
    """

    def __init__(self, method: Explainer) -> None:
        self.method = method

    def __call__(self, images: Tensor, classes: int) -> Tensor:
        """Maps (B, classes, H, W)."""
        listed = torch.arange(classes, device=images.device).expand(len(images), -1)
        return self.method.class_maps(images, listed)


def metrics(quick: bool) -> list[Row]:
    """All metrics of `explainers.metrics`."""
    return [
        Row(kind.__name__, "metric", size_of(kind, given), partial(_metric, kind, given, quick))
        for kind in metrics_page.classes()
        for given in [EXAMPLES.get(kind.__name__, {})]
    ]


def _metric(
    kind: type[PerImageMetric],
    given: dict[str, Any],
    quick: bool,
    explanandum: Explanandum,
    factor: int,
) -> Work:
    metric = kind(**arguments(kind, given, quick, factor))
    known: dict[int, dict[str, Any]] = {}

    def work(images: Tensor, classes: int) -> object:
        if len(images) not in known:  # what a metric is given is no part of its cost
            known[len(images)] = inputs(explanandum, images)
        return [metric.measure(**known[len(images)]) for _ in range(classes)]

    return work


@torch.no_grad()
def inputs(explanandum: Explanandum, images: Tensor) -> dict[str, Any]:
    """All that a metric may ask for, without any meaning. The method it explains by is Saliency."""
    count, (height, width) = len(images), images.shape[-2:]
    generator = torch.Generator().manual_seed(1)

    def noise(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator).to(images.device)

    logits = explanandum(images)
    targets = F.one_hot(logits.argmax(dim=1), explanandum.num_classes).bool()
    mask = torch.zeros(count, height, width, dtype=torch.bool, device=images.device)
    mask[:, height // 4 : 3 * height // 4, width // 4 : 3 * width // 4] = True
    box = [width // 4, height // 4, 3 * width // 4, 3 * height // 4]
    boxes = torch.tensor([[int(row.int().argmax()), *box] for row in targets])[:, None]
    strips = torch.zeros(PARTS, height, width, dtype=torch.bool, device=images.device)
    for part, strip in enumerate(strips):
        strip[part * height // PARTS : (part + 1) * height // PARTS] = True
    parts = targets[:, :, None, None, None] & strips
    shared = torch.zeros(count, explanandum.num_classes, PARTS, dtype=torch.bool)
    return {
        "images": images,
        "maps": F.avg_pool2d(noise(count, 1, height + 8, width + 8), 9, 1)[:, 0],
        **{"targets": targets, "labels": targets, "logits": logits},
        **{"mask": mask, "void": torch.zeros_like(mask), "boxes": boxes.to(images.device)},
        **{"parts": parts, "shared": shared.to(images.device)},
        "interventions": noise(count, 2**PARTS, 3, height, width),
        "backgrounds": noise(count, 2, 3, height, width),
        "objects": mask[:, None].expand(-1, 2, -1, -1),
        "seconds": noise(count).double(),
        "passes": torch.ones(count, 2, dtype=torch.float64),
        **{"explanandum": explanandum, "explainer": Saliency(explanandum)},
    }


def defined(row: Row, found: Mapping[str, Explanandum]) -> tuple[Explanandum, Explanandum]:
    """The real and the light classifier of a row, those that the method can explain."""
    try:
        row.make(found["light"], 1)
    except NotDefinedError:
        return found["real_vit"], found["light_vit"]
    return found["real"], found["light"]
