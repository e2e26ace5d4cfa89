"""What every classifier must keep to, checked once, by one trial pass."""

import re
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from explainers.explanandum import outputs, precision
from explainers.explanandum.outputs import Reading

# Sizes that are tried in this order if a network states none.
SIZES = (224, 32, 28, 64, 96, 128, 160, 256, 299, 384, 512, 16, 8)
IMAGES = 3  # in the trial pass

# Steps of the autograd graph that tell what a classifier ends in, and steps that do not.
_LINEAR = ("Accumulate", "Addmm", "Bmm", "Convolution", "Linear", "Matmul", "Mm", "Native")
_OPEN = re.compile(
    "Alias|Add|AsStrided|Amax|AvgPool|Cat|Clone|Div|Expand|Gather|Index|MaxPool|Mean|Mul|Permute|"
    "Relu|Select|Slice|Split|Squeeze|Stack|Sub|Sum|TBackward|ToCopy|Transpose|Unbind|Unsafe|"
    "Unsqueeze|View"
)


@dataclass(frozen=True)
class Trial:
    """What a trial pass has shown.

    Attributes:
        reading: How the logits are read. None if the network took none of the sizes.
        units: Number of outputs.
        size: Height and width of the images.
        channels: Number of input channels.
    """

    reading: Reading | None
    units: int
    size: list[int]
    channels: int


@torch.inference_mode(False)
@torch.no_grad()
def trial(
    network: nn.Module,
    normalization: Mapping[str, Sequence[float]],
    size: Sequence[int] | None,
    width: int | None,
    multi_label: bool,
) -> Trial:
    """What a pass of a few random images shows of a classifier, which is checked.

    A network that takes none of the sizes that are tried may state its `num_classes`. Its first
    output is then checked instead, see `checked`.

    Args:
        network: Classifier in eval mode, from normalized images.
        normalization: Values of `mean` and `std` for each channel.
        size: Height and width that the network was made for. None tries some.
        width: Number of outputs that the user states, if any.
        multi_label: Whether the sigmoid of the logits is taken.

    Raises:
        ValueError: If the network takes no such images, or its output holds no logits (B, K).
    """
    try:
        output, found, channels = _tried(network, normalization, size)
    except ValueError:
        units = width or getattr(network, "num_classes", None)
        if size is None and isinstance(units, int):
            return Trial(None, units, [SIZES[0]] * 2, input_channels(network))
        raise

    def squashed() -> bool:
        return ends_squashed(network, _random_images(network, channels, found, normalization))

    reading = checked(output, IMAGES, width, multi_label, squashed)
    if any(
        isinstance(m, nn.modules.batchnorm._BatchNorm) and m.running_mean is None
        for m in network.modules()
    ):
        warnings.warn(
            "a BatchNorm of the classifier has no running statistics: what it says of an image "
            "depends on the other images of a batch",
            stacklevel=5,  # where the explanandum is built
        )
    kind = getattr(getattr(network, "config", None), "problem_type", None)  # of Hugging Face
    if kind == "multi_label_classification" and not multi_label:
        warnings.warn(
            "the classifier's config says multi_label_classification: set multi_label: true",
            stacklevel=5,
        )
    return Trial(reading, reading.units, list(size or found), channels)


def checked(
    output: Any,
    count: int,
    width: int | None,
    multi_label: bool,
    squashed: Callable[[], bool] = lambda: False,
) -> Reading:
    """How the logits are read from the output of a network, which is checked.

    Args:
        output: What the network returns for `count` images.
        count: Number of images.
        width: Number of outputs that the user states, if any. 0 says that there is no head, and
            that the outputs are features, of which only the shape is checked.
        multi_label: Whether the sigmoid of the logits is taken.
        squashed: Whether the network may end in an activation. It is only asked in doubt.

    Raises:
        ValueError: If there are no logits (`count`, K), or `width` is not their number.
    """
    entry = outputs.find(output, count, width)
    units = outputs.take(output, entry).numel() // count
    if width == 0:
        return Reading(units, entry)
    if width not in (None, units) and (width, units, multi_label) != (2, 1, False):
        raise ValueError(f"num_classes is {width}, but the classifier has {units} outputs")
    reading = Reading(units, entry)
    check_logits(outputs.read(output, reading, count), multi_label, squashed)
    return reading


def input_channels(network: nn.Module) -> int:
    """Number of channels that the first convolution takes; 3 if there is none."""
    convolutions = (m for m in network.modules() if isinstance(m, nn.Conv2d))
    return next((m.in_channels for m in convolutions), 3)


def _tried(
    network: nn.Module, normalization: Mapping[str, Sequence[float]], size: Sequence[int] | None
) -> tuple[Any, Sequence[int], int]:
    """Output of the network for random images, their size and their number of channels.

    The images are smaller than `size` if the network takes them, which saves time.
    """
    sizes = [tuple(size)] if size else [(side, side) for side in SIZES]
    smaller = [(64, 64)] if size and min(size) > 64 else []
    first, errors = input_channels(network), []
    for channels in (1, 3) if first == 1 else (3,):
        for side in [*smaller, *sizes]:
            images = _random_images(network, channels, side, normalization)
            try:
                return network(images), side, channels
            except Exception as error:  # whatever a foreign network raises
                errors.append(error)
    name = type(network).__name__
    if first not in (1, 3):
        raise ValueError(f"{name} takes {first} channels; only RGB (3) and gray (1) are supported")
    shown = errors[len(smaller)]
    raise ValueError(
        f"{name} fails on a batch of images of {sizes[0][0]} x {sizes[0][1]} "
        f"({type(shown).__name__}: {_first_line(shown)}); expected a network "
        "from normalized images (B, 3, H, W) to logits (B, K); "
        "set input_size to the height and width that it was made for"
        f"{_resizing(network, sizes[0])}"
    ) from shown


