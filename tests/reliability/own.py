"""What users write: methods that fail, stop or diverge on cue, a data set, and jobs of trials."""

import os
import signal
import sys
import time
from pathlib import Path

import torch

from datamodules.base import ImageDataModule, ImageSource
from explainers import Explainer, Explanandum
from explainers.explanandum.classifier import Classifier
from explainers.learned import LearnedExplainer
from explainers.methods.constant import Constant, Random
from tests import support

TROUBLED = 250  # the value of the first pixel of an image that is trouble


class Fragile(Explainer):
    """The brightness of the image; raises for an image whose first red pixel is `TROUBLED`.

    Args:
        explanandum: The frozen classifier.
        fragile: Whether it raises.
        memory: Whether it raises out of memory for every batch of several images.
        seed: Not used.
    """

    def __init__(
        self,
        explanandum: Explanandum,
        fragile: bool = True,
        memory: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(explanandum, seed)
        self.fragile, self.memory = fragile, memory

    def attribute(self, images, targets):
        if self.memory and len(images) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        trouble = (images[:, 0, 0, 0] * 255).round() == TROUBLED
        if self.fragile and trouble.any():
            raise RuntimeError("this image is trouble")
        return images.mean(1)


class Diverging(LearnedExplainer):
    """A scale of the brightness; its term `weird` is `value` from step `start` on.

    TRIAL_SIGNAL=SIGINT@3 in the environment sends a signal at step 3.

    Args:
        explanandum: The frozen classifier.
        start: First step with a bad loss.
        value: Value of the term, "nan" or "inf".
        schedule: Schedule of the learning rate.
        seed: Not used.
    """

    def __init__(
        self,
        explanandum: Explanandum,
        start: int = 1000,
        value: str = "nan",
        schedule: str = "constant",
        seed: int = 0,
    ) -> None:
        super().__init__(explanandum, {"lr": 0.01, "schedule": schedule}, seed)
        self.start, self.value = start, value
        self.scale = torch.nn.Parameter(torch.ones(8))

    def attribute(self, images, targets):
        return images.mean(1) * self.scale.mean()

    def loss_terms(self, batch, generator):
        noise = torch.rand(8, generator=generator)
        terms = {"fine": ((self.scale - noise * batch["image"].mean()) ** 2).sum()}
        name, _, step = os.environ.get("TRIAL_SIGNAL", "").partition("@")
        if self.training and name and self.global_step == int(step):
            os.kill(os.getpid(), getattr(signal, name))
            time.sleep(0.05)
        bad = self.training and self.global_step >= self.start and self.value in ("nan", "inf")
        weird = float(self.value) if bad else 0.0
        return {**terms, "weird": self.scale.sum() * weird}


class Flat(ImageDataModule):
    """Plain gray images, made on demand.

    Args:
        count: Number of images.
        names: Names of the images, in place of numbers.
        kwargs: Arguments of `ImageDataModule`.
    """

    multi_label = False
    class_names = ()

    def __init__(self, count: int = 2000, names: list[str] | None = None, **kwargs) -> None:
        super().__init__(**kwargs)
        self.names = names or [f"{index:05d}.png" for index in range(count)]

    def source(self, split):
        return FlatSource(self.names)


class FlatSource(ImageSource):
    def __init__(self, names):
        self.names = names

    def load(self, index):
        return {"image": torch.full((3, 96, 96), index % 256, dtype=torch.uint8)}


def save_classifier(path, names, seed=0, model="test_resnet"):
    """A job: the checkpoint of an untrained classifier of these classes; six of them are Shapes."""
    torch.manual_seed(seed)
    known = {"mean": [0.5] * 3, "std": [0.25] * 3, "class_names": names}
    support.save(Classifier(model, len(names), len(names) > 2, **known), Path(path))


def save_explainer(path, model, kind="", arguments=None):
    """A job: the checkpoint of `kind` (a class path; Constant without one) of the classifier."""
    torch.manual_seed(0)
    known = {"mean": [0.5] * 3, "std": [0.25] * 3, "input_size": [32, 32]}
    subject = Explanandum(model, in_checkpoint=True, **known, **(arguments or {}))
    support.save(_class(kind)(subject), Path(path))


def _class(path):
    if not path:
        return Constant
    module, _, name = path.rpartition(".")
    __import__(module)
    return getattr(sys.modules[module], name)


def load(entry, path, options=None):
    """A job: opens a checkpoint by an entry of Python; exit 2 and one line if it is refused."""
    import explainers

    entries = {
        "load": explainers.load,
        "from_checkpoint": Constant.load_from_checkpoint,
        "explanandum": lambda path, **options: Explanandum(model=path, **options),
        "classifier": Classifier.load_from_checkpoint,
    }
    found = entries.get(entry) or _class(entry).load_from_checkpoint
    options = dict(options or {})
    if "explanandum" in options:
        options["explanandum"] = Explanandum(**options["explanandum"])
    try:
        found(path, **options)
    except (ValueError, FileNotFoundError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def command_that_dies(*words):
    """A job: the command, killed as its method `Random` explains its first image."""
    from tests.reliability.trials import command

    Random.attribute = lambda *values: os.kill(os.getpid(), signal.SIGKILL)
    return command(*words)


def command_that_waits(folder, *words):
    """A job: the command, whose `RISE` waits up to 3 s for that of another process."""
    from explainers.methods.rise import RISE
    from tests.reliability.trials import command

    attribute = RISE.attribute

    def waiting(*values):
        Path(folder, str(os.getpid())).touch()
        end = time.monotonic() + 3
        while len(os.listdir(folder)) < 2 and time.monotonic() < end:
            time.sleep(0.01)
        return attribute(*values)

    RISE.attribute = waiting
    return command(*words)
