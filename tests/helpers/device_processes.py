"""One of two processes of two virtual devices each, which run a step together.

    XLA_FLAGS=--xla_force_host_platform_device_count=2 python device_processes.py NUMBER PORT FOLDER

prints a JSON object with what this process found. After that the second kills itself during a run.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytensor
import pytensor.tensor as pt
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import symng

X = np.random.default_rng(0).standard_normal((16, 4))
T = X @ np.array([1.0, -2.0, 0.5, 1.5]) + 0.1 * np.random.default_rng(1).standard_normal(16)
OPTIMIZER = symng.NaturalGradient(damping=0.3, solver=symng.CG(rtol=1e-12, maxiter=20))
DESCENT = symng.SGD(0.1)  # compiles in a fraction of the time


def regression(start: float = 0.1) -> symng.Objective:
    """Return a regression by one unit with a tanh."""
    x, t, w = pt.matrix("x"), pt.vector("t"), pytensor.shared(np.full(4, start), name="w")
    y = pt.tanh(x @ w)
    return symng.Objective(pt.sqr(y - t).mean() / 2, y, [w], inputs=[x], targets=[t])


def part(*arrays: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the examples of this process: the first half or the second."""
    count, number = jax.process_count(), jax.process_index()
    size = len(arrays[0]) // count
    return tuple(a[number * size : (number + 1) * size] for a in arrays)


def train(objective: symng.Objective, data: Any = None, **given: Any) -> symng.TrainingResult:
    """Train on the examples of this process."""
    given = {"max_steps": 6, "progress": False, "devices": len(jax.devices()), **given}
    optimizer = given.pop("optimizer", DESCENT)
    data = part(X, T) if data is None else data
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return symng.minimize(objective, optimizer, data, mode="JAX", **given)


def losses(**given: Any) -> list[float]:
    """Return the losses of a run."""
    return train(regression(), **given).history["loss"].tolist()


def message_of(call: Any) -> str:
    """Return the type and the message of the error that a call raises."""
    try:
        call()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "no error"


def runs(folder: Path) -> dict[str, Any]:
    """Train on full batches, on minibatches, from one global array, and resume."""
    number = jax.process_index()
    file = folder / "run.npz"
    found: dict[str, Any] = {"begun": losses(optimizer=OPTIMIZER, max_steps=3, checkpoint=file)}
    found["resumed"] = losses(optimizer=OPTIMIZER, checkpoint=file)
    found["from one process"] = losses(checkpoint=folder / "one.npz")
    found["minibatches"] = losses(batch_size=8, max_steps=3, checkpoint=folder / "minibatches.npz")
    mesh = jax.make_mesh((4,), ("examples",))
    sharding = NamedSharding(mesh, PartitionSpec("examples"))
    spread = tuple(jax.make_array_from_process_local_data(sharding, a) for a in part(X, T))
    found["spread"] = losses(data=spread, devices=mesh)
    found["spread minibatches"] = losses(data=spread, batch_size=8, devices=mesh)
    grid = np.array(jax.devices()).reshape(2, 2)
    found["split state"] = losses(
        devices=Mesh(grid, ("examples", "state")),
        optimizer=symng.Adam(0.1),
        checkpoint=folder / "state.npz",
    )
    found["crossing"] = message_of(lambda: losses(devices=Mesh(grid.T, ("examples", "state"))))
    replicas = NamedSharding(Mesh(grid, ("examples", "state")), PartitionSpec("state"))
    found["replicas"] = message_of(lambda: losses(devices=replicas))

    # Errors: each leaves the parameters as they were.
    objective = regression(0.1 + number)
    found["params"] = message_of(lambda: train(objective))
    objective = regression()
    found["unchanged"] = objective.params[0].get_value().tolist()
    short = X[: 8 - 4 * number], T[: 8 - 4 * number]
    found["lengths"] = message_of(lambda: train(objective, short))
    found["uneven"] = message_of(lambda: train(objective, (X[:7], T[:7])))
    found["batch_size"] = message_of(lambda: train(objective, batch_size=7))
    bad = T.copy()
    bad[12] = np.nan
    found["nan"] = message_of(lambda: train(objective, part(X, bad)))
    found["devices"] = message_of(lambda: train(objective, devices=2))
    step = symng.compile_step(objective, DESCENT, mode="JAX", devices=4)
    found["nan in a step"] = message_of(lambda: step(part(X, bad)))
    found["unchanged"] += objective.params[0].get_value().tolist()

    # Streams of batches, of which one ends, fails or has a short batch in the second process alone.
    def stream(count: int = 9, short: int = 99, fails: int = 99) -> Any:
        for i in range(count):
            if number and i == fails:
                raise OSError("no such file")
            size = 2 if number and i == short else 4
            yield tuple(a[:size] for a in part(X, T))

    given = {"max_steps": None}
    ended = train(regression(), stream(9 - 4 * number), **given)
    found["stream"] = [ended.status, ended.steps]
    found["short batch"] = message_of(lambda: train(regression(), stream(short=3), **given))
    found["stream fails"] = message_of(lambda: train(regression(), stream(fails=3), **given))

    # What one process decides, the other does too.
    ends = train(regression(), callback=lambda row: number == 1 and row["step"] == 2)
    found["callback"] = [ends.status, ends.steps]

    def evaluate() -> float:
        if number == 1:
            raise KeyError("no such file")
        return 0.0

    found["evaluate"] = message_of(lambda: train(regression(), evaluate=evaluate))
    limited = train(regression(), max_steps=None, max_seconds=0.2 + 1e6 * number)
    found["max_seconds"] = [limited.status, limited.steps]
    return found


def kill_the_second(folder: Path) -> None:
    """Kill the second process in the midst of a run, after some checkpoints."""

    def callback(row: dict[str, float]) -> None:
        if jax.process_index() == 1 and row["step"] == 4:
            os.kill(os.getpid(), signal.SIGKILL)

    losses(checkpoint=folder / "killed.npz", checkpoint_seconds=0, callback=callback)


def main(number: str, port: str, folder: str) -> None:
    """Print what this process found, and begin the run in which one is killed."""
    gc.disable()  # a seventh of the time
    jax.distributed.initialize(f"localhost:{port}", 2, int(number), heartbeat_timeout_seconds=10)
    symng.enable_jax()
    print(json.dumps({**runs(Path(folder)), "time": time.time()}), flush=True)
    kill_the_second(Path(folder))


if __name__ == "__main__":
    main(*sys.argv[1:])
