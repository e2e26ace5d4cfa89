"""Maps that exist already: of an earlier run or prediction, or of any other program."""

import csv
import hashlib
import io
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from explainers import mapstore
from explainers.base import Explainer
from explainers.explanandum import Explanandum
from explainers.explanandum.weights import fingerprint
from explainers.functional import masking, planes

ARRAYS, PICTURES = (".npy", ".npz"), (".png", ".webp", ".tif", ".tiff", ".bmp")
FAR = 0.1  # mean difference of two photographs in [0, 1] from which on they are different images

Found = dict[tuple[int, ...], NDArray[np.float32]]  # maps by the classes that they explain


class StoredMaps(Explainer):
    """Maps of a folder, scored as those of any method. Nothing is explained again.

    Metrics that need further maps, such as those of noisy images, have no value. The maps are found
    by the names of the images:

        - Run folder of a test with kept maps (`--score.keep maps`): those of one of its methods.
        - Folder of a prediction: the maps and the classes of each image, as its files say.
        - Any other folder: for the image `cats/1.jpg`, the file `cats/1.jpg.npy`, `cats/1.npy`, or
          the same with another ending: .npz (with one array), .png, .webp, .tif or .bmp (gray, 8 or
          16 bits). Such maps are taken as those of the target that is asked for.
        - Folder of a zarr group (with `pip install zarr`): arrays of these names, without ending.

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
        self._taken: dict[Path, str] = {}  # file of each image, as no two may share one
        self._known: tuple[Tensor, list[str]] = torch.empty(0), []
        # Part of the weights' hash, so that a folder with other maps is another method.
        self.register_buffer("listing", _listing(self._folder))

    def _row(self, run: dict[str, Any]) -> str:
        methods: list[str] = run["methods"]
        row = self.method or (methods[0] if len(methods) == 1 else "")
        if row not in methods:
            raise ValueError(
                f"{self._folder} has the methods {', '.join(methods)}: set `method` to one of "
                f"them, got {self.method!r}"
            )
        made = run["settings"]["explanandum"]["weights"]
        if made != fingerprint(self.explanandum):
            rank_zero_warn(
                f"the maps of {row} in {self._folder} explain another classifier than "
                "the one that scores them: their weights differ"
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
            raise ValueError(f"{self._folder} holds no map of {name!r}")
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
        values = _array(self._folder / f"{file}.npy")
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
        for key in (name, str(Path(name).with_suffix(""))):
            if key in group:
                self._take(Path(key), name)
                return {(-1,): _checked(np.asarray(group[key]), f"{self._folder}/{key}")}
        return None

    def _of_file(self, name: str) -> Found | None:
        for base in (name, str(Path(name).with_suffix(""))):
            for ending in (*ARRAYS, *PICTURES):
                path = self._folder / (base + ending)
                if path.is_file() and path.resolve().is_relative_to(self._folder.resolve()):
                    self._take(path, name)
                    return {(-1,): _array(path)}
        return None

    def _take(self, path: Path, name: str) -> None:
        if self._taken.setdefault(path, name) != name:
            raise ValueError(
                f"{path} would be the map of both {self._taken[path]!r} and {name!r}: give each "
                "its own file, with the image's whole name before .npy"
            )


def _predicted(folder: Path) -> dict[str, str]:
    """Files of a prediction without the ending, by the names of the images."""
    path = folder / "files.csv"
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as lines:
        return {row["image"]: row["file"] for row in csv.DictReader(lines)}


def _listing(folder: Path) -> Tensor:
    """Hash (32,) uint8 of the names and sizes of all files in a folder."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    text = "\n".join(f"{path.relative_to(folder)} {path.stat().st_size}" for path in files)
    return torch.tensor(
        list(hashlib.sha256(text.encode("utf-8", "replace")).digest()), dtype=torch.uint8
    )


def _array(path: Path) -> NDArray[np.float32]:
    """The array in a file, or the gray values of a picture in [0, 1]."""
    if path.suffix in PICTURES:
        with Image.open(path) as picture:
            deep = picture.mode.startswith("I")
            values = np.asarray(picture if deep else picture.convert("L"), dtype=np.float32)
        return _checked(values / (65535 if deep else 255), str(path))
    try:
        content = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{path} cannot be read as an array of numbers: {error}") from None
    if path.suffix == ".npz":
        if len(content.files) != 1:
            raise ValueError(f"{path} must hold one array, has {content.files}")
        content = content[content.files[0]]
    return _checked(content, str(path))


def _checked(values: NDArray[Any], place: str) -> NDArray[np.float32]:
    """An array (H, W), or (1, H, W), or (k, H, W) of a prediction, as float32."""
    if values.ndim == 3 and 1 in (values.shape[0], values.shape[2]):
        values = values[0] if values.shape[0] == 1 else values[..., 0]
    if values.ndim not in (2, 3) or values.dtype.kind not in "fiub":
        raise ValueError(
            f"{place} must be a map (H, W) of numbers, is {values.shape} {values.dtype}"
        )
    return np.ascontiguousarray(values, dtype=np.float32)


def _alike(photo: bytes, image: Tensor) -> bool:
    """Whether an image (3, H, W) is the one of a kept photograph, as far as small copies tell."""
    pixels = image.clamp(0, 1).mul(255).byte().permute(1, 2, 0).cpu().numpy()
    with Image.open(io.BytesIO(photo)) as kept:
        small = [
            np.asarray(each.convert("RGB").resize((16, 16)), dtype=np.float32)
            for each in (kept, Image.fromarray(pixels))
        ]
    return float(np.abs(small[0] - small[1]).mean()) / 255 < FAR
