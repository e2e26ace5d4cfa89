"""FunnyBirds' questions to a map, on any images with annotated parts."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from explainers.explanandum import Explanandum
from explainers.metrics.base import PerImageMetric, exact
from explainers.metrics.parts import (
    Deletions,
    decision_checks,
    delete_parts,
    distraction,
    part_shares,
)
from explainers.metrics.similarity import spearman
from explainers.metrics.statistics import Columns, nan_mean


def contrast(deletions: Deletions, target: int, shares: Tensor, others: dict[int, Tensor]) -> float:
    """How often a class's map gives a class's parts more than another class's map does, in [0, 1].

    Each pair of the target and another class asks twice, for the parts of either. A pair counts
    only if deleting either object lowers its own logit more than deleting the other does.

    Args:
        deletions: See `delete_parts`.
        target: The class.
        shares: Shares (K, P) of the target's map.
        others: Other class -> shares (K, P) of its map.

    Returns:
        NaN if no pair counts.
    """
    answers = []
    for other, theirs in others.items():
        without_own, without_other = deletions.subsets[0], deletions.objects[other]
        own_reacts = without_own[target] < without_other[target]
        if own_reacts and without_other[other] < without_own[other]:
            answers.append(float(shares[target].sum() > theirs[target].sum()))
            answers.append(float(theirs[other].sum() > shares[other].sum()))
    return sum(answers) / len(answers) if answers else float("nan")


class FunnyBirds(PerImageMetric):
    """Completeness, correctness, contrastivity and their mean, from interventions on parts.

    A part is important if its share of the map (`part_shares`) exceeds a threshold.

    - FBCompleteness: mean of two. First the mean of three checks on the important parts of the
      target's object: how much of a minimal sufficient set they contain, whether the decision
      survives without the other parts, whether it falls without them. Second distractibility: the
      share of irrelevant parts, of all objects in the image, that are not called important. One
      threshold is chosen for the data: that of the largest completeness.
    - FBCorrectness: Spearman correlation, mapped to [0, 1], of the shares of the target's parts
      with the logit each costs when deleted alone.
    - FBContrastivity: `contrast` of the target's map with those of the other classes in the image.

    Source: Hesse et al., "FunnyBirds", ICCV 2023, and its code, which has 80 thresholds. Differs,
    since photographs cannot be rendered without a part: parts are deleted by the mean colour;
    sufficient sets are what the classifier accepts among all subsets, not what the data define;
    other objects stand for the background; contrastivity compares the classes in the image, not two
    absent ones that share parts with it (missing with one object); shares are of the map's positive
    part, and compared as shares. Where the target is not predicted the three checks are missing.
    A figure without any value is missing, and FBOverall with it.

    Cost an image and class with P parts, and Q parts of M other objects: 2^P - 1 + Q + M forwards
    and M explanations.

    Args:
        thresholds: Shares; None takes 20 from 0.01 to 0.5.
        dilation: Pixels by which parts grow: the odd side of a square.
    """

    needs = ("maps", "images", "targets", "parts", "logits", "explanandum", "explainer")
    per_class = True

    def __init__(self, thresholds: list[float] | None = None, dilation: int = 5) -> None:
        super().__init__()
        grid = np.linspace(0.01, 0.5, 20).tolist() if thresholds is None else list(thresholds)
        if not grid or dilation < 1 or dilation % 2 == 0:
            raise ValueError(f"expected a threshold and an odd dilation, got {grid} and {dilation}")
        self.thresholds, self.dilation = grid, dilation
        self.checks = tuple(f"FBChecks/{t:.3f}" for t in grid)
        self.calm = tuple(f"FBDistractibility/{t:.3f}" for t in grid)
        self.names = ("FBCorrectness", "FBContrastivity", *self.checks, *self.calm)

    @property
    def reports(self) -> tuple[str, ...]:
        """The four figures."""
        return ("FBCompleteness", "FBCorrectness", "FBContrastivity", "FBOverall")

    def score(
        self,
        maps: Tensor,
        images: Tensor,
        targets: Tensor,
        parts: Tensor,
        logits: Tensor,
        explanandum: Explanandum,
        explainer: Any,
    ) -> dict[str, Tensor]:
        """All columns (B,) of maps (B, H, W), one-hot targets and parts (B, K, P, H, W)."""
        classes = targets.int().argmax(dim=1).tolist()
        shares = part_shares(maps, parts, self.dilation)
        others = self._other_shares(images, classes, parts, explainer)
        rows = []
        for i, target in enumerate(classes):
            found = delete_parts(explanandum, images[i], parts[i], target, logits[i])
            rows.append(self._row(found, target, shares[i], others[i], explanandum.multi_label))
        return dict(zip(self.names, torch.stack(rows).unbind(1), strict=True))

    def _other_shares(
        self, images: Tensor, classes: list[int], parts: Tensor, explainer: Any
    ) -> list[dict[int, Tensor]]:
        """For each image: other class with parts in it -> shares (K, P) of that class's map."""
        there = parts.flatten(2).any(dim=2)
        there[torch.arange(len(classes)), classes] = False
        ids = [row.nonzero().flatten().tolist() for row in there]
        found: list[dict[int, Tensor]] = [{} for _ in ids]
        for slot in range(max(map(len, ids))):
            rows = [i for i, row in enumerate(ids) if len(row) > slot]
            asked = torch.tensor([[ids[i][slot]] for i in rows], device=images.device)
            maps = explainer.class_maps(images[rows], asked)[:, 0]
            shares = part_shares(maps, parts[rows], self.dilation)
            for i, share in zip(rows, shares, strict=True):
                found[i][ids[i][slot]] = share
        return found

    def _row(
        self,
        found: Deletions,
        target: int,
        shares: Tensor,
        others: dict[int, Tensor],
        multi_label: bool,
    ) -> Tensor:
        """The columns of one image, all NaN if no part of the target is there."""
        if not len(found.own):
            return torch.full((len(self.names),), torch.nan, dtype=torch.float64)
        clean, last = float(found.subsets[-1, target]), len(found.subsets) - 1
        without_each = found.subsets[[last ^ 1 << i for i in range(len(found.own))], target]
        drops = clean - torch.cat([without_each, found.others[:, target]])
        rows, columns = found.elsewhere.unbind(1)
        own = shares[target, found.own]
        important = torch.cat([own, shares[rows, columns]]) > exact(
            torch.tensor(self.thresholds, dtype=torch.float64)[:, None]
        )
        top = found.subsets.argmax(dim=1) == target
        decided = found.subsets[:, target] > 0 if multi_label else top
        rank = spearman(drops[None, None, : len(own)], own[None, None])
        answers = contrast(found, target, shares, others)
        return torch.cat([
            0.5 + 0.5 * rank,
            torch.tensor([answers], dtype=torch.float64),
            decision_checks(important[:, : len(own)], decided.tolist()),
            distraction(important, drops, clean),
        ])  # fmt: skip

    def aggregate(self, values: Columns) -> dict[str, float]:
        """The figures at the threshold of the largest completeness."""
        checks, calm = (
            np.array([nan_mean(values[name]) for name in names])
            for names in (self.checks, self.calm)
        )
        complete = (checks + calm) / 2
        best = float("nan") if np.isnan(complete).all() else float(np.nanmax(complete))
        figures = [best, nan_mean(values["FBCorrectness"]), nan_mean(values["FBContrastivity"])]
        return dict(zip(self.reports, [*figures, float(np.mean(figures))], strict=True))
