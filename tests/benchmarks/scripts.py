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
import scipy.optimize
import tutorials
from curves_network import make_objective as curves_objective
from tutorials import train

import symng
from symng.datasets import curves
from symng.models import (
    binary_cross_entropy_with_logits,
    categorical_cross_entropy_with_logits,
    convolve,
    max_pool,
    mlp,
)


def natgrad_mlp(path: str) -> None:
    """Run run_mlpMNIST.py, 4 steps."""
    objective = dense([784, 1500, 10], "sigmoid")
    train(objective, natgrad(30), images(path, 50_000), batch_size=2500, max_steps=4)


def natgrad_conv(path: str) -> None:
    """Run run_convMNIST.py with 8 and 16 filters, 100 units and batches of 500, 2 steps."""
    objective = convolutional((8, 16, 100), pt.sigmoid)
    options = {"batch_size": 500, "metric_batch": "other", "chunk_size": 250, "max_steps": 2}
    train(objective, natgrad(40), images(path, 50_000), **options)


def hf_nn(path: str) -> None:
    """Run example_NN of theano-hf with 100 and 50 batches of 50 examples, 3 updates."""
    objective = xor_network()
    options = {"batch_size": 5000, "metric_batch_size": 2500, "metric_batch": "other"}
    optimizer = hessian_free(symng.GaussNewton(), 50, 1.0, "martens")
    train(objective, optimizer, bits(15_000), **options, max_steps=3)


def hf_nn_sgd(path: str) -> None:
    """Run example_NN of theano-hf by SGD with 100 batches of 50 examples, 3 passes."""
    objective = xor_network()
    train(objective, symng.SGD(1e-3), bits(5000), batch_size=50, max_steps=300)


def hf_rnn(path: str) -> None:
    """Run example_RNN of theano-hf with batches of 20 sequences, 2 updates."""
    metric = symng.StructuralDamping(metric=symng.GaussNewton(), relative=True)
    optimizer = hessian_free(metric, 15, 0.5, None)
    options = {"batch_size": 20, "metric_batch": "other", "max_steps": 2}
    train(memory_network(), optimizer, sequences(300), **options)


def hf_rnn_sgd(path: str) -> None:
    """Run example_RNN of theano-hf by SGD, a sequence a step, 3 passes over 50."""
    train(memory_network(), symng.SGD(5e-5), sequences(50), batch_size=1, max_steps=150)


def ksd_curves(path: str) -> None:
    """Run train_dae_curves.py on 1,500 curves, with spaces of 20 directions, 2 iterations."""
    optimizer = symng.KrylovSubspaceDescent(
        metric=symng.GaussNewton(), basis_size=20, max_iterations=10
    )
    train(curves_objective(), optimizer, (curves(1500),), batch_size=1500, max_steps=2)


def logistic_sgd(path: str) -> None:
    """Run logistic_sgd.py on 3,000 images in batches of 100, 20 epochs."""
    objective = dense([784, 10], "linear")
    train(objective, symng.SGD(0.13), images(path, 3000), batch_size=100, max_steps=600)


def logistic_cg(path: str) -> None:
    """Run logistic_cg.py on 3,000 images, 5 iterations of SciPy's fmin_cg."""
    problem = dense([784, 10], "linear").to_scipy(*images(path, 3000))
    x0 = np.zeros_like(problem.x0)
    losses: list[float] = [problem.fun(x0)]
    scipy.optimize.fmin_cg(
        problem.fun,
        x0,
        problem.jac,
        maxiter=5,
        disp=False,
        callback=lambda x: losses.append(problem.fun(x)),
    )
    print("losses:", *np.round(losses, 4))


def tutorial_mlp(path: str) -> None:
    """Run mlp.py on 3,000 images, 10 epochs."""
    objective = dense([784, 500, 10], "tanh")
    train(objective, symng.SGD(0.01), images(path, 3000), batch_size=20, max_steps=1500)


def tutorial_conv(path: str) -> None:
    """Run convolutional_mlp.py on 3,000 images in batches of 100, 1 epoch."""
    objective = convolutional((20, 50, 500), pt.tanh)
    train(objective, symng.SGD(0.1), images(path, 3000), batch_size=100, max_steps=30)


def denoising(path: str) -> None:
    """Run dA.py on 3,000 images in batches of 20, an epoch without noise and one with it."""
    X, _ = images(path, 3000)
    for noise in (0.0, 0.3):
        objective = tutorials.denoising_autoencoder(noise)
        train(objective, symng.SGD(0.1), (X,), batch_size=20, max_steps=150)


def contractive(path: str) -> None:
    """Run cA.py on 3,000 images in batches of 10, an epoch."""
    X, _ = images(path, 3000)
    objective = tutorials.contractive_autoencoder()
    train(objective, symng.SGD(0.01), (X,), batch_size=10, max_steps=300)


