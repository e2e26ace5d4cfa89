"""Logits of an image of which only some regions are kept, and their reuse between methods."""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

from explainers.explanandum import Explanandum
from explainers.functional import content
from explainers.functional.content import Content
from explainers.functional.fills import Inpainted
from explainers.perturbation.viewer import Viewer


class SharedLogits:
    """Logits that were computed inside `sharing`.

    Attributes:
        shown: Number of images that were shown to the classifier.
        saved: Number of forward passes saved, less two for each call, see `sharing`.
    """

    def __init__(self) -> None:
        self.shown, self.saved = 0, 0
        self._known: dict[str, dict[bytes, Tensor]] = {}
        self._explananda: dict[int, Explanandum] = {}  # kept alive, so that no id is used twice

    def look_up(
        self, name: str, explanandum: Explanandum, kept: Tensor, show: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Logits (N, K) of subsets (N, S) of an image, computed by `show` if they are not known.

        Args:
            name: Name of the image with its fill and regions.
            explanandum: The classifier.
            kept: Subsets of the regions, bool.
            show: Function from subsets to logits.
        """
        key = f"{id(explanandum)} {name}"
        self._explananda[id(explanandum)] = explanandum
        ends = torch.tensor([[True], [False]]).expand(-1, kept.shape[1])
        codes, known = _codes(kept), self._known.get(key, {})
        fresh = dict(zip(_codes(ends), show(ends), strict=True))
        if not all(code in known and torch.equal(known[code], fresh[code]) for code in fresh):
            known = fresh  # a new image, or the classifier has changed
        new = {code: row for row, code in enumerate(codes) if code not in known}
        if new:
            known.update(zip(new, show(kept[list(new.values())]), strict=True))
        self._known[key] = known
        self.shown += 2 + len(new)
        self.saved += len(kept) - 2 - len(new)
        return torch.stack([known[code] for code in codes])


_SHARED: ContextVar[SharedLogits | None] = ContextVar("_SHARED", default=None)


@contextmanager
def sharing() -> Iterator[SharedLogits]:
    """Inside this context, methods reuse the logits of the same image with the same regions kept.

    LIME and KernelSHAP take part. Rows with the same superpixels, fill, `samples` and seed show the
    same images if they differ only in the form of LIME or in the response of KernelSHAP. LIME and
    KernelSHAP draw subsets differently, but if KernelSHAP shows all subsets of few regions, LIME
    needs no others. SLOC and RISE have masks of their own and do not take part. Maps are the same
    as without reuse, up to the rounding of other batches.

    Each call first shows the whole image and the empty one. Logits are reused only if the
    classifier gives exactly the logits of the earlier call for these two, so that a classifier that
    has changed is asked again. The context keeps the logits of all images shown, 4 K bytes each for
    K classes, until it ends. Measured seconds and passes leave out what is reused.

    Yields:
        The counts of images shown and of forward passes saved.
    """
    shared = SharedLogits()
    token = _SHARED.set(shared)
    try:
        yield shared
    finally:
        _SHARED.reset(token)


def kept_logits(
    viewer: Viewer, image: Tensor, fill: Content, regions: Tensor, kept: Tensor
) -> Tensor:
    """Logits (N, K) of an image of which only some regions are kept.

    Args:
        viewer: Viewer of the classifier.
        image: Image (3, H, W) in [0, 1].
        fill: Content that replaces the other regions, (3, H, W), or an inpainter.
        regions: Region of each pixel, (H, W) int64 in 0 to S - 1.
        kept: Regions that are kept, (N, S) bool on the CPU.
    """

    def show(part: Tensor) -> Tensor:
        return torch.cat(
            [
                _logits(viewer, image, fill, some.to(image)[:, regions])
                for some in torch.split(part, viewer.batch_size)
            ]
        )

    shared = _SHARED.get()
    if shared is None:
        return show(kept)
    name = " ".join(map(_digest, (image, fill, regions)))
    return shared.look_up(name, viewer.explanandum, kept, show)


def _logits(viewer: Viewer, image: Tensor, fill: Content, keep: Tensor) -> Tensor:
    filled = content.pixels(fill, image.expand(len(keep), -1, -1, -1), keep)
    shown = viewer.copies(filled, len(keep)).addcmul_(image - filled, keep[:, None])
    viewer.bar.update(len(keep))
    return viewer.explanandum(shown)  # type: ignore[no-any-return]


def _codes(kept: Tensor) -> list[bytes]:
    return [row.tobytes() for row in kept.numpy()]


def _digest(value: Content) -> str:
    """Device, type, shape and content of a tensor, or the name of an inpainter."""
    if not isinstance(value, Tensor):
        return value.name if isinstance(value, Inpainted) else str(id(value))
    digest = hashlib.sha256(value.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
    return f"{value.device} {value.dtype} {tuple(value.shape)} {digest}"
