"""Selection of the images that the classifier predicts correctly, wrongly or with confidence."""

import copy
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from lightning.pytorch.utilities import rank_zero_info
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from datamodules.dataset import ImageDataset
from datamodules.identity import digest
from datamodules.loading import ImageLoader
from datamodules.sampling import shared
from datamodules.userfolder import cache_folder, keep

Only = str | float
UNKNOWN, WRONG, CORRECT, UNLABELED = -1, 0, 1, 2


class Judge(Protocol):
    """What a data module asks a classifier about its images."""

    fingerprint: str  # the same for classifiers that give the same answers, and for no others

    def __call__(self, images: Tensor, targets: Tensor | None) -> tuple[Tensor | None, Tensor]:
        """Return whether each prediction is correct, (B,) bool, and its probability (B,).

        Images and answers are on the CPU. Without targets, no prediction is correct or wrong: None.
        """


def check_only(only: Any) -> None:
    """Check the argument `only`; None passes.

    Raises:
        ValueError: If it is neither "correct" or "wrong" nor a probability.
    """
    number = isinstance(only, int | float) and not isinstance(only, bool)
    if only not in (None, "correct", "wrong") and not (number and 0.0 < only <= 1.0):
        raise ValueError(
            "only must be correct, wrong or the least probability of the predicted class, in"
            f" (0, 1], got {only!r}"
        )


class Answers:
    """What the classifier has said of the images of a source, kept between runs.

    Args:
        count: Number of images.
        path: File in which the answers are kept, or None.
    """

    def __init__(self, count: int, path: Path | None) -> None:
        self.path = path
        self.said = np.full(count, UNKNOWN, np.int8)
        self.confidence = np.zeros(count, np.float32)
        if path is None or not path.is_file():
            return
        try:
            content = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
            said, confidence = content["said"], content["confidence"]
        except Exception:  # a damaged file can raise anything
            return
        if said.shape == confidence.shape == (count,):
            self.said, self.confidence = said.astype(np.int8), confidence.astype(np.float32)

    def save(self) -> None:
        """Write the answers, if they are kept."""
        if self.path is not None:
            file = io.BytesIO()
            np.savez(file, said=self.said, confidence=self.confidence)
            keep(self.path, file.getvalue())

    def fit(self, only: Only) -> NDArray[np.bool_]:
        """Return which images were judged and are such as `only` says."""
        if isinstance(only, str):
            fits: NDArray[np.bool_] = self.said == (CORRECT if only == "correct" else WRONG)
        else:
            fits = (self.said != UNKNOWN) & (self.confidence >= only)
        return fits


def select(
    dataset: ImageDataset,
    only: Only,
    limit: int | None,
    seed: int,
    judge: Judge | None,
    **loading: Any,
) -> tuple[list[int], str]:
    """Return the places in the source of the images to use, in order, and a line about them.

    With a limit, images are judged in a random order until there are enough. Images that cannot be
    read are left out. All processes must call this, and use what the first of them finds.

    Args:
        dataset: Data set of all images.
        only: "correct", "wrong" or the least probability of the predicted class.
        limit: Largest number of images; None selects all that are such.
        seed: Seed of the random order.
        judge: The classifier.
        **loading: Arguments of the loader.

    Raises:
        ValueError: If there is no classifier, the images have no labels, or none of them is such.
    """
    if judge is None:
        raise ValueError(
            f"only: {only} needs a classifier: use evaluate.py test or predict, or add the callback"
            " explainers.callbacks.judge.JudgeImages to the trainer"
        )
    count = len(dataset.source.names)
    answers = Answers(count, _path(dataset, judge))
    order = range(count) if limit is None else np.random.default_rng(seed).permutation(count)
    size = count if limit is None else max(256, 2 * limit)
    chosen: list[int] = []
    judged = 0
    for start in range(0, count, size):
        block = [int(place) for place in order[start : start + size]]
        unknown = [place for place in block if answers.said[place] == UNKNOWN]
        if unknown:
            try:
                _ask(dataset, unknown, answers, judge, f"only: {only}", loading)
            finally:  # an interrupted run goes on from here
                answers.save()
        if isinstance(only, str) and (answers.said[block] == UNLABELED).any():
            raise ValueError(f"only: {only} needs labeled images; these have no classes")
        fits = answers.fit(only)
        for place in block:
            if limit is None or len(chosen) < limit:
                judged += int(answers.said[place] != UNKNOWN)
                chosen += [place] if fits[place] else []
        if limit is not None and len(chosen) >= limit:
            break
    if not chosen:
        raise ValueError(f"only: none of {judged} images is {described(only)}; change or drop it")
    found: list[int] = shared(sorted(chosen))
    text = f"{len(found)} of {shared(judged)} images, those {described(only)}"
    rank_zero_info(f"only: {text}")
    return found, text


def _ask(
    dataset: ImageDataset,
    places: Sequence[int],
    answers: Answers,
    judge: Judge,
    title: str,
    loading: dict[str, Any],
) -> None:
    part = copy.copy(dataset)
    part.narrow(places)
    loader = ImageLoader(part, **{**loading, "persistent_workers": False})
    with tqdm(total=len(places), desc=title, leave=False, delay=1, disable=None) as bar:
        for batch in loader:
            right, confidence = judge(batch["image"], batch.get("target"))
            index = batch["index"].numpy()
            answers.confidence[index] = confidence.numpy()
            answers.said[index] = UNLABELED if right is None else right.numpy()
            bar.update(len(index))


def _path(dataset: ImageDataset, judge: Judge) -> Path | None:
    if (folder := cache_folder()) is None:
        return None
    source, fit = dataset.source, dataset.fit
    names = digest(source.identity(place) for place in range(len(source.names)))
    how = (fit.size, fit.how, fit.crop_pct, str(fit.mode), judge.fingerprint)
    return folder / "predictions" / f"{digest([names, how])[:24]}.npz"


def described(only: Only) -> str:
    """Return what is said of the chosen images, as in "34 images predicted correctly".

    Example:
        >>> described("wrong"), described(0.9)
        ('predicted wrongly', 'predicted with a probability of at least 0.9')
    """
    words = {"correct": "predicted correctly", "wrong": "predicted wrongly"}
    return words.get(str(only), f"predicted with a probability of at least {only}")
