"""Break runs on purpose, and count what becomes of them.

    python -m tests.faults           # in two hours, the numbers of docs/reliability.md
    python -m tests.faults --short   # in a few minutes

A run of minibatches, momentum and adaptive damping is killed, cut off from power, interrupted, gets
damaged files and full disks, and is then continued to its end. It has

- survived if parameters, state and history at its end are those of a run without fault, bit by bit,
- been reported if it was refused with a message that names the file, and nothing had changed,
- been lost otherwise: other numbers, another exception, or more steps gone than the present one.

Beside it, random linear systems are solved and judged by dense NumPy, where a verdict that is no
success counts as a report, and steps on random problems are judged by what holds for all of them.

The exit status is 1 if one was lost. The short form leaves out runs on JAX and Numba and
steps on random problems, which take long to compile. POSIX only: other runs are forked, so that
each takes a few tenths of a second.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import pickle
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
from helpers import fault_problems, fault_solves
from helpers.fault_disks import failing
from helpers.fault_processes import killed_on, workers
from helpers.fault_runs import STEPS, train
from helpers.small_steps import regression

import symng
from symng.backends import UNOPTIMIZED

Outcome = tuple[str, str]  # "survived", "reported" or "lost", and what is to be said of it


def finish(path: Path, whole: dict[str, bytes], at_least: int = 0, **given: Any) -> Outcome:
    """Continue a run to its end and compare it with one without fault."""
    objective, data = regression()
    begun = []
    given["callback"] = lambda row: begun.append(row["step"])
    try:
        _, state = train(path, model=(objective, data), **given)
    except (ValueError, OSError) as error:
        unchanged = (objective.params[0].get_value() == 0).all()
        named = path.name in str(error)
        return ("reported" if named and unchanged else "lost"), f"{type(error).__name__}: {error}"
    except BaseException as error:
        return "lost", "".join(traceback.format_exception_only(error))
    if begun and begun[0] <= at_least:
        return "lost", f"{at_least} steps were saved, and the run continued with {begun[0]}"
    return ("survived", "") if state == whole else ("lost", "other numbers")


# Processes


def forked(function: Callable[[int], object]) -> tuple[int, int]:
    """Call a function in a child, with a pipe to write to; return its number and the pipe."""
    read, write = os.pipe()
    child = os.fork()
    if child:
        os.close(write)
        return child, read
    try:
        os.close(read)
        warnings.simplefilter("ignore")
        function(write)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)


def ended(child: int, pipe: int) -> bytes:
    """Wait for a child and return what it has written."""
    with os.fdopen(pipe, "rb") as file:
        content = file.read()
    os.waitpid(child, 0)
    return content


def run_reporting(path: Path, pipe: int, **given: Any) -> Any:
    """Run with a byte to the pipe once it begins, and one for each step that is in the file."""
    saved = 0

    def callback(row: dict[str, float]) -> None:
        nonlocal saved
        if row["step"] > 1:  # that before it was saved
            saved = int(row["step"]) - 1
            os.write(pipe, bytes([saved]))

    os.write(pipe, b"\0")
    return train(path, callback=callback, **given)[0]


def killed(folder: Path, whole: dict[str, bytes], rng: random.Random) -> Outcome:
    """Kill a run again and again, at any moment, until it has ended by itself."""
    path, saved, keep = folder / "run.npz", 0, rng.choice([1, 2, 3])
    for _ in range(rng.randrange(1, 4)):
        child, pipe = forked(lambda write: run_reporting(path, write, keep=keep))
        os.read(pipe, 1)
        time.sleep(rng.random() * rng.choice([0.02, 0.2, 0.6]))
        os.kill(child, signal.SIGKILL)
        if content := ended(child, pipe):
            saved = max(saved, *content)
        names = {p.name for p in folder.iterdir()}
        if sum(name.startswith(".symng-") for name in names) > 1:
            return "lost", f"files are left behind: {sorted(names)}"
    outcome = finish(path, whole, saved, keep=keep)
    left = {p.name for p in folder.iterdir()} - {"run.npz", "run.npz.history.jsonl"}
    if left - {f"run.npz.{i}" for i in range(1, keep)}:
        return "lost", f"files are left behind: {sorted(left)}"
    return outcome if outcome[0] == "survived" else ("lost", outcome[1])


def interrupted(folder: Path, whole: dict[str, bytes], rng: random.Random) -> Outcome:
    """Send one to five signals at any moment."""
    path = folder / "run.npz"
    number = rng.choice([signal.SIGINT, signal.SIGINT, signal.SIGTERM, signal.SIGHUP])

    def run(pipe: int) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        found = "outside"  # of the run, where signals meet the handlers of the program
        try:
            try:
                result = run_reporting(path, pipe)
                found = "result" if len(result.history) == result.steps else "rows and steps differ"
            except KeyboardInterrupt as error:
                if hasattr(error, "history"):
                    found = "history"
            except BaseException as error:
                found = "".join(traceback.format_exception(error))
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        os.write(pipe, b"\xff" + found.encode())

    child, pipe = forked(run)
    os.read(pipe, 1)
    time.sleep(rng.random() * rng.choice([0.02, 0.2, 0.6]))
    for _ in range(rng.randrange(1, 6)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, number)
        time.sleep(rng.random() * rng.choice([0.0, 0.001, 0.02]))
    steps, _, found = ended(child, pipe).partition(b"\xff")
    if found not in (b"result", b"history", b"outside", b""):
        return "lost", f"it ended in {found.decode()}"
    outcome = finish(path, whole, max(steps, default=0))
    return outcome if outcome[0] == "survived" else ("lost", outcome[1])


# Files


def damaged(folder: Path, whole: dict[str, bytes], rng: random.Random) -> Outcome:
    """Flip bits, cut, swap, zero or append, in the checkpoint or in its history."""
    path = folder / "run.npz"
    train(path, STEPS - 2, keep=rng.choice([1, 2]))
    victim = rng.choice([path, path, folder / "run.npz.history.jsonl"])
    content = bytearray(victim.read_bytes())
    start, size = rng.randrange(len(content)), rng.randrange(1, 64)
    kind = rng.choice(["bit", "bits", "cut", "swap", "zeros", "more", "twice"])
    if kind in ("bit", "bits"):
        for _ in range(1 if kind == "bit" else size):
            content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del content[start:]
    elif kind == "swap":
        content[start : start + size], content[:size] = (
            content[:size],
            content[start : start + size],
        )
    elif kind == "zeros":
        content[start : start + size] = bytes(len(content[start : start + size]))
    else:
        content += bytes(content) if kind == "twice" else rng.randbytes(size)
    victim.write_bytes(content)
    return finish(path, whole)


def altered(folder: Path, whole: dict[str, bytes], rng: random.Random) -> Outcome:
    """Change a value, a shape or the text, with a checksum that is right, or take another run's."""
    path = folder / "run.npz"
    kind = rng.choice(["value", "shape", "text", "missing", "optimizer", "model", "data"])
    given: dict[str, Any] = {}
    if kind == "optimizer":
        given = {"optimizer": symng.SGD(0.1), "metric_batch": "same"}
    elif kind == "data":
        given = {"batch_size": 5}
    train(path, STEPS - 2, **given)
    arrays, meta = symng.load_checkpoint(path)
    name = rng.choice(sorted(n for n in arrays if n != "state_step"))
    if kind == "value":
        arrays[name].reshape(-1)[rng.randrange(arrays[name].size)] = (
            -1 if "feed" in name else np.nan
        )
    elif kind == "shape":
        arrays[name] = arrays[name].reshape(-1)[:-1]
    elif kind == "missing":
        del arrays[name]
    elif kind == "text":
        key = rng.choice(["steps", "seconds", "feed", "kind", "history"])
        meta[key] = rng.choice([None, -1, "text", [1], {"a": 1}, 2**70])
    elif kind == "model":
        meta["model"]["digest"] = meta["model"]["digest"][::-1]
    symng.save_checkpoint(path, arrays, meta)
    outcome = finish(path, whole)
    return outcome if outcome[0] == "reported" else ("lost", f"{kind} {name}: {outcome}")


