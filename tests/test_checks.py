"""The argument checks and their messages."""

from __future__ import annotations

import array

import numpy as np
import pytensor.tensor as pt
import pytest
from scipy import sparse

from symng._checks import (
    Verbatim,
    argument_error,
    check_choice,
    check_finite,
    check_flag,
    check_float,
    check_instance,
    check_number,
    deprecated,
    describe,
    warn,
)
from symng.graphs.arrays import check_array, check_batch


@pytest.mark.parametrize(
    "value, text",
    [
        (None, "None"),
        (True, "True"),
        (3, "3 (int)"),
        ("a", "'a' (str)"),
        (int, "the class int (not an instance of it)"),
        (np.zeros((2, 3), "float32"), "an array of shape (2, 3) and dtype float32"),
        (pt.vector("v"), "the symbolic tensor 'v' of type Vector(float64, shape=(?,))"),
        (pt.vector(), "the symbolic tensor of type Vector(float64, shape=(?,))"),
        ("x" * 100, "'" + "x" * 76 + "... (str)"),
    ],
)
def test_describe(value, text):
    assert describe(value) == text


def test_problem():
    error = argument_error("a", "b", 1, "Do c.", TypeError)
    assert isinstance(error, TypeError) and str(error) == "a: expected b, got 1 (int). Do c."
    assert str(argument_error("a", "b", Verbatim("none"))) == "a: expected b, got none."


@pytest.mark.parametrize(
    "value, options",
    [
        (1, {}),
        (1.5, {}),
        (np.float32(1), {}),
        (np.int64(3), {"integer": True}),
        (np.array(2.0), {}),
        (0, {"minimum": 0}),
        (1, {"maximum": 1}),
        (float("inf"), {"finite": False}),
        (pt.scalar(), {"symbolic": True}),
        (pt.lscalar(), {"symbolic": True, "integer": True}),
    ],
)
def test_numbers_that_pass(value, options):
    check_number("n", value, **options)


@pytest.mark.parametrize(
    "value, options, error, message",
    [
        (True, {}, TypeError, "n: expected a finite number, got True."),
        (np.True_, {}, TypeError, "n: expected a finite number"),
        ("1", {}, TypeError, r"got '1' \(str\)"),
        (None, {}, TypeError, "got None"),
        (1j, {}, TypeError, "got 1j"),
        (np.ones(2), {}, TypeError, "got an array of shape"),
        (1.0, {"integer": True}, TypeError, "expected a whole number, got 1.0"),
        (float("nan"), {"finite": False}, ValueError, "expected a number, got nan"),
        (float("inf"), {}, ValueError, "expected a finite number, got inf"),
        (-1, {"minimum": 0}, ValueError, "expected a finite number, at least 0, got -1"),
        (0, {"above": 0, "below": 1}, ValueError, "above 0 and below 1, got 0"),
        (1, {"above": 0, "below": 1}, ValueError, "got 1"),
        (2, {"maximum": 1}, ValueError, "at most 1, got 2"),
        (pt.scalar("s"), {}, TypeError, "got the symbolic tensor 's'"),
        (
            pt.vector("s"),
            {"symbolic": True},
            TypeError,
            r"\(or a symbolic scalar\), got the symbolic tensor 's'",
        ),
        (pt.scalar("s"), {"symbolic": True, "integer": True}, TypeError, "whole number"),
        (pt.bscalar("s") > 0, {"symbolic": True}, TypeError, "got the symbolic tensor of type"),
        (pt.zscalar("s"), {"symbolic": True}, TypeError, "got the symbolic tensor 's'"),
        (2, {"maximum": 1, "hint": "Use less."}, ValueError, "Use less.$"),
    ],
)
def test_numbers_that_do_not(value, options, error, message):
    with pytest.raises(error, match=message):
        check_number("n", value, **options)


def test_choices_instances_and_flags():
    check_choice("c", "a", ["a", "b"])
    check_instance("i", 1, int, "an int")
    check_flag("f", False)
    for value in ("z", None, ["a"]):
        with pytest.raises(ValueError, match="c: expected one of 'a', 'b', got"):
            check_choice("c", value, ["a", "b"])
    with pytest.raises(TypeError, match=r"i: expected an int, got 'a' \(str\). Way out."):
        check_instance("i", "a", int, "an int", "Way out.")
    for value in (0, 1, None, "yes"):
        with pytest.raises(TypeError, match="f: expected True or False"):
            check_flag("f", value)


@pytest.mark.parametrize("dtype", ["float32", np.float32, np.dtype("float32"), pt.fscalar().dtype])
def test_a_float_is_named_in_many_ways(dtype):
    assert check_float("dtype", dtype) == "float32"


