"""The stream of deformed digits.

Its examples by their numbers, workers, bad arguments; the example that draws it.
"""

from __future__ import annotations

import importlib.util
import itertools
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from symng.datasets import LabeledImages, deformed_digits
from symng.datasets import _deformations as modules

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def base():
    """Return strokes of 28 x 28 pixels, no two alike, and labels that tell which is which."""
    rng = np.random.default_rng(0)
    images = np.zeros((40, 28, 28), "float32")
    for image in images:
        points = rng.integers(5, 23, (4, 2))
        for first, last in itertools.pairwise(points):
            for row, column in np.linspace(first, last, 20).round().astype(int):
                image[row : row + 2, column : column + 2] = 1.0
    assert len(np.unique(images, axis=0)) == len(images)
    return images, np.arange(100, 140)


def test_shape_dtype_range_and_labels(base):
    images, labels = deformed_digits(base, 0, 60)
    assert images.shape == (60, 1024) and images.dtype == "float32"
    assert images.min() == 0 and 0.9 < images.max() <= 1
    assert labels.shape == (60,) and labels.dtype == "int64" and set(labels) <= set(base[1])
    assert len(set(labels)) > 20  # of 40 base images
    assert images.any(axis=1).all() and len(np.unique(images, axis=0)) == 60
    double, _ = deformed_digits(base, 0, 10, dtype=np.float64)
    assert double.dtype == "float64" and double.max() <= 1
    np.testing.assert_array_equal(double.astype("float32"), images[:10])


@pytest.mark.parametrize("side", [28, 27, 32, 1])
def test_base_images_are_centered(side):
    originals, numbers = np.random.default_rng(0).random((7, side, side)), np.arange(7)
    margin = (32 - side) // 2
    for options in ({"modules": ()}, {"complexity": 0.0}):
        images, labels = deformed_digits((originals, numbers), 0, 30, dtype="float64", **options)
        images = images.reshape(-1, 32, 32)
        middle = images[:, margin : margin + side, margin : margin + side]
        np.testing.assert_array_equal(middle, originals[labels])
        np.testing.assert_allclose(images.sum(), originals[labels].sum())  # nothing beside it


def test_base_images_are_picked_alike_often(base):
    _, labels = deformed_digits(base, 0, 4000, modules=())
    counts = np.bincount(labels - 100, minlength=40)
    assert abs(counts - 100).max() < 5 * 10


def test_one_example_is_what_its_numbers_say(base):
    """The modules one after the other, each with a complexity of its own."""
    images, labels = deformed_digits(
        base, 5, 8, segment=3, replica=2, seed=11, complexity=0.5, dtype="float64"
    )
    for number, image, label in zip(range(5, 8), images, labels, strict=True):
        rng = np.random.default_rng([11, 3, 2, number])
        pick = rng.integers(40)
        wanted = np.pad(base[0][pick].astype("float64"), 2)
        for change in (
            modules.slant,
            modules.thickness,
            modules.affine,
            modules.elastic,
            modules.pinch,
        ):
            wanted = change(wanted, rng, rng.uniform(0, 0.5))
        assert label == base[1][pick]
        np.testing.assert_array_equal(image.reshape(32, 32), wanted.clip(0, 1))


def test_a_slice_is_the_slice_of_more(base):
    images, labels = deformed_digits(base, 0, 300, segment=1)  # more than one chunk
    for start, stop in ((0, 1), (7, 30), (250, 260), (299, 300), (5, 5)):
        some, told = deformed_digits(base, start, stop, segment=1)
        np.testing.assert_array_equal(some, images[start:stop])
        np.testing.assert_array_equal(told, labels[start:stop])


@pytest.mark.parametrize("other", [{"segment": 1}, {"replica": 1}, {"seed": 1}])
def test_other_streams_have_other_examples(base, other):
    images, labels = deformed_digits(base, 0, 30)
    others, other_labels = deformed_digits(base, 0, 30, **other)
    assert not (labels == other_labels).all()
    assert not (images[:, None] == others[None]).all(axis=2).any()


