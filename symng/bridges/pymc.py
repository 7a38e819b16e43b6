"""PyMC: natural gradient on a model's own graph, MAP estimates and Laplace approximations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pymc as pm
from pymc.util import get_default_varnames, get_random_generator
from xarray import DataTree

from symng._checks import check_choice, check_number
from symng.bridges._pymc_draws import Curvature
from symng.bridges._pymc_mode import find_mode
from symng.bridges._pymc_model import CURVATURES
from symng.bridges._pymc_normal import MAX_FORMED, approximate
from symng.bridges._pymc_objective import (
    Point,
    PyMCObjective,
    check_model,
    free_values,
    start_of,
)
from symng.bridges._pymc_results import as_tree, label_covariance, labels, values_at
from symng.graphs import vectors
from symng.metrics import Fisher, Hessian
from symng.optimizers import Optimizer


def from_pymc(
    model: pm.Model | None = None,
    *,
    jacobian: bool = False,
    curvature: Curvature = "fisher",
    initvals: Any = None,
) -> PyMCObjective:
    """Return the objective of a PyMC model: its negative log posterior, with a metric.

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
        What the metric takes of the observed variables: their Fisher information; in its place the
        Hessian of -log p(y_i) with respect to eta_i; or neither, so that H+ is the positive part of
        the Hessian of all terms.
    initvals : dict, optional
        Initial values of variables, as in ``pymc.sample``. Default: those of the model.

    Returns
    -------
    PyMCObjective
        An `Objective` without inputs: train it with ``data=()``. Its ``repr`` says what is taken of
        each variable; ``point()`` returns the current values for PyMC.

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
    for up to 256 numbers; above that only its diagonal, from one pass, which is exact where the
    Hessian is diagonal.

    The loss and the metric are sums over the draws, so compare a damping with the number of draws.
    ``pymc.Data`` are read anew at each step. With ``pymc.Minibatch`` each step has another
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
    model = check_model(model)
    check_choice("curvature", curvature, CURVATURES)
    return PyMCObjective(model, start_of(model, initvals), jacobian, curvature)


def find_MAP(
    model: pm.Model | None = None,
    *,
    vars: Sequence[Any] | None = None,
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

    The arguments are those of ``pymc.find_MAP``, except that ``optimizer`` takes the place of
    ``method`` and its settings.

    Parameters
    ----------
    model : pymc.Model, optional
        A model with continuous free variables. Default: that of the ``with`` block.
    vars : sequence of free variables, optional
        Those to optimize; the others, which may be discrete, keep their initial values. Default:
        all.
    initvals : dict, optional
        Initial values of variables, as in ``pymc.sample``. Default: those of the model.
    jitter : bool, default False
        Whether to add uniform noise in (-1, 1) to the start of each transformed variable: away from
        a saddle point, such as 0 of a product of two variables.
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
        Default: `NaturalGradient` with `LevenbergMarquardt`, and with `MinresQLP` or, above 500
        numbers, `CG`.
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
        When the run has not converged. A run on an unbounded density ends with the status
        "diverged".

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
    model = check_model(model)
    free = free_values(model, vars)
    start = start_of(model, initvals, jitter, random_seed, jitter_max_retries, free)
    objective = PyMCObjective(model, start, False, "fisher", free)
    result = find_mode(objective, "find_MAP", optimizer, maxiter, tol, progressbar, compile_kwargs)
    if not return_inferencedata:
        _, values = values_at(model, objective.point())
        return {name: values[name] for name in get_default_varnames(values, True)}
    return as_tree(objective, result, [objective.point()], idata_kwargs)


def laplace(
    model: pm.Model | None = None,
    *,
    curvature: Curvature = "hessian",
    jacobian: bool = True,
    draws: int = 500,
    covariance_of: Sequence[Any] | None = None,
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
    """Draw from a normal at the mode of a PyMC model's posterior.

    N(theta*, A^-1) approximates p(theta | y) in the transformed variables theta, with theta* the
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
    draws : int, default 500
        The number of draws, at least 1.
    covariance_of : sequence of free variables, optional
        Those whose covariance matrix is wanted. Default: all, in a model of up to 2,000
        numbers; none in a larger one.
    random_seed : int, sequence of int or Generator, optional
        Seed of the draws, and of the start.
    initvals, jitter, jitter_max_retries, progressbar, idata_kwargs, compile_kwargs
        As in `find_MAP`.
    optimizer, maxiter, tol
        As in `find_MAP`.

    Returns
    -------
    DataTree
        That of `find_MAP`, with the draws as ``posterior``; ``fit`` has the mode as ``mean_vector``
        and the ``covariance_matrix`` beside it.

    Raises
    ------
    ValueError
        Where A is not positive definite: there is no such normal.

    Notes
    -----
    Up to 2,000 numbers A is formed, by a product for each. Above that each draw, and each column of
    a covariance matrix, costs as many products as a Krylov space needs for 1e-6, and memory for its
    basis. These grow with the root of the condition number of A, scaled by the norms of its rows.

    References
    ----------
    .. [1] E. Chow and Y. Saad, "Preconditioned Krylov subspace methods for sampling multivariate
       Gaussian distributions", SIAM Journal on Scientific Computing 36(2), 2014.

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
    model = check_model(model)
    check_choice("curvature", curvature, CURVATURES)
    check_number("draws", draws, minimum=1, integer=True)
    covered = {v.name for v in free_values(model, covariance_of, "covariance_of")}
    rng = get_random_generator(random_seed)
    start = start_of(model, initvals, jitter, rng, jitter_max_retries)
    objective = PyMCObjective(
        model, start, jacobian, "fisher" if curvature == "hessian" else curvature
    )
    result = find_mode(objective, "laplace", optimizer, maxiter, tol, progressbar, compile_kwargs)
    A = (Hessian() if curvature == "hessian" else Fisher())(objective)
    mode = vectors.get_flat(objective.params)
    names = labels(objective)
    columns = [i for i, name in enumerate(names) if name.split("[")[0] in covered]
    if objective.size > MAX_FORMED and covariance_of is None:
        columns = []
    mode_of_products = (compile_kwargs or {}).get("mode")
    draw, covariance = approximate(A, curvature, columns, mode_of_products)
    points = []
    for _ in range(draws):
        step = draw(rng.standard_normal(objective.size))  # its products are those at the mode
        vectors.set_flat(objective.params, mode + step)
        points.append(objective.point())
        vectors.set_flat(objective.params, mode)
    matrix = label_covariance(covariance, [names[i] for i in columns], len(names))
    return as_tree(objective, result, points, idata_kwargs, matrix)
