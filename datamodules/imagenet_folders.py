"""The image folders of ImageNet in the layouts in which people have it on disk."""

from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn

from datamodules.files import Labels
from datamodules.folder import in_turn
from datamodules.imagenet_labels import image_number, stem
from datamodules.listing import extensions, find_images, shown, subfolders
from datamodules.synsets import class_indices

PLACES = {
    "train": ("train", "Data/CLS-LOC/train", "ILSVRC2012_img_train"),
    "val": ("val", "Data/CLS-LOC/val", "ILSVRC2012_img_val", "validation"),
}
BASES = ("", "ILSVRC/")


def find_split(root: Path, split: str) -> tuple[Path, dict[str, Labels], dict[str, str]]:
    """Return the images of "train" or "val".

    Returns:
        Their folder; the class of the images in class folders, by path relative to `root`; and the
        paths of the images in no subfolder, by the stem of the file name.

    Raises:
        FileNotFoundError: If no folder has such images.
    """
    folder, index = find_folder(root, split), class_indices()
    prefix = "" if folder == root else f"{folder.relative_to(root).as_posix()}/"
    classes: dict[str, Labels] = {}
    loose: dict[str, str] = {}
    strays: dict[str, int] = {}
    for name in find_images(folder)[0]:
        top, _, rest = name.partition("/")
        if not rest:
            loose[stem(name)] = prefix + name
        elif top in index:
            classes[prefix + name] = (index[top],)
        else:
            strays[top] = strays.get(top, 0) + 1
    if strays:
        names = ", ".join(map(shown, sorted(strays)[:3]))
        rank_zero_warn(
            f"{shown(folder)}: left out {sum(strays.values())} images in folders that are no"
            f" ImageNet class: {names}"
        )
    return folder, classes, loose


def find_folder(root: Path, split: str) -> Path:
    """Return the folder of the train or val images.

    Raises:
        FileNotFoundError: If there is none.
    """
    places = [base + place for base in BASES for place in PLACES[split]]
    for place in places:
        if _has_images(root / place):
            return root / place
    if split == "val" and any(image_number(path.name) for path in _image_files(root)):
        return root
    what = f"no ImageNet {split} images in it" if root.is_dir() else "no such folder"
    files = " or image files" if split == "val" else ""
    raise FileNotFoundError(
        f"{shown(root)}: {what}; looked for class folders such as n01440764{files} in"
        f" {', '.join(places)}; set data.init_args.root"
    )


def _image_files(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in folder.iterdir() if path.suffix.lower() in extensions()]


def _has_images(folder: Path) -> bool:
    """Return whether a folder has class folders or image files."""
    if not folder.is_dir():
        return False
    named = any(name in class_indices() for name in subfolders(folder))
    return named or bool(_image_files(folder))


def in_order(labels: dict[str, Labels]) -> dict[str, Labels]:
    """Return validation images by number, and other images such that the classes take turns."""
    if all(image_number(name) for name in labels):
        names = sorted(labels, key=lambda name: (stem(name), name))
    else:
        names = sorted(labels, key=lambda name: (labels[name], name))
        names = in_turn(names, {name: str(labels[name]) for name in names})
    return {name: labels[name] for name in names}
