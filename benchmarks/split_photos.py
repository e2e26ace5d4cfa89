"""Links photographs into the folders of the photographs' recipe, by the committed lists of names.

python benchmarks/split_photos.py FOLDER... --out data/photos

`photos.csv` names some of 500 photographs, each of another class, that are ImageNet's training
images: github.com/EliSchwartz/imagenet-sample-images (in JPEG with a shorter side of 256 pixels).
`test/first` has 50 of them on which nothing was chosen, `test/further` 50 more, `val` those by
which settings were chosen. All other photographs of the folders become `train`.
"""

import argparse
import csv
from pathlib import Path

LISTS = Path(__file__).with_name("photos.csv")
SUFFIXES = {".jpg", ".jpeg", ".png"}


def main() -> None:
    """Reads the command line and makes the links."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=Path("data/photos"))
    arguments = parser.parse_args()
    with LISTS.open(newline="") as file:
        split_of = {row["file"]: row["split"] for row in csv.DictReader(file)}
    files = [
        path
        for folder in arguments.folders
        for path in sorted(folder.rglob("*"))
        if path.suffix.lower() in SUFFIXES
    ]
    missing = sorted(set(split_of) - {path.name for path in files})
    if missing:
        parser.error(f"{len(missing)} photographs of {LISTS} are missing, such as {missing[:3]}")
    if arguments.out.exists():
        parser.error(f"{arguments.out} exists: remove it, or choose another folder")
    for number, path in enumerate(files):
        split = split_of.get(path.name, "train")
        folder = arguments.out / split
        folder.mkdir(parents=True, exist_ok=True)
        # Folders may hold the same names.
        name = path.name if split != "train" else f"{number:05d}-{path.name}"
        (folder / name).symlink_to(path.resolve())
    for split in sorted({*split_of.values(), "train"}):
        print(f"{arguments.out / split}: {len(list((arguments.out / split).iterdir()))}")


if __name__ == "__main__":
    main()
