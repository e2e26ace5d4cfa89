"""The classes of ImageNet by WordNet id, in the order of the usual class indices 0 to 999."""

import json
from collections import Counter
from functools import cache
from importlib.util import find_spec
from pathlib import Path

# fastai's two sets of ten classes, https://github.com/fastai/imagenette.
IMAGENETTE = (
    "n01440764", "n02102040", "n02979186", "n03000684", "n03028079",
    "n03394916", "n03417042", "n03425413", "n03445777", "n03888257",
)  # fmt: skip
IMAGEWOOF = (
    "n02086240", "n02087394", "n02088364", "n02089973", "n02093754",
    "n02096294", "n02099601", "n02105641", "n02111889", "n02115641",
)  # fmt: skip


@cache
def class_indices() -> dict[str, int]:
    """Return the class index of each of the 1000 WordNet ids, such as "n01440764" for 0."""
    return {wnid: index for index, wnid in enumerate(_read("imagenet_synsets.txt").split())}


@cache
def class_names() -> list[str]:
    """Return the names of the 1000 classes as timm has them, all different.

    The two cranes are "crane (134)", the bird, and "crane (517)", the machine.
    """
    lines = _read("imagenet_synset_to_lemma.txt").splitlines()
    lemmas = dict(line.split("\t", 1) for line in lines)
    names = [lemmas[wnid] for wnid in class_indices()]
    counts = Counter(names)
    return [f"{name} ({i})" if counts[name] > 1 else name for i, name in enumerate(names)]


@cache
def reassessed_labels() -> list[tuple[int, ...]]:
    """Return the ReaL class indices of the 50,000 validation images, in the order of their numbers.

    Some images have several classes, and 3,163 have none. Source: Beyer et al., "Are we done with
    ImageNet?", 2020; the file is part of timm.
    """
    labels = json.loads(_read("imagenet_real_labels.json"))
    return [tuple(sorted(classes)) for classes in labels]


def _read(name: str) -> str:
    """Return the text of a file of timm, which is found without importing timm: that is slow."""
    spec = find_spec("timm")
    (folder,) = (spec and spec.submodule_search_locations) or [""]
    return (Path(folder) / "data" / "_info" / name).read_text("utf-8")
