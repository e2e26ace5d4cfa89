"""Cost of a step of every mask optimiser at 224 px: its own, and over the passes it asks for.

CPU time of one thread, contenders interleaved in rounds, medians. The classifier of a method's own
cost costs next to nothing, forward and backward, and is not normalised. A step's cost is the
difference between a long and a short run by the steps between them, so that fills, first masks and
the final map do not count. The floor of a step is what no step can do without: the forward and
backward passes of ResNet18, down to the input (for IBA to its layer), for as many images as the
step showed the free classifier, in the faster memory layout of the same run.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from timing import medians

from explainers import Explanandum
from explainers.base import Explainer
from explainers.methods.extremal import ExtremalPerturbation
from explainers.methods.fido import FIDO
from explainers.methods.iba import IBA
from explainers.methods.igos import IGOSPlusPlus
from explainers.methods.masking_explanation import MaskingExplanation
from explainers.methods.mp import MP
from explainers.methods.mp2 import MP2

SIZE, PAIRS, BATCH = 224, 8, 8
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


class Glance(torch.autograd.Function):
    """Means (B,) of a few places of (B, C, H, W), with the gradient of the mean of them all."""

    @staticmethod
    def forward(ctx: Any, features: Tensor) -> Tensor:
        """Every 32nd row and column."""
        ctx.shape = features.shape
        few: Tensor = features[..., 16::32, 16::32]
        return few.mean(dim=(1, 2, 3))

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """One number an image, which takes no memory."""
        share = gradients[0] / ctx.shape[1:].numel()
        gradient: Tensor = share[:, None, None, None].expand(ctx.shape)
        return gradient


class Stride8(nn.Module):
    """Features of the shape of ResNet18's layer2, without any memory of their own."""

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> (B, 128, H / 8, W / 8)."""
        return images[:, :1, ::8, ::8].expand(-1, 128, -1, -1)


class Bright(nn.Module):
    """Class 0 where the mean of its layer's features is above 1/2."""

    num_classes = 2

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> logits (B, 2)."""
        mean: Tensor = Glance.apply(self.layer(images))
        return torch.stack([10 * (mean - 0.5), torch.zeros_like(mean)], dim=1)


class Free(Explanandum):
    """Costs next to nothing, without the normalisation; counts what it is shown.

    Args:
        layer: What the classifier takes the mean of.

    Attributes:
        shown: Images so far, by whether their gradient can be asked for.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__(Bright(layer), mean=[0.5] * 3, std=[0.25] * 3)
        self.shown: Counter[bool] = Counter()

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> logits (B, 2)."""
        logits: Tensor = self.model(images)
        self.shown[logits.requires_grad] += len(images)
        return logits


def iba(free: Free, steps: int, pairs: int) -> IBA:
    """With statistics of the free classifier's features."""
    method = IBA(free, "layer", steps=steps, pairs=pairs)
    method.estimate(torch.rand(4, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1)))
    return method


class Contender(NamedTuple):
    """A method, and how many steps its short and long runs of several pairs take.

    Attributes:
        make: From a classifier, steps and pairs side by side.
        short: Steps.
        long: Steps.
    """

    make: Callable[[Free, int, int], Explainer]
    short: int
    long: int


