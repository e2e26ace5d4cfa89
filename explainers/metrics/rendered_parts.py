"""The metrics of FunnyBirds as published, on renderings without parts of the bird."""

from typing import Any

import torch
from torch import Tensor
from torchvision.transforms.v2.functional import to_dtype

from explainers.explanandum import Explanandum
from explainers.metrics.base import exact
from explainers.metrics.parts import PartScores, distraction, part_shares, sufficiency
from explainers.metrics.similarity import spearman

CHUNK = 16  # images in a forward pass


def design_sets(shared: Tensor, target: int) -> list[bool]:
    """Whether each set of parts, by its code, belongs to no class but the target.

    Args:
        shared: Whether each class has each part of the target's design, (K, P) bool.
        target: The class of the image.

    Returns:
        2^P values; bit i of a code says that the set contains part i.

    Example:
        >>> shared = torch.tensor([[True, True], [True, False]])  # class 1 lacks the second part
        >>> design_sets(shared, target=0)
        [False, False, True, True]
    """
    powers = 2 ** torch.arange(shared.shape[1])
    codes = torch.arange(2 ** shared.shape[1])[:, None]
    others = [int(code) for k, code in enumerate((shared.cpu() * powers).sum(1)) if k != target]
    missing = [(codes.flatten() & ~code) != 0 for code in others]
    unique: list[bool] = torch.stack([codes.flatten() > 0, *missing]).all(dim=0).tolist()
    return unique


def rival_pair(shared: Tensor, target: int) -> tuple[int, int] | None:
    """The first two classes that share two parts each with the target, no part twice; or None."""
    rows = shared.cpu()
    twos = [k for k in range(len(rows)) if k != target and int(rows[k].sum()) == 2]
    pairs = [(a, b) for a in twos for b in twos if a < b and not bool((rows[a] & rows[b]).any())]
    return pairs[0] if pairs else None


