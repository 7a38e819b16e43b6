"""The models of scripts of Theano's time in symng: what docs/legacy_scripts.md compares them with.

    python tests/benchmarks/scripts.py natgrad-mlp --data mnist.npz --mode CVM

Sizes, batches and numbers of steps are those of the shortened scripts, first weights are not. The
file has natgrad's keys train_x and train_y. Prints the losses, and the processor seconds of the
whole program, start and compilation included.
"""

from __future__ import annotations

import argparse
import resource
from collections.abc import Callable
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt
from curves_network import make_objective as curves_objective

import symng
from symng.datasets import curves
from symng.models import (
    binary_cross_entropy_with_logits,
    categorical_cross_entropy_with_logits,
    convolve,
    max_pool,
    mlp,
)

Program = tuple[symng.Objective, symng.Optimizer, tuple[Any, ...], dict[str, Any]]


def natgrad_mlp(path: str) -> Program:
    """Return run_mlpMNIST.py, 4 steps."""
    objective = dense([784, 1500, 10], "sigmoid")
    return objective, natgrad(30), images(path, 50_000), {"batch_size": 2500, "max_steps": 4}


def natgrad_conv(path: str) -> Program:
    """Return run_convMNIST.py with 8 and 16 filters, 100 units and batches of 500, 2 steps."""
    objective = convolutional((8, 16, 100), pt.sigmoid)
    options = {"batch_size": 500, "metric_batch": "other", "chunk_size": 250, "max_steps": 2}
    return objective, natgrad(40), images(path, 50_000), options


def hf_nn(path: str) -> Program:
    """Return example_NN of theano-hf with 100 and 50 batches of 50 examples, 3 updates."""
    x, t = pt.matrix("x"), pt.matrix("t")
    network = mlp(x, [2, 50, 40, 30, 1], output="sigmoid")
    loss = binary_cross_entropy_with_logits(network.preactivation, t).mean()
    objective = symng.Objective(loss, network.output, network.params, [x], [t])
    X = np.random.default_rng(0).integers(0, 2, (15_000, 2))
    T = (X[:, :1] ^ X[:, 1:]).astype("float32")
    options = {"batch_size": 5000, "metric_batch_size": 2500, "metric_batch": "other"}
    optimizer = hessian_free(symng.GaussNewton(), 50, 1.0, "martens")
    return objective, optimizer, (X.astype("float32"), T), {**options, "max_steps": 3}


def ksd_curves(path: str) -> Program:
    """Return train_dae_curves.py on 1,500 curves, with spaces of 20 directions, 2 iterations."""
    optimizer = symng.KrylovSubspaceDescent(
        metric=symng.GaussNewton(), basis_size=20, max_iterations=10
    )
    options = {"batch_size": 1500, "max_steps": 2}
    X = curves(1500)
    return curves_objective(), optimizer, (X,), options


def logistic_sgd(path: str) -> Program:
    """Return logistic_sgd.py on 3,000 images in batches of 100, 20 epochs."""
    options = {"batch_size": 100, "max_steps": 600}
    return dense([784, 10], "linear"), symng.SGD(0.13), images(path, 3000), options


def tutorial_mlp(path: str) -> Program:
    """Return mlp.py on 3,000 images, 10 epochs."""
    options = {"batch_size": 20, "max_steps": 1500}
    return dense([784, 500, 10], "tanh"), symng.SGD(0.01), images(path, 3000), options


def tutorial_conv(path: str) -> Program:
    """Return convolutional_mlp.py on 3,000 images in batches of 100, 1 epoch."""
    options = {"batch_size": 100, "max_steps": 30}
    objective = convolutional((20, 50, 500), pt.tanh)
    return objective, symng.SGD(0.1), images(path, 3000), options


PROGRAMS: dict[str, Callable[[str], Program]] = {
    "natgrad-mlp": natgrad_mlp,
    "natgrad-conv": natgrad_conv,
    "hf-nn": hf_nn,
    "ksd-curves": ksd_curves,
    "logistic-sgd": logistic_sgd,
    "mlp": tutorial_mlp,
    "conv": tutorial_conv,
}