def hostile(folder: Path, whole: dict[str, bytes], rng: random.Random) -> Outcome:
    """Put something else in the place of the checkpoint: all of it is to be refused at once."""
    path, sprung = folder / "run.npz", folder / "sprung"

    class Trap:
        def __reduce__(self) -> Any:
            return sprung.touch, ()

    kind = rng.choice(["FIFO", "folder", "device", "pickle", "object array", "bomb", "random"])
    if kind == "FIFO":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(Trap()))
    elif kind == "object array":
        with path.open("wb") as file:
            np.savez(file, symng_checkpoint=np.array([Trap()], dtype=object))
    elif kind == "bomb":
        with path.open("wb") as file:
            np.savez_compressed(file, symng_checkpoint=np.zeros(2**24))
    else:
        path.write_bytes(rng.randbytes(rng.randrange(2000)))
    outcome = finish(path, whole)
    if sprung.exists() or outcome[0] != "reported":
        # /dev/zero has another name than the link.
        if kind != "device" or "/dev/zero" not in outcome[1]:
            return "lost", f"{kind}: {outcome}"
    return "reported", outcome[1]


def full_disk(folder: Path, whole: dict[str, bytes], rng: random.Random) -> Outcome:
    """Let the system refuse to write more than so many bytes to a file, for some steps."""
    path = folder / "run.npz"
    begin, end = sorted(rng.sample(range(1, STEPS), 2))
    limit = rng.choice([0, 100, 1000, 3000])

    def run(pipe: int) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]

        def callback(row: dict[str, float]) -> None:
            if row["step"] == begin:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
            if row["step"] == end:
                resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
                os.kill(os.getpid(), signal.SIGKILL) if rng.random() < 0.5 else None

        _, state = train(path, callback=callback)
        os.write(pipe, b"same" if state == whole else b"other")

    found = ended(*forked(run))
    if found == b"other":
        return "lost", "other numbers while the disk was full"
    return finish(path, whole)


