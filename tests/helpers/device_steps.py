"""Steps on eight virtual devices of the CPU, beside the same steps in plain Python.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 python device_steps.py CASE ...

prints a JSON object with what each case found. JAX reads the flag when it starts.
"""

from __future__ import annotations

import gc
import json
import re
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytensor
import pytensor.tensor as pt
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import symng
from helpers.collectives import count_in_branches, read_collectives
from symng.backends import UNOPTIMIZED
from symng.backends._jax_mesh import read_mesh
from symng.models import convolve, mlp

symng.enable_jax()  # so that arrays of JAX may be float64
RNG = np.random.default_rng(0)
X, T = RNG.standard_normal((24, 4)), (RNG.random((24, 2)) > 0.5).astype(float)
LEVENBERG = symng.LevenbergMarquardt(initial=1.0)
EXACT = symng.CG(rtol=1e-12, maxiter=40)
CASES: dict[str, Callable[[], Any]] = {}


def case(function: Callable[[], Any]) -> Callable[[], Any]:
    """Register a case by the name of its function."""
    CASES[function.__name__] = function
    return function


def network(*widths: int, normalized: bool = False, noisy: bool = False) -> symng.Objective:
    """Return a small classifier, whose examples a batch normalization mixes if so wished.

    ``widths`` are the numbers of its hidden units.
    """
    x, t = pt.matrix("x"), pt.matrix("t")
    h = x
    if normalized:
        h = (x - x.mean(axis=0)) / pt.sqrt(pt.var(x, axis=0) + 0.1)
    if noisy:
        generator = pytensor.shared(np.random.default_rng(3), name="generator")
        following, noise = pt.random.normal(0, 1, size=x.shape, rng=generator, return_next_rng=True)
        generator.default_update = following
        h = x + noise
    widths = [4, *widths, 2]
    model = mlp(h, widths, activation="tanh", output="sigmoid", dtype="float64")
    r = model.preactivation
    loss = (pt.softplus(r) - t * r).sum(axis=1).mean()
    return symng.Objective(loss, output=model.output, params=model.params, inputs=[x], targets=[t])


def images() -> symng.Objective:
    """Return a convolutional network on 24 images of 6 x 6 pixels."""
    x, t = pt.tensor4("x", shape=(None, 6, 6, 1)), pt.matrix("t")
    rng = np.random.default_rng(1)
    K = pytensor.shared(0.3 * rng.standard_normal((3, 3, 1, 2)), name="K")
    W = pytensor.shared(0.3 * rng.standard_normal((2, 2)), name="W")
    r = pt.tanh(convolve(x, K)).mean(axis=(1, 2)) @ W
    loss = (pt.softplus(r) - t * r).sum(axis=1).mean()
    return symng.Objective(loss, output=pt.sigmoid(r), params=[K, W], inputs=[x], targets=[t])


def two_terms() -> symng.ObjectiveSum:
    """Return a sum of two objectives with parameters in common."""
    x, z, t = pt.matrix("x"), pt.matrix("z"), pt.vector("t")
    w = pytensor.shared(np.linspace(-1, 1, 4), name="w")
    one = symng.Objective(pt.sqr(pt.tanh(x @ w)).mean(), pt.tanh(x @ w), [w], inputs=[x])
    other = symng.Objective(pt.sqr(z @ w - t).mean(), z @ w, [w], inputs=[z], targets=[t])
    return one + 0.5 * other


def take_steps(
    make: Callable[[], Any], optimizer: symng.Optimizer, batches: Any, **given: Any
) -> tuple[list[float], symng.CompiledStep]:
    """Return the losses of two steps on each of the batches, and the compiled step."""
    objective = make()
    if "updates" in given:
        given["updates"] = given["updates"](objective)
    step = symng.compile_step(objective, optimizer, **given)
    losses = []
    for batch in batches:
        step(*batch)
        losses.append(step.run(*batch, sync=False).loss)
    return losses, step


def values_of(step: symng.CompiledStep, name: str) -> np.ndarray:
    """Return the parameters, or all else that a step changes, as a vector."""
    step.sync_to_host()
    changed: Any = step.objective.params
    if name == "state":
        changed = [*step.state.values(), *step.updated]
    arrays = [np.ravel(v.get_value()) for v in changed if hasattr(v.type, "dtype")]
    return np.concatenate([np.zeros(0), *arrays])


