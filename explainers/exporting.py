"""Trained explainers to publish or to deploy: checkpoints, graphs and their cards."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from explainers import checkpoint
from explainers.base import Explainer
from explainers.explanandum import Explanandum
from explainers.graphs import FREE, compare, example, graph, save
from explainers.publishing import card, publish
from explainers.reading import read_checkpoint, read_explainer
from explainers.trust import granting

GRAPHS = (".onnx", ".pt2")


def export(
    ckpt_path: str,
    out: str,
    classifier: bool = True,
    image_size: list[int] | None = None,
    classes: int = 1,
    maps_only: bool = False,
    run: str | None = None,
    data: str = "unknown",
    license: str = "unknown",
    trust: Sequence[str] = (),
) -> None:
    """Writes a trained explainer to publish or to deploy, and a card that describes it.

    The name of the new file says what is written:
        - .ckpt: A checkpoint with all that explaining needs and nothing that only a fit needs.
        - .onnx or .pt2: A graph for ONNX Runtime or for `torch.export.load`, see `graphs.graph`.
          It is tried on a few images before this command ends.
        - A folder, without an ending: A checkpoint and its card, in the form of a repository of
          the Hugging Face hub, see `publishing.publish`. Nothing is uploaded.

    The card of model.onnx is model.md.

    Args:
        ckpt_path: Path of the checkpoint of an explainer.
        out: Path of the new file or folder, which does not exist yet.
        classifier: Whether a checkpoint holds the weights of the classifier. If not, whoever loads
            it must have them.
        image_size: Height and width of the images of a graph. None takes those that the classifier
            was made for.
        classes: Number of classes for each image that a graph explains.
        maps_only: Whether a graph gives the maps alone. With DeepLab and RTIS, it then contains no
            classifier, not even its weights are needed, and it gives the masks of all classes.
        run: Folder of a finished test of this checkpoint, whose figures the card shows.
        data: Name of the data that the explainer was trained on, for the card.
        license: License of the weights, for the card.
        trust: Packages that the checkpoint may name, see SECURITY.md.

    Raises:
        FileNotFoundError: If there is no such checkpoint or run.
        ValueError: If it is something else, `out` exists or has another ending, or the explainer
            cannot be exported.
    """
    path = Path(out)
    beside = path.with_suffix(".md") if path.name else path
    if path.suffix not in (".ckpt", *GRAPHS, "") or path.exists() or beside.exists():
        raise ValueError(
            "out is a new file whose name ends with .ckpt, .onnx or .pt2, or a new folder, not "
            f"{out!r}{f': {beside} exists' if beside.exists() else ''}"
        )
    with granting(trust):
        free = maps_only and path.suffix in GRAPHS and is_free(ckpt_path)
        explainer = (load_maps if free else checkpoint.load)(ckpt_path)
        described = read_checkpoint(ckpt_path)["explanandum"]
        text = card(explainer, described, path.name, run, data, license)
        if path.suffix in GRAPHS:
            program = graph(explainer, image_size, classes, maps_only)
            path.parent.mkdir(parents=True, exist_ok=True)
            save(program, path, explainer.explanandum.class_names)
            print(compare(path, *example(explainer, image_size, classes, maps_only)))
            beside.write_text(text, encoding="utf-8")
        elif path.suffix:
            checkpoint.export(ckpt_path, out, classifier)
            beside.write_text(text, encoding="utf-8")
        else:
            explainer.explanandum.in_checkpoint = classifier
            publish(explainer, path, text)


def is_free(path: str) -> bool:
    """Whether the explainer of a checkpoint needs no classifier for its maps: DeepLab and RTIS."""
    kind = checkpoint.explainer_class(read_explainer(path, ["explanandum"])["class_path"])
    return issubclass(kind, FREE)


def load_maps(path: str) -> Explainer:
    """Loads the explainer of a checkpoint without its classifier, whose weights may be missing.

    The maps are those of the explainer. The logits of its `explanandum` mean nothing.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is something else, or the method needs the classifier for its maps.
    """
    if not is_free(path):
        raise ValueError(f"{path}: only DeepLab and RTIS explain without the classifier")
    stored = read_explainer(path, ["explanandum"])
    config = stored["explanandum"]
    kept = ("multi_label", "class_names", "mean", "std", "input_size")
    known = {name: config[name] for name in kept}
    for name in ("mean", "std"):
        known[name] = known[name] * (3 // len(known[name]))  # a single one for gray images
    stand_in = Explanandum(_Color(len(config["class_names"])), **known)
    weights = {
        name: value
        for name, value in stored["state_dict"].items()
        if not name.startswith("explanandum.")
    }
    facts = {name: value for name, value in stored.items() if name != "explanandum_weights"}
    kind = checkpoint.explainer_class(stored["class_path"])
    return kind.restore({**facts, "state_dict": weights}, path, stand_in).eval()


class _Color(nn.Module):
    """Stands in for a classifier: linear in the mean color, which means nothing."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        weight = torch.linspace(-1, 1, 3 * classes).view(classes, 3)
        self.register_buffer("weight", weight.roll(1, dims=1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return images.mean(dim=(2, 3)) @ self.get_buffer("weight").T
