"""PyMC: natural gradient on a model's own graph, and MAP estimates by it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pymc as pm
from pymc.backends.base import MultiTrace
from pymc.backends.ndarray import NDArray
from pymc.initial_point import make_initial_point_fns_per_chain
from pymc.util import get_default_varnames, get_random_generator
from xarray import DataArray, Dataset, DataTree

from symng._checks import argument_error, check_choice, check_instance, warn
from symng.bridges._pymc_model import CURVATURES, Curvature, read_pymc_model
from symng.objective import Objective
from symng.optimizers import LevenbergMarquardt, NaturalGradient, Optimizer
from symng.solvers import MinresQLP
from symng.training import TrainingResult, minimize

Point = dict[str, np.ndarray]


class PyMCObjective(Objective):
    """The objective of a PyMC model; made by `from_pymc`.

    Attributes
    ----------
    pymc_model : pymc.Model
        The model.
    curvatures : dict
        What the metric takes of each observed variable, of each potential and of the priors.
    """

    def __init__(
        self, model: pm.Model, start: Mapping[str, np.ndarray], jacobian: bool, curvature: Curvature
    ) -> None:
        reading = read_pymc_model(model, start, jacobian, curvature)
        super().__init__(
            reading.loss,
            reading.outputs,
            list(reading.params.values()),
            inputs=[],
            likelihood=reading.likelihoods,
        )
        self._pymc_model, self._curvatures, self._jacobian = model, reading.curvatures, jacobian

    @property
    def pymc_model(self) -> pm.Model:
        """The model."""
        return self._pymc_model

    @property
    def curvatures(self) -> dict[str, str]:
        """What the metric takes of each observed variable, of each potential and of the priors."""
        return dict(self._curvatures)

    def point(self) -> Point:
        """Return the values of the transformed free variables, by name, as PyMC takes them."""
        return {str(p.name): np.array(p.get_value()) for p in self.params}

    def __repr__(self) -> str:
        params = ", ".join(f"{name} {np.shape(v)}" for name, v in self.point().items())
        lines = [f"params: {params}, {self.size:,} numbers, {self.dtype}"]
        lines.append(
            "loss: negative log posterior, "
            f"{'with' if self._jacobian else 'without'} the Jacobian of the transforms"
        )
        lines += [f"{name}: {taken}" for name, taken in self._curvatures.items()]
        return "\n".join(["PyMCObjective", *(f"  {line}" for line in lines)])


def from_pymc(
    model: pm.Model | None = None,
    *,
    jacobian: bool = False,
    curvature: Curvature = "fisher",
    initvals: Any = None,
) -> PyMCObjective:
    """Return the objective of a PyMC model: its negative log posterior, and the metric of it.

    L(theta) = -log p(y | theta) - log p(theta), with theta the free variables as PyMC transforms
    them, so that each may be any number. The metric is

    F = sum_i J_i^T I(eta_i) J_i + H+,

    a sum over all observed draws y_i: eta_i are all the parameters of its distribution that depend
    on theta, unknown scales included, J_i is their Jacobian and I the Fisher information of the
    distribution. H+ is the positive part of the Hessian of -log p(theta).

    Parameters
    ----------
    model : pymc.Model, optional
        A model with continuous free variables. Default: that of the ``with`` block.
    jacobian : bool, default False
        Whether the prior is the density of the transformed variables. Without it the minimum is the
        MAP estimate of the variables as they are written, as in ``pymc.find_MAP``.
    curvature : {"fisher", "gauss-newton", "hessian"}, default "fisher"
        What of the observed variables goes into the metric: their Fisher information; the Hessian
        of -log p(y_i) with respect to eta_i in its place; or nothing but the Hessian of all,
        positive part, with that of the priors.
    initvals : dict, optional
        Initial values of variables, as in ``pymc.sample``. Default: those of the model.

    Returns
    -------
    PyMCObjective
        An `Objective` without inputs: train it with ``data=()``. Its ``repr`` says what is taken of
        each variable; ``point()`` returns the present values for PyMC.

    Raises
    ------
    ValueError
        For a model with discrete free variables, missing discrete data among them.

    Notes
    -----
    Distributions whose information is not known, such as a skew normal, have the Gauss-Newton
    matrix in its place. What has neither (mixtures, censored variables, ``CustomDist``, potentials)
    goes into H+ with the priors. H+ is formed, by a pass for each of its rows, for up to 256
    numbers; of more there is the diagonal, from one pass, exact where the Hessian is diagonal.

    The loss and the metric are sums over the draws, so a damping is to be compared with their
    number. ``pymc.Data`` are read anew at each step. With ``pymc.Minibatch`` each step has another
    minibatch, for the gradient and for the metric, both multiplied up to ``total_size``.

    References
    ----------
    .. [1] M. Girolami and B. Calderhead, "Riemann manifold Langevin and Hamiltonian Monte Carlo
       methods", Journal of the Royal Statistical Society B 73(2), 2011.

    Examples
    --------
    >>> import pymc as pm
    >>> import symng
    >>> with pm.Model():
    ...     rate = pm.Exponential("rate", 1.0)
    ...     y = pm.Poisson("y", rate, observed=[1, 3, 2])
    ...     objective = symng.from_pymc()
    >>> objective
    PyMCObjective
      params: rate_log__ (), 1 numbers, float64
      loss: negative log posterior, without the Jacobian of the transforms
      y: Fisher matrix in mu
      priors: positive part of the Hessian
    >>> symng.Fisher()(objective).materialise().eval().round(6)  # 3 rate + rate, at rate 1
    array([[4.]])
    """
    model = _check_model(model)
    check_choice("curvature", curvature, CURVATURES)
    return PyMCObjective(model, _start(model, initvals), jacobian, curvature)


def find_MAP(
    model: pm.Model | None = None,
    *,
    initvals: Any = None,
    jitter: bool = False,
    jitter_max_retries: int = 10,
    random_seed: Any = None,
    progressbar: bool = True,
    return_inferencedata: bool = True,
    idata_kwargs: dict[str, Any] | None = None,
    compile_kwargs: dict[str, Any] | None = None,
    optimizer: Optimizer | None = None,
    maxiter: int = 500,
    tol: float = 1e-9,
) -> DataTree | Point:
    """Find the MAP estimate of a PyMC model by natural gradient.

    The arguments are those of ``pymc.find_MAP``.

    Parameters
    ----------
    model : pymc.Model, optional
        A model with continuous free variables. Default: that of the ``with`` block.
    initvals : dict, optional
        Initial values of variables, as in ``pymc.sample``. Default: those of the model.
    jitter : bool, default False
        Whether to add uniform noise in (-1, 1) to the start of each transformed variable.
    jitter_max_retries : int, default 10
        How often to draw another start where the density is not finite.
    random_seed : int, sequence of int or Generator, optional
        Seed of the start.
    progressbar : bool, default True
        Whether to show a progress bar.
    return_inferencedata : bool, default True
        Whether to return a DataTree, with the estimate as the only draw of ``posterior``; else a
        dict from the names of all variables, transformed ones included, to their values.
    idata_kwargs : dict, optional
        For ``pymc.to_inference_data``, such as ``{"include_transformed": True}``.
    compile_kwargs : dict, optional
        ``{"mode": "JAX"}`` for another mode than that of `symng.set_mode`.
    optimizer : Optimizer, optional
        Default: `NaturalGradient` with `MinresQLP` and `LevenbergMarquardt`.
    maxiter : int, default 500
        Limit on the steps.
    tol : float, default 1e-9
        The run has converged when the norm of the gradient is at most this times that of the first
        step, or when the loss has changed by at most this times its value in three steps in a row.

    Returns
    -------
    DataTree or dict
        The DataTree has the groups ``posterior``, ``fit`` with the flat ``mean_vector``,
        ``optimizer_result``, and the data of the model.

    Warns
    -----
    UserWarning
        When the run has not converged.

    Notes
    -----
    The density is that of the variables as they are written: without the Jacobian of the
    transforms. See `from_pymc` for the metric.

    Examples
    --------
    >>> import pymc as pm
    >>> import symng
    >>> with pm.Model():
    ...     mu = pm.Normal("mu", 0.0, 1.0)
    ...     y = pm.Normal("y", mu, 1.0, observed=[2.0, 4.0, 3.0])
    ...     found = symng.pymc.find_MAP(progressbar=False, return_inferencedata=False)
    >>> float(found["mu"].round(6))  # 9 / (3 + 1)
    2.25
    """
    model = _check_model(model)
    start = _start(model, initvals, jitter, random_seed, jitter_max_retries)
    objective = PyMCObjective(model, start, False, "fisher")
    kwargs = {} if compile_kwargs is None else dict(compile_kwargs)
    mode = kwargs.pop("mode", None)
    if kwargs:
        raise argument_error("compile_kwargs", "no key but 'mode'", compile_kwargs)
    result = minimize(
        objective,
        _default_optimizer(objective) if optimizer is None else optimizer,
        data=(),
        max_steps=maxiter,
        gradient_tolerance=tol,
        loss_tolerance=tol,
        progress=progressbar,
        mode=mode,
    )
    if result.status != "converged":
        warn(f"find_MAP has not converged: {result.message}")
    point = objective.point()
    unobserved = model.unobserved_value_vars
    fn = model.compile_fn(
        unobserved,
        inputs=model.value_vars,
        point_fn=False,
        on_unused_input="ignore",
        mode="FAST_COMPILE",
    )
    values = dict(zip([v.name for v in unobserved], fn(**point), strict=True))
    if not return_inferencedata:
        return {name: values[name] for name in get_default_varnames(values, True)}
    tree = _single_draw(model, fn, values, point, idata_kwargs or {})
    tree["fit"] = DataTree(_fit(objective))
    tree["optimizer_result"] = DataTree(_describe_run(result))
    return tree


def _check_model(model: pm.Model | None) -> pm.Model:
    """Return a model, by default that of the ``with`` block."""
    if model is None:
        try:
            return pm.modelcontext(None)
        except TypeError:
            hint = "Give one, or call within `with model:`."
            raise argument_error("model", "a PyMC model", None, hint, TypeError) from None
    check_instance("model", model, pm.Model, "a PyMC model")
    return model


def _start(
    model: pm.Model,
    initvals: Any,
    jitter: bool = False,
    random_seed: Any = None,
    retries: int = 0,
) -> Point:
    """Return where to start, in the transformed variables, or refuse a start without density."""
    rng = get_random_generator(random_seed)
    [draw] = make_initial_point_fns_per_chain(
        model=model,
        overrides=initvals,
        jitter_rvs=set(model.free_RVs) if jitter else set(),
        chains=1,
    )
    start = draw(int(rng.integers(2**30)))
    if jitter:
        logp = model.compile_logp(jacobian=False, mode="FAST_COMPILE")
        for _ in range(retries):
            if np.isfinite(logp(start)):
                break
            start = draw(int(rng.integers(2**30)))
    return start


def _default_optimizer(objective: Objective) -> Optimizer:
    """Return natural gradient with solves that are exact enough to converge quickly."""
    return NaturalGradient(
        solver=MinresQLP(rtol=1e-6, maxiter=max(50, min(2 * objective.size, 500))),
        damping=LevenbergMarquardt(initial=1.0),
    )


def _single_draw(
    model: pm.Model, fn: Any, values: Mapping[str, Any], point: Point, kwargs: dict[str, Any]
) -> DataTree:
    """Return a DataTree whose posterior has one draw."""
    trace = NDArray(
        model=model,
        fn=fn,
        var_shapes={name: np.shape(v) for name, v in values.items()},
        var_dtypes={name: np.asarray(v).dtype for name, v in values.items()},
    )
    trace.setup(draws=1, chain=0)
    trace.record(point, in_warmup=False)
    trace.close()
    tree = pm.to_inference_data(MultiTrace([trace]), model=model, **kwargs)
    if "sample_stats" in tree.children and not tree["sample_stats"].data_vars:
        del tree["sample_stats"]
    return tree


def _labels(objective: PyMCObjective) -> list[str]:
    """Return a label for each number of the flat vector."""
    labels: list[str] = []
    for name, value in objective.point().items():
        where = np.ndindex(value.shape)
        labels += [name + (f"[{','.join(map(str, i))}]" if i else "") for i in where]
    return labels


def _fit(objective: PyMCObjective, covariance: np.ndarray | None = None) -> Dataset:
    """Return the flat vector, and its covariance matrix."""
    labels = _labels(objective)
    flat = np.concatenate([v.ravel() for v in objective.point().values()])
    data = {"mean_vector": DataArray(flat, dims=["rows"], coords={"rows": labels})}
    if covariance is not None:
        coords = {"rows": labels, "columns": labels}
        data["covariance_matrix"] = DataArray(covariance, dims=["rows", "columns"], coords=coords)
    return Dataset(data)


def _describe_run(result: TrainingResult) -> Dataset:
    """Return how the run ended."""
    return Dataset(
        {
            "success": result.status == "converged",
            "status": result.status,
            "message": result.message,
            "nit": len(result.history),
            "fun": float(result.history["new_loss"][-1]),
        }
    )