def compare(
    make: Callable[[], Any],
    optimizer: symng.Optimizer,
    *batches: Any,
    devices: Any = 8,
    reference: Any = UNOPTIMIZED,
    **given: Any,
) -> dict[str, Any]:
    """Return how far steps on devices are from those in plain Python, or in another mode."""
    losses, one = take_steps(make, optimizer, batches, mode=reference, **given)
    split, many = take_steps(make, optimizer, batches, mode="JAX", devices=devices, **given)
    held = [v.get_value(borrow=True) for v in many.state.values()]
    found: dict[str, Any] = {
        "losses": float(np.max(np.abs(np.divide(split, losses) - 1))),
        "everywhere": all(
            p.get_value(borrow=True).sharding.is_fully_replicated for p in many.objective.params
        ),
        "shares": [(a.size, a.addressable_shards[0].data.size) for a in held if a.ndim],
    }
    if len(many.functions) == 1:
        text = compiled_text(many, *batches[-1])
        found["collectives"] = read_collectives(text)
        found["factorizations"] = count_in_branches(text, "getrf")
    for name in ("params", "state"):
        flat = [values_of(step, name) for step in (one, many)]
        found[name] = float(np.max(np.abs(flat[1] - flat[0]) / (1 + np.abs(flat[0])), initial=0))
    return found


@case
def natural_gradient() -> Any:
    optimizer = symng.NaturalGradient(damping=LEVENBERG, solver=EXACT)
    return compare(lambda: network(3), optimizer, ((X[:5], T[:5]),), ((X, T),))


@case
def kronecker_and_minres() -> Any:
    solver = symng.MinresQLP(rtol=1e-12, maxiter=40)
    optimizer = symng.NaturalGradient(
        damping=LEVENBERG, solver=solver, preconditioner=symng.KroneckerPreconditioner()
    )
    return compare(lambda: network(3), optimizer, ((X[:23], T[:23]),))


@case
def all_batches_and_own_updates() -> Any:
    """Take batches for the metric and for a line search, and write a mean of the inputs."""
    optimizer = symng.NaturalGradient(
        damping=LEVENBERG, solver=EXACT, step_size=symng.BacktrackingLineSearch()
    )

    def updates(objective: symng.Objective) -> Any:
        mean = pytensor.shared(np.zeros(4), name="mean")
        return {mean: 0.9 * mean + 0.1 * objective.inputs[0].mean(axis=0)}

    batches = ((X[:23], T[:23]), (X[:13],), (X[:16], T[:16]))
    return compare(network, optimizer, batches, updates=updates, average_decay=0.9)


@case
def chunks() -> Any:
    optimizer = symng.NaturalGradient(damping=LEVENBERG, solver=EXACT)
    return compare(lambda: network(3), optimizer, ((X, T),), chunk_size=8)


@case
def sum_of_objectives_in_chunks() -> Any:
    """Cut two terms into chunks of 10 and a remainder of 3."""
    optimizer = symng.NaturalGradient(damping=LEVENBERG, solver=EXACT)
    batch = (((X[:23],), (X[:13], T[:13, 0])),)
    return compare(two_terms, optimizer, batch, chunk_size=10)


@case
def examples_that_mix_and_geodesic_acceleration() -> Any:
    optimizer = symng.NaturalGradient(damping=LEVENBERG, solver=EXACT, geodesic_acceleration=True)
    return compare(lambda: network(normalized=True), optimizer, ((X[:23], T[:23]),))


@case
def qr_of_empirical_fisher() -> Any:
    optimizer = symng.NaturalGradient(
        metric=symng.EmpiricalFisher(), damping=0.1, solver=symng.QR()
    )
    return compare(network, optimizer, ((X[:23], T[:23]),))


@case
def woodbury() -> Any:
    optimizer = symng.NaturalGradient(damping=0.1, solver=symng.Woodbury())
    return compare(lambda: network(3), optimizer, ((X[:23], T[:23]),))