def test_segment_and_replica_and_seed_are_not_the_same_thing(base):
    streams = [
        deformed_digits(base, 0, 3, **{name: 1})[0] for name in ("segment", "replica", "seed")
    ]
    assert not any((a == b).all() for i, a in enumerate(streams) for b in streams[:i])


def test_modules_can_be_chosen(base):
    none, labels = deformed_digits(base, 0, 20, modules=())
    for name in modules.DEFORMATIONS:
        images, told = deformed_digits(base, 0, 20, modules=[name])
        np.testing.assert_array_equal(labels, told)  # the base images stay
        assert not (images == none).all(axis=1).all()
    default, _ = deformed_digits(base, 0, 5)
    np.testing.assert_array_equal(
        deformed_digits(base, 0, 5, modules=tuple(modules.DEFORMATIONS))[0], default
    )


def test_of_labeled_images_those_to_train_on_are_taken(base):
    images, labels = base
    held = LabeledImages(
        train_images=images,
        train_labels=labels,
        test_images=1 - images,
        test_labels=labels + 40,
        source="strokes",
    )
    for made, wanted in zip(deformed_digits(held, 0, 9), deformed_digits(base, 0, 9), strict=True):
        np.testing.assert_array_equal(made, wanted)


def test_workers_make_the_same(base, tmp_path):
    """In a script of its own, as a user has it: workers import it."""
    np.savez(tmp_path / "base.npz", images=base[0], labels=base[1])
    (tmp_path / "script.py").write_text(
        "import numpy as np\n"
        "from symng.datasets import deformed_digits\n"
        "if __name__ == '__main__':\n"
        "    base = tuple(np.load('base.npz').values())\n"
        "    images, labels = deformed_digits(base, 3, 16, segment=2, jobs=2)\n"
        "    np.savez('made.npz', images=images, labels=labels)\n"
    )
    subprocess.run([sys.executable, "script.py"], cwd=tmp_path, check=True, timeout=120)
    images, labels = deformed_digits(base, 3, 16, segment=2)
    with np.load(tmp_path / "made.npz") as made:
        np.testing.assert_array_equal(made["images"], images)
        np.testing.assert_array_equal(made["labels"], labels)


def test_a_script_without_a_main_guard_is_refused(tmp_path):
    (tmp_path / "script.py").write_text(
        "import numpy as np\n"
        "from symng.datasets import deformed_digits\n"
        "deformed_digits((np.zeros((2, 28, 28)), np.arange(2)), 0, 4, jobs=2)\n"
    )
    done = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, timeout=120, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert "RuntimeError: jobs: expected 2 worker processes, got one that ended" in done.stderr
    assert 'if __name__ == "__main__":' in done.stderr


@pytest.mark.parametrize(
    "arguments, error, words",
    [
        ({"start": -1}, ValueError, "start: expected a whole number, at least 0"),
        ({"start": 0.0}, TypeError, "start: expected"),
        ({"stop": 2}, ValueError, "stop: expected a whole number, at least 3, got 2"),
        ({"stop": 2**32}, ValueError, "stop: expected .* at most 4294967295"),
        ({"segment": -1}, ValueError, "segment: expected"),
        ({"replica": 2**32}, ValueError, "replica: expected"),
        ({"seed": None}, TypeError, "seed: expected"),
        (
            {"complexity": 1.1},
            ValueError,
            "complexity: expected a finite number, at least 0 and at most 1",
        ),
        ({"complexity": np.nan}, ValueError, "complexity: expected"),
        ({"modules": "slant"}, TypeError, "modules: expected a tuple of names"),
        (
            {"modules": ["slant", "noise"]},
            ValueError,
            "modules: expected one of 'slant', .* got 'noise'",
        ),
        ({"dtype": "uint8"}, ValueError, "dtype: expected one of 'float32', 'float64'"),
        ({"jobs": 0}, ValueError, "jobs: expected a whole number, at least 1"),
    ],
)
def test_bad_arguments_are_named(base, arguments, error, words):
    with pytest.raises(error, match="^" + words):
        deformed_digits(base, **{"start": 3, "stop": 5, **arguments})


