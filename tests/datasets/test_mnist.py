"""MNIST: where it is looked for, in which forms, and that it is MNIST."""

from __future__ import annotations

import gzip
import sys
import zlib

import numpy as np
import pytest

from symng.datasets import mnist

module = sys.modules["symng.datasets.mnist"]
TRAIN, TEST = 5, 2


@pytest.fixture
def arrays(monkeypatch):
    """Return a small data set, which passes for MNIST."""
    rng = np.random.default_rng(0)
    made = {
        "x_train": rng.integers(0, 256, (TRAIN, 28, 28), dtype="uint8"),
        "y_train": np.arange(TRAIN, dtype="uint8"),
        "x_test": rng.integers(0, 256, (TEST, 28, 28), dtype="uint8"),
        "y_test": np.arange(TEST, dtype="uint8"),
    }
    checksums = {name: zlib.crc32(array.tobytes()) for name, array in made.items()}
    monkeypatch.setattr(module, "_CHECKSUMS", checksums)
    monkeypatch.setattr(module, "_TRAIN", TRAIN)
    return made


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """Be in a folder without data, and without the environment variable; return the folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SYMNG_DATA", raising=False)
    return tmp_path


def write_idx(folder, arrays, pack=lambda content: content, ending=""):
    """Write the four idx files."""
    folder.mkdir(exist_ok=True)
    names = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"]
    names += ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"]
    for name, array in zip(names, arrays.values(), strict=True):
        head = b"\0\0\x08" + bytes([array.ndim])
        head += b"".join(length.to_bytes(4, "big") for length in array.shape)
        (folder / f"{name}{ending}").write_bytes(pack(head + array.tobytes()))
    return folder


def check(found, arrays):
    """Compare what was read with what was written."""
    for part in ("train", "test"):
        images, labels = getattr(found, f"{part}_images"), getattr(found, f"{part}_labels")
        assert images.dtype == "float32" and labels.dtype == "int64"
        np.testing.assert_array_equal(images, arrays[f"x_{part}"] / np.float32(255))
        np.testing.assert_array_equal(labels, arrays[f"y_{part}"])


def test_npz_file_and_folder(nowhere, arrays, monkeypatch):
    (nowhere / "data").mkdir()
    np.savez(nowhere / "data" / "mnist.npz", **arrays)
    check(mnist(nowhere / "data" / "mnist.npz"), arrays)
    check(mnist(str(nowhere / "data")), arrays)
    check(mnist(), arrays)
    monkeypatch.chdir("/")
    monkeypatch.setenv("SYMNG_DATA", str(nowhere / "data"))
    check(mnist(), arrays)


@pytest.mark.parametrize("is_zipped", [False, True], ids=["plain", "zipped"])
def test_idx_files(nowhere, arrays, is_zipped):
    packing = (gzip.compress, ".gz") if is_zipped else ()
    check(mnist(write_idx(nowhere / "idx", arrays, *packing)), arrays)


def test_other_data_are_refused(nowhere, arrays):
    arrays["x_train"][3, 4, 5] ^= 1
    np.savez(nowhere / "other.npz", **arrays)
    with pytest.raises(ValueError, match=r"path, x_train in 'other.npz': expected MNIST, whose"):
        mnist(nowhere / "other.npz")
    arrays["x_train"][3, 4, 5] ^= 1
    order = [1, 0, 2, 3, 4]
    np.savez(nowhere / "other.npz", **arrays | {"y_train": arrays["y_train"][order]})
    with pytest.raises(ValueError, match=r"path, y_train in 'other.npz': expected MNIST"):
        mnist(nowhere / "other.npz")


def test_missing_files(nowhere, arrays, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"got none in 'data'\. To get MNIST: .*download"):
        mnist()
    with pytest.raises(FileNotFoundError, match="got none in 'nothing'"):
        mnist("nothing", download=True)  # it is not the user's file that would be fetched
    (write_idx(nowhere / "idx", arrays) / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match="all four idx files.*without t10k-labels-idx1"):
        mnist(nowhere / "idx")
    monkeypatch.setenv("SYMNG_DATA", "nothing")
    with pytest.raises(ValueError, match="SYMNG_DATA: expected the name of a folder"):
        mnist()


def test_download(nowhere, arrays, monkeypatch):
    datasets = pytest.importorskip("sklearn.datasets")

    class Fetched:
        data = np.concatenate([arrays["x_train"], arrays["x_test"]]).reshape(-1, 784)
        target = np.concatenate([arrays["y_train"], arrays["y_test"]]).astype(str)

    def offline(*args, **kwargs):
        raise OSError("no network")

    asked = []
    monkeypatch.setattr(datasets, "fetch_openml", lambda name, **_: asked.append(name) or Fetched)
    found = mnist(download=True)
    check(found, arrays)
    assert asked == ["mnist_784"] and found.source == "OpenML's mnist_784"
    monkeypatch.setattr(datasets, "fetch_openml", offline)
    with pytest.raises(OSError, match=r"download: expected MNIST from OpenML, got no network\. To"):
        mnist(download=True)
