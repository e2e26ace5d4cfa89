"""The folder of the user in which listings and predictions are kept between runs."""

import os
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile

VARIABLE = "LEARNED_EXPLAINERS_CACHE"


def cache_folder() -> Path | None:
    """Return the folder of what is kept between runs, or None if nothing is kept.

    This is the folder that the environment variable LEARNED_EXPLAINERS_CACHE names; "off" keeps
    nothing. Without the variable, it is learned-explainers in $XDG_CACHE_HOME or ~/.cache.
    """
    given = os.environ.get(VARIABLE)
    if given:
        return None if given.strip().lower() == "off" else Path(given).expanduser()
    home = os.environ.get("XDG_CACHE_HOME")
    try:
        return (Path(home) if home else Path.home() / ".cache") / "learned-explainers"
    except RuntimeError:  # a user without a home
        return None


def keep(path: Path, content: bytes) -> bool:
    """Write a file as a whole, so that other processes see all of it or nothing.

    Returns:
        Whether it could be written. A full disk or a folder without permission keeps nothing.
    """
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=path.parent, prefix=path.name, delete=False) as file:
            try:
                file.write(content)
                file.close()
                os.replace(file.name, path)
                return True
            except OSError:
                os.unlink(file.name)
    return False
