"""Inpainters of other projects: TorchScript, torch.export and ONNX, such as LaMa."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypedDict

import torch
import yaml
from torch import Tensor
from torch.nn import functional as F

from explainers.options import check_choices, complete

TRIAL = 64  # side in pixels of the images of the trial call

Complete = Callable[[Tensor, Tensor], Tensor]


class ForeignOptions(TypedDict, total=False):
    """What a foreign inpainter expects. The defaults are those of LaMa.

    They stand in a YAML file of the same name beside it: `lama.yaml` for `lama.pt`.

    Args:
        hole: Value of the mask (N, 1, H, W) where pixels are missing, 1 or 0. Kept pixels have the
            other one.
        range: Values of black and white in the images that it takes and returns: [0, 1], [0, 255]
            or [-1, 1].
        size: Height and width at which it runs. The images are resized to it and back, and the mask
            by nearest neighbor. None is the size of the images.
        multiple: Number of pixels of which both sides must be multiples. The border is repeated as
            far as needed, and cut off again.
        emptied: Whether missing pixels are set to the middle gray before it sees them. It must not
            depend on what they show.
    """

    hole: Literal[0, 1]
    range: list[float]
    size: list[int] | None
    multiple: int
    emptied: bool


LAMA: ForeignOptions = {
    "hole": 1,
    "range": [0.0, 1.0],
    "size": None,
    "multiple": 8,
    "emptied": True,
}


def load(path: str) -> "Foreign":
    """The inpainter of a file, which has been tried on two random images.

    Raises:
        ValueError: If it is something else, or does not work, or its options are none.
    """
    options = _options(Path(path).with_suffix(".yaml"))
    try:
        network = LOADERS[Path(path).suffix.lower()](path)
    except (OSError, RuntimeError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"{path} cannot be loaded: {_first_line(error)}") from error
    found = Foreign(network, options, path)
    _try(found, path)
    return found


def _options(path: Path) -> ForeignOptions:
    try:
        given = yaml.safe_load(path.read_text()) if path.is_file() else {}
        check_choices(ForeignOptions, given or {})
        options: ForeignOptions = complete(given, LAMA)
        low, high = options["range"]
        height, width = options["size"] or (1, 1)
        if not low < high or min(height, width, options["multiple"]) < 1:
            raise ValueError("expected range: [black, white], size: [H, W] and multiple >= 1")
    except (TypeError, AttributeError, ValueError, yaml.YAMLError) as error:
        text = " ".join(str(error).split())
        raise ValueError(f"{path} holds no options of an inpainter: {text}") from error
    return options


class Foreign:
    """A function of images and masks in the conventions of a foreign inpainter."""

    def __init__(self, network: Complete, options: ForeignOptions, path: str) -> None:
        self.network, self.options, self.path = network, options, path
        self.alone = False  # whether it takes a single image at a time

    def __call__(self, images: Tensor, masks: Tensor) -> Tensor:
        """Completed images (N, 3, H, W), for keep masks (N, H, W)."""
        if not self.alone:
            return self._complete(images, masks)
        pairs = zip(torch.split(images, 1), torch.split(masks, 1), strict=True)
        return torch.cat([self._complete(*pair) for pair in pairs])

    def _complete(self, images: Tensor, masks: Tensor) -> Tensor:
        size, options = images.shape[-2:], self.options
        holes = (masks < 0.5).to(images)[:, None]
        if options["emptied"]:
            images = images.where(holes == 0, 0.5)
        if options["size"] is not None:
            images = F.interpolate(images, options["size"], mode="bilinear", antialias=True)
            holes = F.interpolate(holes, options["size"], mode="nearest-exact")
        inner, step = images.shape[-2:], options["multiple"]
        border = (0, -inner[1] % step, 0, -inner[0] % step)
        images, holes = (F.pad(x, border, mode="replicate") for x in (images, holes))
        low, high = options["range"]
        marks = holes if options["hole"] == 1 else 1 - holes
        answer = self.network(images * (high - low) + low, marks)
        if not isinstance(answer, Tensor) or answer.shape != images.shape:
            got = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
            raise ValueError(f"{self.path} returns {got} for images {tuple(images.shape)}")
        found = (answer.float()[..., : inner[0], : inner[1]] - low) / (high - low)
        if found.shape[-2:] != size:
            found = F.interpolate(found, size, mode="bilinear")
        return found


def _script(path: str) -> Complete:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # deprecated, but published models use it
        network = torch.jit.load(path, map_location="cpu").eval()  # type: ignore[no-untyped-call]

    def complete(images: Tensor, masks: Tensor) -> Tensor:
        answer: Tensor = network.to(images.device)(images, masks)
        return answer

    return complete


def _exported(path: str) -> Complete:
    network = torch.export.load(path).module()

    def complete(images: Tensor, masks: Tensor) -> Tensor:
        answer: Tensor = network.to(images.device)(images, masks)
        return answer

    return complete


def _onnx(path: str) -> Complete:
    try:
        import onnxruntime
    except ImportError as error:
        raise ValueError(
            f"{path} needs onnxruntime: pip install 'learned-explainers[onnx]'"
        ) from error
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    inputs = [each.name for each in session.get_inputs()]
    if len(inputs) != 2:
        raise ValueError(f"{path} takes {len(inputs)} inputs, expected an image and a mask")

    def complete(images: Tensor, masks: Tensor) -> Tensor:
        given = [x.cpu().float().numpy() for x in (images, masks)]
        answer = session.run(None, dict(zip(inputs, given, strict=True)))[0]
        return torch.from_numpy(answer).to(images)

    return complete


LOADERS: dict[str, Callable[[str], Complete]] = {
    ".pt": _script,
    ".ts": _script,
    ".pt2": _exported,
    ".onnx": _onnx,
}


def _try(complete: Foreign, path: str) -> None:
    """Tries an inpainter on two random images with a square hole.

    Raises:
        ValueError: If it fails, or returns another shape or range.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(2, 3, TRIAL, TRIAL, generator=generator)
    masks = torch.ones(2, TRIAL, TRIAL)
    masks[:, 20:44, 12:36] = 0
    options = f"{Path(path).with_suffix('.yaml')}, see ForeignOptions"
    with torch.no_grad():
        try:
            answer = _first(complete, images, masks)
        except Exception as error:
            raise ValueError(
                f"the inpainter {path} fails on images of {TRIAL} x {TRIAL} pixels "
                f"({_first_line(error)}): if it is made for one size, set size: [H, W] in {options}"
            ) from error
    if answer.shape != images.shape or not bool(answer.isfinite().all()):
        raise ValueError(f"the inpainter {path} must return finite images of the size it is given")
    low, high = float(answer.min()), float(answer.max())
    if low < -0.5 or high > 1.5:
        raise ValueError(
            f"the inpainter {path} returns values from {low:.3g} to {high:.3g}, expected about "
            f"0 to 1: set range in {options}"
        )
    if complete.options["emptied"]:
        inside = answer[:, :, 22:42, 14:34]  # resizing changes the border
        if bool((inside - 0.5).abs().max() < 1e-3):
            raise ValueError(
                f"the inpainter {path} leaves the hole as it is: if 0 marks the hole in its masks, "
                f"set hole: 0 in {options}"
            )


def _first(complete: Foreign, images: Tensor, masks: Tensor) -> Tensor:
    """The answer for both images, one at a time if the inpainter does not take both."""
    try:
        return complete(images, masks)
    except Exception:
        complete.alone = True
        return complete(images, masks)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[-1][:200]
