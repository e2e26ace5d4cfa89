"""Writes docs/metrics.md from the metrics' classes: python docs/metrics.py."""

import importlib
import inspect
import pkgutil
import re
import sys
from pathlib import Path

if __name__ == "__main__":  # run from anywhere, without installing
    sys.path.insert(0, str(Path(__file__).parents[1]))

from explainers import metrics
from explainers.metrics.base import PerImageMetric
from explainers.metrics.faithfulness import RISECurves

PAGE = Path(__file__).with_suffix(".md")
INTRODUCTION = """# Metrics

Made from the classes by `python docs/metrics.py`; change their docstrings, not this page.

Each metric keeps one value per image. An entry of `score: metrics:` in a configuration names its
class and arguments, which the class documents. An arrow after a figure says whether higher (↑) or
lower (↓) is better. "Blind to" says what a metric cannot tell, and therefore when not to trust it.
No metric knows the truth: use several that are blind to different things.
"""
FAMILIES = {
    "Metrics that show altered images to the classifier": "They ask which pixels decide.",
    "Metrics that compare the map with the object": "They need masks, boxes or parts of objects.",
    "Metrics that explain again": "They compare maps of other images, classes, seeds or weights.",
    "Metrics of the map, its cost, or the classifier": "They do not ask whether the map is right.",
}
SECTIONS = ("Range", "Cost", "Blind to", "Source")
TITLES = {"Source": "Protocol"}
INPUTS = {
    "mask": "object masks",
    "void": "pixels to ignore",
    "boxes": "object boxes",
    "parts": "masks of the objects' parts",
    "interventions": "renderings with each set of parts",
    "backgrounds": "renderings without each object of the background",
    "objects": "masks of the background's objects",
    "shared": "the parts that classes have in common",
    "labels": "labels",
    "explanandum": "the classifier",
    "explainer": "the method itself",
}
EXAMPLES = {"BlurredMaps": {"metric": RISECurves()}, "MapSimilarity": {"seeds": [0, 1]}}


def classes() -> list[type[PerImageMetric]]:
    """All metrics in `explainers.metrics`, by name."""
    found: dict[str, type[PerImageMetric]] = {}
    for module in pkgutil.iter_modules(metrics.__path__, "explainers.metrics."):
        for name, kind in vars(importlib.import_module(module.name)).items():
            public = inspect.isclass(kind) and not inspect.isabstract(kind) and name[0] != "_"
            if public and issubclass(kind, PerImageMetric):
                found[name] = kind
    return [found[name] for name in sorted(found)]


def section(kind: type, label: str) -> str:
    """Text after "Range:" or another label in the docstring of a class or of its bases; or ""."""
    pattern = rf"(?:^|\s){label}([^.:]*): (.+?)(?=\n\n|\Z)"
    for base in kind.__mro__:
        if match := re.search(pattern, inspect.cleandoc(base.__doc__ or ""), re.DOTALL):
            case, text = match[1].strip(), re.sub(r"\s+", " ", match[2])
            return f"{case[0].upper()}{case[1:]}: {text}" if case else text
    return ""


def family(metric: PerImageMetric) -> str:
    """Heading under which a metric stands, from what it needs."""
    shows, truth, again, alone = FAMILIES
    inputs = {*metric.needs, *metric.optional}
    if inputs & {"mask", "boxes", "parts"}:
        return truth
    if "explainer" in inputs:
        return again
    return shows if inputs & {"maps", "masked_logits"} and "explanandum" in inputs else alone


def entry(kind: type[PerImageMetric]) -> tuple[str, str]:
    """Family and entry of a metric."""
    metric = kind(**EXAMPLES.get(kind.__name__, {}))
    summary = re.sub(r"\s+", " ", inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0])
    figures = [f"{name} {'↑' if metric.direction(name) else '↓'}" for name in metric.reports]
    needs = [INPUTS[name] for name in metric.needs if name in INPUTS]
    needs += [f"{INPUTS[name]} (if there are)" for name in metric.optional if name in INPUTS]
    lines = [f"### {kind.__name__}", "", summary, ""]
    lines += [f"- **Class**: `{kind.__module__}.{kind.__name__}`"]
    lines += [f"- **Figures**: {', '.join(figures) or 'one for each selected class'}"]
    lines += [f"- **Needs**: {', '.join(needs) or 'nothing else'}"]
    for label in SECTIONS:
        if text := section(kind, label):
            lines.append(f"- **{TITLES.get(label, label)}**: {text}")
    return family(metric), "\n".join(lines)


def page() -> str:
    """The whole page."""
    entries = [entry(kind) for kind in classes()]
    parts = [INTRODUCTION.strip()]
    for heading, words in FAMILIES.items():
        parts.append(f"## {heading}\n\n{words}")
        parts += [text for own, text in entries if own == heading]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())
