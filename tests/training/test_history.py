"""The record of a run: columns, gaps, files."""

from __future__ import annotations

import copy
import errno
import os
import pickle
import subprocess
import sys
import types
from xml.etree import ElementTree

import numpy as np
import pytest

from symng._files import write_atomically
from symng.solvers import Status
from symng.training.history import History


def make():
    history = History()
    history.append(step=1, loss=np.float32(0.5), accepted=True, status="CONVERGED")
    history.append(
        step=2, loss=np.array(0.25), accepted=False, squared_error=9, status="MAX_ITERATIONS"
    )
    history.append(step=np.int64(3), loss=None, accepted=np.True_, status=np.str_("CONVERGED"))
    return history


def assert_same(first, second):
    assert first.columns == second.columns
    assert len(first) == len(second)
    for name in first:
        assert first[name].dtype == second[name].dtype
        np.testing.assert_array_equal(first[name], second[name])


def test_columns_rows_and_gaps():
    history = make()
    assert len(history) == 3
    assert (
        history.columns == tuple(history) == ("step", "loss", "accepted", "status", "squared_error")
    )
    assert "loss" in history
    assert "error" not in history
    np.testing.assert_array_equal(history["loss"], [0.5, 0.25, np.nan])
    np.testing.assert_array_equal(history["squared_error"], [np.nan, 9, np.nan])
    assert history["status"].tolist() == ["CONVERGED", "MAX_ITERATIONS", "CONVERGED"]
    assert history.row(1) == {
        "step": 2,
        "loss": 0.25,
        "accepted": False,
        "squared_error": 9,
        "status": "MAX_ITERATIONS",
    }
    assert history.row(-3)["step"] == 1
    assert history.last["step"] == 3
    assert np.isnan(history.last["loss"])
    assert type(history.row(0)["loss"]) is float
    assert list(dict(history)) == list(history.columns)


@pytest.mark.parametrize(
    "values, dtype",
    [
        ([1, 2], "int64"),
        ([True, False], "bool"),
        ([0.5, 1], "float64"),
        ([True, 2], "float64"),
        ([np.float32(0.1), np.float16(2)], "float64"),
        ([1, None], "float64"),
        ([None, True], "float64"),
        ([None, None], "float64"),
        (["a", "long"], "<U4"),
        (["a", None], "<U1"),
        ([1, 2**63], "float64"),
        ([np.uint8(3), np.int32(-1)], "int64"),
    ],
)
def test_dtype_of_a_column_and_after_a_round_trip(values, dtype, tmp_path):
    history = History()
    for value in values:
        history.append(c=value)
    assert history["c"].dtype == dtype
    expected = [("" if "U" in dtype else np.nan) if value is None else value for value in values]
    np.testing.assert_array_equal(history["c"], np.array(expected, dtype=dtype))
    history.save(tmp_path / "h.npz")
    assert_same(History.load(tmp_path / "h.npz"), history)


def test_an_array_is_kept_until_the_next_row_and_cannot_be_spoiled():
    history = make()
    column = history["loss"]
    assert history["loss"] is column
    with pytest.raises(ValueError, match="read-only"):
        column[0] = 7
    copies = history.to_dict()
    copies["loss"][0] = 7
    assert history["loss"][0] == 0.5
    history.append(loss=0.125)
    assert len(column) == 3
    assert history["loss"].tolist()[-1] == 0.125
    assert history["step"].dtype == "float64"


def test_appending_is_amortised():
    history = History()
    for step in range(20_000):
        history.append(step=step, late=None, loss=0.5)
    assert len(history["late"]) == 20_000


@pytest.mark.parametrize(
    "row, error, words",
    [
        ({}, ValueError, "row: expected at least one column"),
        (
            {"step": 4, "loss": np.ones(2)},
            TypeError,
            r"loss: expected one number.* array of shape \(2,\)",
        ),
        ({"step": 4, "loss": {}}, TypeError, "loss: expected one number"),
        ({"step": 4, "loss": 1j}, TypeError, "loss: expected one number"),
        (
            {"step": 4, "loss": "high"},
            TypeError,
            "loss: expected a number as in the rows before, got 'high'",
        ),
        ({"step": 4, "status": 2}, TypeError, "status: expected text as in the rows before, got 2"),
    ],
)
def test_a_bad_row_changes_nothing(row, error, words):
    history = make()
    with pytest.raises(error, match="^" + words):
        history.append(**row)
    assert_same(history, make())


def test_missing_columns_and_rows_are_named():
    with pytest.raises(
        KeyError, match="no column 'eror'; the columns are: step, loss, accepted, status"
    ):
        make()["eror"]
    with pytest.raises(KeyError, match="none yet"):
        History()["loss"]
    for index in (3, -4):
        with pytest.raises(IndexError, match=f"expected a row of 3, got {index}"):
            make().row(index)
    with pytest.raises(IndexError):
        _ = History().last