def _random_images(
    network: nn.Module,
    channels: int,
    size: Sequence[int],
    normalization: Mapping[str, Sequence[float]],
) -> Tensor:
    mean, std = (
        torch.tensor([*values, *values, *values][:channels], dtype=torch.float32).view(-1, 1, 1)
        for values in (normalization["mean"], normalization["std"])
    )
    images = torch.rand(
        (IMAGES, channels, *size),
        generator=torch.Generator().manual_seed(0),
        dtype=torch.float32,
    )
    tensors = [*network.parameters(), *network.buffers()]
    device = tensors[0].device if tensors else "cpu"
    return ((images - mean) / std).to(device, precision.own_dtype(network))


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0]


def check_logits(logits: Tensor, multi_label: bool, squashed: Callable[[], bool]) -> None:
    """Checks that a classifier ends without a softmax or sigmoid.

    Args:
        logits: Logits (B, K) of a few images.
        multi_label: Whether their sigmoid is taken.
        squashed: Whether the classifier may end in an activation. It is only asked in doubt.

    Raises:
        ValueError: If the logits are not finite, or are already probabilities of a softmax.
    """
    values = logits.detach().double()
    if not values.isfinite().all():
        raise ValueError(
            "the classifier's logits of random images are not finite: check its weights"
        )
    sums, positive = values.sum(dim=1), bool((values >= 0).all())
    inside = positive and bool((values <= 1).all())
    excess = (sums - 1).abs().max()
    percent = sums[0] > 0 and (sums - sums[0]).abs().max() < 1e-5 * sums[0]  # or another total
    doubtful = (inside and excess < 0.01) or (positive and percent)
    if (inside and excess < 1e-4) or (doubtful and squashed()):
        raise ValueError(
            f"the classifier's outputs are probabilities already, as they sum to {sums[0]:.3g}; "
            "expected logits: leave its softmax out, or take the logarithm of its output"
        )
    logarithms = (values.exp().sum(dim=1) - 1).abs().max() < 0.01 and (values <= 0).all()
    if multi_label and logarithms:
        raise ValueError(
            "the classifier's outputs are logarithms of a softmax, whose sigmoid never exceeds "
            "0.5: leave its log-softmax out, or set multi_label: false"
        )
    negative = multi_label and bool((values <= 0).all())
    if (inside or negative) and squashed():
        warnings.warn(
            f"the classifier's outputs lie {'below 0' if negative else 'in [0, 1]'}, as those of a "
            f"{'log-sigmoid' if negative else 'sigmoid'}; expected logits: leave it out, or take "
            f"torch.logit of {'the exponential of ' if negative else ''}its output",
            stacklevel=7,  # where the explanandum is built
        )


def ends_squashed(network: nn.Module, images: Tensor) -> bool:
    """Whether a classifier may end in an activation such as a sigmoid, by its autograd graph."""
    try:
        with torch.enable_grad():
            # In-place operations are not allowed on a leaf.
            output = network(images.requires_grad_().clone())
            logits = outputs.take(output, outputs.find(output, len(images), None))
    except Exception:  # not differentiable, which is no fault of its output
        return True
    steps, seen = deque([logits.grad_fn]), set()
    while steps:
        step = steps.popleft()
        if step is None or step in seen:
            continue
        seen.add(step)
        name = step.name().rpartition(":")[2]
        if name.startswith(_LINEAR):
            continue
        if not _OPEN.search(name):
            return True
        steps.extend(following for following, _ in step.next_functions)
    return logits.grad_fn is None


@contextmanager
def network_pass(explanandum: Any, images: Tensor) -> Iterator[None]:
    """Context of a pass of an explanandum's network: precision, and errors that name the cause.

    Raises:
        ValueError: If the pass fails, and the images have another size than the network's.
    """
    if explanandum.untrained:
        explanandum.untrained = False
        warnings.warn(
            f"{explanandum.architecture} has random weights: set pretrained: true, or weights",
            stacklevel=4,
        )
    try:
        with precision.passes(explanandum):
            yield
    except Exception as error:
        size, made_for = list(images.shape[-2:]), explanandum.input_size
        # Subclasses say more: out of memory, or a method that is not defined.
        plain = type(error) in (AssertionError, RuntimeError, ValueError)
        if not plain or size == made_for:
            raise
        raise ValueError(
            f"{type(explanandum.model).__name__} is made for images of {made_for[0]} x "
            f"{made_for[1]} and fails on {size[0]} x {size[1]} ({_first_line(error)}): set "
            f"data.init_args.image_size: {made_for}{_resizing(explanandum.model, size)}"
        ) from error


def _resizing(network: nn.Module, size: Sequence[int]) -> str:
    """How a network of timm is built for another image size, if it can be."""
    if not hasattr(network, "pretrained_cfg"):
        return ""
    return f", or model_args: {{img_size: {list(size)}}}, or for a ViT {{dynamic_img_size: true}}"
