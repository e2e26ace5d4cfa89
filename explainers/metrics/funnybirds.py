"""Metrics of the FunnyBirds framework for any images with annotated parts."""

from typing import Any

import torch
from torch import Tensor

from explainers.explanandum import Explanandum
from explainers.metrics.parts import (
    Deletions,
    PartScores,
    decision_checks,
    delete_parts,
    distraction,
    part_shares,
)
from explainers.metrics.similarity import spearman


def contrast(deletions: Deletions, target: int, shares: Tensor, others: dict[int, Tensor]) -> float:
    """Fraction of comparisons in which a class's parts get the larger share from its own map.

    The target is paired with each other class. A pair gives two comparisons, one for the parts of
    each of the two classes: their share of the map of that class must exceed their share of the map
    of the other class. A pair counts only if the logit of each class falls further when its own
    object is deleted than when the other object is.

    Args:
        deletions: Result of `delete_parts`.
        target: Index of the target class.
        shares: Shares (K, P) of the target's map.
        others: Shares (K, P) of the map of each other class, by class index.

    Returns:
        Fraction in [0, 1]; NaN if no pair counts.
    """
    answers = []
    for other, theirs in others.items():
        without_own, without_other = deletions.subsets[0], deletions.objects[other]
        own_reacts = without_own[target] < without_other[target]
        if own_reacts and without_other[other] < without_own[other]:
            answers.append(float(shares[target].sum() > theirs[target].sum()))
            answers.append(float(theirs[other].sum() > shares[other].sum()))
    return sum(answers) / len(answers) if answers else float("nan")


class FunnyBirds(PartScores):
    """Completeness, correctness, contrastivity and their mean (FBOverall), from deleting parts.

    A part counts as important if its share of the map (`part_shares`) exceeds a threshold.

    - FBCompleteness is the mean of two values. The first is the mean of three checks on the
      important parts of the target's object (`decision_checks`): the fraction of a minimal
      sufficient set that they contain, whether the target is still predicted without the other
      parts, and whether it is no longer predicted without the important ones. It is missing where
      the target is not predicted on the unchanged image. The second value is distractibility: the
      fraction of the irrelevant parts of all objects in the image that do not count as important.
      A single threshold is used for the whole data set, the one with the largest completeness.
    - FBCorrectness is the Spearman correlation, mapped to [0, 1], between the shares of the
      target's parts and the decrease of the target's logit when each part is deleted alone.
    - FBContrastivity compares the target's map with the maps of the other classes in the image, see
      `contrast`.

    A score for which no image has a value is missing, and FBOverall is then missing too.

    Source: Hesse et al., "FunnyBirds", ICCV 2023, and its code, which uses 80 thresholds.

    Differences from the released code:
        - Deleted parts are replaced by the mean color, because photographs cannot be rendered
          without a part as the original data can.
        - Sufficient sets are those of all subsets of parts for which the classifier predicts the
          target. The data do not define them.
        - Other objects take the role of the background.
        - Contrastivity compares the classes in the image, not two absent classes that share parts
          with it. It is missing for images with one object.
        - Shares are relative to the positive part of the map, and maps are compared by shares. The
          released code relates a part to the signed total, so that every part with an importance
          above a negative number counts as important where that total is negative.

    Cost for each image and class with P parts, and Q parts of M other objects: 2^P - 1 + Q + M
    forward passes and M explanations.

    Range: [0, 1].

    Blind to: where within a part the map lies, and parts that are not annotated.
    """

    needs = ("maps", "images", "targets", "parts", "logits", "explanandum", "explainer")
    prefix = "FB"

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
        """All columns (B,) for maps (B, H, W), one-hot targets (B, K), parts (B, K, P, H, W)."""
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
        """For each image, the shares (K, P) of the map of every other class with visible parts."""
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
        """The columns of one image.

        All are NaN if no part of the target is visible, or a map or an output of the classifier is
        not finite.
        """
        tables = (found.subsets, found.others, *found.objects.values(), *others.values())
        if not len(found.own) or not all(table.isfinite().all() for table in tables):
            return torch.full((len(self.names),), torch.nan, dtype=torch.float64)
        clean, last = float(found.subsets[-1, target]), len(found.subsets) - 1
        without_each = found.subsets[[last ^ 1 << i for i in range(len(found.own))], target]
        drops = clean - torch.cat([without_each, found.others[:, target]])
        rows, columns = found.elsewhere.unbind(1)
        own = shares[target, found.own]
        important = torch.cat([own, shares[rows, columns]]) > self.limits
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
