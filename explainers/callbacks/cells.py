"""Training on images without one cell, which makes such images familiar to a classifier."""

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from explainers.functional import seeds
from explainers.functional.regions import cell_numbers


def delete_cells(
    images: Tensor, share: float, grid: int, fill: Tensor, generator: torch.Generator
) -> Tensor:
    """Images (B, 3, H, W), of which a random cell of a grid is replaced with probability `share`.

    Args:
        images: Images in [0, 1].
        share: Probability that an image loses a cell, in [0, 1].
        grid: Number of cells in each direction.
        fill: Content of the cell, broadcastable to the images.
        generator: Random number generator on the CPU.
    """
    draws = torch.rand(len(images), 2, generator=generator)
    chosen = (draws[:, 1] * grid**2).long().clamp(max=grid**2 - 1)
    chosen = chosen.where(draws[:, 0] < share, -1)  # -1 is no cell
    removed = cell_numbers(images.shape[-2], images.shape[-1], grid) == chosen[:, None, None]
    return torch.where(removed[:, None].to(images.device), fill.to(images), images)


class DeleteCells(Callback):
    """Replaces one random cell of some training images by the classifier's mean color.

    The metric `SingleDeletion` shows such images to a classifier. One that has been trained on them
    is not disturbed by the hole itself, so that the metric compares explanations, and classifiers,
    by what the cell showed. Targets stay as they are.

    Source: Hesse, Schaub-Meyer and Roth, "Benchmarking the Attribution Quality of Vision Models"
    (IDSDS), NeurIPS 2024: a cell of a 4 x 4 grid in half of the images.

    Args:
        share: Probability that an image loses a cell.
        grid: Number of cells in each direction.
        seed: Seed of the cells. They depend on the epoch and the batch as well, so that a
            resumed fit repeats them.

    Raises:
        ValueError: If `share` is not in [0, 1] or `grid` is below 1.
    """

    def __init__(self, share: float = 0.5, grid: int = 4, seed: int = 0) -> None:
        super().__init__()
        if not 0.0 <= share <= 1.0 or grid < 1:
            raise ValueError(f"expected share in [0, 1] and grid >= 1, got {share} and {grid}")
        self.share, self.grid, self.seed = share, grid, seed

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: dict[str, Any], batch_idx: int
    ) -> None:
        """Changes the images of the batch."""
        seed = seeds.combine(self.seed, batch_idx, trainer.current_epoch, trainer.global_rank)
        generator = torch.Generator().manual_seed(seed)
        mean = pl_module.get_buffer("mean")
        batch["image"] = delete_cells(batch["image"], self.share, self.grid, mean, generator)
