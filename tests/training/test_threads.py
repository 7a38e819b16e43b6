"""Several threads build and compile at once: one after another, with PyTensor's flags as before."""

from __future__ import annotations

import os
import threading
import time

import numpy as np
import pytensor
import pytest
from helpers.small_steps import line, natural

import symng
from symng.graphs.building import building


def in_threads(calls):
    """Call functions at once, each in a thread, and raise what one of them raises."""
    errors, start = [], threading.Barrier(len(calls))

    def run(call):
        try:
            start.wait(10)
            call()
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def flags():
    return pytensor.config.cxx, pytensor.config.floatX, pytensor.config.traceback__limit


def test_flags_of_two_threads_do_not_mix():
    """Each sees its own floatX and no other is left behind."""
    models = [line(dtype) for dtype in ("float32", "float64", "float32")]
    before = flags()

    def change(model):
        for _ in range(20):
            with building(floatx=model.objective.dtype):
                time.sleep(0.0005)
                assert pytensor.config.floatX == model.objective.dtype

    in_threads([lambda m=m: change(m) for m in models])
    assert flags() == before


def test_only_one_thread_compiles(monkeypatch):
    inside, most, function = [], [], pytensor.function

    def counted(*arguments, **options):
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.001)
        try:
            return function(*arguments, **options)
        finally:
            inside.pop()

    monkeypatch.setattr(pytensor, "function", counted)
    models = [line(dtype) for dtype in ("float32", "float64") * 2]
    before, losses = flags(), {}

    def train(number, model):
        optimizer = natural(damping=0.5)
        result = symng.minimize(
            model.objective, optimizer, model.batch, max_steps=2, progress=False
        )
        losses[number] = result.history["loss"].tolist()

    in_threads([lambda i=i, m=m: train(i, m) for i, m in enumerate(models)])
    assert max(most) == 1 and len(most) > 4 and flags() == before
    assert losses[0] == losses[2] and losses[1] == losses[3]
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a matter of fork")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_of_a_process_that_compiles_can_compile():
    held, done = threading.Event(), threading.Event()

    def hold():
        with building():
            held.set()
            done.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)
    child = os.fork()
    if child == 0:
        with building():
            os._exit(7)
    deadline = time.monotonic() + 10
    while (found := os.waitpid(child, os.WNOHANG)) == (0, 0) and time.monotonic() < deadline:
        time.sleep(0.01)
    done.set()
    thread.join()
    if found == (0, 0):
        os.kill(child, 9)
        os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(found[1]) == 7
