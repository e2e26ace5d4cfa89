"""The maps of several methods and classes for one image, and how faithful they are."""

import time
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from explainers.base import Explainer
from explainers.explaining import byname, photofiles, plotting, scale
from explainers.explaining.plotting import Explanation
from explainers.explanandum import Explanandum
from explainers.metrics.faithfulness import RISECurves


@torch.no_grad()  # a method that needs gradients has them on inside
def explanation(
    explainers: Mapping[str, Explainer], image: Tensor, classes: str | Sequence[int], note: str
) -> Explanation:
    """The maps of all methods for one image.

    Args:
        explainers: Methods by name, all of the same classifier.
        image: Image (3, H, W) in [0, 1].
        classes: Classes to explain, as the command `explain` takes them, or their indices.
        note: What is told of the image.

    Raises:
        photofiles.ImageError: If the output of the classifier is not finite.
        ValueError: If a class is unknown.
    """
    subject = next(iter(explainers.values())).explanandum
    batch = image[None].to(subject.mean.device)
    probabilities = subject.probabilities(batch)[0].double().cpu()
    if not bool(probabilities.isfinite().all()):
        raise photofiles.ImageError("the output of the classifier is not finite")
    ranked = probabilities.argsort(descending=True, stable=True).tolist()
    if isinstance(classes, str):
        classes = byname.class_indices(classes, subject.class_names, ranked)
    found = Explanation(image, subject.class_names, probabilities, list(classes))
    indices = torch.tensor([found.classes], device=batch.device)
    for name, explainer in explainers.items():
        started = time.perf_counter()
        found.maps[name] = explainer.class_maps(batch, indices)[0].cpu()
        found.seconds[name] = time.perf_counter() - started
        found.kinds[name] = scale.kind(explainer)
    found.notes = [note, f"classifier: {title(subject)}", *plotting.meanings(found)]
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


def title(subject: Explanandum) -> str:
    """Name of a classifier."""
    name = subject.architecture or type(subject.model).__name__
    return name.rpartition(":")[2]