def test_repr_shows_rows_and_columns():
    assert repr(make()) == "<History: 3 rows; columns: step, loss, accepted, status, squared_error>"
    assert repr(History()) == "<History: 0 rows; columns: none>"


def test_dictionary_round_trip_and_appending_afterwards():
    history = History.from_dict(make().to_dict())
    assert_same(history, make())
    history.append(step=4, status="CONVERGED", new=1.5)
    assert history["status"].tolist()[-1] == "CONVERGED"
    assert len(history) == len(history["new"]) == 4
    with pytest.raises(TypeError, match="status: expected text"):
        history.append(status=3)


def test_a_column_of_gaps_may_still_become_text(tmp_path):
    history = History()
    history.append(step=1, note=None)
    history.save(tmp_path / "h.npz")
    again = History.load(tmp_path / "h.npz")
    again.append(step=2, note="slow")
    assert again["note"].tolist() == ["", "slow"]


@pytest.mark.parametrize(
    "columns, words",
    [
        ({"a": [1, 2], "b": [1]}, "b: expected 2 rows as in the columns before, got 1"),
        ({"a": np.ones((2, 2))}, r"a: expected one dimension.*\(2, 2\)"),
        ({"a": [object()]}, "a: expected one dimension of numbers.*object"),
    ],
)
def test_bad_dictionaries_are_refused(columns, words):
    with pytest.raises(ValueError, match="^" + words):
        History.from_dict(columns)


@pytest.mark.parametrize("name", ["history.npz", "history", "history.tmp.dat", "ü b.npz"])
def test_the_path_is_kept_exactly_and_nothing_is_left_beside_it(name, tmp_path):
    make().save(tmp_path / name)
    make().save(str(tmp_path / name))
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert_same(History.load(tmp_path / name), make())


def test_names_of_columns_are_free(tmp_path):
    history = History()
    history.append(**{"self": 1, "file": 2, "a": 3, "a.npy": 4, "a/b": 5, "α": 6, "": 7})
    history.save(tmp_path / "h.npz")
    assert_same(History.load(tmp_path / "h.npz"), history)


def test_numpy_reads_the_file_without_pickle(tmp_path):
    make().save(tmp_path / "h.npz")
    with np.load(tmp_path / "h.npz", allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["loss"], make()["loss"])
        assert set(arrays) == set(make().columns)


def test_an_empty_history_is_saved_too(tmp_path):
    History().save(tmp_path / "h.npz")
    assert len(History.load(tmp_path / "h.npz")) == 0


def test_a_damaged_or_foreign_file_is_named(tmp_path):
    path = tmp_path / "h.npz"
    for content in (b"", b"no zip", b"PK\x03\x04 rubbish"):
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match="path: expected a file written by History.save, got .*h.npz"
        ):
            History.load(path)
    np.savez(path, image=np.ones((2, 2)))
    with pytest.raises(ValueError, match="^image: expected one dimension"):
        History.load(path)
    with pytest.raises(FileNotFoundError):
        History.load(tmp_path / "none.npz")


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "h.npz"
    make().save(path)

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    longer = make()
    longer.append(step=4)
    with pytest.raises(
        OSError, match=r"cannot write '.*h.npz': No space left.* is unchanged"
    ) as caught:
        longer.save(path)
    assert caught.value.errno == errno.ENOSPC
    assert [path.name for path in tmp_path.iterdir()] == ["h.npz"]
    assert_same(History.load(path), make())


@pytest.mark.parametrize("error", [KeyboardInterrupt, ZeroDivisionError])
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(error, tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write(file):
        file.write(b"half")
        raise error

    with pytest.raises(error):
        write_atomically(path, write)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert path.read_bytes() == b"old"


@pytest.mark.skipif(
    sys.platform == "win32", reason="limits on the size of files are a matter of POSIX"
)
def test_a_disk_that_fills_up_in_the_middle(tmp_path):
    """The operating system itself refuses to write on, in the middle of an array."""
    program = """
import resource, signal, sys
import numpy as np
from symng.training.checkpoint import save_checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    save_checkpoint(sys.argv[1], {"a": np.zeros(10), "b": np.zeros(1_000_000)})
except OSError as error:
    print(error)
"""
    path = tmp_path / "run.npz"
    path.write_bytes(b"old")
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True
    )
    assert f"cannot write '{path}': File too large" in done.stdout
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["run.npz"]
    assert path.read_bytes() == b"old"


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="cannot write .*Make the folder '.*none' first"):
        make().save(tmp_path / "none" / "h.npz")


def test_a_folder_is_not_replaced(tmp_path):
    with pytest.raises(OSError, match="path: expected the name of a file"):
        make().save(tmp_path)
    assert tmp_path.is_dir()


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights on Windows")
def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real.npz").write_bytes(b"old")
    (tmp_path / "link.npz").symlink_to("real.npz")
    make().save(tmp_path / "link.npz")
    assert (tmp_path / "link.npz").is_symlink()
    assert_same(History.load(tmp_path / "real.npz"), make())


