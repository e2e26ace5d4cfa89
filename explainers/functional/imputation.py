"""Linear imputation: missing pixels that are as their neighbors, from one linear system."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

# Half of the neighbors, by rows and columns, and their weights; the other half mirrors them.
NEIGHBORS = (((0, 1), 1 / 6), ((1, 0), 1 / 6), ((1, 1), 1 / 12), ((1, -1), 1 / 12))


def impute(images: Tensor, masks: Tensor, mean: Tensor) -> Tensor:
    """Images (B, 3, H, W) whose missing pixels are the weighted mean of their neighbors.

    A direct neighbor weighs 1/6 and a diagonal one 1/12. Neighbors outside the image do not count.
    As missing pixels also have missing neighbors, this is a sparse linear system, which is solved
    exactly in float64 on the CPU. Kept pixels stay as they are.

    Source: Rong et al., "A Consistent and Efficient Evaluation Strategy for Attribution Methods"
    (ROAD), ICML 2022, section 4.2, without the noise.

    Args:
        images: Images in [0, 1]. Their missing pixels are not read.
        masks: Keep masks (B, H, W). Pixels of at least 0.5 are kept, the others are missing.
        mean: Color (1, 3, 1, 1) of images that keep no pixel, for which there is no mean.
    """
    filled = [
        mean.to(image)[0].expand_as(image) if not kept.any() else _solved(image, kept)
        for image, kept in zip(images, masks >= 0.5, strict=True)
    ]
    return torch.stack(filled) if filled else images.clone()


def _solved(image: Tensor, kept: Tensor) -> Tensor:
    if kept.all():
        return image
    missing = ~kept.cpu().numpy()
    colors = np.where(missing, 0.0, image.detach().cpu().double().numpy())
    colors[:, missing] = _solve(colors.transpose(1, 2, 0), missing).T
    return image.where(kept, torch.from_numpy(colors).to(image))


def _solve(colors: NDArray[np.float64], missing: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Colors (n, 3) of the n missing pixels of an image (H, W, 3)."""
    from scipy import sparse
    from scipy.sparse.linalg import splu

    count = int(missing.sum())
    numbers = np.full(missing.shape, -1, dtype=np.int32)
    numbers[missing] = np.arange(count)
    total, known = np.zeros(count), np.zeros((count, 3))
    entries = []
    for (down, right), weight in NEIGHBORS:
        here, there = _shifted(numbers, down, right)
        values, others = _shifted(colors, down, right)
        for own, other, value in ((here, there, others), (there, here, values)):
            inside = own >= 0
            total[own[inside]] += weight  # once for each pixel
            given = inside & (other < 0)
            known[own[given]] += weight * value[given]
            both = inside & (other >= 0)
            entries.append((own[both], other[both], np.full(both.sum(), -weight)))
    rows, columns, weights = (np.concatenate(part) for part in zip(*entries, strict=True))
    others = sparse.csc_matrix((weights, (rows, columns)), (count, count))
    solver = splu(
        (others + sparse.diags(total)).tocsc(),
        permc_spec="MMD_AT_PLUS_A",
        diag_pivot_thresh=0.0,  # the matrix is symmetric and diagonally dominant
        options={"SymmetricMode": True},
    )
    solution: NDArray[np.float64] = solver.solve(known)
    return solution


def _shifted(plane: NDArray[Any], down: int, right: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Pixels of a plane (H, W, ...), and their neighbors `down` and `right` of them."""
    height, width = plane.shape[:2]
    left, end = max(0, -right), width - max(0, right)
    here = plane[: height - down, left:end]
    return here, plane[down:, left + right : end + right]
