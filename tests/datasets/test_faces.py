"""Faces, and Fashion-MNIST in their shape.

What is read, how it is folded, what is refused; contrast normalization.
"""

from __future__ import annotations

import gzip
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.io
from helpers.idx_files import idx
from scipy import signal

from symng.datasets import _fashion, contrast, faces, local_contrast_normalization

NAMES = _fashion.IDX_FILES


@pytest.fixture(autouse=True)
def bare(monkeypatch, tmp_path):
    """Let nothing of this computer be found."""
    monkeypatch.delenv("SYMNG_DATA", raising=False)
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path / "scikit-learn"))
    monkeypatch.setattr(_fashion, "DEBIAN", tmp_path / "debian")


def numbered(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images of 2 x 2 that tell their number, and labels that follow from it."""
    number = np.arange(count)
    images = np.stack([number % 256, number // 256, number % 7, number % 11], axis=1).astype(
        "uint8"
    )
    return images.reshape(-1, 2, 2), (number * 3 % 10).astype("uint8")


def numbers_of(images: np.ndarray) -> np.ndarray:
    flat = images.reshape(len(images), 4).astype(int)
    return flat[:, 0] + 256 * flat[:, 1]


def write(folder: Path, count: int = 4500, zipped: bool = True) -> Path:
    """Write the four files, a fifth of the images into the second part."""
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = numbered(count)
    cut = count - count // 5
    for name, array in zip(
        NAMES, (images[:cut], labels[:cut], images[cut:], labels[cut:]), strict=True
    ):
        content = idx(array)
        (folder / f"{name}{'.gz' * zipped}").write_bytes(
            gzip.compress(content, 1) if zipped else content
        )
    return folder


def check_labels(images, labels):
    np.testing.assert_array_equal(labels, numbers_of(images) * 3 % 10)


def test_fashion_in_the_shape_of_the_faces(tmp_path):
    write(tmp_path / "idx")
    tested, unlabeled = [], []
    for fold in range(5):
        data = faces(tmp_path / "idx", fold=fold)
        assert [len(data.train_labels), len(data.valid_labels), len(data.test_labels)] == [
            2925,
            418,
            835,
        ]
        assert (
            data.train_images.dtype == "uint8"
            and data.train_images.shape[1:] == (2, 2)
            and data.classes == 10
        )
        for part in ("train", "valid", "test"):
            check_labels(getattr(data, f"{part}_images"), getattr(data, f"{part}_labels"))
        parts = (data.train_images, data.valid_images, data.test_images, data.unlabeled_images)
        everything = np.concatenate([numbers_of(part) for part in parts])
        np.testing.assert_array_equal(np.sort(everything), np.arange(4500))
        tested.append(numbers_of(data.test_images))
        unlabeled.append(numbers_of(data.unlabeled_images))
        np.testing.assert_array_equal(unlabeled[-1], unlabeled[0])
    assert len(np.unique(np.concatenate(tested))) == 5 * 835
    assert repr(data) == (
        "<FacesFold: 2,925 / 418 / 835 labeled, 322 unlabeled images of 2 x 2, 10 classes; "
        f"{tmp_path / 'idx'}, fold 4 of seed 0>"
    )


def test_folds_by_seed(tmp_path):
    write(tmp_path)
    one, same, other = (numbers_of(faces(tmp_path, seed=seed).test_images) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert len(np.intersect1d(one, other)) < 300  # by chance 835 * 835 / 4500


@pytest.mark.parametrize(
    "labeled, parts", [(100, (70, 10, 20)), (10, (7, 1, 2)), (4500, (3150, 450, 900))]
)
def test_number_of_labeled_images(tmp_path, labeled, parts):
    data = faces(write(tmp_path), labeled=labeled)
    assert (len(data.train_labels), len(data.valid_labels), len(data.test_labels)) == parts
    assert len(data.unlabeled_images) == 4500 - labeled


def test_places_that_are_looked_into(tmp_path, monkeypatch):
    """In the order.

    Path, SYMNG_DATA, the folder of Debian, what scikit-learn has fetched; each with plain files.
    """
    arff = (
        tmp_path
        / "scikit-learn"
        / "openml"
        / "openml.org"
        / "data"
        / "v1"
        / "download"
        / "1"
        / "any.arff.gz"
    )
    arff.parent.mkdir(parents=True)
    images, labels = numbered(4300)
    rows = np.column_stack([images.reshape(-1, 4), labels])
    lines = "\n".join(",".join(map(str, row)) for row in rows)
    head = "% a comment\n@RELATION 'Fashion-MNIST'\n@ATTRIBUTE pixel1 REAL\n"
    head += "@ATTRIBUTE class {0,1}\n\n@DATA\n"
    arff.write_bytes(gzip.compress((head + lines + "\n").encode()))
    (arff.parent / "another.gz").write_bytes(gzip.compress(b"@relation mnist_784\n"))
    (arff.parent / "broken.gz").write_bytes(b"@relation")
    data = faces()
    assert data.source.startswith(str(arff)) and len(data.unlabeled_images) == 4300 - 4178
    check_labels(data.train_images, data.train_labels)

    assert faces(download=True).source == data.source  # what is there is not fetched
    assert faces_from(write(tmp_path / "debian", zipped=False)) == tmp_path / "debian"
    monkeypatch.setenv("SYMNG_DATA", str(tmp_path / "own"))
    (tmp_path / "own").mkdir()
    assert faces_from() == tmp_path / "debian"
    assert (
        faces_from(write(tmp_path / "own" / "fashion-mnist")) == tmp_path / "own" / "fashion-mnist"
    )
    assert faces_from(write(tmp_path / "own")) == tmp_path / "own"
    assert (
        faces(write(tmp_path / "given"), fold=1).source == f"{tmp_path / 'given'}, fold 1 of seed 0"
    )
    monkeypatch.setenv("SYMNG_DATA", str(tmp_path / "mistyped"))
    with pytest.raises(
        FileNotFoundError,
        match=r"^SYMNG_DATA: expected the name of a folder .* got '.*mistyped', which",
    ):
        faces()


def faces_from(_: object = None) -> Path:
    """Return where the default is read from."""
    return Path(faces().source.partition(", fold")[0])


def test_download(tmp_path, monkeypatch):
    images, labels = np.random.default_rng(0).integers(256, size=(4200, 784)), np.arange(4200) % 10

    def fetch(name, version, as_frame, parser):
        assert (name, version) == ("Fashion-MNIST", 1)
        return SimpleNamespace(data=images.astype(float), target=labels.astype(str).astype(object))

    datasets = pytest.importorskip("sklearn.datasets")
    monkeypatch.setattr(datasets, "fetch_openml", fetch)
    data = faces(download=True)
    assert data.test_images.shape == (835, 28, 28) and "OpenML" in data.source
    row = np.flatnonzero((images == data.test_images[0].ravel()).all(axis=1))
    np.testing.assert_array_equal(labels[row], data.test_labels[:1])

    def fail(*arguments, **named):
        raise OSError("no network")

    monkeypatch.setattr(datasets, "fetch_openml", fail)
    with pytest.raises(
        OSError, match=r"^download: expected Fashion-MNIST from OpenML, got no network. To get"
    ):
        faces(download=True)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match="^download: expected scikit-learn to be installed"):
        faces(download=True)


def test_nothing_found_says_what_to_do(tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        faces()
    for words in (
        "debian",
        "scikit-learn",
        "apt install dataset-fashion-mnist",
        "fetch_openml",
        "download=True",
        "SYMNG_DATA",
        *NAMES,
    ):
        assert words in str(caught.value)


def spoil(folder: Path, name: str, content: bytes, zipped: bool = True) -> None:
    (folder / f"{name}.gz").write_bytes(gzip.compress(content) if zipped else content)


IMAGES, LABELS = numbered(3600)


@pytest.mark.parametrize(
    "name, content, zipped, words",
    [
        (
            NAMES[0],
            gzip.compress(idx(IMAGES))[:-20],
            False,
            "expected a gzipped file in '.*train-images.*', got a dam",
        ),
        (NAMES[0], b"none at all", False, "expected a gzipped file in"),
        (NAMES[0], b"", False, "expected an idx file of bytes in"),
        (NAMES[0], b"", True, "expected an idx file of bytes in"),
        (
            NAMES[0],
            b"\0\0\x0d" + idx(IMAGES)[3:],
            True,
            "expected an idx file of bytes in .*, got one that begins",
        ),
        (
            NAMES[0],
            idx(IMAGES)[:-3],
            True,
            r"expected 14,400 bytes for the shape \(3600, 2, 2\) in .*, got 14,397",
        ),
        (NAMES[0], idx(IMAGES) + b"1", True, "expected 14,400 bytes for the shape"),
        (NAMES[0], idx(IMAGES[0]), True, "expected 3 axes in '.*train-images.*', got 2"),
        (NAMES[1], idx(IMAGES), True, "expected 1 axes in '.*train-labels.*', got 3"),
        (
            NAMES[1],
            idx(LABELS[:-1]),
            True,
            "expected labels of 3,600 images in '.*train-labels.*', got 3,599",
        ),
        (
            NAMES[3],
            idx(np.full(900, 10, "uint8")),
            True,
            "expected labels from 0 to 9 in '.*t10k-labels.*', got 10",
        ),
        (
            NAMES[2],
            idx(np.zeros((900, 3, 2), "uint8")),
            True,
            "expected images of 2 x 2 in '.*t10k-images.*', got",
        ),
    ],
)
def test_damaged_files(tmp_path, name, content, zipped, words):
    write(tmp_path)
    spoil(tmp_path, name, content, zipped)
    with pytest.raises(ValueError, match="^path: " + words) as caught:
        faces(tmp_path)
    assert "Get the files again." in str(caught.value)


@pytest.mark.parametrize(
    "content, words",
    [
        ("@relation Fashion-MNIST\n1,2,3,4,5\n", "expected an ARFF file with @DATA in"),
        ("@relation Fashion-MNIST\n@data\n1,2,3,300,5\n", "expected lines of whole numbers in"),
        (
            "@relation Fashion-MNIST\n@data\n1,2,3,4,5\n1,2,3\n",
            "expected lines of whole numbers in",
        ),
        (
            "@relation Fashion-MNIST\n@data\n1,2,3\n",
            "expected lines of the pixels of a square image and a label in",
        ),
        (
            "@relation Fashion-MNIST\n@data\n",
            "expected lines of the pixels of a square image and a label in",
        ),
        (
            "@relation Fashion-MNIST\n@data\n1,2,3,4,12\n",
            "expected labels from 0 to 9 in .*, got 12",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:loadtxt")
def test_damaged_file_of_scikit_learn(tmp_path, content, words):
    file = tmp_path / "scikit-learn" / "openml" / "openml.org" / "data" / "x.gz"
    file.parent.mkdir(parents=True)
    file.write_bytes(gzip.compress(content.encode()))
    with pytest.raises(ValueError, match="^path: " + words):
        faces()


def test_wrong_paths(tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match=r"^path: expected a TFD_48x48.mat, or .*no', which does not exist. To get",
    ):
        faces(tmp_path / "no")
    with pytest.raises(FileNotFoundError, match="^path: expected .* folder .* without them"):
        faces(str(tmp_path))
    (tmp_path / "x.npz").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"^path: expected .* got the file '.*x.npz'"):
        faces(tmp_path / "x.npz")
    write(tmp_path / "part")
    (tmp_path / "part" / f"{NAMES[3]}.gz").unlink()
    with pytest.raises(FileNotFoundError, match=f"^path: expected the files .* without {NAMES[3]}"):
        faces(tmp_path / "part")


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        ({"fold": 5}, ValueError, "fold: expected a whole number, at least 0 and at most 4, got 5"),
        ({"fold": 1.0}, TypeError, "fold: expected"),
        ({"labeled": 9}, ValueError, "labeled: expected a whole number, at least 10"),
        (
            {"labeled": 4501},
            ValueError,
            "labeled: expected at most the 4,500 images there are, got 4501",
        ),
        ({"labeled": 20.0}, TypeError, "labeled: expected"),
        ({"seed": -1}, ValueError, "seed: expected"),
        ({"download": 1}, TypeError, "download: expected True or False"),
        ({"path": 3}, TypeError, "path: expected the name of a file or folder"),
    ],
)
def test_bad_arguments_are_named(tmp_path, arguments, error, words):
    write(tmp_path)
    with pytest.raises(error, match="^" + words):
        faces(**{"path": tmp_path, **arguments})


# The file of the Toronto Face Dataset.


def tfd(count: int = 60, **changed) -> dict[str, np.ndarray]:
    """Return the content of a file with 2 of 3 images labeled.

    The first pixels tell the number of the image.
    """
    number = np.arange(count)
    images = np.zeros((count, 48, 48), "uint8")
    images[:, 0, 0] = number
    labeled = number % 3 > 0
    place = np.cumsum(labeled) - 1
    folds = np.stack(
        [np.choose((place + 2 * fold) % 10, [3, 3, 2] + 7 * [1]) for fold in range(5)], axis=1
    )
    content = {
        "images": images,
        "folds": np.where(labeled[:, None], folds, 0).astype("float64"),
        "labs_ex": np.where(labeled, number % 7 + 1, -1)[:, None].astype("float64"),
        "labs_id": number[:, None],
    }
    return content | changed


def save(folder: Path, content: dict[str, np.ndarray]) -> Path:
    path = folder / "TFD_48x48.mat"
    scipy.io.savemat(path, content, do_compression=True)
    return path


@pytest.mark.parametrize("fold", [0, 3])
def test_toronto_faces(tmp_path, fold):
    content = tfd()
    data = faces(save(tmp_path, content), fold=fold)
    assert (
        data.classes == 7
        and data.train_images.shape == (28, 48, 48)
        and data.train_images.dtype == "uint8"
    )
    for part, code in (("train", 1), ("valid", 2), ("test", 3), ("unlabeled", 0)):
        images = getattr(data, f"{part}_images")
        number = images[:, 0, 0]
        np.testing.assert_array_equal(number, np.flatnonzero(content["folds"][:, fold] == code))
        if code:
            np.testing.assert_array_equal(getattr(data, f"{part}_labels"), number % 7)
    assert data.source == f"{tmp_path / 'TFD_48x48.mat'}, fold {fold}"


def test_fewer_labeled_faces(tmp_path):
    path = save(tmp_path, tfd())
    whole, data = faces(path), faces(path, labeled=20, seed=1)
    assert [len(data.train_labels), len(data.valid_labels), len(data.test_labels)] == [14, 2, 4]
    assert len(data.unlabeled_images) == 40
    for part in ("train", "valid", "test"):
        number = getattr(data, f"{part}_images")[:, 0, 0]
        assert set(number) < set(getattr(whole, f"{part}_images")[:, 0, 0])
        np.testing.assert_array_equal(getattr(data, f"{part}_labels"), number % 7)
    assert not np.array_equal(faces(path, labeled=20, seed=2).train_images, data.train_images)
    with pytest.raises(
        ValueError, match="^labeled: expected at most the 40 labeled images of the file, got 41"
    ):
        faces(path, labeled=41)


@pytest.mark.parametrize(
    "changed, words",
    [
        (
            {"images": np.zeros((60, 28, 28), "uint8")},
            r"expected images of shape \(60, 48, 48\), got an array of shape",
        ),
        ({"images": np.zeros((60, 48, 48))}, "expected images of dtype uint8, got float64"),
        ({"folds": np.ones((60, 4))}, r"expected folds of shape \(60, 5\)"),
        ({"folds": np.full((60, 5), 4)}, "expected codes 0, 1, 2 and 3 in folds"),
        ({"folds": np.full((60, 5), np.nan)}, "expected codes 0, 1, 2 and 3 in folds"),
        (
            {"folds": np.ones((60, 5))},
            "expected images to train with, .* whose fold 0 has 60 / 0 / 0 of them",
        ),
        ({"labs_ex": np.ones((59, 1))}, r"expected labs_ex of shape \(60, 1\)"),
        ({"labs_ex": np.full((60, 1), "x")}, "expected labs_ex of shape"),
        (
            {"labs_ex": np.full((60, 1), 8)},
            "expected labels from 1 to 7 .* with labels from 8 to 8",
        ),
        ({"labs_ex": np.full((60, 1), -1)}, "expected labels from 1 to 7"),
    ],
)
def test_files_of_something_else(tmp_path, changed, words):
    with pytest.raises(ValueError, match="^path: " + words):
        faces(save(tmp_path, tfd(**changed)))


def test_damaged_faces(tmp_path):
    content = tfd()
    del content["labs_ex"], content["folds"]
    with pytest.raises(
        ValueError, match=r"^path: expected .* got '.*TFD_48x48.mat' without folds, labs_ex"
    ):
        faces(save(tmp_path, content))
    path = save(tmp_path, tfd())
    whole = path.read_bytes()
    header = b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM"
    with_noise = whole[:300] + bytes(200) + whole[500:]
    for damaged in (
        b"",
        b"\0" * 200,
        b"not a MATLAB file" * 20,
        whole[: len(whole) // 2],
        with_noise,
        header + b"\0" * 900,
    ):
        path.write_bytes(damaged)
        with pytest.raises(
            ValueError, match="^path: expected a TFD_48x48.mat with images, folds and labs_ex, got"
        ):
            faces(path)
    with pytest.raises(ValueError, match="of MATLAB's format 7.3. Save it again in MATLAB"):
        faces(path)
    (tmp_path / "folder.mat").mkdir()
    with pytest.raises(FileNotFoundError, match="^path: expected"):
        faces(tmp_path / "folder.mat")


# Local contrast normalization.


def test_contrast_is_the_formula(monkeypatch):
    monkeypatch.setattr(contrast, "_CHUNK", 2)
    images = np.random.default_rng(0).random((5, 14, 11)) ** 4
    around = np.arange(-4, 5)
    window = np.exp(-(around[:, None] ** 2 + around**2) / (2 * 2.0**2))
    window /= window.sum()

    def blur(image):
        return signal.correlate(np.pad(image, 4, mode="symmetric"), window, mode="valid")

    for image, got in zip(images, local_contrast_normalization(images), strict=True):
        v = image - blur(image)
        s = np.sqrt(blur(v**2))
        np.testing.assert_allclose(got, v / np.maximum(s, s.mean()), rtol=1e-10, atol=1e-12)


def test_contrast_with_zeros_beyond_the_border_and_another_range():
    images = np.random.default_rng(0).random((3, 14, 11)) ** 4
    around = np.arange(-3, 4)
    window = np.exp(-(around[:, None] ** 2 + around**2) / (2 * 1.5**2))
    window /= window.sum()
    found = local_contrast_normalization(
        images, sigma=1.5, radius=3, border="zero", offset=2.5, scale=5.0
    )
    for image, got in zip(images, found, strict=True):
        v = image - signal.correlate(np.pad(image, 3), window, mode="valid")
        s = np.sqrt(signal.correlate(np.pad(v**2, 3), window, mode="valid"))
        expected = (v / np.maximum(s, s.mean()) + 2.5) / 5
        np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-12)


def test_contrast_of_bytes_and_of_flat_images():
    images = np.random.default_rng(0).integers(256, size=(3, 12, 12)).astype("uint8")
    got = local_contrast_normalization(images)
    assert got.dtype == "float32"
    np.testing.assert_allclose(
        got, local_contrast_normalization(images / 255), rtol=1e-3, atol=1e-4
    )
    np.testing.assert_array_equal(local_contrast_normalization(np.full((2, 12, 12), 7)), 0)
    assert local_contrast_normalization(np.zeros((0, 12, 12), "float32")).shape == (0, 12, 12)
    faint = local_contrast_normalization(1e-3 * images / 255, floor=1.0)
    assert 0 < abs(faint).max() < 1e-3


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        (
            {"images": np.zeros((4, 4))},
            ValueError,
            "images: expected an array of gray values of shape",
        ),
        ({"images": np.full((1, 4, 4), "x")}, ValueError, "images: expected"),
        ({"images": np.full((1, 4, 4), np.nan)}, ValueError, "images: expected finite values"),
        ({"sigma": 0}, ValueError, "sigma: expected"),
        ({"radius": 0}, ValueError, "radius: expected"),
        ({"radius": 1.5}, TypeError, "radius: expected"),
        ({"floor": 0.0}, ValueError, "floor: expected"),
        ({"border": "wrap"}, ValueError, "border: expected one of 'reflect', 'zero'"),
        ({"offset": np.inf}, ValueError, "offset: expected"),
        ({"scale": 0.0}, ValueError, "scale: expected"),
    ],
)
def test_contrast_refuses(arguments, error, words):
    with pytest.raises(error, match="^" + words):
        local_contrast_normalization(**{"images": np.zeros((1, 4, 4)), **arguments})
