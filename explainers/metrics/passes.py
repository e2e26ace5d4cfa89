"""What an explanation asks of the classifier."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from explainers.explanandum import Explanandum
from explainers.metrics.base import PerImageMetric


class Passes(PerImageMetric):
    """Images that the explanandum saw, and of which its answers were differentiated, an image.

    `forwards` counts what reaches the first layer, `backwards` gradients that leave the last one.
    """

    names = ("forwards", "backwards")
    needs = ("passes",)
    higher_is_better = False

    def score(self, passes: Tensor) -> dict[str, Tensor]:
        """Passes (B, 2), passed on."""
        return {"forwards": passes[:, 0], "backwards": passes[:, 1]}


@contextmanager
def counted(explanandum: Explanandum) -> Iterator[list[int]]:
    """Count the images of forward and backward passes within the block, in the list it gives."""
    counts = [0, 0]
    leaves = [m for m in explanandum.model.modules() if any(True for _ in m.parameters(False))]
    first = leaves[0] if leaves else explanandum.model

    def count(size: int, which: int) -> None:
        counts[which] += size

    def seen(_: nn.Module, __: object, output: Tensor) -> None:
        count(len(output), 0)

    def answered(_: nn.Module, __: object, output: Tensor) -> None:
        if isinstance(output, Tensor) and output.requires_grad:
            output.register_hook(  # type: ignore[no-untyped-call]
                lambda gradient: count(len(gradient), 1)
            )

    hooks = [first.register_forward_hook(seen), explanandum.model.register_forward_hook(answered)]
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()
