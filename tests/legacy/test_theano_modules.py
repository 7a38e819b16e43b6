"""The modules that `install_theano` provides: found, forwarded, and undone."""

from __future__ import annotations

import importlib
import logging
import subprocess
import sys

import pytensor
import pytensor.tensor as pt
import pytest

from symng.legacy import install_theano, uninstall_theano
from symng.legacy.theano import _table
from symng.legacy.theano._config import read_flags
from symng.legacy.theano._namespace import AliasFinder


@pytest.fixture(autouse=True)
def installed():
    install_theano()
    yield
    uninstall_theano()


@pytest.mark.parametrize("name", sorted(_table.MODULES))
def test_every_module_can_be_imported_and_has_names(name):
    module = importlib.import_module(name)
    assert module.__name__ == name
    groups = ("theano.sandbox", "theano.tensor.signal", "theano.tensor.raw_random")
    assert name in groups or [entry for entry in dir(module) if not entry.startswith("_")]
    for entry in module.__all__:
        getattr(module, entry)


@pytest.mark.parametrize("old, new", _table.RENAMED.items())
def test_renamed_names_are_those_of_pytensor(old, new):
    module, _, name = old.rpartition(".")
    source, _, renamed = new.rpartition(".")
    wanted = getattr(importlib.import_module(source), renamed)
    assert getattr(importlib.import_module(module), name) is wanted


def test_the_log_does_not_repeat_that_there_is_no_blas(caplog):
    log = logging.getLogger("pytensor.tensor.blas")  # as in every release
    log.warning("Using NumPy C-API based implementation for BLAS functions.")
    log.warning("Something else.")
    assert [record.getMessage() for record in caplog.records] == ["Something else."]
    uninstall_theano()
    log.warning("Using NumPy C-API based implementation for BLAS functions.")
    assert len(caplog.records) == 2


def test_imports_of_the_time_work():
    import theano
    import theano.sandbox.rng_mrg
    import theano.tensor as T
    from theano import function, shared, tensor
    from theano.compile.sharedvalue import SharedVariable
    from theano.ifelse import ifelse
    from theano.sandbox.scan import scan
    from theano.tensor.nnet import conv
    from theano.tensor.signal import downsample, pool
    from theano.tensor.var import TensorVariable

    assert T is tensor is theano.tensor
    assert T.tanh is pt.tanh and T.dmatrix is pt.dmatrix and T.nnet.sigmoid is pt.sigmoid
    assert isinstance(shared(1.0), SharedVariable) and isinstance(T.scalar(), TensorVariable)
    assert function is theano.function and callable(scan) and callable(ifelse)
    assert downsample.max_pool_2d and pool.pool_2d and conv.conv2d is T.nnet.conv2d
    assert theano.sandbox.rng_mrg.MRG_RandomStreams
    assert callable(T.var) and callable(T.sort)  # functions, not the modules imported above


def test_modules_not_imported_are_there_as_attributes():
    import theano

    assert theano.sandbox.cuda.cuda_available is False
    assert theano.scan_module.until is theano.scan_module.scan_utils.until


def test_star_import_brings_what_theano_has():
    names: dict[str, object] = {}
    exec("from theano.tensor import *", names)
    assert {"dot", "grad", "Rop", "matrix"} <= set(names)


@pytest.mark.parametrize(
    "statement, words",
    [
        ("import theano; theano.tensor.dott", "theano.tensor.dott is not in .* theano.tensor.dot?"),
        ("import theano; theano.sandbox.cuda.CudaNdarray(1)", 'CudaNdarray .* mode="JAX"'),
        ("from theano.tensor.nnet import conv3d2d", "conv3d2d .* symng.models.convolve"),
        ("from theano.tensor import nothing_like_it", "theano.tensor.nothing_like_it is not in"),
        ("import theano.nothing_like_it", "theano.nothing_like_it .*from_theano.md"),
        ("from theano.compile import ProfileMode", "ProfileMode .* profile=True"),
        ("import theano; theano.config.nothing_like_it", "config.nothing_like_it is no flag"),
    ],
)
def test_a_missing_name_is_named_with_the_way_out(statement, words):
    with pytest.raises((AttributeError, ImportError), match=words):
        exec(statement, {})


def test_there_is_no_device():
    import theano.sandbox.cuda

    with pytest.raises(RuntimeError, match="no device 'gpu0'"):
        theano.sandbox.cuda.use("gpu0")


@pytest.fixture
def other_theano(tmp_path, monkeypatch):
    """A package of that name, as if installed."""
    (tmp_path / "theano.py").write_text("mine = False\n")
    monkeypatch.syspath_prepend(tmp_path)
    uninstall_theano()
    yield
    sys.modules.pop("theano", None)


