"""Cost of Ra-NEM at 224 px: the selection alone, and a training step over its floor.

CPU time of one thread, contenders interleaved in rounds, medians. The selection is compared with
the batched sort-and-scatter form of Algorithm 1. The floor of a step is what no step can do
without: the explanandum's features of B images, its forward and backward pass to the input for
K B masked images, and the decoder's forward and backward pass, all in float32, in the fastest
memory layout measured in the same run.

The defaults take two or three minutes of one busy core. `--batch 4 --rounds 5 --layouts
channels_last contiguous_format` is the full comparison. Last, a step's cost by its number of k.
"""

import argparse
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from timing import medians

from explainers import Explanandum
from explainers.functional.omega import gumbel, omega
from explainers.methods.ra_nem import RaNEM

SIZE, SAMPLES = 224, 6


def algorithm_1(scores: Tensor, k: Tensor, noise: Tensor) -> Tensor:
    """Masks (B, S, H, W) as the paper's listing makes them, all rows at once."""
    flat = scores.flatten(1)
    noisy = (flat - flat.logsumexp(dim=1, keepdim=True)).unsqueeze(1) + noise.flatten(2)
    ordered, indices = noisy.sort(dim=2, descending=True)
    soft = (ordered - ordered.gather(2, k.unsqueeze(2) - 1)).sigmoid()
    mask = soft - soft.detach() + (torch.arange(ordered.shape[2]) < k.unsqueeze(2))
    return torch.zeros_like(soft).scatter(2, indices, mask).view_as(noise)


def selection(rounds: int, images: int = 8) -> None:
    """Forward and backward of the selection, its noise included."""
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(images, SIZE, SIZE, generator=generator).requires_grad_()
    k = torch.randint(1, SIZE * SIZE + 1, (images, SAMPLES), generator=generator)
    upstream = torch.randn(images, SAMPLES, SIZE, SIZE, generator=generator)

    def run(select: Callable[[Tensor, Tensor, Tensor], Tensor], own: int) -> Tensor:
        noise = gumbel((images, own, SIZE, SIZE), torch.Generator().manual_seed(1))
        (gradient,) = torch.autograd.grad(select(scores, k, noise), scores, upstream)
        return gradient

    ours, theirs = run(omega, SAMPLES), run(algorithm_1, SAMPLES)
    error = float((ours - theirs).abs().max() / theirs.abs().max())
    seconds = medians(
        rounds,
        ours=partial(run, omega, SAMPLES),
        ours_shared_noise=partial(run, omega, 1),
        algorithm_1=partial(run, algorithm_1, SAMPLES),
    )
    print(
        f"omega forward + backward, {SIZE * SIZE} pixels, {images} images x {SAMPLES} k: "
        f"ours / sort and scatter {seconds['ours'] / seconds['algorithm_1']:.3f}; "
        + ", ".join(f"{name} {1000 * value:.0f} ms" for name, value in seconds.items())
        + f"; largest difference of the gradients, relative {error:.1e}"
    )


def count_passes(method: RaNEM, first: nn.Module, images: Tensor) -> str:
    """Images in each forward and backward pass of the explanandum in one step."""
    forwards: list[int] = []
    backwards: list[int] = []

    def note(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        forwards.append(len(output))
        if output.requires_grad:
            output.register_hook(lambda gradient: backwards.append(len(gradient)))

    handle = first.register_forward_hook(note)
    step(method, images, False)
    handle.remove()
    return f"explanandum's passes: forward {forwards}, backward {backwards} images"


def step(method: RaNEM, images: Tensor, half: bool) -> None:
    """One training step without the optimiser, which is not the method's."""
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        terms = method.loss_terms({"image": images}, torch.Generator().manual_seed(0))
    terms["distance"].backward()


def floor(method: RaNEM, images: Tensor, masked: Tensor) -> None:
    """The passes of networks that a step cannot do without."""
    with torch.no_grad():
        features, _ = method.explanandum.features_and_logits(images)
    method.network(features, images.shape[-2:]).sum().backward()
    torch.autograd.grad(method.explanandum(masked).sum(), masked)


def training_step(model: str, rounds: int, batch: int, layouts: list[str]) -> None:
    """A step over its floor, in float32 and in bfloat16, in some memory layouts."""
    images, masked = (torch.rand(n, 3, SIZE, SIZE) for n in (batch, SAMPLES * batch))
    contenders: dict[str, Callable[[], None]] = {}
    for layout in layouts:
        form = getattr(torch, layout)
        method = RaNEM(Explanandum(model), samples=SAMPLES).to(memory_format=form)
        shared = RaNEM(method.explanandum, samples=SAMPLES, selection={"shared_noise": True})
        shared.network = method.network
        laid, shown = images.to(memory_format=form), masked.to(memory_format=form)
        contenders |= {
            f"floor {layout}": partial(floor, method, laid, shown.requires_grad_()),
            f"step {layout}": partial(step, method, laid, False),
            f"shared_noise {layout}": partial(step, shared, laid, False),
            f"bf16 {layout}": partial(step, method, laid, True),
        }
    first = next(m for m in method.explanandum.modules() if isinstance(m, nn.Conv2d))
    print(f"{model}, {batch} images x {SAMPLES} k: {count_passes(method, first, laid)}")
    seconds = medians(rounds, **contenders)
    best = {
        name: min(seconds[f"{name} {layout}"] for layout in layouts)
        for name in ("floor", "step", "shared_noise", "bf16")
    }
    print(
        f"step / floor {best['step'] / best['floor']:.2f} in float32, "
        f"{best['shared_noise'] / best['floor']:.2f} with shared noise, "
        f"{best['bf16'] / best['floor']:.2f} in bfloat16; CPU seconds, median of {rounds}: "
        + ", ".join(f"{name} {value:.2f}" for name, value in seconds.items())
    )


def numbers_of_k(model: str, rounds: int, batch: int) -> None:
    """The same step with other numbers of k, as in the paper's table 9."""
    images = torch.rand(batch, 3, SIZE, SIZE).to(memory_format=torch.channels_last)
    explanandum = Explanandum(model)
    contenders = {
        str(samples): partial(
            step,
            RaNEM(explanandum, samples=samples).to(memory_format=torch.channels_last),
            images,
            False,
        )
        for samples in (1, 2, 4, 6, 8)
    }
    seconds = medians(rounds, **contenders)
    shown = ", ".join(f"{name} k {value / batch:.2f}" for name, value in seconds.items())
    print(f"CPU seconds of a step per image: {shown}")


def main() -> None:
    """Print every figure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="resnet18", help="timm name, random weights")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=2, help="images of the training step")
    parser.add_argument(
        "--layouts",
        nargs="+",
        default=["channels_last"],
        choices=["channels_last", "contiguous_format"],
    )
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    selection(arguments.rounds)
    training_step(arguments.model, arguments.rounds, arguments.batch, arguments.layouts)
    numbers_of_k(arguments.model, arguments.rounds, arguments.batch)


if __name__ == "__main__":
    main()
