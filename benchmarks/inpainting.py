"""Fidelity and cost of inpainters on photographs: PSNR and SSIM inside holes, CPU seconds.

    python benchmarks/inpainting.py FOLDER --checkpoint runs/inpainter/last.ckpt

Each photograph is completed once, with a random hole of one of the kinds that inpainters are
trained with, in turn. The mean color and every fill without weights that is installed come first.
"""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from datamodules.folder import ImageFolder
from explainers.functional import fills, reconstruction
from explainers.functional.holes import KINDS
from explainers.inpainter import Inpainter

Complete = Callable[[Tensor, Tensor], Tensor]
BATCH = 8


def photographs(folder: str, size: int, count: int | None) -> Tensor:
    """Photographs (N, 3, size, size) of a folder and its subfolders, cropped in the middle."""
    data = ImageFolder(
        folder,
        labelled=False,
        image_size=[size, size],
        resize="crop",
        interpolation="bicubic",
        limit=count,
        num_workers=0,
        batch_size=BATCH,
    )
    data.setup("predict")
    return torch.cat([batch["image"] for batch in data.predict_dataloader()])


def masks_of(images: Tensor, seed: int) -> Tensor:
    """A keep mask (N, H, W) for each image: hole i is of kind i modulo the number of kinds."""
    size, generator = (images.shape[-2], images.shape[-1]), torch.Generator().manual_seed(seed)
    found = [KINDS[i % len(KINDS)](size, generator) for i in range(len(images))]
    return torch.stack(found).logical_not().float()


def contenders(checkpoints: list[str]) -> dict[str, Complete]:
    """Functions of images and masks by name, those whose library is installed."""
    mean = torch.full((1, 3, 1, 1), 0.45)  # about that of photographs

    def named(name: str) -> Complete:
        def complete(images: Tensor, masks: Tensor) -> Tensor:
            generator = torch.Generator().manual_seed(0)
            return fills.fill(name, images, mean, generator=generator, masks=masks)

        return complete

    found, trial = {}, torch.rand(1, 3, 16, 16)
    masks = torch.ones(1, 16, 16)
    masks[:, 6:10, 6:10] = 0
    for name in ("mean", *fills.MASK_FILLS):
        try:
            named(name)(trial, masks)
        except (ImportError, ValueError) as error:
            print(f"{name}: left out, {error}", file=sys.stderr)
        else:
            found[name] = named(name)
    for path in checkpoints:
        found[path] = Inpainter.load_from_checkpoint(path).eval().inpaint
    return found


def measure(complete: Complete, images: Tensor, masks: Tensor) -> tuple[Tensor, Tensor, float]:
    """PSNR (N,) and SSIM (N,) inside the holes, and CPU seconds an image."""
    start, parts = time.process_time(), []
    for first in range(0, len(images), BATCH):
        some, kept = images[first : first + BATCH], masks[first : first + BATCH]
        filled = complete(some * kept[:, None], kept)
        parts.append(some.where(kept[:, None] > 0, filled.expand_as(some)))
    seconds = (time.process_time() - start) / len(images)
    completed = torch.cat(parts)
    psnr = reconstruction.hole_psnr(completed, images, masks)
    return psnr, reconstruction.hole_ssim(completed, images, masks), seconds


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("folder", help="folder of photographs")
    parser.add_argument("--checkpoint", action="append", default=[], help="of a learned inpainter")
    parser.add_argument("--size", type=int, default=224, help="side in pixels")
    parser.add_argument("--images", type=int, default=40, help="number of photographs")
    parser.add_argument("--seed", type=int, default=0, help="seed of the holes")
    given = parser.parse_args()
    torch.set_num_threads(1)
    try:
        images = photographs(given.folder, given.size, given.images)
        rows = contenders(given.checkpoint)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    masks = masks_of(images, given.seed)
    kinds = [kind.__name__ for kind in KINDS]
    print(f"{len(images)} photographs of {given.size} px, hole {1 - masks.mean():.0%} of the image")
    print(f"| fill | PSNR | SSIM | {' | '.join(kinds)} | CPU seconds an image |")
    print("|---|" + "---|" * (3 + len(kinds)))
    for name, complete in rows.items():
        psnr, ssim, seconds = measure(complete, images, masks)
        each = " | ".join(f"{psnr[i :: len(KINDS)].mean():.2f}" for i in range(len(KINDS)))
        shown = f"{psnr.mean():.2f} | {ssim.mean():.4f} | {each} | {seconds:.4f}"
        print(f"| {name} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
