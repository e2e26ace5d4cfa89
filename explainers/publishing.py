"""The card of a trained explainer, and folders in the form of the Hugging Face hub."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from explainers.base import Explainer
from explainers.checkpoint import load
from explainers.explanandum import Explanandum
from explainers.explanandum.weights import fingerprint
from explainers.naming import class_path, method_name

CHECKPOINT, CARD = "explainer.ckpt", "README.md"  # files of a repository of the hub
USES = {
    ".ckpt": 'explainer = explainers.load("{name}")\n'
    "maps = explainer.class_maps(images, classes)  # images (B, 3, H, W) in [0, 1]",
    ".onnx": 'session = onnxruntime.InferenceSession("{name}")\n'
    "print([(each.name, each.shape) for each in session.get_inputs()])\n"
    "outputs = session.run(None, inputs)  # of arrays by name; maps are the last output",
    ".pt2": 'graph = torch.export.load("{name}").module()\n'
    "outputs = graph(*inputs)  # images (B, 3, H, W) in [0, 1], and classes; maps come last",
    "": 'explainer = explainers.publishing.from_pretrained("{name}")\n'
    "maps = explainer.class_maps(images, classes)  # images (B, 3, H, W) in [0, 1]",
}
LIBRARIES = {".ckpt": "explainers", ".onnx": "onnxruntime", ".pt2": "torch"}


def card(
    explainer: Explainer,
    classifier: Mapping[str, Any],
    name: str,
    run: str | None = None,
    data: str = "unknown",
    license: str = "unknown",
) -> str:
    """Markdown with a YAML header that describes a trained explainer.

    Args:
        explainer: The explainer.
        classifier: Plain arguments of its classifier, as checkpoints hold them.
        name: Name of the file or folder.
        run: Folder of a finished test of this explainer, whose figures are shown.
        data: Name of the data that it was trained on.
        license: License of its weights.

    Raises:
        FileNotFoundError: If the run holds no summary.
        ValueError: If the run has not measured this explainer.
    """
    kind, row = type(explainer), method_name(class_path(type(explainer)))
    model = classifier.get("model") or "a module of its author"
    tested, figures = measured(explainer, run) if run is not None else ({}, {})
    header = {
        "library_name": "learned-explainers",
        "license": license,
        "tags": ["explainability", "saliency", row],
        "explainer": class_path(kind),
        "classifier": model,
        "classes": len(classifier.get("class_names") or []),
        "multi_label": bool(classifier.get("multi_label")),
        "input_size": list(classifier.get("input_size") or []),
        "training_data": data,
        "training_cost": {key: round(value, 1) for key, value in (explainer.cost or {}).items()},
    }
    if figures:
        header["test_data"], header["metrics"] = tested["data"], figures
    suffix = Path(name).suffix
    library = LIBRARIES.get(suffix, "explainers.publishing")
    classes = "any class" if explainer.class_specific else "one map, whatever the class"
    values = "masks in [0, 1]" if explainer.is_mask else "scores, of which only the order counts"
    lines = [
        "---",
        yaml.safe_dump(header, sort_keys=False, allow_unicode=True).rstrip(),
        "---",
        "",
        f"# {kind.__name__} of {_inline(model)}",
        "",
        f"{' '.join((kind.__doc__ or '').strip().split(chr(10) + chr(10))[0].split())}",
        "",
        f"It explains {classes} by {values}.",
        "",
        "## Load",
        "",
        "```python",
        f"import {library}",
        "",
        USES[suffix].format(name=name),
        "```",
        "",
        "## Training",
        "",
        f"- Data: {_inline(data)}",
        f"- Cost: {_cost(explainer.cost)}",
        f"- License of the weights: {_inline(license)}",
        "",
        "## Results",
        "",
        *_table(tested, figures),
    ]
    return "\n".join(lines) + "\n"


def measured(explainer: Explainer, run: str) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Summary of a finished test, and its figures of an explainer by metric.

    The explainer is found by a hash of its weights, whatever the name of its row.

    Raises:
        FileNotFoundError: If the run holds no summary.
        ValueError: If the run has not measured this explainer.
    """
    found = []
    for name in ("summary.json", "settings.json"):
        path = Path(run) / name
        if not path.is_file():
            raise FileNotFoundError(f"{path} does not exist: run is the folder of a finished test")
        try:
            found.append(json.loads(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise ValueError(f"{path} is not JSON: {error}") from error
    summary, settings = found
    weights = fingerprint(explainer, leave_out="explanandum.")
    for row, facts in settings.get("methods", {}).items():
        same = facts.get("class") == class_path(type(explainer)) and facts.get("weights") == weights
        if same and row in summary["methods"]:
            figures = {
                metric: {key: figure.get(key) for key in ("mean", "ci95", "n")}
                for metric, figure in summary["methods"][row].items()
                if isinstance(figure, dict) and "mean" in figure
            }
            return summary, figures
    raise ValueError(
        f"{run} has not measured this explainer, only {sorted(summary['methods'])}: test this "
        "checkpoint, python evaluate.py test --ckpt_path"
    )


def publish(explainer: Explainer, folder: Path, text: str) -> None:
    """Writes an explainer as a new folder, with its card, in the form of a repository of the hub.

    `huggingface_hub.upload_folder(repo_id=..., folder_path=folder)` uploads it.

    Args:
        explainer: The explainer. Its classifier is in the file if `in_checkpoint` says so.
        folder: The new folder.
        text: Its card, see `card`.

    Raises:
        FileExistsError: If the folder exists.
    """
    stored: dict[str, Any] = {"state_dict": explainer.state_dict()}
    if explainer.cost is not None:
        stored["cost"] = explainer.cost
    explainer.on_save_checkpoint(stored)
    folder.mkdir(parents=True)
    torch.save(stored, folder / CHECKPOINT)
    (folder / CARD).write_text(text, encoding="utf-8")


def from_pretrained(
    source: str,
    revision: str | None = None,
    explanandum: Explanandum | None = None,
    trust: Sequence[str] = (),
) -> Explainer:
    """Loads a published explainer, from a folder or from the Hugging Face hub.

    The file is read as plain data, and is as little trusted as any other, see SECURITY.md.

    Args:
        source: Path of a folder of `publish`, or name of a repository of the hub.
        revision: Branch, tag or commit of the repository.
        explanandum: Classifier to explain, see `checkpoint.load`.
        trust: Names of your packages, see `checkpoint.load`.

    Raises:
        FileNotFoundError: If the folder holds no explainer.
        ValueError: If the file is not the checkpoint of an explainer, or its classifier is needed.
    """
    if Path(source).is_dir():
        return load(Path(source) / CHECKPOINT, explanandum=explanandum, trust=trust)
    from huggingface_hub import hf_hub_download

    path = hf_hub_download(source, CHECKPOINT, revision=revision)
    return load(path, explanandum=explanandum, trust=trust)


def _cost(cost: Mapping[str, float] | None) -> str:
    if not cost:
        return "unknown"
    return (
        f"{cost.get('seconds', 0) / 60:.1f} minutes, {cost.get('steps', 0):.0f} steps, "
        f"{cost.get('images', 0):.0f} images"
    )


def _table(summary: Mapping[str, Any], figures: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Lines of the figures, with 95 % intervals."""
    if not figures:
        return ["Not measured: `--run` takes the folder of a test."]
    lines = [
        f"Of {_inline(str(summary['explanandum']))} on {summary['images']} images of "
        f"{_inline(str(summary['data']))}, with 95 % intervals.",
        "",
        "| metric | mean | interval | images |",
        "| --- | ---: | ---: | ---: |",
    ]
    for metric, figure in figures.items():
        mean, ends = figure["mean"], figure["ci95"] or []
        value = "-" if mean is None else f"{mean:.4g}"
        interval = " to ".join("-" if end is None else f"{end:.4g}" for end in ends) or "-"
        lines.append(f"| {_inline(metric)} | {value} | {interval} | {figure['n']} |")
    return lines


def _inline(text: str) -> str:
    """Text that cannot end its line or its cell."""
    return " ".join(text.split()).replace("|", r"\|").replace("<", "&lt;")
