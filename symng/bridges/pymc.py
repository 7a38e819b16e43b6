"""PyMC: natural gradient on a model's own graph, MAP estimates and Laplace approximations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pymc as pm
from pymc.initial_point import make_initial_point_fns_per_chain
from pymc.util import get_default_varnames, get_random_generator
from xarray import DataTree

from symng._checks import Verbatim, argument_error, check_choice, check_instance, warn
from symng.backends import compile_in_python
from symng.bridges._pymc_draws import Curvature
from symng.bridges._pymc_model import CURVATURES, read_pymc_model
from symng.bridges._pymc_results import Point, as_tree, values_at
from symng.metrics import Fisher, Hessian
from symng.objective import Objective
from symng.optimizers import LevenbergMarquardt, NaturalGradient, Optimizer
from symng.solvers import MinresQLP
from symng.training import TrainingResult, minimize


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
    The information of censored, truncated and mixed continuous variables is an integral over
    quantiles, exact to about 1e-7. That of mixtures of counts is the information of a draw together
    with its component, which is larger. Distributions whose information is not known, such as a
    skew normal or a ``CustomDist``, have the Gauss-Newton matrix in its place. What has neither,
    such as potentials, goes into H+ with the priors. H+ is formed, by a pass for each of its rows,
    for up to 256 numbers; of more there is the diagonal, from one pass, exact where the Hessian is
    diagonal.

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
    result = _optimize(objective, "find_MAP", optimizer, maxiter, tol, progressbar, compile_kwargs)
    if not return_inferencedata:
        _, values = values_at(model, objective.point())
        return {name: values[name] for name in get_default_varnames(values, True)}
    return as_tree(model, objective.point(), result, idata_kwargs)


def laplace(
    model: pm.Model | None = None,
    *,
    curvature: Curvature = "hessian",
    jacobian: bool = True,
    initvals: Any = None,
    jitter: bool = False,
    jitter_max_retries: int = 10,
    random_seed: Any = None,
    progressbar: bool = True,
    idata_kwargs: dict[str, Any] | None = None,
    compile_kwargs: dict[str, Any] | None = None,
    optimizer: Optimizer | None = None,
    maxiter: int = 500,
    tol: float = 1e-9,
) -> DataTree:
    """Find the mode of a PyMC model's posterior and the covariance matrix of a normal there.

    p(theta | y) is taken for N(theta*, A^-1) in the transformed variables theta, with theta* the
    mode of their density and A its curvature there.

    Parameters
    ----------
    model : pymc.Model, optional
        A model with continuous free variables. Default: that of the ``with`` block.
    curvature : {"hessian", "fisher", "gauss-newton"}, default "hessian"
        A: the Hessian of the negative log posterior, or the metric of `from_pymc`, which is
        positive semi-definite with "fisher".
    jacobian : bool, default True
        Whether the density is that of the transformed variables. Without it theta* is the MAP
        estimate of `find_MAP`.
    initvals, jitter, jitter_max_retries, random_seed, progressbar, idata_kwargs, compile_kwargs
        As in `find_MAP`.
    optimizer, maxiter, tol
        As in `find_MAP`.

    Returns
    -------
    DataTree
        As of `find_MAP`; ``fit`` has the ``covariance_matrix`` beside the ``mean_vector``.

    Raises
    ------
    ValueError
        Where A is not positive definite: there is no such normal.

    Notes
    -----
    Costs a product with A for each of the n parameters, and n^3 work for the solves.

    Examples
    --------
    >>> import pymc as pm
    >>> import symng
    >>> with pm.Model():
    ...     mu = pm.Normal("mu", 0.0, 1.0)
    ...     y = pm.Normal("y", mu, 1.0, observed=[2.0, 4.0, 3.0])
    ...     found = symng.pymc.laplace(progressbar=False)
    >>> found["fit"]["covariance_matrix"].values.round(6)  # 1 / (3 + 1)
    array([[0.25]])
    """
    model = _check_model(model)
    check_choice("curvature", curvature, CURVATURES)
    start = _start(model, initvals, jitter, random_seed, jitter_max_retries)
    objective = PyMCObjective(
        model, start, jacobian, "fisher" if curvature == "hessian" else curvature
    )
    result = _optimize(objective, "laplace", optimizer, maxiter, tol, progressbar, compile_kwargs)
    metric = Hessian() if curvature == "hessian" else Fisher()
    # In plain Python: the function is called once.
    A = compile_in_python([], metric(objective).materialise())()
    A = (A + A.T) / 2
    least = float(np.linalg.eigvalsh(A)[0])
    if not least > 0:
        raise argument_error(
            "curvature",
            "one that is positive definite at the mode",
            Verbatim(f"{curvature!r}, with the eigenvalue {least:.3g}"),
            'Is the mode at the edge? curvature="fisher" is never negative.',
        )
    covariance = np.linalg.solve(A, np.eye(len(A)))
    return as_tree(model, objective.point(), result, idata_kwargs, covariance)


def _optimize(
    objective: PyMCObjective,
    caller: str,
    optimizer: Optimizer | None,
    maxiter: int,
    tol: float,
    progressbar: bool,
    compile_kwargs: dict[str, Any] | None,
) -> TrainingResult:
    """Minimize the loss, and warn where that has not converged."""
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
        warn(f"{caller} has not converged: {result.message or f'{maxiter} steps were not enough'}")
    return result


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