@case
def random_draws() -> Any:
    """Draw noise, which other backends than JAX draw otherwise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        batch = ((X[:23], T[:23]),)
        return compare(lambda: network(noisy=True), symng.SGD(0.1), batch, reference="JAX")


@case
def convolution() -> Any:
    optimizer = symng.NaturalGradient(damping=0.1, solver=EXACT)
    data = np.random.default_rng(2).standard_normal((23, 6, 6, 1))
    return compare(images, optimizer, ((data, T[:23]),))


@case
def search_on_the_host() -> Any:
    optimizer = symng.NaturalConjugateGradient(damping=0.1, solver=EXACT)
    return compare(network, optimizer, ((X[:23], T[:23]),))


@case
def hessian_free() -> Any:
    return compare(network, symng.HessianFree(), ((X[:23], T[:23]),))


def on_two_axes(optimizer: symng.Optimizer) -> dict[str, Any]:
    """Split the state of an optimizer over the second axis of a mesh."""
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("examples", "state"))
    return compare(lambda: network(5), optimizer, ((X[:23], T[:23]),), devices=mesh)


FEW = symng.CG(maxiter=10, rtol=1e-12)


@case
def split_state_of_kronecker() -> Any:
    return on_two_axes(
        symng.NaturalGradient(
            solver=FEW, damping=0.1, preconditioner=symng.KroneckerPreconditioner(), warm_start=0.9
        )
    )


@case
def split_state_of_adam() -> Any:
    return on_two_axes(symng.Adam(0.01))


@case
def split_state_of_nystrom() -> Any:
    return on_two_axes(
        symng.NaturalGradient(
            solver=FEW, damping=0.1, preconditioner=symng.NystromPreconditioner(rank=4)
        )
    )


# Placement


@contextmanager
def counted_copies() -> Iterator[list[int]]:
    """Yield the sizes of the JAX arrays that are copied to the host while the context is open."""
    kind, sizes = type(jax.numpy.zeros(1)), []
    original = kind._value

    def recorded(array: Any) -> np.ndarray:
        sizes.append(array.size)
        return original.fget(array)

    kind._value = property(recorded)
    try:
        yield sizes
    finally:
        kind._value = original


@case
def descent() -> Any:
    """Take steps of gradient descent, which compile fast, and look at where their arrays are."""
    many = 4096
    rng = np.random.default_rng(1)
    data, targets = rng.standard_normal((many, 3)), rng.standard_normal(many)
    w0 = np.array([1.0, -1.0, 0.5])

    def make() -> symng.Objective:
        x, t, w = pt.matrix("x"), pt.vector("t"), pytensor.shared(w0.copy(), name="w")
        return symng.Objective(pt.sqr(x @ w - t).mean() / 2, x @ w, [w], inputs=[x], targets=[t])

    def expected(X: np.ndarray, T: np.ndarray) -> np.ndarray:
        return w0 - 0.1 * X.T @ (X @ w0 - T) / len(X)

    found: dict[str, Any] = {}
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("examples", "state"))
    sharding = NamedSharding(mesh, PartitionSpec("examples"))
    placed = tuple(jax.device_put(a, sharding) for a in (data, targets))
    for name, devices in (("number", 8), ("list", jax.devices()[:3]), ("mesh", mesh)):
        step = symng.compile_step(make(), symng.SGD(0.1), mode="JAX", devices=devices)
        (w,) = step.objective.params
        found[name] = 0.0
        for batch in (placed, (data[:1001], targets[:1001])):
            w.set_value(w0.copy())
            with counted_copies() as sizes:
                step(batch)
            error = w.get_value() - expected(*map(np.asarray, batch))
            found[name] = max(found[name], float(np.abs(error).max()))
            if batch is placed:
                found[f"{name} copied"] = max(sizes)
        if name == "number":
            found["collectives"] = [c.kind for c in read_collectives(compiled_text(step, placed))]
            found["largest"], found["largest uneven"] = largest(step, placed), largest(step, batch)
            with ThreadPoolExecutor(1) as pool:
                ahead = pool.submit(step._programs.arrays.place_term, batch).result()
            w.set_value(w0.copy())
            step.run(ahead)
            found["ahead"] = float(np.abs(w.get_value() - expected(*batch)).max())
    with counted_copies() as sizes:
        np.asarray(placed[0])
    found["counter"] = max(sizes, default=0)
    found["errors"] = errors(make, data, targets, sharding)
    return found


def compiled_text(step: symng.CompiledStep, *batches: Any) -> str:
    """Return the program of a step, as XLA compiled it for batches."""
    (function,) = step.functions
    given = step._by_term(*[*batches, None, None][:3])
    arrays = step._programs.arrays.flatten(given)
    values = [storage[0] for storage in function.vm.inputs]
    return function.vm.jit_fn.lower(*arrays, *values[len(arrays) :]).compile().as_text()


def largest(step: symng.CompiledStep, *batches: Any) -> int:
    """Return the most examples that a device computes with."""
    shapes = re.findall(r"f64\[(\d+)[,\]]", compiled_text(step, *batches))
    return max(map(int, shapes))


def errors(make: Any, data: Any, targets: Any, sharding: Any) -> dict[str, str]:
    """Return the messages of errors, each of which leaves the parameters as they are."""
    found = {}

    def refused(name: str, call: Callable[[], Any]) -> None:
        try:
            call()
        except (ValueError, TypeError) as error:
            found[name] = f"{type(error).__name__}: {error}"

    def compiled(devices: Any, mode: str = "JAX") -> Any:
        return symng.compile_step(make(), symng.SGD(0.1), mode=mode, devices=devices)

    refused("too many", lambda: compiled(9))
    refused("none", lambda: compiled(0))
    refused("text", lambda: compiled("all"))
    refused("twice", lambda: compiled([jax.devices()[0]] * 2))
    refused("C", lambda: compiled(2, "FAST_COMPILE"))
    refused("whole", lambda: compiled(NamedSharding(sharding.mesh, PartitionSpec())))
    step = compiled(sharding)
    refused("length", lambda: step((data[:1001], targets[:1001])))
    bad = jax.device_put(np.where(np.arange(4096) == 77, np.nan, targets), sharding)
    refused("nan", lambda: step((data, bad)))
    refused(
        "data",
        lambda: symng.minimize(
            make(),
            symng.SGD(0.1),
            (data[:1001], targets[:1001]),
            mode="JAX",
            devices=sharding,
            progress=False,
        ),
    )
    found["unchanged"] = str(step.objective.params[0].get_value().tolist())
    return found


@case
def division() -> Any:
    """Return to which of three devices functions of several costs go."""
    divide = read_mesh(3).divider()
    return [divide(np.negative, cost).args[0] for cost in (8.0, 5.0, 5.0, 3.0, 3.0, 1.0)]


@case
def targets_out_of_range() -> Any:
    """Check targets on their devices, also where the loss takes a slice of them."""
    x, t = pt.matrix("x"), pt.imatrix("t")
    w = pytensor.shared(np.zeros((4, 3)), name="w")
    y = pt.special.softmax(x @ w, axis=-1)
    loss = -pt.log(y[pt.arange(t.shape[0]), t[:, 0]]).mean()
    objective = symng.Objective(loss, output=y, params=[w], inputs=[x], targets=[t])
    step = symng.compile_step(objective, symng.SGD(0.1), mode="JAX", devices=8)
    rng = np.random.default_rng(0)
    data = jax.numpy.asarray(rng.standard_normal((4096, 4)))
    labels = rng.integers(0, 3, (4096, 2)).astype("int32")
    found: dict[str, Any] = {}
    with counted_copies() as sizes:
        step((data, jax.numpy.asarray(labels)))
    found["copied"] = max(sizes)
    labels[9, 0] = 3
    try:
        step((data, jax.numpy.asarray(labels)))
    except ValueError as error:
        found["error"] = str(error)
    return found


@case
def runs() -> Any:
    """Train on minibatches, from NumPy's arrays and JAX's, and resume on other devices."""
    optimizer = symng.NaturalGradient(damping=0.1, solver=EXACT)

    def train(data: Any, devices: Any, mode: Any = "JAX", **given: Any) -> Any:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            result = symng.minimize(
                network(),
                optimizer,
                data,
                batch_size=10,
                metric_batch="other",
                mode=mode,
                devices=devices,
                progress=False,
                **{"max_steps": 6, **given},
            )
        return result.history["loss"]

    expected = train((X, T), None, UNOPTIMIZED)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "run.npz"
        train((X, T), 8, max_steps=3, checkpoint=file)
        found["NumPy, resumed on 4"] = train((X, T), 4, checkpoint=file)
        file = Path(folder) / "device.npz"
        arrays = tuple(map(jax.numpy.asarray, (X, T)))
        train(arrays, 8, max_steps=3, checkpoint=file)
        found["JAX, resumed on 1"] = train(arrays, None, checkpoint=file)
    return {name: float(np.abs(losses / expected - 1).max()) for name, losses in found.items()}


def main(names: list[str]) -> None:
    """Print what the cases found."""
    assert len(jax.devices()) == 8, jax.devices()
    gc.disable()  # a seventh of the time
    print(json.dumps({name: CASES[name]() for name in names or CASES}))


if __name__ == "__main__":
    main(sys.argv[1:])