def test_an_installed_theano_is_back_after_uninstall(other_theano):
    install_theano()
    import theano

    assert theano.tensor
    uninstall_theano()
    import theano

    assert theano.mine is False


def test_an_imported_theano_is_left_alone(other_theano):
    import theano

    with pytest.raises(ImportError, match="theano is imported already, from .*theano.py"):
        install_theano()
    assert sys.modules["theano"] is theano and theano.mine is False


def test_installing_twice_is_installing_once():
    finders = list(sys.meta_path)
    install_theano()
    assert sys.meta_path == finders


def test_nothing_is_installed_unless_asked():
    code = "import sys, symng, symng.legacy; print(any('Theano' in str(f) for f in sys.meta_path))"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.split() == ["False"], done.stderr


def test_a_file_beside_the_script_wins_over_an_alias(tmp_path, monkeypatch):
    finder = AliasFinder({"solvers_of_2013": "math"})
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, finder])
    import solvers_of_2013

    assert solvers_of_2013.sqrt(4.0) == 2.0
    del sys.modules["solvers_of_2013"]
    (tmp_path / "solvers_of_2013.py").write_text("sqrt = 'mine'\n")
    monkeypatch.syspath_prepend(tmp_path)
    import solvers_of_2013

    assert solvers_of_2013.sqrt == "mine"
    del sys.modules["solvers_of_2013"]


def test_flags_are_set_where_pytensor_has_them():
    import theano

    with pytensor.config.change_flags(floatX="float64", exception_verbosity="low"):
        with pytest.warns(UserWarning, match="device=gpu has no effect: .* CPU"):
            read_flags("device=gpu, floatX=float32,nvcc.fastmath=True,exception_verbosity=high")
        assert theano.config.floatX == "float32" == pt.matrix().dtype
        assert theano.config.exception_verbosity == "high"
        theano.config.floatX = "float64"
        assert pytensor.config.floatX == "float64"


def test_flags_without_effect_can_be_read_and_set():
    import theano

    assert theano.config.device == "cpu" and theano.config.compute_test_value == "off"
    theano.config.warn.subtensor_merge_bug = False
    assert theano.config.warn.subtensor_merge_bug is False
    assert theano.config.blas.ldflags == pytensor.config.blas__ldflags


def test_unknown_flags_are_named():
    import theano

    with pytest.warns(UserWarning, match="THEANO_FLAGS: no_such_flag is no flag"):
        read_flags("no_such_flag=1")
    with pytest.warns(UserWarning, match="theano.config.no_such_flag is no flag"):
        theano.config.no_such_flag = 1


@pytest.mark.parametrize(
    "flag, meant", [("floatx=float32", "floatX"), ("optimiser=None", "optimizer")]
)
def test_a_flag_that_looks_like_another(flag, meant):
    with pytest.warns(UserWarning, match=rf"is no flag of PyTensor, .* Did you mean {meant}\?"):
        read_flags(flag)


def test_a_name_of_a_flag_that_is_misspelled():
    import theano

    with pytest.raises(AttributeError, match=r"theano.config.floatx is .* Did you mean floatX\?"):
        theano.config.floatx  # noqa: B018
    with pytest.warns(UserWarning, match=r"theano.config.floatx is .* Did you mean floatX\?"):
        theano.config.floatx = "float32"
    theano.config.forget()


@pytest.mark.parametrize(
    "flag, message",
    [
        ("floatX=float31", "floatX=float31 is not possible. .* Valid options are"),
        ("floatX", "floatX without a value is not possible"),
        ("mode=FAST_RUNN", "mode=FAST_RUNN is not possible. .* FAST_RUN"),
    ],
)
def test_values_that_a_flag_does_not_take(flag, message):
    with pytest.raises(ValueError, match=f"THEANO_FLAGS: {message}"):
        read_flags(flag)


def test_c_is_the_default_until_theano_is_removed():
    uninstall_theano()
    with pytensor.config.change_flags(mode="Mode", linker="auto", cxx="g++"):
        install_theano()
        assert pytensor.config.linker == "cvm"
        uninstall_theano()
        assert pytensor.config.linker == "auto"
    with pytensor.config.change_flags(mode="FAST_COMPILE", linker="auto"):
        install_theano()
        assert pytensor.config.linker == "auto"


def test_variables_are_true_and_comparisons_are_not():
    import theano.tensor as T

    x = T.dscalar()
    assert x and pytensor.shared(0.0) and not (not x * 0)
    with pytest.raises(TypeError, match="boolean"):
        bool(x > 0)
    uninstall_theano()
    with pytest.raises(TypeError, match="boolean"):
        bool(x)
