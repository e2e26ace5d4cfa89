"""Cost of SLOC and RISE at 224 px: own overhead per mask, whole run over its floor, SLOC's solver.

CPU time of one thread, contenders interleaved in rounds, medians. But for the whole runs, the
classifiers cost next to nothing: one answers 0, the other how much of an object it sees. The floor
of a run is the number of its forward passes times one pass in full batches, both in the memory
layout that the run uses and in the faster one. The factors of a mask set, which SLOC makes once for
all images, are not part of its run.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from timing import interleaved, medians

from explainers import Explanandum
from explainers.methods.rise import RISE
from explainers.methods.sloc import SLOC
from explainers.optimization import completeness
from explainers.optimization.completeness import Factors

SIZE, MASKS, BATCH = 224, 1000, 16
FIRST = torch.zeros(1, 1, dtype=torch.int64)


class Free(Explanandum):
    """Constant logits, without the normalisation that is the classifier's cost."""

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> zeros (B, 2)."""
        return images.new_zeros(len(images), 2)


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


def plain(model: nn.Module, kind: type[Explanandum] = Explanandum) -> Explanandum:
    """The classifier of images in [0, 1] as they are."""
    return kind(model, mean=[0.0] * 3, std=[1.0] * 3)


def overhead(rounds: int, images: int) -> None:
    """Milliseconds a masked image with a classifier that costs nothing: masks and their images."""
    generator = torch.Generator().manual_seed(0)
    pictures = torch.rand(images, 3, SIZE, SIZE, generator=generator)

    def run(channels_last: bool) -> None:
        method = SLOC(
            plain(Seen(), Free),
            MASKS,
            patches={"probability": 0.5},
            batch_size=BATCH,
            channels_last=channels_last,
        )
        method.measure_responses(pictures, FIRST.expand(images, 1))

    def rise(batch: int, channels_last: bool = False) -> None:
        method = RISE(plain(Seen(), Free), MASKS, batch_size=batch, channels_last=channels_last)
        method.class_maps(pictures, FIRST.expand(images, 1))

    seconds = medians(
        rounds,
        sloc_channels_last=partial(run, True),
        sloc_contiguous=partial(run, False),
        rise=partial(rise, BATCH),
        rise_batch_64=partial(rise, 64),
        rise_channels_last=partial(rise, BATCH, True),
    )
    shown = {name: f"{1000 * s / (MASKS * images):.3f}" for name, s in seconds.items()}
    print(f"own overhead, {MASKS} masks x {images} images, ms per masked image: {shown}")


def over_floor(rounds: int, masks: int) -> None:
    """Whole runs on ResNet18, solver and all, over the forward passes they ask for."""
    explanandum, picture = Explanandum("resnet18"), torch.rand(1, 3, SIZE, SIZE)
    forms = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
    layouts = {
        name: torch.rand(BATCH, 3, SIZE, SIZE).to(memory_format=f) for name, f in forms.items()
    }

    @torch.no_grad()
    def bare(images: Tensor, passes: int = 4) -> None:
        for _ in range(passes):
            explanandum(images)

    rise = RISE(explanandum, masks, batch_size=BATCH, channels_last=True)
    sloc = SLOC(explanandum, masks, {"probability": 0.5}, batch_size=BATCH)
    # Each: the run, its forward passes, and the layout of its batches.
    runs = {"RISE": (rise, masks, "channels_last"), "SLOC": (sloc, masks + 2, "channels_last")}
    seconds = interleaved(
        rounds,
        **{name: partial(bare, images) for name, images in layouts.items()},
        **{name: partial(run.class_maps, picture, FIRST) for name, (run, _, _) in runs.items()},
    )
    each = {name: [s / (4 * BATCH) for s in seconds[name]] for name in layouts}
    print("; ".join(f"{n} {1000 * statistics.median(e):.1f} ms a pass" for n, e in each.items()))
    fastest = min(each, key=lambda name: statistics.median(each[name]))
    for name, (_, passes, layout) in runs.items():
        same, best = (
            [run / (passes * one) for run, one in zip(seconds[name], each[floor], strict=True)]
            for floor in (layout, fastest)
        )
        print(
            f"{name}, {masks} masks, {passes} passes of ResNet18: run / floor "
            f"{statistics.median(same):.3f} in its layout, {layout} "
            f"(rounds {', '.join(f'{r:.3f}' for r in same)}), "
            f"{statistics.median(best):.3f} in the faster one, {fastest}"
        )


def forwards(images: int) -> None:
    """Forward passes with the choice of the keep probability, against the formula."""
    explanandum, passes = plain(Seen(), Free), []
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
    parser.add_argument("--masks", type=int, default=200, help="of the whole runs")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    forwards(2)
    for images in (1, arguments.images):
        overhead(arguments.rounds, images)
    solve(arguments.rounds, arguments.images)
    over_floor(arguments.rounds, arguments.masks)


if __name__ == "__main__":
    main()
