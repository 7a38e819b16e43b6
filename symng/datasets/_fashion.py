"""Find the files of Fashion-MNIST and read them."""

from __future__ import annotations

import gzip
import io
import math
import os
import re
import zlib
from pathlib import Path

import numpy as np

from symng._checks import Verbatim, argument_error
from symng.datasets._folder import FOLDER, own_folder
from symng.datasets._openml import fetch_images

DEBIAN = Path("/usr/share/datasets/fashion-mnist")
# Images and labels of the two parts; gzipped files end in .gz.
IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
_CLASSES = 10
_GET_AGAIN = "Get the files again."


def how_to_get_fashion() -> str:
    """Return how to get Fashion-MNIST, in a sentence."""
    return (
        "To get Fashion-MNIST: apt install dataset-fashion-mnist (Debian, Ubuntu); or "
        'sklearn.datasets.fetch_openml("Fashion-MNIST"), which download=True calls; or put '
        f"{', '.join(IDX_FILES)}, gzipped or not, into a folder and give it as path or in "
        f"{FOLDER}."
    )


def find_fashion(path: Path | None, download: bool) -> tuple[np.ndarray, np.ndarray, str]:
    """Return all images, their labels, and where they come from."""
    folders = [path] if path is not None else _search_path()
    candidates = [c for folder in folders for c in (folder, folder / "fashion-mnist")]
    for folder in candidates:
        files = [existing_file(folder, name) for name in IDX_FILES]
        if any(files):
            if missing := [
                name for name, file in zip(IDX_FILES, files, strict=True) if file is None
            ]:
                raise argument_error(
                    "path",
                    f"the files {', '.join(IDX_FILES)}, gzipped or not",
                    Verbatim(f"the folder {str(folder)!r} without {', '.join(missing)}"),
                    _GET_AGAIN,
                    FileNotFoundError,
                )
            return (*read_parts([file for file in files if file is not None]), str(folder))
    if path is not None:
        what = (
            f"the folder {str(path)!r} without them" if path.is_dir() else f"the file {str(path)!r}"
        )
        error: type[Exception] = FileNotFoundError if path.is_dir() else ValueError
        raise argument_error(
            "path",
            "a TFD_48x48.mat, or a folder of idx files",
            Verbatim(what),
            how_to_get_fashion(),
            error,
        )
    fetched = _fetched_before()
    if fetched is not None:
        return (*_read_arff(fetched), str(fetched))
    if download:
        return (
            *fetch_images("Fashion-MNIST", "Fashion-MNIST", how_to_get_fashion()),
            "OpenML's Fashion-MNIST",
        )
    searched = ", ".join([*map(str, candidates), str(_scikit_learn_home())])
    raise argument_error(
        "path",
        "Fashion-MNIST in one of the usual places",
        Verbatim(f"none in {searched}"),
        how_to_get_fashion(),
        FileNotFoundError,
    )


def _search_path() -> list[Path]:
    """Return the folders to search, before that of scikit-learn."""
    folder = own_folder(FileNotFoundError)
    return [DEBIAN] if folder is None else [folder, DEBIAN]


def existing_file(folder: Path, name: str) -> Path | None:
    """Return the file with this name, gzipped or not; None if there is none."""
    for file in (folder / f"{name}.gz", folder / name):
        if file.is_file():
            return file
    return None


def read_parts(files: list[Path]) -> tuple[np.ndarray, np.ndarray]:
    """Return images and labels of both parts, one after the other."""
    first, first_labels, second, second_labels = map(_read_idx, files)
    for axes, arrays in ((3, (first, second)), (1, (first_labels, second_labels))):
        for file, array in zip(files[axes == 1 :: 2], arrays, strict=True):
            if array.ndim != axes:
                raise _damaged(file, f"{axes} axes", f"{array.ndim}")
    for file, part, labels in ((files[1], first, first_labels), (files[3], second, second_labels)):
        if len(part) != len(labels):
            raise _damaged(file, f"labels of {len(part):,} images", f"{len(labels):,}")
        if labels.size and labels.max() >= _CLASSES:
            raise _damaged(file, f"labels from 0 to {_CLASSES - 1}", str(labels.max()))
    if first.shape[1:] != second.shape[1:]:
        raise _damaged(
            files[2], f"images of {first.shape[1]} x {first.shape[2]}", str(second.shape[1:])
        )
    return np.concatenate([first, second]), np.concatenate([first_labels, second_labels]).astype(
        "int64"
    )


def _read_idx(file: Path) -> np.ndarray:
    """Return the array of bytes in an idx file: magic number, lengths of the axes, values."""
    content = file.read_bytes()
    if file.suffix == ".gz":
        content = _unzip(file, content)
    if len(content) < 4 or content[:3] != b"\0\0\x08" or len(content) < 4 + 4 * content[3]:
        raise _damaged(file, "an idx file of bytes", f"one that begins with {content[:4]!r}")
    start = 4 + 4 * content[3]
    shape = [int.from_bytes(content[i : i + 4], "big") for i in range(4, start, 4)]
    if len(content) - start != math.prod(shape):
        raise _damaged(
            file,
            f"{math.prod(shape):,} bytes for the shape {tuple(shape)}",
            f"{len(content) - start:,}",
        )
    return np.frombuffer(content, dtype="uint8", offset=start).reshape(shape)


def _unzip(file: Path, content: bytes) -> bytes:
    """Return the decompressed content of a gzipped file."""
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise _damaged(file, "a gzipped file", f"a damaged one ({error})") from error


def _damaged(file: Path, expected: str, got: str) -> Exception:
    """Return the exception for a file that is not what it should be."""
    return argument_error("path", f"{expected} in {str(file)!r}", Verbatim(got), _GET_AGAIN)


def _scikit_learn_home() -> Path:
    """Return the folder of scikit-learn's downloads, without creating it."""
    return (
        Path(os.environ.get("SCIKIT_LEARN_DATA") or "~/scikit_learn_data").expanduser() / "openml"
    )


def _fetched_before() -> Path | None:
    """Return scikit-learn's copy of Fashion-MNIST, recognized by its first lines."""
    for file in sorted(_scikit_learn_home().glob("openml.org/data/**/*.gz")):
        try:
            with gzip.open(file) as lines:
                beginning = lines.read(10_000).lower()
        except (OSError, EOFError, zlib.error):
            continue
        if re.search(rb"@relation ['\"]?fashion-mnist", beginning):
            return file
    return None


def _read_arff(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return images and labels of an ARFF file: per line the pixels of an image and its label."""
    content = _unzip(file, file.read_bytes())
    found = re.search(rb"^@data[^\n]*\n", content, re.MULTILINE | re.IGNORECASE)
    if found is None:
        raise _damaged(file, "an ARFF file with @DATA", "one without it")
    try:
        lines = io.BytesIO(content[found.end() :])
        values = np.loadtxt(
            lines, dtype="uint8", delimiter=",", comments="%", ndmin=2, encoding="ascii"
        )
    except (ValueError, OverflowError) as error:
        raise _damaged(file, "lines of whole numbers", f"others ({error})") from error
    side = math.isqrt(max(values.shape[1] - 1, 0))
    if not len(values) or side * side + 1 != values.shape[1]:
        raise _damaged(
            file,
            "lines of the pixels of a square image and a label",
            f"an array of shape {values.shape}",
        )
    if values[:, -1].max() >= _CLASSES:
        raise _damaged(file, f"labels from 0 to {_CLASSES - 1}", str(values[:, -1].max()))
    return values[:, :-1].reshape(-1, side, side), values[:, -1].astype("int64")
