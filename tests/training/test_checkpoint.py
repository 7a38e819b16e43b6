"""Checkpoints: round trips, damage, bad arguments."""

from __future__ import annotations

import json

import numpy as np
import pytest

from symng.training.checkpoint import load_checkpoint, save_checkpoint

ARRAYS = {
    "W1": np.arange(6, dtype="float32").reshape(2, 3),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "scalar": np.array(2.5),
    "empty": np.zeros((0, 3), "int8"),
    "text": np.array(["ab", "ü"]),
    "meta": np.array([True, False]),
    "file": np.array([np.nan, -0.0, np.inf]),
}
META = {
    "step": 12,
    "rng": {"state": 2**100, "inc": [1, 2]},
    "best": None,
    "loss": 0.1,
    "name": "ü",
    "on": True,
}


def test_round_trip(tmp_path):
    path = tmp_path / "run.ckpt"
    save_checkpoint(path, ARRAYS, META)
    arrays, meta = load_checkpoint(str(path))
    assert meta == META
    assert list(arrays) == list(ARRAYS)
    for name, array in ARRAYS.items():
        assert arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(arrays[name], array, strict=True)
    assert [file.name for file in tmp_path.iterdir()] == ["run.ckpt"]


def test_numpy_scalars_in_meta_and_plain_values_in_arrays(tmp_path):
    save_checkpoint(
        tmp_path / "c",
        {"w": [1.5, 2.5]},
        {"a": np.int64(3), "b": [np.float32(0.5)], "c": np.bool_(True)},
    )
    arrays, meta = load_checkpoint(tmp_path / "c")
    np.testing.assert_array_equal(arrays["w"], [1.5, 2.5])
    assert meta == {"a": 3, "b": [0.5], "c": True}


def test_nothing_but_a_name_is_needed(tmp_path):
    save_checkpoint(tmp_path / "c", {})
    assert load_checkpoint(tmp_path / "c") == ({}, {})


def test_the_random_generator_is_restored(tmp_path):
    rng = np.random.default_rng(3)
    rng.random(5)
    save_checkpoint(tmp_path / "c", {}, {"rng": rng.bit_generator.state})
    expected = rng.random(4)
    again = np.random.default_rng()
    again.bit_generator.state = load_checkpoint(tmp_path / "c")[1]["rng"]
    np.testing.assert_array_equal(again.random(4), expected)


@pytest.mark.parametrize(
    "arrays, meta, error, words",
    [
        ([1], {}, TypeError, "arrays: expected a mapping"),
        ({}, [1], TypeError, "meta: expected a mapping"),
        ({"a": np.array([object()])}, {}, ValueError, "a: expected an array of numbers.*object"),
        ({3: np.ones(2)}, {}, ValueError, "name of an array: expected text"),
        ({"a\0b": np.ones(2)}, {}, ValueError, "name of an array: expected text"),
        ({"symng_checkpoint": np.ones(2)}, {}, ValueError, "arrays: expected names other than"),
        ({}, {"w": np.ones(2)}, TypeError, "meta: expected numbers, text.*ndarray is not allowed"),
        ({}, {"f": print}, TypeError, "meta: expected numbers, text"),
    ],
)
def test_bad_arguments_are_named_and_leave_the_old_file(arrays, meta, error, words, tmp_path):
    save_checkpoint(tmp_path / "c", {"a": np.ones(2)}, {"step": 1})
    with pytest.raises(error, match="^" + words):
        save_checkpoint(tmp_path / "c", arrays, meta)
    assert load_checkpoint(tmp_path / "c")[1] == {"step": 1}
    assert len(list(tmp_path.iterdir())) == 1


def test_foreign_files_are_named(tmp_path):
    path = tmp_path / "other.npz"
    expected = "path: expected a file written by save_checkpoint, got .*other.npz.* Load an earlier"
    path.write_bytes(b"not a zip file at all")
    with pytest.raises(ValueError, match=expected):
        load_checkpoint(path)
    np.savez(path, a=np.ones(3))
    with pytest.raises(ValueError, match=expected):
        load_checkpoint(path)
    np.savez(path, symng_checkpoint=np.ones(3))
    with pytest.raises(ValueError, match=expected):
        load_checkpoint(path)
    with pytest.raises(FileNotFoundError):
        load_checkpoint(tmp_path / "none")


def test_names_of_files_are_text():
    for call in (lambda: save_checkpoint(3, {}), lambda: load_checkpoint(b"run.npz")):
        with pytest.raises(TypeError, match="^path: expected the name of a file, got "):
            call()


def test_pickled_arrays_are_never_loaded(tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("sprung").touch, ())

    np.savez(tmp_path / "c.npz", a=np.array([Trap()], dtype=object))
    with pytest.raises(ValueError, match="damaged or another kind of file"):
        load_checkpoint(tmp_path / "c.npz")
    assert not (tmp_path / "sprung").exists()


def test_a_later_format_is_refused(tmp_path):
    text = json.dumps({"format": 99, "meta": {}}).encode()
    np.savez(tmp_path / "c.npz", symng_checkpoint=np.frombuffer(text, dtype="uint8"))
    with pytest.raises(ValueError, match="of format 99, written by another version"):
        load_checkpoint(tmp_path / "c.npz")


def test_a_lost_array_is_noticed(tmp_path):
    save_checkpoint(tmp_path / "c", {"a": np.ones(3), "b": np.ones(2)})
    with np.load(tmp_path / "c") as file:
        kept = {name: file[name] for name in ("symng_checkpoint", "a")}
    np.savez(tmp_path / "d.npz", **kept)
    with pytest.raises(
        ValueError, match="path: expected the arrays a, b, got .*d.npz' with a: the file is damaged"
    ):
        load_checkpoint(tmp_path / "d.npz")


def test_cut_files_and_flipped_bits_never_pass_as_something_else(tmp_path):
    path = tmp_path / "c"
    save_checkpoint(path, {"a": np.arange(30.0)}, {"step": 1})
    content = path.read_bytes()
    rng = np.random.default_rng(0)
    damaged = [content[:n] for n in rng.integers(0, len(content), size=60)]
    for position, bit in zip(
        rng.integers(0, len(content), size=400), rng.integers(0, 8, size=400), strict=True
    ):
        changed = bytearray(content)
        changed[position] ^= 1 << bit
        damaged.append(bytes(changed))
    refused = 0
    for data in damaged:
        path.write_bytes(data)
        try:
            arrays, meta = load_checkpoint(path)
        except ValueError as error:
            assert str(path) in str(error)  # noqa: PT017 - not every flip is an error
            refused += 1
        else:
            # The flip hit bytes without a meaning, such as a date.
            assert meta == {"step": 1}
            assert list(arrays) == ["a"]
            np.testing.assert_array_equal(arrays["a"], np.arange(30.0), strict=True)
    assert refused > 200
