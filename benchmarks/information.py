"""AIC and SIC from one pass against the published package's AIC alone, per image at 224 px.

The package is PyPI's `saliency` 0.2.1, which NumPy 2.4 breaks; an alias repairs it here. Without it
only our own cost is printed. CPU time of one process, image by image in turn, and wall-clock time.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import skimage.data
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from explainers import Explanandum
from explainers.functional import smoothing
from explainers.metrics import information
from explainers.metrics.information import InformationCurves

SIZE, SUFFIXES = 224, (".jpg", ".jpeg", ".png")
HIDDEN = information.random_mask(SIZE, SIZE, 0.01, seed=0)  # the metric's


class Near(nn.Module):
    """A cheap classifier: 0 for what is nearer to a picture (3, H, W) than half its blur."""

    num_classes = 2

    def __init__(self, picture: Tensor) -> None:
        super().__init__()
        pixels = picture.mul(255).round().byte().permute(1, 2, 0).numpy()
        blurred = torch.from_numpy(information.interpolate(pixels, HIDDEN)).permute(2, 0, 1) / 255
        self.picture, self.scale = picture, (blurred - picture).abs().mean()

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> logits (B, 2)."""
        nearness = 2 - 4 * (images - self.picture).abs().mean(dim=(1, 2, 3)) / self.scale
        return torch.stack([nearness, -nearness], dim=1)


def pictures(folder: str | None, count: int) -> Tensor:
    """Pictures (count, 3, 224, 224) of a folder, or up to six photographs of scikit-image."""
    if folder is None:
        names = [f"{n}.png" for n in ("astronaut", "chelsea", "coffee", "motorcycle_left")]
        root = Path(skimage.data.__file__).parent
        paths = [root / name for name in (*names, "rocket.jpg", "retina.jpg")]
    else:
        paths = sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in SUFFIXES)
    found = []
    for path in paths[:count]:
        with Image.open(path) as picture:
            found.append(np.array(picture.convert("RGB").resize((SIZE, SIZE))))
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2) / 255


def published(picture: Tensor, map_: Tensor, explanandum: Explanandum) -> float:
    """AIC of one picture (3, H, W) by the package, with our random mask."""
    from saliency.metrics import pic

    def hit(batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits = explanandum(torch.from_numpy(batch).permute(0, 3, 1, 2) / 255)
        hits: NDArray[np.float32] = (logits.argmax(dim=1) == 0).float().numpy()
        return hits

    image = picture.mul(255).round().byte().permute(1, 2, 0).numpy()
    thresholds = list(information.THRESHOLDS)
    result = pic.compute_pic_metric(
        image, map_.numpy(), HIDDEN, hit, thresholds, 0.5, num_data_points=20
    )
    return float(result.auc)


def timed(run: Callable[[], float]) -> tuple[float, float, float]:
    """The result, CPU seconds and wall-clock seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = run()
    return result, time.process_time() - cpu, time.perf_counter() - wall


def main() -> None:
    """Print the cost an image, and whether the values agree."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", help="pictures; without it scikit-image's photographs")
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1, help="threads of ours")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    images = pictures(arguments.folder, arguments.images)
    noise = torch.rand(images.shape, generator=torch.Generator().manual_seed(1))
    maps = smoothing.blur(noise, 61, 10.0, torch.zeros(1, 3, 1, 1))[:, 0]
    judges = [Explanandum(Near(i), mean=[0.0] * 3, std=[1.0] * 3) for i in images]
    metric = InformationCurves(workers=arguments.workers)
    target = torch.tensor([[True, False]])
    try:
        import saliency.metrics  # noqa: F401

        np.trapz = np.trapezoid  # type: ignore[attr-defined]  # noqa: NPY201
        peer = True
    except ImportError:
        peer = False
        print("saliency is not installed: pip install --no-deps saliency==0.2.1 to compare")

    def ours(row: int) -> float:
        part = {"images": images[row : row + 1], "maps": maps[row : row + 1], "targets": target}
        return float(metric.measure(**part, explanandum=judges[row])["AIC"])

    rows = range(len(images))
    mine, theirs = [], []
    for row in rows:
        mine.append(timed(partial(ours, row)))
        if peer:
            theirs.append(timed(partial(published, images[row], maps[row], judges[row])))
    for name, found in (("AIC + SIC, ours", mine), ("AIC alone, published", theirs)):
        if found:
            cpu, wall = (statistics.median(f[i] for f in found) for i in (1, 2))
            print(f"{name}: {cpu:.2f} s CPU and {wall:.2f} s wall an image")
    if peer:
        for i, kind in ((1, "CPU"), (2, "wall")):
            ratios = [a[i] / b[i] for a, b in zip(mine, theirs, strict=True)]
            print(f"ratio ({kind}): {statistics.median(ratios):.2f}")
        apart = max(abs(a[0] - b[0]) for a, b in zip(mine, theirs, strict=True))
        print(f"largest difference of an AIC: {apart:.1e}")


if __name__ == "__main__":
    main()
