"""Fisher information of distributions in the parameters of their ops.

A `Family` has the names of the parameters, in the order in which the op takes them, and the entries
on and above the diagonal of the information matrix of one draw, as functions of all parameters.
Missing entries are 0. The formulas are those of the textbooks, such as Johnson, Kotz and
Balakrishnan, "Continuous Univariate Distributions"; a test compares each with a sum or an integral
over the distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pytensor.tensor as pt
from pymc.distributions.continuous import WeibullBetaRV
from pytensor.graph.op import Op
from pytensor.tensor.random import basic
from pytensor.tensor.variable import TensorVariable

Entry = Callable[..., TensorVariable]

_EULER = float(np.euler_gamma)


@dataclass(frozen=True)
class Family:
    """The Fisher information of a distribution in its parameters.

    Attributes
    ----------
    names : tuple of str
        The parameters of the op, in order.
    entries : mapping
        From (row, column), with row <= column, to a function of all parameters.
    event : str or None
        The parameter, by its name, that is a vector of probabilities; None where all are numbers.
        It is then the only one with an information, and the function of its entry is diagonal.
    """

    names: tuple[str, ...]
    entries: Mapping[tuple[int, int], Entry]
    event: str | None = None


def inverse(x: TensorVariable) -> TensorVariable:
    """Return 1 / x, and 0 where x is 0: the tangent of a saturated probability is 0, too."""
    positive = pt.gt(x, 0)
    return pt.switch(positive, 1 / pt.switch(positive, x, 1), 0)


def _location_scale(
    location: float, scale: float, cross: float = 0.0, first: int = 0
) -> dict[tuple[int, int], Entry]:
    """Return the entries of a location and a scale s, ``first`` and next: numbers over s^2."""
    second = first + 1
    numbers = {(first, first): location, (first, second): cross, (second, second): scale}

    def entry(number: float) -> Entry:
        return lambda *parameters: number / pt.sqr(parameters[second])

    return {key: entry(number) for key, number in numbers.items() if number}


def _student_nu(nu: TensorVariable, mu: TensorVariable, sigma: TensorVariable) -> TensorVariable:
    gap = pt.tri_gamma(nu / 2) - pt.tri_gamma((nu + 1) / 2)
    return gap / 4 - (nu + 5) / (2 * nu * (nu + 1) * (nu + 3))


# Values of log(t n), outside of which the integral below has less than 1e-10 of its value.
_LOG_TIMES = np.arange(-25.0, 4.0, 0.2)


def _negative_binomial_n(n: TensorVariable, p: TensorVariable) -> TensorVariable:
    """Return E[psi'(n) - psi'(n + X)] for X ~ NegativeBinomial(n, p).

    psi'(z) is the integral of t exp(-z t) / (1 - exp(-t)) over t > 0, and E[exp(-t X)] is
    (p / (1 - (1 - p) exp(-t)))^n. The integral over log t is a sum: the trapezoidal rule converges
    exponentially for an integrand that vanishes at both ends.
    """
    n, p = n[..., None], p[..., None]
    t = np.exp(_LOG_TIMES) / n
    odds = (1 - p) / p
    # 1 - E[exp(-t X)], without cancellation for small t.
    complement = -pt.expm1(-n * pt.log1p(-odds * pt.expm1(-t)))
    step = float(_LOG_TIMES[1] - _LOG_TIMES[0])
    return step * (pt.sqr(t) * pt.exp(-n * t) / -pt.expm1(-t) * complement).sum(axis=-1)


FAMILIES: dict[type[Op], Family] = {
    # Continuous
    basic.NormalRV: Family(("mu", "sigma"), _location_scale(1, 2)),
    basic.LogNormalRV: Family(("mu", "sigma"), _location_scale(1, 2)),
    basic.HalfNormalRV: Family(("loc", "sigma"), {(1, 1): lambda loc, s: 2 / pt.sqr(s)}),
    basic.LaplaceRV: Family(("mu", "b"), _location_scale(1, 1)),
    basic.LogisticRV: Family(("mu", "s"), _location_scale(1 / 3, (3 + np.pi**2) / 9)),
    basic.CauchyRV: Family(("alpha", "beta"), _location_scale(1 / 2, 1 / 2)),
    basic.GumbelRV: Family(
        ("mu", "beta"), _location_scale(1, np.pi**2 / 6 + (1 - _EULER) ** 2, _EULER - 1)
    ),
    basic.StudentTRV: Family(
        ("nu", "mu", "sigma"),
        {
            (0, 0): _student_nu,
            (0, 2): lambda nu, mu, s: -2 / (s * (nu + 1) * (nu + 3)),
            (1, 1): lambda nu, mu, s: (nu + 1) / ((nu + 3) * pt.sqr(s)),
            (2, 2): lambda nu, mu, s: 2 * nu / ((nu + 3) * pt.sqr(s)),
        },
    ),
    basic.ExponentialRV: Family(("scale",), {(0, 0): lambda scale: 1 / pt.sqr(scale)}),
    basic.GammaRV: Family(
        ("alpha", "scale"),
        {
            (0, 0): lambda a, s: pt.tri_gamma(a),
            (0, 1): lambda a, s: 1 / s,
            (1, 1): lambda a, s: a / pt.sqr(s),
        },
    ),
    basic.InvGammaRV: Family(
        ("alpha", "beta"),
        {
            (0, 0): lambda a, b: pt.tri_gamma(a),
            (0, 1): lambda a, b: -1 / b,
            (1, 1): lambda a, b: a / pt.sqr(b),
        },
    ),
    basic.BetaRV: Family(
        ("alpha", "beta"),
        {
            (0, 0): lambda a, b: pt.tri_gamma(a) - pt.tri_gamma(a + b),
            (0, 1): lambda a, b: -pt.tri_gamma(a + b),
            (1, 1): lambda a, b: pt.tri_gamma(b) - pt.tri_gamma(a + b),
        },
    ),
    WeibullBetaRV: Family(
        ("alpha", "beta"),
        {
            (0, 0): lambda a, b: ((1 - _EULER) ** 2 + np.pi**2 / 6) / pt.sqr(a),
            (0, 1): lambda a, b: (_EULER - 1) / b,
            (1, 1): lambda a, b: pt.sqr(a / b),
        },
    ),
    # Discrete
    basic.BernoulliRV: Family(("p",), {(0, 0): lambda p: inverse(p * (1 - p))}),
    basic.BinomialRV: Family(("n", "p"), {(1, 1): lambda n, p: n * inverse(p * (1 - p))}),
    basic.GeometricRV: Family(("p",), {(0, 0): lambda p: inverse(pt.sqr(p) * (1 - p))}),
    basic.PoissonRV: Family(("mu",), {(0, 0): inverse}),
    basic.NegBinomialRV: Family(
        ("n", "p"),
        {
            (0, 0): _negative_binomial_n,
            (0, 1): lambda n, p: -inverse(p),
            (1, 1): lambda n, p: n * inverse(pt.sqr(p) * (1 - p)),
        },
    ),
    # On vectors of probabilities that sum to 1, along which tangents sum to 0.
    basic.CategoricalRV: Family(("p",), {(0, 0): inverse}, event="p"),
    basic.MultinomialRV: Family(
        ("n", "p"), {(1, 1): lambda n, p: n[..., None] * inverse(p)}, event="p"
    ),
}


def family_of(op: Op) -> Family | None:
    """Return the family of a distribution's op, or None where the table has none."""
    return next((FAMILIES[cls] for cls in type(op).__mro__ if cls in FAMILIES), None)
