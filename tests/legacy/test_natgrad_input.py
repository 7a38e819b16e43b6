"""Bad input of `symng.legacy.natgrad`: messages name what is wrong, and the way out."""

from __future__ import annotations

import os
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.io import savemat

from symng.legacy.natgrad import (
    DataMNIST,
    DataTFD_48,
    MainLoop,
    convMat,
    mlp,
    natSGD,
    state_mlpMNIST,
)

X, Y = np.arange(24.0).reshape(8, 3), np.arange(8) % 2
STATE = dict(state_mlpMNIST, nhid=4, bs=2, mbs=2, ebs=2, cbs=2)
SHAPES = SimpleNamespace(xdim=3, ydim=2)
IMAGES = SimpleNamespace(xdim=784, ydim=2)


def digits(path, rng=None, mbs=2):
    return DataMNIST(path, mbs, 2, np.random.RandomState(0) if rng is None else rng, 0)


def write(folder, **changed):
    arrays = {
        f"{part}_{v}": a for part in ("train", "valid", "test") for v, a in (("x", X), ("y", Y))
    }
    np.savez(folder / "data.npz", **arrays | changed)
    return folder / "data.npz"


@pytest.mark.parametrize(
    "changed, message",
    [
        (dict(train_y=Y - 1), "train_y: expected class numbers from 0, got -1"),
        (dict(train_y=Y + 0.5), "train_y: expected class numbers from 0, got 0.5"),
        (dict(valid_y=Y + 5), "valid_y: expected class numbers from 0 to 1, as in train_y, got 5"),
        (dict(train_y=Y[:3]), "train_y: expected 8 classes, as train_x has rows"),
        (dict(test_x=X[:, :2]), "test_x: expected 3 columns, as train_x has"),
        (dict(train_x=X * np.nan), "train_x: expected finite values, got NaN"),
        (dict(train_y=np.eye(2)[Y]), "train_y: expected a vector of class numbers"),
        (dict(train_y=Y.astype(str)), "train_y: expected a vector of class numbers"),
        (dict(train_x=X[:0]), "train_x: expected a matrix of inputs"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_arrays_of_digits(changed, message, tmp_path):
    with pytest.raises(ValueError, match=f"path, {message}"):
        digits(write(tmp_path, **changed))


def test_files_of_digits(tmp_path):
    hint = "It is the key 'path' of the state"
    for missing in (tmp_path / "none.npz", tmp_path):
        with pytest.raises(
            FileNotFoundError, match=f"path: expected an npz file .* no file. {hint}"
        ):
            digits(missing)
    (tmp_path / "text.npz").write_text("no arrays")
    with pytest.raises(ValueError, match=f"which is damaged or another kind of file .* {hint}"):
        digits(tmp_path / "text.npz")
    with pytest.raises(TypeError, match="path: expected an npz file .* got None"):
        digits(None)


def test_arguments_of_data(tmp_path):
    path = write(tmp_path)
    with pytest.raises(TypeError, match="mbs: expected a whole number, at least 1, got '2'"):
        digits(path, mbs="2")
    with pytest.raises(TypeError, match="rng: expected a numpy.random.RandomState"):
        digits(path, np.random.default_rng(0))


class TestFaces:
    def read(self, folder, fold=0, **changed):
        if changed:
            content = dict(
                images=np.zeros((4, 48, 48)), folds=np.ones((4, 2)), labs_ex=np.ones((4, 1))
            )
            savemat(folder / "TFD_48x48.mat", content | changed)
        return DataTFD_48(folder, 2, 2, np.random.RandomState(0), fold)

    def test_files(self, tmp_path):
        hint = "The key 'path' of the state is the folder"
        with pytest.raises(FileNotFoundError, match=f"TFD_48x48.mat', which is no file. {hint}"):
            self.read(tmp_path)
        (tmp_path / "TFD_48x48.mat").write_text("no arrays")
        with pytest.raises(
            ValueError, match="TFD_48x48.mat', which is damaged or another kind of file"
        ):
            self.read(tmp_path)

    def test_arrays(self, tmp_path):
        with pytest.raises(ValueError, match="path, images: expected images of 48 x 48"):
            self.read(tmp_path, images=np.zeros((4, 24, 24)))
        with pytest.raises(ValueError, match="fold: expected a column of folds, 0 to 1, got 2"):
            self.read(tmp_path, fold=2, folds=np.ones((4, 2)))


@pytest.mark.parametrize(
    "key, value, expected",
    [
        ("damp", "6", "a number, at least 0"),
        ("damp", -1.0, "a number, at least 0"),
        ("lr", None, "a number"),
        ("bs", 2.5, "a whole number, at least 1"),
        ("cbs", 0, "a whole number, at least 1"),
        ("trainFreq", 0, "a whole number, at least 1"),
        ("adapt", [1], "0, 1, 2, 3 or 4"),
        ("seed", "a", "a whole number, at least 0"),
        ("nhid", "four", "a positive whole number, or its text"),
        ("nhid", -4, "a positive whole number, or its text"),
    ],
)
def test_values_of_a_state(key, value, expected):
    state = STATE | {key: value}
    with pytest.raises((TypeError, ValueError), match=rf"state\['{key}'\]: expected {expected}"):
        natSGD(mlp(state, SHAPES), state, Complete())


@pytest.mark.parametrize("nkerns", ["[2]", 2, [2, 0]])
def test_filters_of_a_state(nkerns):
    with pytest.raises(ValueError, match=r"state\['nkerns'\]: expected 2 positive whole numbers"):
        convMat(STATE | dict(nkerns=nkerns), IMAGES)


class Complete:
    """All that natSGD reads of data, so that the state is looked at."""

    variables = eval_variables = _natgrad = _natgrady = None
    update_before_computing_gradients = update_before_computing_natural_gradients = None
    update_before_evaluation = None


def test_objects_that_are_something_else():
    with pytest.raises(TypeError, match=r"state: expected a dictionary, .* got None"):
        natSGD(mlp(STATE, SHAPES), None, Complete())
    with pytest.raises(TypeError, match="model: expected an object with 'Gvs', got one without"):
        natSGD(object(), STATE, Complete())
    with pytest.raises(TypeError, match="data: expected an object with '_natgrad', got one"):
        natSGD(mlp(STATE, SHAPES), STATE, SHAPES)
    with pytest.raises(ValueError, match=r"state\['validFreq'\]: expected a whole number"):
        MainLoop(None, None, SimpleNamespace(return_names=[]), STATE | dict(validFreq=0), None)


def test_parameters_of_another_network(tmp_path):
    mlp(STATE, SHAPES).save(tmp_path / "model.npz")
    other = mlp(STATE | dict(nhid=5), SHAPES)
    before = other.layer1.W.get_value()
    with pytest.raises(ValueError, match=r"filename, layer0_W: expected the shape \(3, 5\)"):
        other.load(os.fspath(tmp_path / "model.npz"))
    np.testing.assert_array_equal(other.layer1.W.get_value(), before)
