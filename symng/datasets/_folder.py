"""The folder of a user's own data sets."""

from __future__ import annotations

import os
from pathlib import Path

from symng._checks import Verbatim, argument_error

FOLDER = "SYMNG_DATA"  # environment variable


def own_folder(error: type[Exception]) -> Path | None:
    """Return the folder that ``SYMNG_DATA`` names, or None if it is not set.

    Raises
    ------
    error
        When it does not name a folder.
    """
    name = os.environ.get(FOLDER)
    if not name:
        return None
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise argument_error(
            FOLDER,
            "the name of a folder in this environment variable",
            Verbatim(f"{name!r}, which is not a folder"),
            "Correct or unset it.",
            error,
        )
    return folder
