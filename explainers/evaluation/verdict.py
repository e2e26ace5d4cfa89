"""Which methods lead on each figure, in one sentence, from paired tests between all methods."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from explainers.evaluation.sanity import SANITY
from explainers.metrics.base import PerImageMetric
from explainers.metrics.ranking import agreement, favored, mean_ranks, needed_images
from explainers.metrics.statistics import FEW, Columns, known_differences, paired_wilcoxon

LEVEL = 0.05
TOO_FEW = " too few to tell the methods apart on "
NAMED = 3  # largest number of methods whose names a sentence lists, except the leading ones


def standings(
    metrics: Sequence[PerImageMetric], averaged: Mapping[str, Columns]
) -> dict[str, dict[str, Any]]:
    """Verdicts, mean ranks and agreement of the methods, without the rows of `SANITY`.

    Args:
        metrics: Metrics that report the figures.
        averaged: Values (N,) of the figures that are means over images, by figure and method.

    Returns:
        `verdicts`, the sentence on each main figure, see `main_figures` and `verdict`; `ranks` of
        every figure, see `ranking.mean_ranks`; and `agreement` between the main figures, see
        `ranking.agreement`.
    """
    higher = {name: metric.direction(name) for metric in metrics for name in metric.reports}
    table = {
        figure: {name: column for name, column in columns.items() if name not in SANITY}
        for figure, columns in averaged.items()
    }
    main = main_figures(metrics, table)
    sentences = {name: verdict(table[name], name, higher[name]) for name in main}
    return {
        "verdicts": {name: sentence for name, sentence in sentences.items() if sentence},
        "ranks": {name: dict(mean_ranks(columns, higher[name])) for name, columns in table.items()},
        "agreement": agreement({name: table[name] for name in main}, higher),
    }


def main_figures(metrics: Sequence[PerImageMetric], averaged: Collection[str]) -> list[str]:
    """The last figure of each metric among those that are means over images, cost left out.

    A metric that combines its figures reports the combination last, as Faithfulness is the
    difference of insertion and deletion.

    Args:
        metrics: Metrics that report the figures. Those that need the cost of a map report cost.
        averaged: Names of the figures that are means over images.
    """
    return [
        name
        for metric in metrics
        if not {"seconds", "passes"} & {*metric.needs}
        for name in [name for name in metric.reports if name in averaged][-1:]
    ]


def verdict(columns: Columns, figure: str, higher_is_better: bool) -> str | None:
    """One sentence on the methods that lead on a figure, and on the images needed to say more.

    The leading methods are the one with the best mean and all that it is not told apart from. All
    pairs of methods with at least `FEW` values are compared by Wilcoxon's signed-rank test with
    Holm's correction. One method is ahead of another if the test tells them apart and both the
    test and the mean over common images favor it. The needed images are those at the level that
    Holm's correction sets for the next pair, see `ranking.needed_images`.

    Args:
        columns: Values (N,) by method.
        figure: Name of the figure.
        higher_is_better: Direction of the figure.

    Returns:
        The sentence; None for fewer than two methods with values.
    """
    signed = {name: v if higher_is_better else -v for name, v in columns.items()}
    sizes = {name: int(np.isfinite(v).sum()) for name, v in signed.items()}
    if sum(size > 0 for size in sizes.values()) < 2:
        return None
    enough = [name for name, size in sizes.items() if size >= FEW]
    pairs = len(enough) * (len(enough) - 1) // 2
    most = max(sizes.values())
    # With n differences of one sign, p is 2 / 2^n; Holm multiplies the smallest p.
    if len(enough) < 2 or pairs * 2.0 ** (1 - most) >= LEVEL:
        images = "1 image is" if most == 1 else f"{most:,} images are"
        return f"{images}{TOO_FEW}{figure}"
    order = sorted(enough, key=lambda name: -float(np.nanmean(signed[name])))
    tests = paired_wilcoxon({figure: {name: signed[name] for name in order}}, None)
    told = {(t["a"], t["b"]): t["difference"] for t in tests if t["p"] < LEVEL}
    told |= {(b, a): -difference for (a, b), difference in told.items()}

    def ahead(a: str, b: str) -> bool:
        if told.get((a, b), 0.0) <= 0:
            return False
        return favored(known_differences(signed[a], signed[b])) > 0.5

    best = order[0]
    behind = [name for name in order if ahead(best, name)]
    tied = [name for name in order[1:] if (best, name) not in told]
    odd = [name for name in order[1:] if name not in behind and name not in tied]
    level = LEVEL / max(1, len(tests) - len(told) // 2)
    sentence = _sentence(
        figure,
        [best, *tied],
        behind,
        all(ahead(a, b) for a in tied for b in behind) and not odd,
        _needed(
            {name: known_differences(signed[best], signed[name]) for name in tied}, best, level
        ),
    )
    if odd:
        sentence += f"; against {_listed(odd)}, the mean and the paired test disagree"
    few = [name for name, size in sizes.items() if 0 < size < FEW]
    return sentence + (f"; {_listed(few)}: too few images to tell" if few else "")


def listed(verdicts: Mapping[str, str]) -> list[str]:
    """The sentences on all figures, of which those that say the same are put together.

    Example:
        >>> listed({f: f"5 images are too few to tell the methods apart on {f}" for f in "ab"})
        ['5 images are too few to tell the methods apart on a and b']
    """
    figures: dict[str, list[str]] = {}
    for figure, sentence in verdicts.items():
        few = sentence.removesuffix(f"{TOO_FEW}{figure}")
        figures.setdefault(few if few != sentence else "", []).append(figure)
    told = {figure: verdicts[figure] for figure in figures.pop("", [])}
    told |= {names[0]: few + TOO_FEW + _listed(names) for few, names in figures.items()}
    return [told[figure] for figure in verdicts if figure in told]


def _sentence(
    figure: str, leaders: list[str], behind: list[str], together: bool, needed: str
) -> str:
    """The verdict; `together` tells whether every leader is ahead of all methods behind."""
    best, *tied = leaders
    others = behind[0] if len(behind) == 1 else f"the other {len(behind)}"
    if not tied:
        if not behind:
            return f"{best} has the best mean {figure}"
        return f"{best} is ahead of {others} on {figure}"
    if not behind:
        if len(tied) == 1:
            return f"{best} and {tied[0]} cannot be told apart on {figure} {needed}"
        return (
            f"{best} has the best mean {figure} but cannot be told apart from any of the other "
            f"{len(tied)} {needed}"
        )
    if together:
        return (
            f"{_listed(leaders)} are ahead of {others} on {figure}; they cannot be told apart "
            f"{needed}"
        )
    count = len(behind) + len(tied)
    rest = _listed(behind) if len(behind) <= NAMED else f"{len(behind)} of the other {count}"
    same = _listed(tied) if len(tied) <= NAMED else f"the remaining {len(tied)}"
    return f"{best} is ahead of {rest} on {figure}; it cannot be told apart from {same} {needed}"


def _needed(differences: Columns, best: str, level: float) -> str:
    """The images that there are, and about how many would tell the best from each of the others."""
    if not differences:
        return ""
    size = min(values.size for values in differences.values())
    have = f"with {size:,} images"
    if not any(np.count_nonzero(values) for values in differences.values()):
        return f"{have}: their values are equal"
    counts = [
        math.inf if count is None else max(count, values.size + 1)
        for values in differences.values()
        for count in [needed_images(values, level=level)]
    ]
    low, high = _rounded(min(counts)), _rounded(max(counts))
    if len(counts) == 1 or low == high:
        return f"{have}, {_about(low)} would be needed"
    return f"{have}, {_about(low)} to {high} would be needed to tell {best} from each of them"


def _rounded(count: float) -> str:
    """The number rounded up to two digits."""
    if count > 100_000:
        return "more than 100,000"
    unit = 10 ** max(0, len(str(int(count))) - 2)
    return f"{math.ceil(count / unit) * unit:,}"


def _about(number: str) -> str:
    return number if number.startswith("more") else f"about {number}"


def _listed(names: list[str]) -> str:
    """The names joined by commas and "and"."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
