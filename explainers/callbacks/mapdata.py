"""The images of maps: what decides each, so that no map passes for that of another image."""

import hashlib
from typing import Any

from lightning.pytorch import Trainer

from explainers.callbacks.mapfiles import MapFiles, file_name
from explainers.evaluation.provenance import describe_data


class MapData:
    """The images of a prediction, and those that could not be read.

    Args:
        trainer: Trainer of the prediction. Data modules of ours know what decides each image; of
            others, nothing is compared.
    """

    def __init__(self, trainer: Trainer) -> None:
        self._data: Any = getattr(trainer, "datamodule", None)
        self._source: Any = None
        if dataset := getattr(self._data, "dataset", None):
            self._source = getattr(dataset("predict"), "source", None)
        self.settings = _settings(trainer)
        self.unread: set[str] = set()  # names of the images that `newly_unread` has told

    def identity(self, index: int) -> str:
        """Hash of what tells an image from others: its name and, for files, its size and label."""
        if self._source is None:
            return ""
        return hashlib.sha256(repr(self._source.identity(index)).encode()).hexdigest()[:16]

    def check(self, files: MapFiles) -> None:
        """Refuses a folder with the map of an image that has changed since.

        Raises:
            ValueError: If there is one.
        """
        known = files.identities() if self._source else {}
        for index, name in enumerate(self._source.names if known else ()):
            own = known.get(file_name(name))
            if own and own != self.identity(index):
                raise ValueError(
                    f"{files.folder} holds the map of another image {name!r}: its file or label "
                    "has changed. Choose another folder (--out FOLDER), or delete this one"
                )

    def newly_unread(self) -> dict[str, str]:
        """Images that could not be read since the last call: their names, and why."""
        skipped: dict[str, str] = getattr(self._data, "skipped", {})
        new = {name: reason for name, reason in skipped.items() if name not in self.unread}
        self.unread.update(new)
        return new


def _settings(trainer: Trainer) -> dict[str, Any]:
    """What decides an image of a given name, however many others there are."""
    data = describe_data(trainer, "predict")
    some = {name: value for name, value in data.items() if name not in ("images", "hash")}
    if isinstance(arguments := some.get("arguments"), dict):
        some["arguments"] = {name: value for name, value in arguments.items() if name != "limit"}
    return some