@pytest.mark.parametrize("dtype", [None, "float16", int, 1.0])
def test_a_float_is_never_guessed(dtype):
    with pytest.raises(ValueError, match=r"^dtype: expected one of 'float32', 'float64', got"):
        check_float("dtype", dtype)


# Batches

X, LABELS = pt.fmatrix("x"), pt.lvector("labels")
TALL = pt.tensor("tall", dtype="float64", shape=(None, 3))
ZEROS = np.zeros((4, 2), "float32")


def test_batch_that_fits_is_not_copied():
    labels = np.arange(4)
    x, y = check_batch("b", (ZEROS, labels), (X, LABELS), (0, 0))
    assert x is ZEROS and y is labels


@pytest.mark.parametrize(
    "value, variable",
    [
        ([[1.0, 2.0]], X),
        ([[1, 2]], X),
        (ZEROS.astype("float16"), X),
        ([1, 2], LABELS),
        (np.int32([1]), LABELS),
        (np.uint8([1]), LABELS),
        (ZEROS[:, [0, 0, 0]], TALL),
    ],
)
def test_values_that_lose_nothing_are_cast(value, variable):
    (array,) = check_batch("b", [value], [variable], [0])
    assert array.dtype == variable.type.dtype
    np.testing.assert_array_equal(array, value)


@pytest.mark.parametrize(
    "value, variable, error, message",
    [
        (
            ZEROS.astype("float64"),
            X,
            TypeError,
            r"b, x: expected dtype float32, .* float64. Convert .*\('float32'\)",
        ),
        (np.zeros((2, 2), int), X, TypeError, "b, x: expected dtype float32"),
        ([0.5, 1.0], LABELS, TypeError, "b, labels: expected dtype int64"),
        ([True, False], LABELS, TypeError, "b, labels: expected dtype int64"),
        (np.array(["a"]), LABELS, TypeError, "b, labels: expected dtype int64"),
        (None, X, TypeError, "b, x: expected dtype float32"),
        ([[1.0], [1.0, 2.0]], X, ValueError, "b, x: expected an array"),
        (
            ZEROS[0],
            X,
            ValueError,
            r"b, x: expected an array of 2 axes, got an array of shape \(2,\)",
        ),
        (
            np.zeros((4, 2)),
            TALL,
            ValueError,
            r"b, tall: expected shape \(None, 3\) \(None: any\), got .* \(4, 2\)",
        ),
        (ZEROS[:0], X, ValueError, "b: expected at least one example, got 0 examples"),
    ],
)
def test_values_that_do_not_fit(value, variable, error, message):
    with pytest.raises(error, match=message):
        check_batch("b", (value,), (variable,), (0,))


def test_number_of_arrays_and_of_examples():
    with pytest.raises(
        TypeError, match=r"b: expected a tuple of 2 arrays \(x, labels\), got an array .*\(X,\)"
    ):
        check_batch("b", ZEROS, (X, LABELS), (0, 0))
    with pytest.raises(ValueError, match=r"b: expected 2 arrays \(x, labels\), got 1"):
        check_batch("b", (ZEROS,), (X, LABELS), (0, 0))
    with pytest.raises(ValueError, match=r"x has 4 \(axis 0\), labels has 3 \(axis 0\)"):
        check_batch("b", (ZEROS, np.arange(3)), (X, LABELS), (0, 0))
    check_batch("b", (ZEROS, np.arange(2)), (X, LABELS), (1, 0))


def test_values_that_are_not_finite():
    bad = np.zeros((5, 3, 2))
    check_finite("b", bad)
    bad[1, 2, 0] = np.inf
    with pytest.raises(
        ValueError,
        match=r"b: expected finite values, got Inf, first in example 1 \(1 in all\). Clean",
    ):
        check_finite("b", bad)
    bad[3:, 1] = np.nan
    with pytest.raises(ValueError, match=r"got NaN, first in example 1 \(3 in all\)"):
        check_finite("b", bad)
    with pytest.raises(ValueError, match=r"first in example 1 \(2 in all\)"):
        check_finite("b", bad, axis=1)
    check_batch("b", (np.float32([[np.nan]]),), (X,), (0,), finite=False)


def test_values_whose_sum_overflows_are_finite():
    check_finite("b", np.full((3, 2), 3e38, "float32"))
    check_finite("b", np.array([1, 2]))


def test_a_warning_points_at_the_line_of_the_user():
    scope = {"__name__": "symng.somewhere", "warn": warn}
    exec("def deep():\n    warn('mind')\ndef deeper():\n    deep()", scope)
    with pytest.warns(UserWarning, match="mind") as caught:
        scope["deeper"]()
    assert caught[0].filename == __file__


