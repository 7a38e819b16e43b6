"""``python -m symng.legacy``: scripts run, and what is Python 2 in them is named."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import numpy as np
import pytest

from symng.legacy import run_script, uninstall_theano
from symng.legacy.__main__ import main

# Softmax regression in the idioms of its time: shared data, givens, slices by an index.
REGRESSION = """
import sys
import numpy
import theano
import theano.tensor as T

class Softmax(object):
    def __init__(self, input, n_in, n_out):
        self.W = theano.shared(numpy.zeros((n_in, n_out), dtype=theano.config.floatX),
                               name='W', borrow=True)
        self.b = theano.shared(numpy.zeros((n_out,), dtype=theano.config.floatX), name='b')
        self.p = T.nnet.softmax(T.dot(input, self.W) + self.b)
        self.pred = T.argmax(self.p, axis=1)
        self.params = [self.W, self.b]

    def nll(self, y):
        return -T.mean(T.log(self.p)[T.arange(y.shape[0]), y])

    def errors(self, y):
        if y.ndim != self.pred.ndim:
            raise TypeError('shapes', ('y', y.type, 'pred', self.pred.type))
        return T.mean(T.neq(self.pred, y))

rng = numpy.random.RandomState(1)
values = rng.randn(60, 4)
classes = values[:, :3].argmax(axis=1)
data = theano.shared(numpy.asarray(values, dtype=theano.config.floatX), borrow=True)
labels = T.cast(theano.shared(numpy.asarray(classes, dtype=theano.config.floatX)), 'int32')
index, x, y = T.lscalar(), T.matrix('x'), T.ivector('y')
model = Softmax(x, 4, 3)
cost = model.nll(y)
grads = T.grad(cost=cost, wrt=model.params)
size = 20
train = theano.function(
    inputs=[index, theano.In(T.scalar('unused'), value=1.0)],
    outputs=cost,
    updates=zip(model.params, [p - 1.0 * g for p, g in zip(model.params, grads)]),
    givens={x: data[index * size:(index + 1) * size], y: labels[index * size:(index + 1) * size]},
    on_unused_input='ignore')