def natgrad(iterations: int) -> symng.Optimizer:
    """Return natural gradient with the settings of natgrad's scripts."""
    return symng.NaturalGradient(
        solver=symng.MinresQLP(rtol=1e-4, maxiter=iterations, transition_condition=1e-3),
        damping=symng.LevenbergMarquardt(initial=6.0),
        step_size=1.0,
    )


def hessian_free(
    metric: symng.Metric, iterations: int, damping: float, preconditioner: Any
) -> symng.Optimizer:
    """Return Hessian-free with the rules of theano-hf."""
    solver = symng.CG(
        rtol=0.0, maxiter=iterations, progress_rtol=5e-4, keep_iterates=1.3, recompute=False
    )
    rule = symng.LevenbergMarquardt(initial=damping, ratio="quadratic", damped_model=False)
    return symng.HessianFree(
        metric=metric,
        solver=solver,
        damping=rule,
        step_size=1.0,
        warm_start=1.0,
        preconditioner=preconditioner,
    )


def dense(sizes: list[int], activation: Any) -> symng.Objective:
    """Return a network with a softmax, and its loss."""
    x, t = pt.matrix("x"), pt.ivector("t")
    network = mlp(x, sizes, activation=activation, output="softmax")
    loss = categorical_cross_entropy_with_logits(network.preactivation, t).mean()
    return symng.Objective(loss, network.output, network.params, [x], [t])


def convolutional(sizes: tuple[int, int, int], activation: Any) -> symng.Objective:
    """Return two convolutions 5 x 5 with pooling 2 x 2, a layer and a softmax, and the loss."""
    first, second, units = sizes
    rng = np.random.default_rng(0)

    def shared(shape: tuple[int, ...], name: str) -> Any:
        fan_in = int(np.prod(shape[1:])) if len(shape) == 4 else shape[0]
        values = (
            rng.uniform(-1, 1, shape) * np.sqrt(3 / fan_in) if len(shape) > 1 else np.zeros(shape)
        )
        return pytensor.shared(values.astype("float32"), name=name, shape=shape)

    shapes = [(first, 1, 5, 5), (second, first, 5, 5), (second * 16, units), (units, 10)]
    weights = [shared(shape, f"W{k}") for k, shape in enumerate(shapes)]
    biases = [shared((n,), f"b{k}") for k, n in enumerate((first, second, units, 10))]
    x, t = pt.matrix("x"), pt.ivector("t")
    a = x.reshape((-1, 1, 28, 28))
    for W, b in zip(weights[:2], biases[:2], strict=True):
        a = activation(max_pool(convolve(a, W, layout="NCHW"), 2, layout="NCHW") + b[:, None, None])
    a = activation(a.reshape((-1, second * 16)) @ weights[2] + biases[2])
    r = a @ weights[3] + biases[3]
    loss = categorical_cross_entropy_with_logits(r, t).mean()
    return symng.Objective(loss, pt.special.softmax(r, axis=-1), weights + biases, [x], [t])


def images(path: str, count: int) -> tuple[Any, ...]:
    """Return the first images and their classes."""
    with np.load(path) as data:
        return data["train_x"][:count].astype("float32"), data["train_y"][:count].astype("int32")


def main() -> None:
    """Run one program."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", choices=PROGRAMS)
    parser.add_argument("--data", default="mnist.npz")
    parser.add_argument("--mode", default="CVM")
    options = parser.parse_args()
    pytensor.config.floatX = "float32"
    objective, optimizer, data, rest = PROGRAMS[options.name](options.data)
    result = symng.minimize(objective, optimizer, data, progress=False, mode=options.mode, **rest)
    losses = result.history["loss"]
    print("losses:", *np.round(losses[:: max(1, len(losses) // 4)], 4))
    if "iterations" in result.history:
        print("iterations:", *result.history["iterations"])
    seconds = sum(
        sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    print(f"processor seconds: {seconds:.1f}")


if __name__ == "__main__":
    main()
