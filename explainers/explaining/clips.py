"""Videos and numbered frames: how fast they are explained, and how much the maps flicker."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from explainers.base import Explainer
from explainers.evaluation.drawing import picture
from explainers.explaining import photofiles, plotting
from explainers.explaining.explanation import explanation
from explainers.explaining.photofiles import VIDEOS, ImageError
from explainers.explaining.plotting import Explanation
from explainers.functional.masking import minmax

RATE = 10.0  # frames a second of an animation of files
MOST = 300  # frames of an animation, which is built in memory


def clips(
    files: Sequence[Path], frames: bool, fail: Callable[[str, str], None]
) -> dict[Path, "Clip | None"]:
    """What is explained: photographs (None) and clips, by file, or by folder for `frames`.

    Args:
        files: Image and video files.
        frames: Whether the images of each folder are the frames of one video.
        fail: See `Clip`.
    """
    found: dict[Path, Clip | None] = {}
    numbered: dict[Path, list[Path]] = {}
    for file in files:
        if file.suffix.lower() in VIDEOS:
            found[file] = Clip(file, fail)
        elif frames:
            numbered.setdefault(file.parent, []).append(file)
        else:
            found[file] = None
    folders = {
        path: Clip(path, fail, sorted(inside, key=_number)) for path, inside in numbered.items()
    }
    return {**found, **folders}


class Clip:
    """Explains the frames of a video one by one.

    The flicker of a method is the mean absolute difference between the maps of two successive
    frames, each min-max scaled to [0, 1]. That of the frames themselves, in [0, 1] as the
    classifier sees them, stands beside it. Frames per second are those of the method alone; the
    first frame, which is slower, does not count if there are others.

    Args:
        path: A video file, or a folder.
        fail: Is told the name of a frame that is not readable, which is left out, and the reason.
        numbered: Image files of the frames in their order. None reads the video file.
    """

    def __init__(
        self, path: Path, fail: Callable[[str, str], None], numbered: Sequence[Path] | None = None
    ) -> None:
        self.path, self.fail, self.numbered = path, fail, numbered
        self.rate = RATE
        self.count = 0
        self.seconds: dict[str, list[float]] = {}
        self.changes: dict[str, list[float]] = {"frames": []}
        self.pictures: list[Image.Image] = []

    def explain(
        self, explainers: Mapping[str, Explainer], classes: str, size: Sequence[int]
    ) -> Explanation:
        """Explains all frames, the classes of the first one in each.

        Args:
            explainers: Methods by name, all of the same classifier.
            classes: Classes to explain, as the command `explain` takes them.
            size: Height and width to which the center of each frame is resized.

        Returns:
            The explanation of the first frame.

        Raises:
            ImageError: If no frame is readable, or the video is damaged.
        """
        first = before = None
        for frame in self._frames():
            image, cut = photofiles.center(frame, size)
            asked = classes if first is None else first.classes
            found = explanation(explainers, image, asked, f"{self.path.name}, first frame: {cut}")
            first = first or found
            self.count += 1
            for name, seconds in found.seconds.items():
                self.seconds.setdefault(name, []).append(seconds)
            if before is not None:
                self._compare(before, found)
            if self.count <= MOST:
                self.pictures.append(_drawn(found))
            before = found
        if first is None:
            raise ImageError("no readable frame")
        return first

    def facts(self) -> dict[str, Any]:
        """Number of frames and their flicker; frames per second and flicker of each method."""
        methods = {}
        for name, seconds in self.seconds.items():
            timed = seconds[1:] or seconds
            rate = round(len(timed) / sum(timed), 3)
            methods[name] = {"frames_per_second": rate, "flicker": _mean(self.changes.get(name))}
        return {
            "frames": self.count,
            "flicker_of_frames": _mean(self.changes["frames"]),
            "methods": methods,
        }

    def lines(self) -> list[str]:
        """The facts in words, a line for each method."""
        facts = self.facts()
        moved = facts["flicker_of_frames"]
        return [
            f"{name}: {each['frames_per_second']:.1f} frames per second"
            + ("" if moved is None else f", flicker {each['flicker']:.4f} (frames: {moved:.4f})")
            for name, each in facts["methods"].items()
        ]

    def save(self, path: Path) -> None:
        """Writes an animation (.webp): the frame beside each method's map of the first class."""
        head, *others = self.pictures
        pause = round(1000 / self.rate)
        head.save(path, save_all=True, append_images=others, duration=pause, loop=0)

    def _compare(self, before: Explanation, found: Explanation) -> None:
        self.changes["frames"].append(_difference(before.image, found.image))
        for name, maps in found.maps.items():
            change = _difference(minmax(before.maps[name].double()), minmax(maps.double()))
            self.changes.setdefault(name, []).append(change)

    def _frames(self) -> Iterator[Tensor]:
        if self.numbered is None:
            yield from self._decoded()
        for file in self.numbered or ():
            try:
                yield photofiles.read(file)
            except ImageError as error:
                self.fail(str(file), str(error))

    def _decoded(self) -> Iterator[Tensor]:
        try:
            import av
        except ModuleNotFoundError:
            advice = "pip install 'learned-explainers[video]', or give its frames and --frames"
            raise ImageError(f"a video is read by PyAV: {advice}") from None
        try:
            with av.open(str(self.path)) as file:
                stream = file.streams.video[0]
                self.rate = float(stream.average_rate or Fraction(RATE))
                for frame in file.decode(stream):
                    pixels = np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
                    yield torch.from_numpy(pixels.copy()).permute(2, 0, 1).float().div(255)
        except (av.error.FFmpegError, IndexError) as error:
            reason = getattr(error, "strerror", None) or "it has no pictures"
            raise ImageError(f"not a readable video ({reason})") from None


def _number(file: Path) -> list[tuple[int, str]]:
    """Order of names in which 10 comes after 9."""
    return [
        (int(part), "") if part.isdecimal() else (-1, part)
        for part in re.split(r"(\d+)", file.stem)
        if part
    ]


def _difference(one: Tensor, other: Tensor) -> float:
    return (one - other).abs().mean().item()


def _mean(values: Sequence[float] | None) -> float | None:
    return round(float(np.mean(values)), 6) if values else None


def _drawn(found: Explanation) -> Image.Image:
    grey = plotting.gray(found.image)
    shown = [picture(found.image)]
    for name, maps in found.maps.items():
        rgb = plotting.colored(grey, maps[0].double().cpu().numpy(), found.kinds[name])
        shown.append(np.rint(255 * rgb).astype(np.uint8))
    return Image.fromarray(np.concatenate(shown, axis=1))
