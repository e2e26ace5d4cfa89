"""Perturbed images on their way to the classifier, in full batches, and its answers."""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from explainers.explanandum import Explanandum


class ResponseTable:
    """What the classifier said about each image (row) in each state (column)."""

    def __init__(self, explanandum: Explanandum, classes: Tensor, columns: int) -> None:
        self.explanandum, self.classes = explanandum, classes
        shape = (len(classes), columns)
        self.probability = torch.full(shape, torch.nan, device=classes.device)
        self.logit = torch.full(shape, torch.nan, device=classes.device)
        self.top = torch.zeros(shape, dtype=torch.int64, device=classes.device)

    def record(self, images: Tensor, cells: list[tuple[int, int]]) -> None:
        """Show images (n, 3, H, W) to the classifier and write the answers into `cells`."""
        logits = self.explanandum(images)
        rows, columns = torch.tensor(cells, device=logits.device).unbind(1)
        followed = self.classes[rows].unsqueeze(1)
        probabilities = self.explanandum.to_probabilities(logits)
        self.probability[rows, columns] = probabilities.gather(1, followed)[:, 0].float()
        self.logit[rows, columns] = logits.gather(1, followed)[:, 0].float()
        self.top[rows, columns] = logits.argmax(dim=1)


class Queue:
    """Collects perturbed images in one buffer and hands full batches to the table.

    Pixels are (H W, C) in the channels_last layout and (C, H W) otherwise, so that a step is one
    indexed copy of its few pixels and an image enters the batch by one plain copy.
    """

    def __init__(
        self,
        table: ResponseTable,
        images: Tensor,
        batch_size: int,
        channels_last: bool,
        inpaint: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> None:
        self.table, self.inpaint, self.last = table, inpaint, channels_last
        channels, self.shape = 3 if inpaint is None else 4, images.shape[2:]
        plane = (channels, self.shape.numel())
        self.buffer = images.new_empty(batch_size, *(plane[::-1] if channels_last else plane))
        self.cells: list[tuple[int, int]] = []

    def pixels(self, image: Tensor, keep: float) -> Tensor:
        """A copy of an image, broadcastable to (3, H, W); inpainted ones carry the keep mask."""
        planes = image.expand(3, *self.shape).flatten(1)
        if self.inpaint is not None:
            planes = torch.cat([planes, torch.full_like(planes[:1], keep)])
        planes = planes.mT if self.last else planes
        return planes.clone(memory_format=torch.contiguous_format)

    def replace(
        self, pixels: Tensor, filled: Tensor, path: Tensor, stops: Iterable[int]
    ) -> Iterator[int]:
        """Overwrite `pixels` along `path`, pausing where so many pixels are replaced."""
        dim, done = 0 if self.last else 1, 0
        for stop in stops:
            step = path[done:stop]
            pixels.index_copy_(dim, step, filled.index_select(dim, step))
            yield (done := stop)

    def push(self, pixels: Tensor, row: int, column: int) -> None:
        """Copy a perturbed image into the batch."""
        self.buffer[len(self.cells)].copy_(pixels)
        self.cells.append((row, column))
        if len(self.cells) == len(self.buffer):
            self.flush()

    def flush(self) -> None:
        """Show what has been collected."""
        if not self.cells:
            return
        planes = self.buffer[: len(self.cells)]
        planes = planes.mT if self.last else planes
        images = planes.view(*planes.shape[:2], *self.shape)
        if self.inpaint is not None:
            images = self.inpaint(images[:, :3], images[:, 3])
        self.table.record(images, self.cells)
        self.cells = []
