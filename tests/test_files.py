"""Files that are no files of symng, and what is left beside and of those that it writes."""

from __future__ import annotations

import io
import os
import stat
import struct
import subprocess
import sys
import threading
import time
import zipfile

import numpy as np
import pytest

from symng._files import DamagedFileError, read_npz, temporary_of, write_atomically, write_npz
from symng.training.checkpoint import load_checkpoint, save_checkpoint
from symng.training.history import History

posix = pytest.mark.skipif(sys.platform == "win32", reason="a matter of POSIX")


def npy(shape=(3,), data=b"\0" * 24) -> bytes:
    """Return an npy file that says it has some shape."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "<f8", "fortran_order": False, "shape": shape}
    )
    return file.getvalue() + data


def archive(path, *entries, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in entries:
            file.writestr(name, content)


@pytest.mark.parametrize(
    "entries, words",
    [
        ([("a.npy", npy((2**60,)))], "has 24 bytes for an array of shape"),
        ([("a.npy", npy((2**40, 2**40)))], "has 24 bytes for an array of shape"),
        ([("a.npy", npy((-1,), b""))], "has 0 bytes for an array of shape"),
        ([("a.npy", npy((2,)))], "has 24 bytes for an array of shape"),
        ([("a.npy", npy((4,)))], "has 24 bytes for an array of shape"),
        ([("a.npy", npy()), ("a.npy", npy())], "holds the entry 'a.npy' twice"),
        ([("a.txt", b"text")], "which is not an array"),
        ([("a.npy", b"\x93NUMPY\x07\0abc")], "damaged or another kind of file"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_entries_that_ask_for_something_else_are_refused(entries, words, tmp_path):
    archive(tmp_path / "f.npz", *entries)
    with pytest.raises(DamagedFileError, match=f"f.npz.*{words}.* My hint"):
        read_npz(tmp_path / "f.npz", "a file", "My hint.")


def test_bombs_are_refused_before_they_are_read(tmp_path):
    path = tmp_path / "f.npz"
    archive(path, ("a.npy", npy((2**20,), bytes(2**23))), compression=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 2**16
    with pytest.raises(DamagedFileError, match="the entry 'a.npy' is compressed"):
        read_npz(path, "a file", "My hint.")
    assert read_npz(path, "a file", "", compressed=True)["a"].nbytes == 2**23
    archive(path, ("a.npy", npy()))
    content = bytearray(path.read_bytes())
    start = content.index(b"PK\x01\x02")  # of the entry in the directory
    content[start + 20 : start + 28] = struct.pack("<II", 2**31, 2**31)
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match="its entries of 2147483648 bytes are more than"):
        read_npz(path, "a file", "")
    archive(path, *[(f"{i}.npy", b"") for i in range(2**16)])
    with pytest.raises(DamagedFileError, match="it has 65536 entries"):
        read_npz(path, "a file", "")


@posix
@pytest.mark.parametrize("kind", ["FIFO", "device", "folder"])
def test_what_is_no_file_is_refused_at_once(kind, tmp_path):
    path = {"FIFO": tmp_path / "fifo", "device": "/dev/zero", "folder": tmp_path}[kind]
    if kind == "FIFO":
        os.mkfifo(path)
    calls = [
        lambda: load_checkpoint(path),
        lambda: History.load(path),
        lambda: save_checkpoint(path, {}),
    ]
    for call in calls:
        with pytest.raises(OSError, match="^path: expected the name of a file, got "):
            call()


def test_a_checkpoint_is_no_history(tmp_path):
    save_checkpoint(tmp_path / "c", {"step": np.arange(3)})
    with pytest.raises(ValueError, match="got '.*c', a checkpoint. Read it with symng.load_ch"):
        History.load(tmp_path / "c")


@pytest.mark.parametrize("change", ["value", "name", "order", "more", "checksum"])
def test_altered_files_are_refused(change, tmp_path):
    """Those whose entries, each by itself, are without fault."""
    path = tmp_path / "c"
    save_checkpoint(path, {"a": np.ones(3), "b": np.ones(2)}, {"step": 1})
    with zipfile.ZipFile(path) as file:
        entries = {name: file.read(name) for name in file.namelist()}
        comment = file.comment
    if change == "value":
        entries["a.npy"] = entries["a.npy"][:-1] + b"\x01"
    elif change == "name":
        entries = {("c.npy" if n == "a.npy" else n): e for n, e in entries.items()}
    elif change == "order":
        entries = dict(reversed(entries.items()))
    elif change == "more":
        entries["c.npy"] = entries["a.npy"]
    with zipfile.ZipFile(path, "w") as file:
        for name, content in entries.items():
            file.writestr(name, content)
        file.comment = b"" if change == "checksum" else comment
    with pytest.raises(DamagedFileError, match="checksum"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "array",
    [
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.zeros((0, 3), "int8"),
        np.array(7, "uint16"),
        np.array(["a", "bcd"]),
        np.zeros(2, "U0"),
        np.array([1 + 2j, np.nan]),
        np.array(["2020-01-01"], "datetime64[D]"),
        np.zeros(2, [("x", "f4", (2,)), ("y", "i8")]),
    ],
    ids=lambda array: array.dtype.kind + str(array.ndim),
)
def test_arrays_come_back_as_they_were(array, tmp_path):
    write_npz(tmp_path / "f", {"a": array})
    again = read_npz(tmp_path / "f", "a file", "")["a"]
    np.testing.assert_array_equal(again, array, strict=True)
    assert again.flags.writeable and again.flags.f_contiguous == array.flags.f_contiguous
    with np.load(tmp_path / "f") as file:
        np.testing.assert_array_equal(file["a"], array, strict=True)


# Writing


@posix
def test_mode_and_group_of_a_replaced_file_are_kept(tmp_path):
    path = tmp_path / "f"
    write_atomically(path, lambda file: file.write(b"1"))
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
    path.chmod(0o640)
    other = next((g for g in os.getgroups() if g != path.stat().st_gid), None)
    if other is not None:
        os.chown(path, -1, other)
    before = path.stat()
    write_atomically(path, lambda file: file.write(b"2"))
    after = path.stat()
    assert (after.st_mode, after.st_gid) == (before.st_mode, before.st_gid)
    assert path.read_bytes() == b"2" and after.st_ino != before.st_ino


@posix
def test_file_and_folder_are_on_the_disk_when_it_returns(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync

    def record(descriptor):
        synced.append((os.fstat(descriptor).st_ino, (tmp_path / "f").exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    write_atomically(tmp_path / "f", lambda file: file.write(b"1"))
    # The content before the name is there, and the folder after it.
    assert synced == [((tmp_path / "f").stat().st_ino, False), (tmp_path.stat().st_ino, True)]


@posix
def test_a_killed_writer_leaves_one_file_that_the_next_one_uses(tmp_path):
    program = (
        "import os, signal, sys\n"
        "from symng._files import write_atomically\n"
        "def write(file):\n"
        "    file.write(bytes(10_000_000))\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "write_atomically(sys.argv[1], write)\n"
    )
    path = tmp_path / "f"
    for _ in range(2):
        done = subprocess.run([sys.executable, "-W", "ignore", "-c", program, str(path)])
        assert done.returncode != 0
        assert list(tmp_path.iterdir()) == [temporary_of(path)]
    write_atomically(path, lambda file: file.write(b"short"))
    assert path.read_bytes() == b"short" and list(tmp_path.iterdir()) == [path]


@posix
def test_writers_of_one_file_wait_for_each_other(tmp_path):
    path, contents = tmp_path / "f", [bytes([i]) * 1000 for i in range(8)]

    def write(content):
        def in_two_parts(file):
            file.write(content[:500])
            file.flush()
            time.sleep(0.002)
            file.write(content[500:])

        write_atomically(path, in_two_parts)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in contents and list(tmp_path.iterdir()) == [path]


def test_a_trial_leaves_nothing(tmp_path):
    path = tmp_path / "f"
    for content in (None, b"old"):
        write_npz(path, {"a": np.ones(3)}, trial=True)
        assert not path.exists() if content is None else path.read_bytes() == content
        path.write_bytes(b"old")
    assert list(tmp_path.iterdir()) == [path]