def failing_disk(folder: Path, whole: dict[str, bytes], rng: random.Random) -> Outcome:
    """Let calls that reach the disk fail or take their time, and kill some of these runs."""
    path = folder / "run.npz"
    part, delay = rng.choice([0.02, 0.1, 0.5, 1.0]), rng.choice([0, 0, 0.01])
    begin, end = rng.choice([0, 0, 3]), rng.randrange(4, STEPS + 4)

    def run(pipe: int) -> None:
        with contextlib.ExitStack() as stack:

            def callback(row: dict[str, float]) -> None:
                if row["step"] == begin:
                    stack.enter_context(failing(rng, part, delay, str(folder)))
                if row["step"] == end:
                    os.kill(os.getpid(), signal.SIGKILL)

            if begin == 0:
                stack.enter_context(failing(rng, part, delay, str(folder)))
            objective, data = regression()
            try:
                _, state = train(path, callback=callback, model=(objective, data))
                found = b"same" if state == whole else b"other numbers"
            except OSError as error:
                unchanged = (objective.params[0].get_value() == 0).all()
                named = path.name in str(error)
                found = b"refused" if unchanged and named else traceback.format_exc().encode()
            except BaseException:
                found = traceback.format_exc().encode()
            os.write(pipe, found)

    found = ended(*forked(run))
    if found not in (b"same", b"refused", b""):
        return "lost", f"on the failing disk: {found.decode()}"
    outcome = finish(path, whole)
    if outcome[0] != "survived":
        return "lost", f"after the failing disk: {outcome}"
    return ("reported", "") if found == b"refused" else outcome


def second_run(folder: Path, whole: dict[str, bytes], rng: random.Random) -> Outcome:
    """Start a second run on the checkpoint of one that goes on."""
    path = folder / "run.npz"
    second: list[Outcome] = []
    at = rng.randrange(1, STEPS)

    def callback(row: dict[str, float]) -> None:
        if row["step"] == at:
            child, pipe = forked(lambda write: os.write(write, repr(finish(path, whole)).encode()))
            second.append(eval(ended(child, pipe)))

    _, state = train(path, callback=callback)
    if state != whole or second[0][0] != "reported" or str(os.getpid()) not in second[0][1]:
        return "lost", f"{second}"
    return second[0]


# Power cuts


