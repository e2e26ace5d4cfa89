"""Error of the predicted Shapley values on a planted 3 x 3 grid, against the steps of training.

The planted classifier reads the brightness of nine tiles. Its classes need several tiles together,
or any of some, so that the values of a tile depend on the others. The exact values come from all
512 subsets. The error is the distance of the values of a class from the exact ones, relative to
that of equal values, which an untrained network gives: its mean over classes and new images.
KernelSHAP is shown beside it, with its forward passes for each image.

It takes less than a minute of one busy core.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))

from explainers import Explanandum
from explainers.methods.shapley import ShapleyExplainer
from explainers.optimizers import warmup_cosine
from explainers.perturbation.coalitions import coalitions, shapley

SIDE, GRID = 24, 3
CELLS = GRID * GRID


class Tiles(nn.Module):
    """Logits of four classes from the brightness of 3 x 3 tiles, with interactions of tiles."""

    num_classes = 4

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.ModuleList([nn.AvgPool2d(4), nn.AvgPool2d(2)])

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, 4) of images (B, 3, 24, 24)."""
        for stage in self.stages:
            images = stage(images)
        x = images.mean(dim=1).flatten(1)  # (B, 9)
        together = 6 * x[:, 0] * x[:, 4] * x[:, 8]
        either = 3 * x[:, 2:4].amax(dim=1)
        against = 3 * x[:, 6] - 2 * x[:, 7] * x[:, 1]
        return torch.stack([together, either, against, 2 * x[:, 5]], dim=1)


def classifier() -> Explanandum:
    """The planted classifier, frozen."""
    return Explanandum(
        Tiles(),
        mean=[0.0] * 3,
        std=[1.0] * 3,
        input_size=[SIDE, SIDE],
        feature_layers=["stages.0", "stages.1"],
    )


def scenes(count: int, seed: int) -> Tensor:
    """Images (count, 3, 24, 24) of tiles of random brightness, with noise."""
    generator = torch.Generator().manual_seed(seed)
    tiles = torch.rand(count, 1, GRID, GRID, generator=generator)
    noise = 0.1 * torch.rand(count, 3, SIDE, SIDE, generator=generator)
    return 0.9 * F.interpolate(tiles, scale_factor=SIDE // GRID) + noise


@torch.no_grad()
def solved(method: ShapleyExplainer, images: Tensor, samples: int = 2**CELLS) -> Tensor:
    """Shapley values (B, K, d) by KernelSHAP with at most `samples` coalitions; all are exact."""
    found = []
    for seed, image in enumerate(images):
        generator = torch.Generator().manual_seed(seed)
        kept, weights, _ = coalitions(method.players, samples, generator)
        responses = method.responses(image[None], kept[None])[0].double()
        found.append(shapley(kept.double(), responses, weights).mT.to(image))
    return torch.stack(found)


def relative_error(values: Tensor, exact: Tensor) -> float:
    """Mean distance (B, K, d) -> scalar of values from the exact ones, over that of equal ones."""
    equal = exact.mean(dim=2, keepdim=True)
    distances, start = (values - exact).norm(dim=2), (equal - exact).norm(dim=2)
    return float((distances / start).mean())


def training(
    method: ShapleyExplainer, steps: int, batch: int = 32, lr: float = 3e-3
) -> Iterator[int]:
    """Trains a method on new scenes in each step, and yields the number of steps after each."""
    optimizer = torch.optim.AdamW(method.network.parameters(), lr=lr, weight_decay=1e-5)
    yield 0
    for step in range(steps):
        method.train()
        optimizer.param_groups[0]["lr"] = lr * warmup_cosine(step, steps)
        generator = torch.Generator().manual_seed(step)
        loss = method.loss_terms({"image": scenes(batch, 1000 + step)}, generator)["shapley"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        yield step + 1


@torch.no_grad()
def predicted(method: ShapleyExplainer, images: Tensor) -> Tensor:
    """Values (B, K, d) that a method predicts."""
    return method.eval().shapley_values(images)[0]


def main() -> None:
    """Print the errors."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1600)
    parser.add_argument("--samples", type=int, default=4, help="coalitions per image and step")
    parser.add_argument("--images", type=int, default=32, help="images of the test")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    method = ShapleyExplainer(classifier(), grid=GRID, samples=arguments.samples)
    images = scenes(arguments.images, seed=0)
    exact = solved(method, images)
    for samples in (16, 32, 64, 128, 256):
        error = relative_error(solved(method, images, samples), exact)
        print(f"KernelSHAP, {samples:3} forward passes an image: error {error:.3f}")
    shown = {arguments.steps * part // 32 for part in (0, 1, 2, 4, 8, 16, 24, 32)}
    start = time.process_time()
    for step in training(method, arguments.steps):
        if step in shown:
            values = predicted(method, images)
            change = method.to_responses(method.explanandum(images)) - method.empty(images)
            gap = float((values.sum(dim=2) - change).abs().max())
            print(
                f"{step:5} steps, {time.process_time() - start:3.0f} CPU seconds: "
                f"error {relative_error(values, exact):.3f}, largest efficiency gap {gap:.0e}"
            )


if __name__ == "__main__":
    main()
