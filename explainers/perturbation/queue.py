"""A queue that collects perturbed images into full batches, and a table of the responses."""

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from explainers.explanandum import Explanandum, representations


class ResponseTable:
    """Responses of the classifier to each image (row) in each state (column).

    Args:
        explanandum: The classifier.
        classes: Class to follow in each image, (B,) int64.
        columns: Number of states.
        layer: Layer whose similarity to that of the whole image takes the place of the probability,
            see `representations.representation`. None follows the class.
        wholes: Representations (B, C) of the whole images, with a layer.
    """

    def __init__(
        self,
        explanandum: Explanandum,
        classes: Tensor,
        columns: int,
        layer: int | str | None = None,
        wholes: Tensor | None = None,
    ) -> None:
        self.explanandum, self.classes = explanandum, classes
        self.layer, self.wholes = layer, wholes
        shape = (len(classes), columns)
        self.probability = torch.full(shape, torch.nan, device=classes.device)
        self.logit = torch.full(shape, torch.nan, device=classes.device)
        self.top = torch.zeros(shape, dtype=torch.int64, device=classes.device)

    def record(self, images: Tensor, cells: list[tuple[int, int]]) -> None:
        """Runs the classifier on images (n, 3, H, W) and writes its responses into `cells`."""
        if self.layer is not None and self.wholes is not None:
            rows, columns = torch.tensor(cells, device=images.device).unbind(1)
            found = representations.representation(self.explanandum, images, self.layer)
            alike = representations.similarity(found, self.wholes[rows])
            self.probability[rows, columns] = alike.float()
            return
        logits = self.explanandum(images)
        # An output that is not finite says nothing of any class.
        logits = logits.where(logits.isfinite().all(dim=1, keepdim=True), torch.nan)
        rows, columns = torch.tensor(cells, device=logits.device).unbind(1)
        followed = self.classes[rows].unsqueeze(1)
        probabilities = self.explanandum.to_probabilities(logits)
        self.probability[rows, columns] = probabilities.gather(1, followed)[:, 0].float()
        self.logit[rows, columns] = logits.gather(1, followed)[:, 0].float()
        self.top[rows, columns] = logits.argmax(dim=1)


class Queue:
    """Collects perturbed images in one buffer and passes full batches to the table.

    Pixels are stored as (H W, C) with `channels_last`, and as (C, H W) otherwise. A step then
    copies only the pixels that it replaces, by their index, and an image enters the batch by one
    contiguous copy.

    Args:
        table: Table that receives the responses.
        images: Images (B, 3, H, W), which determine the size, type and device of the buffer.
        batch_size: Number of images in a full batch.
        channels_last: Whether the batches use the channels-last memory layout.
        inpaint: Function of `Inpainted` that completes the images of a batch, if any. The buffer
            then has a fourth channel, the keep mask.
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
        """Copy of an image broadcastable to (3, H, W), with a keep mask of `keep` if inpainted."""
        planes = image.expand(3, *self.shape).flatten(1)
        if self.inpaint is not None:
            planes = torch.cat([planes, torch.full_like(planes[:1], keep)])
        planes = planes.mT if self.last else planes
        return planes.clone(memory_format=torch.contiguous_format)

    def replace(
        self, pixels: Tensor, filled: Tensor, path: Tensor, stops: Iterable[int]
    ) -> Iterator[int]:
        """Overwrites `pixels` by `filled` along `path`, and yields after each number in `stops`."""
        dim, done = 0 if self.last else 1, 0
        for stop in stops:
            step = path[done:stop]
            pixels.index_copy_(dim, step, filled.index_select(dim, step))
            yield (done := stop)

    def push(self, pixels: Tensor, row: int, column: int) -> None:
        """Copies a perturbed image into the batch, and flushes the batch if it is full."""
        self.buffer[len(self.cells)].copy_(pixels)
        self.cells.append((row, column))
        if len(self.cells) == len(self.buffer):
            self.flush()

    def flush(self) -> None:
        """Runs the classifier on the images collected so far."""
        if not self.cells:
            return
        planes = self.buffer[: len(self.cells)]
        planes = planes.mT if self.last else planes
        images = planes.view(*planes.shape[:2], *self.shape)
        if self.inpaint is not None:
            images = self.inpaint(images[:, :3], images[:, 3])
        self.table.record(images, self.cells)
        self.cells = []