METHODS = {
    "MP": Contender(lambda free, steps, pairs: MP(free, steps=steps, pairs=pairs), 4, 36),
    # Its steps follow from the places it removes at each, of 28 * 28.
    "MP2": Contender(
        lambda free, steps, pairs: MP2(free, pixels=784 // steps, chance=0.0, pairs=pairs), 4, 28
    ),
    "MaskingExplanation": Contender(
        lambda free, steps, pairs: MaskingExplanation(free, steps=steps, pairs=pairs), 4, 24
    ),
    "ExtremalPerturbation": Contender(
        lambda free, steps, pairs: ExtremalPerturbation(free, steps=steps, pairs=pairs), 1, 3
    ),
    "IGOSPlusPlus": Contender(
        lambda free, steps, pairs: IGOSPlusPlus(free, steps=steps, pairs=pairs), 1, 2
    ),
    "FIDO": Contender(lambda free, steps, pairs: FIDO(free, steps=steps, pairs=pairs), 1, 7),
    "IBA": Contender(iba, 1, 5),
}


class Run:
    """A call of a method with the free classifier, for images of one class each."""

    def __init__(self, name: str, steps: int, pairs: int) -> None:
        self.free = Free(Stride8() if name == "IBA" else nn.Identity())
        self.method: Any = METHODS[name].make(self.free, steps, pairs)
        self.images = torch.rand(pairs, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
        self.calls = 0
        self.free.shown.clear()  # what the statistics of IBA were made of

    def __call__(self) -> None:
        """Explain."""
        self.calls += 1
        self.method.class_maps(self.images, torch.zeros(len(self.images), 1, dtype=torch.int64))

    def shown(self, with_gradient: bool) -> float:
        """Images a call shows the classifier."""
        return self.free.shown[with_gradient] / self.calls


def passes(explanandum: Explanandum, images: Tensor, layer: str | None, backward: bool) -> None:
    """A forward pass, and a backward pass to the images or to what the layer gave."""
    if not backward:
        with torch.no_grad():
            explanandum(images)
    elif layer is None:
        torch.autograd.grad(explanandum(images).sum(), images)
    else:
        leaves: list[Tensor] = []

        def cut(_: nn.Module, __: Any, output: Tensor) -> Tensor:
            leaves.append(output.detach().requires_grad_())
            return leaves[0]

        hook = explanandum.model.get_submodule(layer).register_forward_hook(cut)
        torch.autograd.grad(explanandum(images.detach()).sum(), leaves)
        hook.remove()


def floors(model: str) -> dict[str, Callable[[], None]]:
    """Passes of a real classifier, by kind, images a batch and layout."""
    explanandum = Explanandum(model)
    contenders: dict[str, Callable[[], None]] = {}
    for batch in (1, BATCH):
        for layout, form in LAYOUTS.items():
            images = torch.rand(batch, 3, SIZE, SIZE).to(memory_format=form).requires_grad_()
            for kind, layer, backward in (
                ("forward", None, False),
                ("both", None, True),
                ("tail", IBA(explanandum).layer, True),
            ):
                run = partial(passes, explanandum, images, layer, backward)
                contenders[f"{kind} {batch} {layout}"] = run
    return contenders


def table(seconds: dict[str, float], runs: dict[str, tuple[Run, Run]]) -> None:
    """Print the floors and a line for each method and number of pairs."""
    print("ResNet18, ms an image: forward; forward and backward; backward to layer2 only")
    each: dict[tuple[str, int], float] = {}
    for batch in (1, BATCH):
        for layout in LAYOUTS:
            costs = [seconds[f"{k} {batch} {layout}"] / batch for k in ("forward", "both", "tail")]
            shown = "  ".join(f"{1000 * cost:6.1f}" for cost in costs)
            print(f"  batch {batch}, {layout:<13} {shown}")
        for kind in ("forward", "both", "tail"):
            costs = [seconds[f"{kind} {batch} {layout}"] / batch for layout in LAYOUTS]
            each[kind, batch] = min(costs)
    print("a step:                      images, with     own ms a   floor ms a")
    print("method               pairs    backward too   step, pair   step, pair   own / floor")
    for title, (short, long) in runs.items():
        name, pairs = title.split()
        steps = long.method.steps - short.method.steps
        own = (seconds[f"long {title}"] - seconds[f"short {title}"]) / steps
        plain, full = ((long.shown(g) - short.shown(g)) / steps for g in (False, True))
        batch = 1 if plain + full == 1 else BATCH  # an image costs the same from 4 on
        kind = "tail" if name == "IBA" else "both"
        floor = plain * each["forward", batch] + full * each[kind, batch]
        print(
            f"{name:<20} {pairs:>5}   {plain + full:6.0f} {full:6.0f}   "
            f"{1000 * own / int(pairs):10.2f}   {1000 * floor / int(pairs):10.0f}   "
            f"{own / floor:11.3f}"
        )


def main() -> None:
    """Print every figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    runs: dict[str, tuple[Run, Run]] = {}
    for name in arguments.methods:
        _, short, long = METHODS[name]
        for pairs, more in ((1, PAIRS), (PAIRS, 1)):  # as many images in all
            last = short + more * (long - short)
            runs[f"{name} {pairs}"] = Run(name, short, pairs), Run(name, last, pairs)
    contenders: dict[str, Callable[[], None]] = floors("resnet18")
    for title, (quick, slow) in runs.items():
        contenders |= {f"short {title}": quick, f"long {title}": slow}
    table(medians(arguments.rounds, **contenders), runs)


if __name__ == "__main__":
    main()
