"""SLOC at 224 px with 1000 masks: its forward passes against the formula, and its solvers.

CPU time of one thread, contenders interleaved in rounds, medians. The classifier costs next to
nothing: it answers how much of an object it sees. The factors of a mask set, which SLOC makes once
for all images, are not part of a run. `benchmarks/costs.py` has the cost of the whole method.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from timing import medians

from explainers import Explanandum
from explainers.methods.sloc import SLOC
from explainers.optimization import completeness
from explainers.optimization.completeness import Factors

SIZE, MASKS, BATCH = 224, 1000, 16
FIRST = torch.zeros(1, 1, dtype=torch.int64)


class Seen(nn.Module):
    """Class 0 where more than half of an object, a blurred ellipse or two, is bright."""

    num_classes = 2

    def __init__(self) -> None:
        super().__init__()
        down, across = torch.meshgrid(*2 * [torch.linspace(-1, 1, SIZE)], indexing="ij")
        first = torch.exp(-(((down - 0.1) / 0.35) ** 2) - ((across + 0.2) / 0.2) ** 2)
        second = torch.exp(-(((down + 0.4) / 0.15) ** 2) - ((across - 0.4) / 0.25) ** 2)
        self.register_buffer("object", torch.maximum(first, second))

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> logits (B, 2)."""
        weights = self.get_buffer("object")
        seen = (images.mean(dim=1) * weights).sum(dim=(1, 2)) / weights.sum()
        return torch.stack([10 * (seen - 0.5), torch.zeros_like(seen)], dim=1)


def plain(model: nn.Module) -> Explanandum:
    """The classifier of images in [0, 1] as they are."""
    return Explanandum(model, mean=[0.0] * 3, std=[1.0] * 3)


def forwards(images: int) -> None:
    """Forward passes with the choice of the keep probability, against the formula."""
    explanandum, passes = plain(Seen()), []
    explanandum.register_forward_hook(lambda _, inputs, __: passes.append(len(inputs[0])))
    pictures = torch.ones(images, 3, SIZE, SIZE)
    SLOC(explanandum).measure_responses(pictures, FIRST.expand(images, 10))
    formula = images * (1 + MASKS + 2 * 13 * 50) + 1
    print(f"forward passes, {images} images x 10 classes: {sum(passes)}, formula {formula}")


def solve(rounds: int, images: int) -> None:
    """Loss and CPU time of the solvers on the same responses of several images."""
    brightness = torch.linspace(0.7, 1.0, images)[:, None, None, None]
    method = SLOC(plain(Seen()), MASKS, {"probability": 0.5}, batch_size=BATCH)
    pictures = brightness.expand(-1, 3, SIZE, SIZE)
    whole, (part,) = method.measure_responses(pictures, FIRST.expand(images, 1))
    gap, responses = method.gap(part.sums), part.responses[:, 0]
    noise = 3 + 0.2 * torch.randn(SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    start = noise / noise.sum() * whole[:, :, None]
    lr, factors = 0.1 / (3 * SIZE**2), Factors(gap)
    best = completeness.loss(gap, completeness.admm(factors, responses, start, 200), responses)
    span = completeness.loss(gap, start, responses) - best

    runs: dict[str, Callable[[], Tensor]] = {
        f"adam_{n}": partial(completeness.adam, gap, responses, start, n, lr) for n in (501, 1000)
    }
    runs |= {
        f"admm_{n}": partial(completeness.admm, factors, responses, start, n) for n in (10, 20)
    }
    seconds = medians(rounds, setup=lambda: Factors(gap), **runs)
    print(f"{images} images, {MASKS} masks; setup once for all images {seconds['setup']:.2f} s")
    limit = completeness.loss(gap, runs["adam_1000"](), responses)
    for name, run in runs.items():
        loss = completeness.loss(gap, run(), responses)
        print(
            f"{name}: {1000 * seconds[name] / images:.1f} ms an image, "
            f"{seconds['adam_1000'] / seconds[name]:.1f} times less than adam_1000, "
            f"at most its loss on {int((loss <= limit).sum())} of {images} images, "
            f"excess over the minimum {100 * float(((loss - best) / span).max()):.4f} % of the way"
        )


def main() -> None:
    """Print every figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=4)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    forwards(2)
    solve(arguments.rounds, arguments.images)


if __name__ == "__main__":
    main()