# For people


def run(rows=3):
    """A history as minimize makes it, of an optimizer without damping.

    Empty columns, and a last step without solve.
    """
    history = History()
    for step in range(1, rows + 1):
        status = Status.CONVERGED if step % 2 else Status.MAX_ITERATIONS
        history.append(
            step=step,
            seconds=0.5 * step,
            loss=1 / step,
            damping=None,
            beta=np.nan,
            note=None if step else "",
            solver_status=-1 if step == rows else int(status),
            accepted=True,
        )
    return history


def test_verdicts_have_names():
    history = run(4)
    assert history.status_names.tolist() == ["CONVERGED", "MAX_ITERATIONS", "CONVERGED", ""]
    assert history["solver_status"].tolist()[:2] == [Status.CONVERGED, Status.MAX_ITERATIONS]
    assert history["solver_status"].dtype == "int64"
    history.append(step=5)  # a gap
    history.append(step=6, solver_status=99)  # of a solver of one's own
    assert history.status_names.tolist()[-2:] == ["", "99"]
    with pytest.raises(KeyError, match="solver_status"):
        _ = make().status_names


def test_html_table_has_first_and_last_rows_and_no_empty_columns():
    table = run(100)._repr_html_()
    root = ElementTree.fromstring(table)
    head, *rows = ([cell.text or "" for cell in row] for row in root.iter("tr"))
    assert head == ["step", "seconds", "loss", "solver_status", "accepted"]
    assert [row[0] for row in rows] == ["1", "2", "3", "4", "5", "…", "96", "97", "98", "99", "100"]
    assert rows[2] == ["3", "1.5", "0.3333", "CONVERGED", "True"] and rows[-1][3] == ""
    assert root.find("caption").text == "History of 100 rows"
    for length in (0, 1, 11):  # no longer with an ellipsis than without
        assert (
            run(length)._repr_html_().count("<tr>") == length + 1
            and "…" not in run(length)._repr_html_()
        )


def test_html_of_text_is_escaped_and_of_gaps_empty():
    history = make()
    history.append(step=4, status="<b>")
    root = ElementTree.fromstring(history._repr_html_())
    cells = [[cell.text or "" for cell in row] for row in root.iter("tr")]
    assert cells[-1] == ["4", "", "", "<b>", ""] and cells[2][:3] == ["2", "0.25", "0"]


def test_dataframe():
    pandas = pytest.importorskip("pandas")
    frame = run(3).to_dataframe()
    assert frame.columns.tolist() == ["step", "seconds", "loss", "solver_status", "accepted"]
    assert frame["solver_status"].tolist() == ["CONVERGED", "MAX_ITERATIONS", ""]
    assert frame["step"].tolist() == [1, 2, 3] and frame["accepted"].dtype == bool
    frame.loc[0, "loss"] = 7.0
    assert isinstance(frame, pandas.DataFrame) and History().to_dataframe().empty


def test_dataframe_gets_the_columns_that_hold_something(monkeypatch):
    """The same without pandas."""
    monkeypatch.setitem(sys.modules, "pandas", types.SimpleNamespace(DataFrame=dict))
    frame = run(3).to_dataframe()
    assert list(frame) == ["step", "seconds", "loss", "solver_status", "accepted"]
    assert all(column.flags.writeable for column in frame.values())
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"^to_dataframe: expected pandas .* pip install pandas"):
        run(3).to_dataframe()


def test_plot_draws_a_column(tmp_path):
    pytest.importorskip("matplotlib")
    history = run(3)
    figure = history.plot(path=tmp_path / "loss.png")
    assert figure.axes[0].get_lines()[0].get_ydata().tolist() == history["loss"].tolist()
    assert (tmp_path / "loss.png").stat().st_size > 1000
    assert history.plot("seconds").axes[0].get_ylabel() == "seconds"
    with pytest.raises(KeyError, match="no column 'eror'"):
        history.plot("eror")


@pytest.mark.parametrize(
    "duplicate", [copy.copy, copy.deepcopy, lambda h: pickle.loads(pickle.dumps(h))]
)
def test_a_copy_goes_on_by_itself(duplicate):
    history = make()
    before = history["loss"]
    other = duplicate(history)
    assert_same(other, history)
    assert not other["loss"].flags.writeable
    other.append(step=4, loss=1.0, more="text")
    assert len(history) == 3 and "more" not in history and len(history["loss"]) == 3
    history.append(step=5, more=1.0)  # what kind of column it is, is not shared either
    assert (
        len(other) == 4
        and other["step"].tolist() == [1, 2, 3, 4]
        and np.array_equal(before[:2], other["loss"][:2])
    )
