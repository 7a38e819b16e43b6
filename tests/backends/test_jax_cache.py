"""What XLA has compiled is kept for the next process, unless JAX has an order."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from symng.backends import _jax_cache

PROGRAM = """
import jax, numpy as np, pytensor.tensor as pt, symng
hits = []
jax.monitoring.register_event_listener(lambda name, **_: hits.append(name.endswith("cache_hits")))
x = pt.dmatrix("x")
f = symng.compile_function([x], pt.tanh(x @ x).sum(), mode="JAX")
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
print(float(f(np.eye(3))), sum(hits), jax.config.jax_compilation_cache_dir, sep="|")
"""


def test_the_next_process_finds_what_was_compiled(tmp_path):
    pytest.importorskip("jax")
    env = {**os.environ, "PYTENSOR_FLAGS": f"base_compiledir={tmp_path}"}
    env.pop("JAX_COMPILATION_CACHE_DIR", None)
    runs = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, check=True
        )
        runs.append(done.stdout.strip().split("|"))
    assert runs[0][0] == runs[1][0] and runs[0][1] == "0" and runs[1][1] == "1"
    folder = Path(runs[0][2])
    assert folder.parent == tmp_path and folder.name.endswith("--jax") and any(folder.iterdir())


class Config(SimpleNamespace):
    """The settings of JAX that count, and which of them were changed."""

    def __init__(self, **given):
        super().__init__(
            **{
                "jax_enable_compilation_cache": True,
                "jax_compilation_cache_dir": None,
                "jax_persistent_cache_min_compile_time_secs": 1.0,
                "changed": {},
                **given,
            }
        )

    def update(self, name, value):
        self.changed[name] = value


def pytensor_in(folder):
    """Return what stands in for a PyTensor that compiles into a folder."""
    return SimpleNamespace(config=SimpleNamespace(compiledir=folder / "own"))


@pytest.mark.parametrize(
    "given, changed",
    [
        ({}, {"jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs"}),
        (
            {"jax_persistent_cache_min_compile_time_secs": 5.0},
            {"jax_compilation_cache_dir"},
        ),
        ({"jax_enable_compilation_cache": False}, set()),
        ({"jax_compilation_cache_dir": "elsewhere"}, set()),
    ],
    ids=["nothing", "a time", "off", "a folder"],
)
def test_settings_of_jax_have_the_say(given, changed, tmp_path, monkeypatch):
    config = Config(**given)
    monkeypatch.setitem(sys.modules, "jax", SimpleNamespace(config=config))
    monkeypatch.setattr(_jax_cache, "pytensor", pytensor_in(tmp_path))
    _jax_cache.keep_programs()
    assert set(config.changed) == changed
    # The folder is announced once, by the process that has made it.
    assert (_jax_cache.take_new_folder() is not None) == bool(changed)
    assert _jax_cache.take_new_folder() is None


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path, monkeypatch):
    config = Config()
    monkeypatch.setitem(sys.modules, "jax", SimpleNamespace(config=config))
    (tmp_path / "file").touch()
    monkeypatch.setattr(_jax_cache, "pytensor", pytensor_in(tmp_path / "file"))
    _jax_cache.keep_programs()
    assert config.changed == {}
