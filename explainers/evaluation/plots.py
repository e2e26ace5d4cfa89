"""Plots of the page of a run, as SVG in the colors of the page's text."""

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any
from warnings import catch_warnings, filterwarnings

from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from explainers.evaluation.meancurves import CURVES, GRID, MeanCurves

INK = "#010203"  # drawn so, and then replaced by the color of the page's text
SIZE = (4.8, 3.6)  # inches; on a phone, its letters are as large as those of the notes
AXES = {  # of the first of the curves in `CURVES` that there is
    "remove": "share of the most relevant pixels removed (%)",
    "insert": "share of the most relevant pixels shown (%)",
}
_FINE = re.compile(r"(\.\d)\d+| \n(?=L)")

Methods = Mapping[str, Mapping[str, Any]]  # figures by method, as in summary.json


def scatters(methods: Methods, shown: Sequence[str], main: str) -> list[dict[str, str]]:
    """Plots of two figures each, of those that the run has: `title` and `svg`.

    Args:
        methods: Figures of the methods.
        shown: Names of the methods to show.
        main: Figure that ranks.
    """
    pairs = [("seconds", main, "log"), ("DeletionAUC", "InsertionAUC", "linear")]
    return [
        {
            "title": f"{y} against {x}, means with 95 % intervals",
            "svg": _scatter(methods, shown, x, y, scale),
        }
        for x, y, scale in pairs
        if shown
        and all(methods[n].get(each, {}).get("mean") is not None for n in shown for each in (x, y))
    ]


def mean_curves(found: MeanCurves, shown: Sequence[str]) -> list[dict[str, str]]:
    """Plots of the mean curves of the methods, with bands: `title` and `svg`.

    Args:
        found: Curves of the images.
        shown: Names of the methods to show.
    """
    plots = []
    for kind, label in AXES.items():
        all_bands = {name: found.bands(name, shown) for name in CURVES[kind]}
        name, bands = next(((n, b) for n, b in all_bands.items() if b), ("", {}))
        if not bands:
            continue
        counts = sorted({count for _, _, count in bands.values()})
        number = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
        figure = Figure(figsize=SIZE)
        axes = figure.add_subplot()
        for place, method in enumerate(shown):
            if method in bands:
                mean, half, _ = bands[method]
                style, color = ("-", "--", ":")[place // 10 % 3], _color(place)
                axes.plot(100 * GRID, mean, style, color=color, lw=1.3, label=method)
                axes.fill_between(
                    100 * GRID, mean - half, mean + half, color=color, alpha=0.12, lw=0
                )
        axes.set(xlabel=label, ylabel="probability", xlim=(0, 100), ylim=(0, 1.02))
        legend = axes.legend(
            loc="upper center",
            bbox_to_anchor=(0.5, -0.18),
            ncols=3,
            frameon=False,
            fontsize=8,
            labelcolor=INK,
        )
        for words in legend.get_texts():
            words.set_parse_math(False)
        images = "image" if number == "1" else "images"
        title = f"{name}: mean curve of {number} {images}"
        if counts[-1] > 1:
            title += ", with the 95 % interval of the mean"
        plots.append({"title": title, "svg": _svg(figure, axes)})
    return plots


def _scatter(methods: Methods, shown: Sequence[str], x: str, y: str, scale: str) -> str:
    """A point with its intervals for each method."""
    figure = Figure(figsize=SIZE)
    axes = figure.add_subplot()
    for place, name in enumerate(shown):
        means = [methods[name][each]["mean"] for each in (x, y)]
        ends = [methods[name][each]["ci95"] for each in (x, y)]
        spans = [
            [[max(0.0, m - low)], [max(0.0, high - m)]] if low is not None else None
            for m, (low, high) in zip(means, ends, strict=True)
        ]
        axes.errorbar(
            means[0], means[1], spans[1], spans[0], "o", ms=5, elinewidth=0.8, color=_color(place)
        )
    axes.set(xlabel=x, ylabel=y, xscale=scale)
    axes.margins(x=0.15)
    for name in shown:
        at = methods[name][x]["mean"], methods[name][y]["mean"]
        right = axes.transAxes.inverted().transform(axes.transData.transform(at))[0] > 0.6
        axes.annotate(
            name,
            at,
            xytext=(-6 if right else 6, 4),
            textcoords="offset points",
            ha="right" if right else "left",
            color=INK,
            fontsize=8,
            parse_math=False,
        )
    return _svg(figure, axes)


def _color(place: int) -> Any:
    return colormaps["tab10"](place % 10)


def _svg(figure: Figure, axes: Axes) -> str:
    axes.tick_params(colors=INK, which="both", labelsize=8)
    for part in (axes.xaxis.label, axes.yaxis.label):
        part.set_color(INK)
    for spine in axes.spines.values():
        spine.set_color(INK)
    axes.grid(alpha=0.2)
    axes.patch.set_visible(False)
    text = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}), catch_warnings():
        filterwarnings("ignore", "Glyph .* missing from")  # of another script
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(text, format="svg", transparent=True, bbox_inches="tight", metadata=metadata)
    svg = text.getvalue()
    svg = re.sub(r"font-family: [^;]*; ", "", svg[svg.index("<svg") :]).replace(INK, "currentColor")
    # A tenth of a point is fine enough, and halves the size.
    svg = re.sub(r' d="[^"]*"', lambda path: _FINE.sub(r"\1", path[0]), svg)
    return re.sub(r">\s+<", "><", svg)
