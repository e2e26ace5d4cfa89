"""Cost of insertion + deletion at 224 px: own overhead, whole run over its floor, own memory.

CPU time of one thread, contenders interleaved in rounds, medians. The floor of a run is the number
of its forward passes times one pass in full batches, in the faster memory layout of the same run.
"""

import argparse
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))

from timing import interleaved

from explainers import Explanandum
from explainers.perturbation import curves
from explainers.perturbation.curves import Curve

SIZE, BATCH = 224, 16


class Free(nn.Module):
    """A classifier that costs nothing: constant logits."""

    num_classes = 2

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> zeros (B, 2)."""
        return images.new_zeros(len(images), 2)


class FreeExplanandum(Explanandum):
    """Skips the normalisation too, which is the classifier's cost and not the engine's."""

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> zeros (B, 2)."""
        logits: Tensor = self.model(images)
        return logits


def inputs(count: int, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Images, maps and one-hot targets without any meaning."""
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(count, 3, SIZE, SIZE, generator=generator)
    maps = torch.rand(count, SIZE, SIZE, generator=generator)
    return images, maps, F.one_hot(torch.zeros(count, dtype=torch.int64), classes).bool()


def insertion_deletion(explanandum: Explanandum, count: int, steps: int, last: bool) -> None:
    """One insertion from the kernel blur and one deletion to the mean: 2 steps + 1 passes each."""
    images, maps, targets = inputs(count, explanandum.num_classes)
    settings = [Curve("most", "fill", "kernel_blur", steps=steps), Curve(steps=steps)]
    curves.run(explanandum, images, maps, targets, settings, BATCH, channels_last=last)


def overhead(rounds: int) -> None:
    """Milliseconds a perturbed image with a classifier that costs nothing."""
    free = FreeExplanandum(Free())
    normalised = Explanandum(Free())
    for steps in (50, 224):
        passes = 2 * (2 * steps + 1)
        seconds = interleaved(
            rounds,
            channels_last=partial(insertion_deletion, free, 2, steps, True),
            contiguous=partial(insertion_deletion, free, 2, steps, False),
            with_normalisation=partial(insertion_deletion, normalised, 2, steps, True),
        )
        shown = {n: f"{1000 * statistics.median(s) / passes:.3f}" for n, s in seconds.items()}
        print(f"own overhead, {steps} steps x 2 images, ms per perturbed image: {shown}")


@torch.inference_mode()
def forwards(explanandum: Explanandum, images: Tensor, batches: int) -> None:
    """Plain forward passes of one batch, again and again."""
    for _ in range(batches):
        explanandum(images)


def over_floor(model: str, rounds: int, steps: int, count: int) -> None:
    """Whole run over the forward passes it asks for."""
    explanandum = Explanandum(model)
    images = torch.rand(BATCH, 3, SIZE, SIZE)
    last = images.to(memory_format=torch.channels_last)
    passes = count * (2 * steps + 1)
    seconds = interleaved(
        rounds,
        floor_contiguous=lambda: forwards(explanandum, images, 2),
        run_channels_last=lambda: insertion_deletion(explanandum, count, steps, True),
        floor_channels_last=lambda: forwards(explanandum, last, 2),
    )
    each = {n: statistics.median(seconds[n]) / (2 * BATCH) for n in seconds if "floor" in n}
    floor = min(each, key=lambda n: each[n])
    ratios = [
        run / (passes * one / (2 * BATCH))
        for run, one in zip(seconds["run_channels_last"], seconds[floor], strict=True)
    ]
    print(
        f"{model}, {steps} steps x {count} images, {passes} passes: run / floor "
        f"{statistics.median(ratios):.3f} (rounds {', '.join(f'{r:.3f}' for r in ratios)}); "
        + ", ".join(f"{n} {1000 * t:.1f} ms an image" for n, t in each.items())
    )


def resident(field: str) -> float:
    """MiB of this process: VmRSS, resident now, or VmHWM, the most since the last reset (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field)) / 1024


def memory(steps: int, count: int) -> None:
    """Peak resident memory during the run over that before it, in a process of its own."""
    free = FreeExplanandum(Free())
    insertion_deletion(free, 1, 1, True)  # what torch allocates once is not the engine's ...
    images, maps, targets = inputs(count, 2)  # ... and neither are its inputs
    settings = [Curve("most", "fill", "kernel_blur", steps=steps), Curve(steps=steps)]
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = resident("VmRSS")
    curves.run(free, images, maps, targets, settings, BATCH)
    print(f"{resident('VmHWM') - before:.1f}")


def main() -> None:
    """Print every figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="resnet18", help="timm name, random weights")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=20, help="of the whole run")
    parser.add_argument("--images", type=int, default=2, help="of the whole run")
    parser.add_argument("--memory", type=int, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.memory:
        memory(*arguments.memory)
        return
    overhead(arguments.rounds)
    for steps, count in ((224, 8), (56, 8), (224, 2)):
        command = [sys.executable, __file__, "--memory", str(steps), str(count)]
        rise = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
        print(f"own peak memory, {steps} steps x {count} images: {rise} MiB")
    over_floor(arguments.model, arguments.rounds, arguments.steps, arguments.images)


if __name__ == "__main__":
    main()
