"""The images of a run: what decides each, so that no result passes for that of another image."""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Literal

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn

from explainers.base import Explainer
from explainers.evaluation.provenance import describe_data
from explainers.methods.stored import StoredMaps


class DataImages:
    """The images of a stage, and those that could not be read.

    Args:
        trainer: Trainer of the run. Data modules of ours know what decides each image; of others,
            nothing is compared.
        stage: "test" or "predict".
    """

    def __init__(self, trainer: Trainer, stage: Literal["test", "predict"]) -> None:
        self._data: Any = getattr(trainer, "datamodule", None)
        self._source: Any = None
        if dataset := getattr(self._data, "dataset", None):
            self._source = getattr(dataset(stage), "source", None)
        # An image is compared when it has a result: one that could not be read may be repaired.
        self.settings = describe_data(trainer, stage)
        self.settings.pop("hash", None)
        self.unread: set[str] = set()  # names of the images that `newly_unread` has told

    @property
    def settings_of_each(self) -> dict[str, Any]:
        """What decides an image of a given name, however many others there are."""
        some = {k: v for k, v in self.settings.items() if k not in ("images", "names")}
        if isinstance(arguments := some.get("arguments"), dict):
            some["arguments"] = {
                name: value for name, value in arguments.items() if name != "limit"
            }
        return some

    def check_stored(self, explainers: Mapping[str, Explainer]) -> None:
        """Refuses stored maps that cannot be those of the images, see `StoredMaps.expect`."""
        names = [] if self._source is None else list(self._source.names)
        for explainer in explainers.values():
            if isinstance(explainer, StoredMaps):
                explainer.expect(names, self.settings)

    def identity(self, index: int | None) -> str:
        """Hash of what tells an image from others: its name and, for files, its size and label."""
        if self._source is None or index is None:
            return ""
        return hashlib.sha256(repr(self._source.identity(index)).encode()).hexdigest()[:16]

    def check(self, known: Mapping[str, str], key: Callable[[str], str], folder: object) -> None:
        """Refuses a folder with results of an image that has changed since; says which are gone.

        Args:
            known: Identities of the images that have results.
            key: Key of an image in `known`, from its name.
            folder: Folder, for the message.

        Raises:
            ValueError: If there is one.
        """
        if self._source is None or not known:
            return
        gone = dict.fromkeys(known)
        for index, name in enumerate(self._source.names):
            gone.pop(key(name), None)
            own = known.get(key(name))
            if own and own != self.identity(index):
                raise ValueError(
                    f"{folder} holds the results of another image {name!r}: its file or label "
                    "has changed. Choose another folder (--out FOLDER), or delete this one"
                )
        if gone:
            rank_zero_warn(
                f"{folder} holds results of {len(gone)} image(s) that are not among the data, such "
                f"as {next(iter(gone))}"
            )

    def newly_unread(self) -> dict[str, str]:
        """Images that could not be read since the last call: their names, and why."""
        skipped: dict[str, str] = getattr(self._data, "skipped", {})
        new = {name: reason for name, reason in skipped.items() if name not in self.unread}
        self.unread.update(new)
        return new
