"""Draws docs/figures/intervals.webp: python docs/figures/intervals.py.

A linear classifier is right about an image: its label is the sign of the sum of all contributions
w_i x_i. Which labels can be shown by keeping only L of the d pixels, the others 0? Any label, if
the pixels may be chosen freely: those with the largest contributions to it have a positive sum.
If they must be one interval, which is what a total variation of at most 2 means in one dimension,
long intervals show the true label only. A penalty on the total variation thus makes masks sound.

Source: "Masking explanations", appendix F, theorem 5.1. Here, the theorem's random order of the
pixels is drawn many times, and the share of orders is counted.
"""

from pathlib import Path

import torch
from torch import Tensor

PICTURE = Path(__file__).with_suffix(".webp")
PIXELS, MARGIN = 1000, 0.25


def contributions(orders: int, pixels: int = PIXELS, margin: float = MARGIN) -> Tensor:
    """Contributions d y w_i x_i (N, d) of the pixels to the true label, with mean `margin`.

    They are the same numbers in N random orders, normal with variance 1 around the margin.
    """
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(pixels, generator=generator, dtype=torch.float64)
    values = (values - values.mean()) / values.std() + margin
    places = torch.stack([torch.randperm(pixels, generator=generator) for _ in range(orders)])
    return values[places]


def shown_by_subsets(values: Tensor, length: int) -> float:
    """Share of rows (N, d) with a positive sum over some `length` pixels."""
    return (values.topk(length, dim=1).values.sum(dim=1) > 0).double().mean().item()


def shown_by_intervals(values: Tensor, length: int) -> float:
    """Share of rows (N, d) with a positive sum over some interval of `length` pixels."""
    sums = torch.nn.functional.pad(values.cumsum(dim=1), (1, 0))
    best = (sums[:, length:] - sums[:, :-length]).amax(dim=1)
    return (best > 0).double().mean().item()


def curves(orders: int, lengths: list[int]) -> dict[str, list[float]]:
    """Shares of the orders in which a label can be shown, by the number of kept pixels."""
    true = contributions(orders)
    return {
        "true label, free pixels": [shown_by_subsets(true, each) for each in lengths],
        "true label, an interval": [shown_by_intervals(true, each) for each in lengths],
        "wrong label, free pixels": [shown_by_subsets(-true, each) for each in lengths],
        "wrong label, an interval": [shown_by_intervals(-true, each) for each in lengths],
    }


def draw(path: Path, orders: int = 500) -> None:
    """Draws the four curves."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lengths = list(range(5, 401, 5))
    figure = Figure(figsize=(7, 3.4), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    styles = (("C0", "-", 5), ("C2", "--", 2), ("C1", ":", 4), ("C3", "-", 2))
    for (name, shares), (color, line, width) in zip(
        curves(orders, lengths).items(), styles, strict=True
    ):
        axes.plot(lengths, shares, line, label=name, color=color, linewidth=width)
    axes.set_xlabel(f"pixels that are kept, of {PIXELS}")
    axes.set_ylabel("orders that can show it")
    axes.set_ylim(-0.05, 1.1)
    axes.legend(frameon=False, loc="center right")
    figure.savefig(path, pil_kwargs={"quality": 80})


if __name__ == "__main__":
    draw(PICTURE)
