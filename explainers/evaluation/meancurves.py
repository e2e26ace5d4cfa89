"""Curves of single maps and their means, along the share of the most relevant pixels."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from explainers.mapstore import Curves, Entry

POINTS = 25  # of a curve as it is shown
# Columns of curves along which the most relevant pixels are removed, and those in which they
# appear. INS removes the least relevant ones, so it is read from its end.
CURVES = {"remove": ("DeletionAUC", "DEL"), "insert": ("InsertionAUC", "INS")}
REVERSED = ("INS",)
GRID = np.linspace(0, 1, POINTS)

Array = NDArray[np.float64]


class MeanCurves:
    """Mean curves of methods over images, collected one image after another."""

    def __init__(self) -> None:
        self._found: dict[str, dict[str, list[Array]]] = {}

    def add(self, entry: Entry) -> None:
        """Adds the curves of an image; those of several targets count as their mean."""
        own: dict[tuple[str, str], list[Array]] = {}
        for (method, _), curves in entry.curves.items():
            for name in (each for names in CURVES.values() for each in names):
                if (found := heights(curves, name)) is not None:
                    own.setdefault((name, method), []).append(found)
        for (name, method), lines in own.items():
            of_all = self._found.setdefault(name, {}).setdefault(method, [])
            of_all.append(np.mean(lines, axis=0))

    def bands(self, name: str, methods: Sequence[str]) -> dict[str, tuple[Array, Array, int]]:
        """Mean, half of its 95 % interval (1.96 standard errors), and number of images, by method.

        Args:
            name: Column of the curve.
            methods: Names of the methods; those without curves are left out.
        """
        bands = {}
        for method in methods:
            if lines := self._found.get(name, {}).get(method):
                table = np.stack(lines)
                spread = table.std(axis=0, ddof=1) if len(lines) > 1 else np.zeros(POINTS)
                bands[method] = table.mean(axis=0), 1.96 * spread / len(lines) ** 0.5, len(lines)
        return bands


def heights(curves: Curves, name: str) -> Array | None:
    """Heights at `GRID`, the share of the most relevant pixels that is removed or shown."""
    if name not in curves:
        return None
    x, y = curves[name].astype(np.float64)
    known = np.isfinite(y)
    if not known.any():
        return None
    x, y = x[known], y[known]
    if name in REVERSED:
        x, y = 1 - x[::-1], y[::-1]
    at_grid: Array = np.interp(GRID, x, y)
    return at_grid


def line(curves: Curves, names: Sequence[str]) -> str:
    """Points of the first of some curves in a picture of 100 x 40, in the form of SVG."""
    for name in names:
        if (found := heights(curves, name)) is not None:
            shown = zip(100 * GRID, 39 - 38 * found.clip(0, 1), strict=True)
            return " ".join(f"{x:.4g},{y:.2f}" for x, y in shown)
    return ""