class RenderedParts(PartScores):
    """The published FunnyBirds scores, from renderings of each bird without some of its parts.

    A part counts as important if its share of the map (`part_shares`) exceeds a threshold.

    - RenderedCompleteness is the mean of two values. The first is the mean of three checks: the
      fraction of a minimal sufficient set of parts that are important, whether the target is still
      predicted from the rendering with the important parts alone, and whether it is no longer
      predicted from the one without them. It is missing where the target is not predicted from the
      unchanged image. The second is distractibility: of the parts of the bird and the objects of
      the background without which the target's logit rises or changes by less than 5 %, the
      fraction that are not important. A single threshold is used for the whole data set, the one
      with the largest completeness.
    - RenderedCorrectness is the Spearman correlation, mapped to [0, 1], between the shares of the
      parts and the decrease of the target's logit without each of them.
    - RenderedContrastivity takes two classes that share two parts each with the bird. The parts
      shared with a class must have a larger share of the map of that class than of the map of the
      other. It counts images in which both logits react accordingly to the removal of the parts.

    RenderedOverall is their mean. A score for which no image has a value is missing.

    Source: Hesse, Schaub-Meyer and Roth, "FunnyBirds", ICCV 2023, and its code, which uses 80
    thresholds from 0.01 to 5.

    Differences from the released code:
        - Sufficient sets are those of parts that no other class has together. They are also found
          for the last class, for which the code finds none.
        - Shares are relative to the positive part of the map. The released code relates a part to
          the signed total, so that every part with an importance above a negative number counts as
          important where that total is negative.
        - One map explains the target for all checks; the released code explains the predicted class
          for two of them. Images that are classified wrongly have no value of the checks instead.
        - Objects of the background that cannot be seen do not count.
        - Contrastivity uses the first pair of classes that share two parts each.

    Cost for each image: 32 forward passes, one for each object that can be seen, and 2
    explanations.

    Range: [0, 1].

    Blind to: where within a part the map lies, and how much of it lies on the body.
    """

    needs = (
        *("maps", "images", "targets", "parts", "interventions", "backgrounds", "objects"),
        *("shared", "logits", "explanandum", "explainer"),
    )
    prefix = "Rendered"

    def score(
        self,
        maps: Tensor,
        images: Tensor,
        targets: Tensor,
        parts: Tensor,
        interventions: Tensor,
        backgrounds: Tensor,
        objects: Tensor,
        shared: Tensor,
        logits: Tensor,
        explanandum: Explanandum,
        explainer: Any,
    ) -> dict[str, Tensor]:
        """All columns (B,) for maps (B, H, W) and the renderings of `datamodules.FunnyBirds`."""
        count = parts.shape[2]
        if interventions.shape[1] != 2**count:
            raise ValueError(
                f"RenderedParts: expected {2**count} interventions for {count} parts, got "
                f"{interventions.shape[1]}"
            )
        classes = targets.int().argmax(dim=1).tolist()
        own = parts[torch.arange(len(classes)), classes]  # (B, P, H, W)
        shares = part_shares(maps, own[:, None], self.dilation)[:, 0]
        behind = part_shares(maps, objects[:, None], self.dilation)[:, 0]
        rivals = self._rivals(images, own, shared, classes, explainer)
        rows = []
        for i, target in enumerate(classes):
            seen = objects[i].flatten(1).any(dim=1).cpu()
            shown = torch.cat([interventions[i], backgrounds[i, seen.to(backgrounds.device)]])
            answers = self._answers(explanandum, shown, images)
            rows.append(
                self._row(answers, target, own[i], shares[i], behind[i, seen], shared[i], rivals[i])
            )
        return dict(zip(self.names, torch.stack(rows).unbind(1), strict=True))

    def _answers(self, explanandum: Explanandum, shown: Tensor, images: Tensor) -> Tensor:
        """Logits (N, K) float64 of renderings (N, 3, H, W) uint8."""
        scaled = to_dtype(shown.to(images.device), images.dtype, scale=True)  # as the images are
        return torch.cat([exact(explanandum(chunk)) for chunk in torch.split(scaled, CHUNK)])

    def _rivals(
        self, images: Tensor, own: Tensor, shared: Tensor, classes: list[int], explainer: Any
    ) -> list[tuple[tuple[int, int], Tensor] | None]:
        """For each image two classes and the shares (2, P) of its parts in their maps, or None."""
        pairs = [rival_pair(shared[i], target) for i, target in enumerate(classes)]
        rows = [i for i, pair in enumerate(pairs) if pair is not None]
        found: list[tuple[tuple[int, int], Tensor] | None] = [None] * len(classes)
        if rows:
            asked = torch.tensor([pairs[i] for i in rows], device=images.device)
            maps = explainer.class_maps(images[rows], asked)
            for slot, i in enumerate(rows):
                both = own[i][None, None].expand(2, -1, -1, -1, -1)
                shares = part_shares(maps[slot], both, self.dilation)[:, 0]
                found[i] = pairs[i], shares  # type: ignore[assignment]
        return found

    def _row(
        self,
        answers: Tensor,
        target: int,
        own: Tensor,
        shares: Tensor,
        behind: Tensor,
        shared: Tensor,
        rivals: tuple[tuple[int, int], Tensor] | None,
    ) -> Tensor:
        """The columns of one image, all NaN if it shows no part of the target."""
        count = len(own)
        everything = 2**count - 1
        tables = (answers, shares, behind, *(() if rivals is None else (rivals[1],)))
        known = all(bool(table.isfinite().all()) for table in tables)
        if not known or not bool(own.any()) or not bool(shared[target].all()):
            return torch.full((len(self.names),), torch.nan, dtype=torch.float64)
        clean = float(answers[everything, target])
        without = [everything ^ 1 << part for part in range(count)]
        drops = clean - torch.cat([answers[without, target], answers[everything + 1 :, target]])
        important = torch.cat([shares, behind]) > self.limits
        codes = [sum(1 << p for p in range(count) if row[p]) for row in important.tolist()]
        predicted = (answers.argmax(dim=1) == target).tolist()
        checks = [float("nan")] * len(codes)
        if predicted[everything]:
            enough = sufficiency(codes, design_sets(shared, target))
            checks = [
                (part + predicted[code] + (not predicted[everything ^ code])) / 3
                for part, code in zip(enough, codes, strict=True)
            ]
        rank = spearman(drops[None, None, :count], shares[None, None])
        return torch.cat([
            0.5 + 0.5 * rank,
            torch.tensor([_contrast(answers, shared, rivals), *checks], dtype=torch.float64),
            distraction(important, drops, clean),
        ])  # fmt: skip


def _contrast(
    answers: Tensor, shared: Tensor, rivals: tuple[tuple[int, int], Tensor] | None
) -> float:
    """Fraction in [0, 1] of the two comparisons that hold; NaN if the image does not count."""
    if rivals is None:
        return float("nan")
    (one, two), shares = rivals
    masks = shared[[one, two]].cpu()
    everything = 2 ** masks.shape[1] - 1
    codes = [int((mask * 2 ** torch.arange(len(mask))).sum()) for mask in masks]
    less = answers[[everything ^ code for code in codes]][:, [one, two]]  # without, logit of
    if not (less[0, 0] < less[1, 0] and less[1, 1] < less[0, 1]):
        return float("nan")
    sums = exact(shares) @ masks.T.double()  # map of, parts shared with
    return (float(sums[0, 0] > sums[1, 0]) + float(sums[1, 1] > sums[0, 1])) / 2
