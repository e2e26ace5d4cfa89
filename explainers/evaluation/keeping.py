"""Keeps maps and curves of a test, which are then there for the page and for new metrics."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from explainers import mapstore
from explainers.base import Explainer
from explainers.evaluation.drawing import picture
from explainers.evaluation.sanity import SANITY
from explainers.evaluation.targets import class_ids
from explainers.explanandum import Explanandum
from explainers.learned import is_trained
from explainers.metrics.inputs import finite

Keep = Literal["shown", "maps", "curves", "maps,curves", "nothing"]
SHOWN = 50  # images on the page
LAYERS = 5  # most probable classes whose masks of trained explainers are kept beside the targets'


class Keeper:
    """Collects the maps and curves of a batch, and writes them image by image.

    Rows that do not look at the image, such as constants, and the object masks are not kept. Maps
    that are not finite are not kept either.

    Args:
        folder: Run folder.
        keep: "shown" keeps the maps and curves of the first 50 images, which the page shows;
            "maps", "curves" or both keep those of all images; "nothing" keeps nothing.
        explainers: Methods by name.
        settings: Settings of the run.
        writes: Whether this process writes what holds for all images.
    """

    def __init__(
        self,
        folder: Path,
        keep: Keep,
        explainers: Mapping[str, Explainer],
        settings: Mapping[str, Any],
        writes: bool = True,
    ) -> None:
        self.folder, self.method = folder, ""
        self._layered = {
            name: explainer
            for name, explainer in explainers.items()
            if explainer.is_mask and is_trained(type(explainer)) and _shares_work(type(explainer))
        }
        self._keep, self._methods = keep, [name for name in explainers if name not in SANITY]
        self._maps: dict[str, dict[mapstore.Key, mapstore.Pixels]] = {}
        self._curves: dict[str, dict[mapstore.Key, mapstore.Curves]] = {}
        if writes and keep != "nothing":
            content = {
                "methods": self._methods,
                "masks": [name for name in self._methods if explainers[name].is_mask],
                "signed": [name for name in self._methods if explainers[name].is_signed],
                "settings": settings,
            }
            mapstore.describe(folder, content)

    def add(
        self,
        names: Sequence[str],
        targets: Sequence[str],
        maps: Tensor,
        curves: Mapping[str, tuple[Tensor, Tensor]],
    ) -> None:
        """Takes what `method` gave for some images and one target of each.

        Args:
            names: Names of the images.
            targets: Their targets, as in scores.csv.
            maps: Their maps (B, H, W).
            curves: Their curves, see `PerImageMetric.curves`.
        """
        if self.method not in self._methods:
            return
        for row in finite(maps).nonzero().flatten().tolist():
            key = (self.method, targets[row])
            values = maps[row].detach().float().cpu().numpy()
            self._maps.setdefault(names[row], {})[key] = values
            own = self._curves.setdefault(names[row], {}).setdefault(key, {})
            for column, (shares, heights) in curves.items():
                points = shares.new_empty(2, len(shares))
                points[0], points[1] = shares, heights[row]
                own[column] = points.float().numpy()

    def lacking(self, done: Mapping[str, int]) -> str:
        """A sentence on the images that were scored while less was kept; "" without any.

        Args:
            done: Images that are scored already, with their indices.
        """
        wanted = [name for name, index in done.items() if self._wants(index)]
        if not wanted:
            return ""
        held = mapstore.held(self.folder)
        some = {name: {"maps": maps, "curves": curves} for name, (maps, curves) in held.items()}
        asked = ("maps", "curves") if self._keep == "shown" else self._keep.split(",")
        # An image whose maps are not finite has an entry without maps or curves.
        lost = [
            name
            for name in wanted
            if name not in some
            or (any(some[name].values()) and "maps" in asked and not some[name]["maps"])
        ]
        if not lost:
            return ""
        return (
            f"{len(lost)} images of {self.folder} were scored while less was kept, and are not "
            f"scored again for keep={self._keep}: to keep theirs, delete scores.csv, or choose "
            "another folder (--out FOLDER)"
        )

    def _wants(self, index: int) -> bool:
        return self._keep != "nothing" and (self._keep != "shown" or index < SHOWN)

    def write(
        self, batch: Mapping[str, Any], inputs: Mapping[str, Any], ids: Sequence[str]
    ) -> None:
        """Writes what was collected of the images of a batch, and forgets it.

        Args:
            batch: Batch of the data.
            inputs: Inputs of the metrics, see `measure.batch_inputs`.
            ids: Identities of the images.
        """
        facts = _facts(inputs)
        for row, (name, index) in enumerate(
            zip(batch["name"], batch["index"].tolist(), strict=True)
        ):
            if not self._wants(index):
                continue
            told = facts[row] | {"identity": ids[row]}
            if self._keep == "curves":
                maps: dict[mapstore.Key, mapstore.Pixels] = {}
            else:
                maps = self._maps.get(name, {})
                self._add_layers(maps, told, inputs, row)
            curves = {} if self._keep == "maps" else self._curves.get(name, {})
            photo = mapstore.photo(picture(batch["image"][row]))
            entry = mapstore.Entry(index, name, photo, told, maps, curves)
            mapstore.write(self.folder, entry)
        self._maps.clear()
        self._curves.clear()

    def _add_layers(
        self,
        maps: dict[mapstore.Key, mapstore.Pixels],
        facts: dict[str, Any],
        inputs: Mapping[str, Any],
        row: int,
    ) -> None:
        """Adds the maps of trained explainers for each target and the most probable classes."""
        rows = {target for _, target in maps}
        given = {method for method, _ in maps}
        subject: Explanandum = inputs["explanandum"]
        shares = subject.to_probabilities(inputs["logits"][row : row + 1])[0]
        best = shares.topk(min(LAYERS, len(shares))).indices.tolist()
        classes = list(dict.fromkeys([*map(int, facts["target"]), *best]))
        names = {str(i): subject.class_names[i] for i in classes if str(i) not in rows}
        for method, explainer in self._layered.items():
            if method not in given or not names:
                continue
            asked = torch.tensor([list(map(int, names))], device=inputs["images"].device)
            found = explainer.class_maps(inputs["images"][row : row + 1], asked)[0]
            for target, values in zip(names, found.detach().float().cpu().numpy(), strict=True):
                maps[method, target] = values
            facts["layers"] = names
            facts["probabilities"] = {str(i): float(shares[i]) for i in classes}

    def close(self) -> None:
        """Puts the files of single images together."""
        mapstore.pack(self.folder)


def _shares_work(kind: type[Explainer]) -> bool:
    """Whether an explainer computes the maps of several classes together."""
    return kind.class_maps is not Explainer.class_maps


def _facts(inputs: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What is known of each image but its maps, see `mapstore.Entry`."""
    subject: Explanandum = inputs["explanandum"]
    logits, names = inputs["logits"], subject.class_names
    probabilities = subject.to_probabilities(logits).tolist()
    facts = []
    for row, (ids, shares) in enumerate(
        zip(class_ids(inputs["targets"]), probabilities, strict=True)
    ):
        best = max(range(len(shares)), key=shares.__getitem__)
        own: dict[str, Any] = {
            "target": {str(i): names[i] for i in ids},
            "size": list(inputs["images"].shape[-2:]),
        }
        if math.isfinite(shares[best]):
            own["probabilities"] = {str(i): shares[i] for i in ids}
            own["predicted"] = {"class": names[best], "probability": shares[best]}
        if "labels" in inputs:
            own["labels"] = [names[i] for i in class_ids(inputs["labels"][row : row + 1])[0]]
        if "boxes" in inputs:
            own["boxes"] = [box[1:] for box in inputs["boxes"][row].tolist() if box[0] >= 0]
        facts.append(own)
    return facts