class Table:
    """A table of columns, as pandas and others have: an array, but without a dtype of its own."""

    def __init__(self, values):
        self.values = np.asarray(values)
        self.dtypes, self.columns, self.shape = [self.values.dtype], ["a", "b"], self.values.shape

    def __array__(self, dtype=None, copy=None):
        return self.values

    def __len__(self):
        return len(self.values)

    def __iter__(self):
        return iter(self.columns)


def test_a_table_is_treated_as_the_array_in_it():
    (array,) = check_batch("b", (Table(ZEROS),), (X,), (0,))
    assert array.dtype == "float32" and array.shape == (4, 2)
    for given in (np.zeros((4, 2), int), Table(np.zeros((4, 2), int))):
        with pytest.raises(
            TypeError,
            match=r"^b, x: expected dtype float32, got an array .* int64. Convert .*float32",
        ):
            check_batch("b", (given,), (X,), (0,))
    with pytest.raises(
        TypeError,
        match=r"^b, x: .* got a Table of shape \(1, 2\) with columns that are not numbers",
    ):
        check_batch("b", (Table(np.array([["a", 1.0]], dtype=object)),), (X,), (0,))
    with pytest.raises(
        TypeError, match=r"got a Table of shape .* \(columns for x, columns for labels\)"
    ):
        check_batch("b", Table(ZEROS), (X, LABELS), (0, 0))


def test_pandas():
    pd = pytest.importorskip("pandas")
    frame = pd.DataFrame({"a": [1, 2], "b": [3, 4]})
    with pytest.raises(
        TypeError, match="^b, x: expected dtype float32, got an array of shape .* int64"
    ):
        check_batch("b", (frame,), (X,), (0,))
    (array, labels) = check_batch("b", (frame.astype("float32"), frame["a"]), (X, LABELS), (0, 0))
    assert array.tolist() == [[1.0, 3.0], [2.0, 4.0]] and labels.tolist() == [1, 2]


class Keeping:
    """Refuses to be made an array, as a tensor that keeps gradients does."""

    dtype = "float32"

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("use detach()")


class Speechless:
    def __repr__(self):
        raise ZeroDivisionError


@pytest.mark.parametrize(
    "value, message",
    [
        (sparse.eye(3, format="csr"), r"got a csr_\w+ of shape \(3, 3\).* give its .toarray\(\)"),
        ((row for row in ZEROS), "Collect its values in an array"),
        ({"x": ZEROS}, "Give its values, in the order of inputs and targets"),
        (X, "the symbolic variable is for the graph"),
        (Keeping(), r"NumPy says: use detach\(\)"),
    ],
)
def test_what_to_give_in_place_of_what_is_no_array(value, message):
    with pytest.raises(TypeError, match=rf"^b, x: .*{message}"):
        check_batch("b", (value,), (X,), (0,))


@pytest.mark.parametrize(
    "value, message",
    [
        (sparse.eye(3, format="csr"), "toarray"),
        ((row for row in ZEROS), "Give the arrays of one batch"),
        (
            {"x": ZEROS, "labels": 0},
            r"Give tuple\(data\[name\] for name in \['x', 'labels'\]\), in the order",
        ),
        ({"images": ZEROS}, "Give its values, in the order"),
        ("data.npz", "numpy.load"),
        (None, "comma"),
        ({1, 2}, "takes a stream of batches as data"),
        (ZEROS, r"A one-element tuple needs a comma: \(X,\)"),
        (Speechless(), "a Speechless"),
    ],
)
def test_what_to_give_in_place_of_what_is_no_tuple(value, message):
    with pytest.raises(
        TypeError, match=rf"^b: expected a tuple of 2 arrays \(x, labels\), got .*{message}"
    ):
        check_batch("b", value, (X, LABELS), (0, 0))


def test_what_counts_as_numbers_without_a_dtype():
    tall = pt.vector("v", dtype="float32")
    for given in (range(3), [0, 1, 2], (0, 1, 2), array.array("i", [0, 1, 2])):
        assert check_array("b", given, tall).tolist() == [0.0, 1.0, 2.0]


def test_a_long_list_is_not_printed():
    assert describe(list(range(1000))) == "a list of 1000 items"


def test_deprecated_names_what_to_write_instead_at_the_line_of_the_caller():
    words = r"^old\(\) is deprecated since symng 0\.2 .*use new\(\)"
    with pytest.warns(DeprecationWarning, match=words) as caught:
        deprecated("old()", "0.2", "new()")
    assert caught[0].filename == __file__
