"""Choices: an editor knows the words that are accepted, from the annotations, and no others are."""

from __future__ import annotations

import re
from typing import Literal, get_args, get_origin, get_type_hints

import numpy as np
import pytensor.tensor as pt
import pytest
from helpers.small_steps import descent, train

import symng
from symng import datasets, models

DIGITS = np.zeros((2, 28, 28)), np.array([0, 1])


def mlp(**settings):
    return models.mlp(pt.matrix("x"), [4, 3, 2], **settings)


def autoencoder(**settings):
    return models.autoencoder(pt.matrix("x"), [4, 3, 2], **settings)


def minimize(**settings):
    return train(descent(), max_steps=0, **settings)


def deformed_digits(dtype="float32", modules=None):
    return datasets.deformed_digits(DIGITS, 0, 1, dtype=dtype, modules=[modules] if modules else [])


# What is annotated, the argument, and how to call it.
CASES = [
    (symng.Fisher, "form", symng.Fisher),
    (symng.LevenbergMarquardt, "ratio", symng.LevenbergMarquardt),
    (symng.NaturalConjugateGradient, "beta", symng.NaturalConjugateGradient),
    (symng.HessianFree, "preconditioner", symng.HessianFree),
    (symng.KrylovSubspaceDescent, "preconditioner", symng.KrylovSubspaceDescent),
    (symng.minimize, "metric_batch", minimize),
    (symng.minimize, "search_batch", minimize),
    (datasets.curves, "dtype", lambda dtype: datasets.curves(1, dtype=dtype)),
    (datasets.adding, "dtype", lambda dtype: datasets.adding(1, dtype=dtype)),
    (datasets.deformed_digits, "dtype", deformed_digits),
    (datasets.deformed_digits, "modules", deformed_digits),
    (models.mlp, "activation", mlp),
    (models.mlp, "output", mlp),
    (models.mlp, "initializer", mlp),
    (models.mlp, "dtype", mlp),
    (models.autoencoder, "activation", autoencoder),
    (models.autoencoder, "output", autoencoder),
    (models.autoencoder, "initializer", autoencoder),
]


def words_of(hint):
    """The strings that an annotation accepts; `str` accepts all of them and says nothing."""
    assert hint is not str
    if get_origin(hint) is Literal:
        return list(get_args(hint))
    return [
        word
        for part in get_args(hint)
        if part is not ... and not isinstance(part, list)
        for word in words_of(part)
    ]


@pytest.mark.parametrize("annotated, name, call", CASES)
def test_the_annotation_has_the_words_that_are_accepted(annotated, name, call):
    words = words_of(get_type_hints(annotated)[name])
    assert words
    if annotated is not symng.minimize:  # whose other words ask for more arguments
        for word in words:
            call(**{name: word})
    with pytest.raises((ValueError, TypeError)) as caught:
        call(**{name: "else"})
    expected = re.match(rf"{name}: expected (.*), got ", str(caught.value))
    assert re.findall(r"'([\w-]+)'", expected[1]) == words


def test_the_status_of_a_run_is_one_of_those_described():
    words = words_of(get_type_hints(symng.TrainingResult)["status"])
    described = re.search(
        r"status : str\n(.*?)``stopped``", symng.TrainingResult.__doc__, re.DOTALL
    )[1]
    assert re.findall(r'"(\w+)"', described) == words and minimize().status in words