test = theano.function([], model.errors(y), givens={x: data, y: labels})
costs = [[float(train(i)) for i in range(3)] for epoch in range(int(sys.argv[1]))]
error = float(test())
W = model.W.get_value()
"""


@pytest.fixture(autouse=True)
def removed():
    yield
    uninstall_theano()
    sys.modules.pop("helper_of_2013", None)


def write(folder, code, name="script.py"):
    (folder / name).write_text(code)
    return folder / name


def regression(epochs):
    """The same in NumPy."""
    values = np.random.RandomState(1).randn(60, 4)
    classes = values[:, :3].argmax(axis=1)
    W, b, costs = np.zeros((4, 3)), np.zeros(3), []
    for _ in range(epochs):
        costs.append([])
        for start in (0, 20, 40):
            x, y = values[start : start + 20], classes[start : start + 20]
            p = np.exp(x @ W + b)
            p /= p.sum(axis=1, keepdims=True)
            costs[-1].append(-np.log(p[np.arange(20), y]).mean())
            residual = (p - np.eye(3)[y]) / 20
            W, b = W - x.T @ residual, b - residual.sum(axis=0)
    return costs, (np.argmax(values @ W + b, axis=1) != classes).mean(), W


def test_a_script_of_its_time_runs_and_gives_the_numbers(tmp_path):
    names = run_script(write(tmp_path, REGRESSION), ["4"])
    costs, error, W = regression(4)
    np.testing.assert_allclose(names["costs"], costs, rtol=1e-10)
    np.testing.assert_allclose(names["W"], W, rtol=1e-10)
    assert names["error"] == error


def test_arguments_folder_and_name_are_those_of_a_script(tmp_path):
    write(tmp_path, "value = 3\n", "helper_of_2013.py")
    code = "import sys, helper_of_2013\ngot = __name__, sys.argv[1:], helper_of_2013.value\n"
    before = list(sys.argv), list(sys.path)
    assert run_script(write(tmp_path, code), ["-n", "2"])["got"] == ("__main__", ["-n", "2"], 3)
    assert (sys.argv, sys.path) == before


def test_as_a_program(tmp_path):
    script = write(tmp_path, "import sys, theano\nprint(theano.config.floatX, sys.argv[1])\n")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "symng.legacy", str(script), "7"],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "THEANO_FLAGS": "floatX=float32"},
    )
    assert done.stdout == "float32 7\n", done.stderr


def test_usage(capsys):
    assert main([]) == 2 and main(["--help"]) == 0
    assert "python -m symng.legacy SCRIPT" in capsys.readouterr().out


def test_main_runs_a_script(tmp_path, capsys):
    assert main([str(write(tmp_path, "import sys; print(sys.argv[1])")), "x"]) == 0
    assert capsys.readouterr().out == "x\n"


@pytest.mark.parametrize(
    "line, what",
    [
        ("print 'epoch', 3", "a print statement"),
        ("    print >>sys.stderr, 'x' % 3, 'y'; print 2", "a print statement"),
        ("try:\n    pass\nexcept IOError, e:\n    pass", "except with a comma"),
        ("raise ValueError, 'no'", "raise with a comma"),
        ("exec 'a = 1'", "an exec statement"),
        ("a = 1 <> 2", "the operator <>"),
        ("a = `1`", "backticks"),
        ("mode = 0777", "an octal number"),
        ("n = 10L", "a long number"),
        ("def f(a, (b, c)):\n    pass", "a tuple as a parameter"),
        ("f = lambda (a, b): a", "a tuple as a parameter"),
    ],
)
def test_a_script_of_python_2_is_named_with_its_line(tmp_path, line, what):
    before = "import theano\nif True:\n    pass\n" if line[0] != " " else "import sys\nif True:\n"
    script = write(tmp_path, f"{before}{line}\n")
    with pytest.raises(SyntaxError, match=f"{what}.*: this is Python 2. .*2to3 -w") as caught:
        run_script(script)
    assert caught.value.filename == str(script)
    assert caught.value.lineno > before.count("\n")


def test_so_is_a_module_that_it_imports(tmp_path):
    write(tmp_path, "a = 1\nprint a\n", "helper_of_2013.py")
    with pytest.raises(SyntaxError, match="a print statement") as caught:
        run_script(write(tmp_path, "import helper_of_2013\n"))
    assert caught.value.filename.endswith("helper_of_2013.py") and caught.value.lineno == 2


def test_a_syntax_error_of_today_is_left_as_it_is(tmp_path):
    with pytest.raises(SyntaxError) as caught:
        run_script(write(tmp_path, "a = (1,\n"))
    assert "Python 2" not in caught.value.msg


@pytest.mark.parametrize(
    "code, note",
    [
        ("for i in xrange(3): pass", "xrange is Python 2. .*2to3 -w"),
        ("import cPickle", "cPickle is Python 2"),
        ("{}.iteritems()", "iteritems is Python 2"),
        ("len(map(abs, [1]))", "map, filter, zip and range were lists"),
        ("[0] + map(abs, [1])", "map, filter, zip and range were lists"),
        ("zip([1], [2])[0]", "map, filter, zip and range were lists"),
        ("import sys; print >>sys.stderr, 'x'", "print >> is Python 2"),
        ("range(10 / 5)", "Write // for /"),
    ],
)
def test_an_error_of_python_2_has_a_note(tmp_path, code, note):
    with pytest.raises((NameError, ImportError, AttributeError, TypeError)) as caught:
        run_script(write(tmp_path, code + "\n"))
    (text,) = caught.value.__notes__
    assert re.search(note, text)


def test_other_errors_are_the_scripts_own(tmp_path):
    with pytest.raises(KeyError) as caught:
        run_script(write(tmp_path, "{}['a']\n"))
    assert not hasattr(caught.value, "__notes__")


def test_bad_arguments_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="script: expected a file of Python"):
        run_script(tmp_path / "none.py")
    with pytest.raises(TypeError, match="arguments: expected a sequence of strings"):
        run_script(write(tmp_path, "pass\n"), "-v")