@pytest.mark.parametrize(
    "images, labels, error, words",
    [
        (
            np.zeros((2, 33, 33)),
            np.arange(2),
            ValueError,
            "base, images: expected a side of at most 32",
        ),
        (
            np.zeros((2, 28, 27)),
            np.arange(2),
            ValueError,
            r"base, images: expected .* shape \(images, side, side\)",
        ),
        (np.zeros((2, 784)), np.arange(2), ValueError, "base, images: .* Reshape rows"),
        (np.zeros((0, 28, 28)), np.arange(0), ValueError, "base, images: expected"),
        (
            np.zeros((2, 28, 28), "uint8"),
            np.arange(2),
            TypeError,
            "base, images: expected .* images / 255",
        ),
        (
            np.full((2, 28, 28), 1.5),
            np.arange(2),
            ValueError,
            "base, images: expected gray values .* got 1.5 to 1.5",
        ),
        (
            np.full((2, 28, 28), np.nan),
            np.arange(2),
            ValueError,
            "base, images: expected gray values from 0 to 1",
        ),
        (
            np.zeros((2, 28, 28)),
            np.arange(3),
            ValueError,
            "base, labels: expected an array of 2 whole numbers",
        ),
        (
            np.zeros((2, 28, 28)),
            np.zeros(2),
            TypeError,
            "base, labels: expected an array of 2 whole numbers",
        ),
        (np.zeros((2, 28, 28)), [0, 1], TypeError, "base, labels: expected an array"),
    ],
)
def test_bad_base_images_are_named(images, labels, error, words):
    with pytest.raises(error, match="^" + words):
        deformed_digits((images, labels), 0, 1)


def test_base_has_to_be_images_and_labels(base):
    for wrong in (base[0], "mnist.npz", base + base):
        with pytest.raises(TypeError, match=r"^base: expected what digits\(\) returns, or a pair"):
            deformed_digits(wrong, 0, 1)


# The example


@pytest.fixture
def example():
    """Return examples/deformed_digits.py as a module."""
    spec = importlib.util.spec_from_file_location(
        "deformed_digits_example", ROOT / "examples" / "deformed_digits.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_example_draws_a_page(example, tmp_path, capsys):
    images = np.random.default_rng(0).integers(0, 256, (12, 28, 28)).astype("uint8")
    labels = np.arange(12).astype("uint8") % 10
    np.savez(
        tmp_path / "own.npz", x_train=images, y_train=labels, x_test=images[:3], y_test=labels[:3]
    )
    arguments = [
        "--path",
        str(tmp_path / "own.npz"),
        "--seed",
        "2",
        "--complexity",
        "1",
        "--out",
        str(tmp_path / "out"),
    ]
    assert example.main(arguments) == 0
    assert (tmp_path / "out" / "deformed_digits.png").read_bytes().startswith(b"\x89PNG")
    assert "12 images to train on and 3 held out, 28 x 28, from own.npz" in capsys.readouterr().out
    assert example.ROWS["all five"] == tuple(modules.DEFORMATIONS)


def test_example_says_what_is_wrong(example, tmp_path, capsys):
    assert example.main(["--path", str(tmp_path / "none.npz"), "--out", str(tmp_path)]) == 2
    assert "none.npz" in capsys.readouterr().err
    for arguments in (["--complexity", "1.5"], ["--complexity", "nan"], ["--seed", "-1"]):
        with pytest.raises(SystemExit):
            example.parse(arguments)
        assert f"{arguments[0]}: expected" in capsys.readouterr().err


def test_page_lists_every_option(example, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "200")  # argparse would break lines at 80
    with pytest.raises(SystemExit):
        example.parse(["--help"])
    options = set(re.findall(r"^ +(--[a-z-]+)", capsys.readouterr().out, re.M))
    page = (ROOT / "docs" / "deformed_digits.md").read_text()
    assert options and set(re.findall(r"^\| `(--[a-z-]+)", page, re.M)) == options
    assert (ROOT / "docs" / "deformed_digits.png").stat().st_size < 150_000