def boltzmann(path: str) -> None:
    """Run rbm.py with 100 units on 3,000 images in batches of 20, an epoch and 2 samples."""
    tutorials.boltzmann_machine(images(path, 3000)[0])


def stacked(path: str) -> None:
    """Run SdA.py on 3,000 images in batches of 100: an epoch a layer, 2 epochs of fine-tuning."""
    tutorials.pretrained(*images(path, 3000), tutorials.denoising_layer, 0.001)


def belief_network(path: str) -> None:
    """Run DBN.py on 3,000 images in batches of 100: an epoch a layer, 2 epochs of fine-tuning."""
    tutorials.pretrained(*images(path, 3000), tutorials.boltzmann_layer, 0.01)


PROGRAMS: dict[str, Callable[[str], None]] = {
    "natgrad-mlp": natgrad_mlp,
    "natgrad-conv": natgrad_conv,
    "hf-nn": hf_nn,
    "hf-nn-sgd": hf_nn_sgd,
    "hf-rnn": hf_rnn,
    "hf-rnn-sgd": hf_rnn_sgd,
    "ksd-curves": ksd_curves,
    "logistic-sgd": logistic_sgd,
    "logistic-cg": logistic_cg,
    "mlp": tutorial_mlp,
    "conv": tutorial_conv,
    "dA": denoising,
    "cA": contractive,
    "rbm": boltzmann,
    "SdA": stacked,
    "DBN": belief_network,
    "lstm": lambda path: tutorials.sentiment(),
    "rnnslu": lambda path: tutorials.slots(),
    "rnnrbm": lambda path: tutorials.recurrent_boltzmann_machine(),
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


def xor_network() -> symng.Objective:
    """Return the network of example_NN, and its loss."""
    x, t = pt.matrix("x"), pt.matrix("t")
    network = mlp(x, [2, 50, 40, 30, 1], output="sigmoid")
    loss = binary_cross_entropy_with_logits(network.preactivation, t).mean()
    return symng.Objective(loss, network.output, network.params, [x], [t])


def bits(count: int) -> tuple[Any, ...]:
    """Return pairs of bits and their parities."""
    X = np.random.default_rng(0).integers(0, 2, (count, 2))
    return X.astype("float32"), (X[:, :1] ^ X[:, 1:]).astype("float32")


def memory_network(units: int = 100) -> symng.Objective:
    """Return the network of example_RNN, which has to remember the first of 100 bits."""
    rng = np.random.default_rng(0)
    shapes = {"Wx": (1, units), "Wh": (units, units), "Wy": (units, 1), "bh": units, "by": 1}
    Wx, Wh, Wy, bh, by = (
        tutorials.shared(0.2 * rng.uniform(-1, 1, n) if name[0] == "W" else np.zeros(n), name)
        for name, n in shapes.items()
    )
    h0 = tutorials.shared(np.zeros(units), "h0")
    x, t = pt.matrix("x"), pt.matrix("t")
    h = pytensor.scan(
        lambda x_t, h: pt.tanh(x_t[:, None] @ Wx + h @ Wh + bh),
        sequences=[x.T],
        outputs_info=[pt.tile(h0, (x.shape[0], 1))],
        return_updates=False,
    )
    logits = h[-1] @ Wy + by
    loss = binary_cross_entropy_with_logits(logits, t).mean()
    return symng.Objective(loss, pt.sigmoid(logits), [Wx, Wh, Wy, bh, by, h0], [x], [t])


def sequences(count: int) -> tuple[Any, ...]:
    """Return sequences of 100 bits, and the first bit of each."""
    X = np.random.default_rng(0).integers(0, 2, (count, 100)).astype("float32")
    return X, X[:, :1]


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

    def weights_of(shape: tuple[int, ...], name: str) -> Any:
        fan_in = int(np.prod(shape[1:])) if len(shape) == 4 else shape[0]
        values = rng.uniform(-1, 1, shape) * np.sqrt(3 / fan_in)
        return tutorials.shared(values, name)

    shapes = [(first, 1, 5, 5), (second, first, 5, 5), (second * 16, units), (units, 10)]
    weights = [weights_of(shape, f"W{k}") for k, shape in enumerate(shapes)]
    sizes_of_biases = (first, second, units, 10)
    biases = [tutorials.shared(np.zeros(n), f"b{k}") for k, n in enumerate(sizes_of_biases)]
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
    symng.set_mode(options.mode)
    PROGRAMS[options.name](options.data)
    seconds = sum(
        sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    print(f"processor seconds: {seconds:.1f}")


if __name__ == "__main__":
    main()
