"""Maps that exist already: of an earlier run or prediction, or of any other program."""

import csv
import hashlib
import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from explainers import arrays, mapstore
from explainers.base import Explainer
from explainers.explanandum import Explanandum
from explainers.explanandum.weights import fingerprint
from explainers.functional import masking, planes

FAR = 0.02  # mean difference of small copies in [0, 1] from which on images are different ones
PREPARATION = ("resize", "crop_pct", "interpolation")  # arguments of the data that cut the images

Found = dict[tuple[int, ...], NDArray[np.float32]]  # maps by the classes that they explain


class StoredMaps(Explainer):
    """Maps of a folder, scored as those of any method. Nothing is explained again.

    Metrics that need further maps, such as those of noisy images, have no value. The maps are found
    by the names of the images:

        - Run folder of a test with kept maps (`--score.keep maps`): those of one of its methods.
        - Folder of a prediction: the maps and the classes of each image, as its files say.
        - Any other folder: for the image `cats/1.jpg`, the file `cats/1.jpg.npy`, `cats/1.npy`, or
          the same with another ending: .npz (with one array), .png, .webp, .tif or .bmp (gray, 8 or
          16 bits). Such maps are taken as those of the target that is asked for. They must be those
          of the images as they are prepared now, which nothing but their size can tell.
        - Folder of a zarr group (with `pip install zarr`): arrays of these names, without ending.

    Source: none. Cost: no passes.

    Args:
        explanandum: The frozen classifier, for the metrics. Maps of a run that had another one are
            scored with a warning.
        folder: The folder.
        method: Row of the run whose maps are taken. Needed if there are several.
        is_mask: Whether maps are masks in [0, 1]. None: as the run says; False for other folders.
        resize: Whether maps of another size than the images are resized bilinearly.
        seed: Not used; every method accepts it.

    Raises:
        FileNotFoundError: If there is no such folder.
        ValueError: If the folder holds no maps, or the row is not among the methods of the run.
    """

    is_stored = True

    def __init__(
        self,
        explanandum: Explanandum,
        folder: str,
        method: str | None = None,
        is_mask: bool | None = None,
        resize: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(explanandum, seed)
        self._folder, self.method, self.resize = Path(folder), method, resize
        if not self._folder.is_dir():
            raise FileNotFoundError(f"there is no folder {folder!r} with maps")
        run = mapstore.about(self._folder)
        if run:
            self.method = self._row(run)
            is_mask = self.method in run["masks"] if is_mask is None else is_mask
        elif method is not None:
            raise ValueError(
                f"{folder} is no run folder with kept maps (--score.keep maps), so it has no "
                f"method {method!r}: leave out `method`, or give a run folder"
            )
        self.is_mask = bool(is_mask)
        self._kept = mapstore.places(self._folder)
        self._predicted = _predicted(self._folder)
        if not any(path.is_file() for path in self._folder.rglob("*")):
            raise ValueError(f"{folder} is empty: expected maps, named after the images")
        self._made = run.get("settings") or _json(self._folder / "predict.json")
        made = self._made.get("explanandum", {}).get("weights")
        if made not in (None, fingerprint(self.explanandum)):
            rank_zero_warn(
                f"the maps in {folder} explain another classifier than the one that scores them: "
                "their weights differ"
            )
        self._known: tuple[Tensor, list[str]] = torch.empty(0), []
        # Part of the weights' hash, so that a folder with other maps is another method.
        self.register_buffer("listing", _listing(self._folder))

    def expect(self, names: Sequence[str], data: Mapping[str, Any]) -> None:
        """Checks that no two images of a test share a map, and how the images were prepared.

        Args:
            names: Names of all images.
            data: Settings of the data, see `provenance.describe_data`.

        Raises:
            ValueError: If two images share a map, or maps of a run or a prediction are those of
                images that were cut in another way.
        """
        if self.method is None and not self._predicted:
            owners: dict[Path, str] = {}
            alike = Counter(map(_stem, names))
            for name in names:
                for path in self._candidates(name) if alike[_stem(name)] > 1 else ():
                    if (other := owners.setdefault(path, name)) != name:
                        raise ValueError(
                            f"{path} is named after both {other!r} and {name!r}: give each its "
                            "own map, with the image's whole name before .npy"
                        )
        made, now = (each.get("arguments", {}) for each in (self._made.get("data", {}), data))
        for key in PREPARATION:
            if key in made and key in now and made[key] != now[key]:
                raise ValueError(
                    f"the images of {self._folder} were prepared with {key}: {made[key]}, those of "
                    f"this test with {now[key]}: set --data.init_args.{key} {made[key]}"
                )

    def _row(self, run: dict[str, Any]) -> str:
        methods: list[str] = run["methods"]
        row = self.method or (methods[0] if len(methods) == 1 else "")
        if row not in methods:
            raise ValueError(
                f"{self._folder} has the methods {', '.join(methods)}: set `method` to one of "
                f"them, got {self.method!r}"
            )
        return row

    def observe(self, batch: dict[str, Any]) -> None:
        """Remembers the names of the images of a batch, until the next batch."""
        self._known = batch["image"].float(), list(batch["name"])

    def attribute(self, images: Tensor, targets: Tensor) -> Tensor:
        """Maps (B, H, W) of images of the observed batch; NaN for any other image.

        Raises:
            ValueError: If an image of the batch has no map for its target, or one of another size.
        """
        maps = torch.full_like(images[:, 0], torch.nan)
        known, names = self._known
        for row, place in enumerate(masking.places(images, known)):
            classes = tuple(targets[row].nonzero().flatten().tolist())
            if place >= 0 and classes:
                maps[row] = self._map(names[place], images[row], classes)
        return maps

    def _map(self, name: str, image: Tensor, classes: tuple[int, ...]) -> Tensor:
        found = self._find(name, image)
        if found is None:
            raise ValueError(
                f"{self._folder} holds no map of {name!r}: expected {name}.npy, {_stem(name)}.npy "
                "or the like"
                if self.method is None
                else f"{self._folder} holds no map of {name!r}"
            )
        values = found.get(classes, found.get((-1,)))
        if values is None and all((c,) in found for c in classes):
            several = torch.stack([torch.from_numpy(found[(c,)]) for c in classes])
            values = (several if self.is_mask else masking.minmax(several)).amax(dim=0).numpy()
        if values is None:
            have = "; ".join("|".join(map(str, each)) for each in found)
            raise ValueError(
                f"{self._folder} holds maps of {name!r} for the classes {have}, none for "
                f"{'|'.join(map(str, classes))}"
            )
        tensor, size = torch.from_numpy(values), image.shape[-2:]
        if tensor.shape != size:
            if not self.resize:
                raise ValueError(
                    f"the map of {name!r} is {tuple(tensor.shape)}, the image {tuple(size)}: set "
                    "resize: true, or the data's image_size"
                )
            tensor = planes.upsample(tensor[None, None], size)[0, 0]
        if self.is_mask and not bool(((tensor >= 0) & (tensor <= 1)).all()):
            raise ValueError(f"the map of {name!r} is no mask in [0, 1]: set is_mask: false")
        return tensor

    def _find(self, name: str, image: Tensor) -> Found | None:
        if self.method is not None:
            return self._of_run(name, image)
        if self._predicted:
            return self._of_prediction(name)
        if (self._folder / "zarr.json").exists() or (self._folder / ".zgroup").exists():
            return self._of_zarr(name)
        return self._of_file(name)

    def _of_run(self, name: str, image: Tensor) -> Found | None:
        if name not in self._kept:
            return None
        entry = mapstore.load(*self._kept[name])
        if not _alike(entry.photo, image):
            raise ValueError(
                f"the image {name!r} is not the one whose maps {self._folder} holds, or it is "
                "prepared in another way"
            )
        return {
            tuple(map(int, target.split("|"))): values
            for (method, target), values in entry.maps.items()
            if method == self.method
        }

    def _of_prediction(self, name: str) -> Found | None:
        file = self._predicted.get(name.encode("utf-8", "backslashreplace").decode("utf-8"))
        if file is None:
            return None
        values = arrays.read_map(self._folder / f"{file}.npy")
        lines = (self._folder / f"{file}.classes.txt").read_text("utf-8").splitlines()
        classes = [self.explanandum.class_names.index(line) for line in lines]
        if values.ndim == 2:
            return {tuple(sorted(classes)): values}
        return {(c,): own for c, own in zip(classes, values, strict=True)}

    def _of_zarr(self, name: str) -> Found | None:
        try:
            import zarr
        except ImportError:
            raise ValueError(f"{self._folder} is a zarr: pip install zarr") from None
        group: Any = zarr.open_group(self._folder, mode="r")
        for key in self._candidates(name):
            values = np.asarray(group[str(key.relative_to(self._folder))])
            return {(-1,): arrays.checked(values, str(key))}
        return None

    def _of_file(self, name: str) -> Found | None:
        found = self._candidates(name)
        if len(found) > 1:
            raise ValueError(f"{name!r} has several maps, {found[0]} and {found[1]}: keep one")
        return {(-1,): arrays.read_map(found[0])} if found else None

    def _candidates(self, name: str) -> list[Path]:
        """Files, or the array of a zarr, that may be the map; the whole name goes first."""
        home = self._folder.resolve()
        for base in (name, _stem(name)):
            inside = self._folder / base
            if not inside.resolve().is_relative_to(home):
                continue
            if any((inside / file).is_file() for file in ("zarr.json", ".zarray")):
                return [inside]
            endings = (*arrays.ARRAYS, *arrays.PICTURES)
            paths = [self._folder / (base + ending) for ending in endings]
            if found := [path for path in paths if path.is_file()]:
                return found
        return []


def _stem(name: str) -> str:
    return str(Path(name).with_suffix("")) if Path(name).name else name


def _json(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def _predicted(folder: Path) -> dict[str, str]:
    """Files of a prediction without the ending, by the names of the images."""
    path = folder / "files.csv"
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as lines:
        return {row["image"]: row["file"] for row in csv.DictReader(lines)}


def _listing(folder: Path) -> Tensor:
    """Hash (32,) uint8 of the names and contents of all files in a folder."""
    digest = hashlib.sha256()
    for path in sorted(each for each in folder.rglob("*") if each.is_file()):
        digest.update(f"{path.relative_to(folder)}\n".encode("utf-8", "replace"))
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return torch.tensor(list(digest.digest()), dtype=torch.uint8)


def _alike(photo: bytes, image: Tensor) -> bool:
    """Whether an image (3, H, W) is the one of a kept photograph, as far as small copies tell."""
    pixels = image.clamp(0, 1).mul(255).byte().permute(1, 2, 0).cpu().numpy()
    with Image.open(io.BytesIO(photo)) as kept:
        small = [
            np.asarray(each.convert("RGB").resize((32, 32)), dtype=np.float32)
            for each in (kept, Image.fromarray(pixels))
        ]
    return float(np.abs(small[0] - small[1]).mean()) / 255 < FAR