class Disk:
    """What is on the disk for certain, while a folder is written to.

    The content of a file is there once it was synced, and names are once the folder was. Of what
    came later any part may be there: names one by one, and of a file's content the beginning.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.synced, self.kept = folder, {}, {}
        self.names: dict[str, int] = {}
        self.pending: list[tuple[str, int | None]] = []
        self.known: dict[str, int] = {}

    def look(self) -> None:
        """Note which names have changed, and keep every file, also once it has no name."""
        now = {p.name: p.stat().st_ino for p in self.folder.iterdir() if p.is_file()}
        for name in {**self.known, **now}:
            if now.get(name) != self.known.get(name):
                self.pending.append((name, now.get(name)))
            if name in now and now[name] not in self.kept:
                self.kept[now[name]] = (self.folder / name).open("rb")
        self.known = now

    def sync(self, descriptor: int) -> None:
        """Note that a file, or the folder, was synced."""
        self.look()
        found = os.fstat(descriptor)
        if found.st_ino == self.folder.stat().st_ino:
            self.names, self.pending = dict(self.known), []
        else:
            self.synced[found.st_ino] = self._content(found.st_ino)

    def cut(self, to: Path, rng: random.Random) -> None:
        """Write what may be there after a power cut to another folder."""
        self.look()
        names = dict(self.names)
        for name, inode in self.pending:
            if rng.random() < 0.5:
                names.pop(name, None) if inode is None else names.update({name: inode})
        for name, inode in names.items():
            content = self.synced.get(inode, b"")
            now = self._content(inode)
            if now.startswith(content):
                content = now[: rng.randrange(len(content), len(now) + 1)]
                content += bytes(rng.choice([0, 0, 100]) if content != now else 0)
            (to / name).write_bytes(content)

    def _content(self, inode: int) -> bytes:
        self.kept[inode].seek(0)
        return self.kept[inode].read()

    def close(self) -> None:
        for file in self.kept.values():
            file.close()


def power_cut(folder: Path, whole: dict[str, bytes], rng: random.Random) -> Outcome:
    """Cut the power at any call that reaches the disk, and start from what is left."""
    first, second = folder / "first", folder / "second"
    first.mkdir()
    second.mkdir()
    keep = rng.choice([1, 2])
    disk, left = Disk(first), rng.randrange(2, 110)
    saved = 0
    before = os.fsync, os.replace, os.link, os.unlink, os.rename

    class Cut(BaseException):
        pass

    def counted(function: Callable[..., Any], sync: bool = False) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left <= 0:
                disk.cut(second, rng)
                raise Cut
            value = function(*arguments, **options)
            disk.sync(arguments[0]) if sync else disk.look()
            return value

        return call

    def callback(row: dict[str, float]) -> None:
        nonlocal saved
        saved = int(row["step"]) - 1

    os.fsync = counted(os.fsync, sync=True)
    os.replace, os.link, os.unlink, os.rename = map(counted, before[1:])
    try:
        train(first / "run.npz", callback=callback, keep=keep)
        disk.cut(second, rng)
        saved = STEPS
    except Cut:
        pass
    finally:
        os.fsync, os.replace, os.link, os.unlink, os.rename = before
        disk.close()
    outcome = finish(second / "run.npz", whole, saved, keep=keep)
    return outcome if outcome[0] == "survived" else ("lost", outcome[1])


FAULTS = {  # with how many times in the long and in the short form
    "kill -9, one to three times": (killed, 200, 15),
    "power cut": (power_cut, 200, 15),
    "one to five signals": (interrupted, 200, 20),
    "damaged file": (damaged, 300, 20),
    "altered file": (altered, 100, 15),
    "something else in its place": (hostile, 50, 14),
    "full disk": (full_disk, 50, 4),
    "slow or failing disk": (failing_disk, 200, 8),
    "second run on the checkpoint": (second_run, 20, 2),
    "kill -9 on JAX": (killed_on("JAX"), 20, 0),
    "kill -9 on Numba": (killed_on("NUMBA"), 10, 0),
    "workers and threads that train at once": (workers, 20, 3),
    "random systems, five solvers, two dtypes": (fault_solves.solved, 2500, 20),
    "random problem, three steps": (fault_problems.stepped, 10_000, 0),
}


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description="Break runs on purpose.")
    parser.add_argument("--short", action="store_true", help="a tenth of the faults")
    parser.add_argument("--only", help="faults whose name has this in it")
    parser.add_argument("--count", type=int, help="how many of each, in place of the usual number")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    if options.short:
        fault_solves.MODE = UNOPTIMIZED  # a loop in C takes longer to compile than to pay off
    whole = train(None)[1]
    lost = 0
    print("| fault | tried | survived | reported | lost |")
    print("|---|---|---|---|---|")
    for name, (function, long, short) in FAULTS.items():
        if options.only and options.only not in name:
            continue
        counts: Counter[str] = Counter()
        count = options.count or (short if options.short else long)
        if not count:
            continue
        for number in range(count):
            rng = random.Random(f"{options.seed} {name} {number}")
            folder = Path(tempfile.mkdtemp(prefix="symng-faults-"))
            try:
                outcome, text = function(folder, whole, rng)
            except Exception:
                outcome, text = "lost", traceback.format_exc()
            shutil.rmtree(folder)
            counts[outcome] += 1
            if outcome == "lost":
                print(f"lost: {name}, number {number}: {text}", file=sys.stderr, flush=True)
        row = [count, counts["survived"], counts["reported"], counts["lost"]]
        print(f"| {name} | " + " | ".join(map(str, row)) + " |", flush=True)
        lost += counts["lost"]
    return int(lost > 0)


if __name__ == "__main__":
    sys.exit(main())
