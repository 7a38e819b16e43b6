"""The objective of a PyMC model, and where to start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pymc as pm
from pymc.initial_point import make_initial_point_fns_per_chain
from pymc.util import get_random_generator
from pytensor.graph.basic import Variable

from symng._checks import Verbatim, argument_error, check_instance
from symng.bridges._pymc_draws import Curvature
from symng.bridges._pymc_model import read_pymc_model
from symng.objective import Objective

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
        self,
        model: pm.Model,
        start: Mapping[str, np.ndarray],
        jacobian: bool,
        curvature: Curvature,
        free: Sequence[Variable] | None = None,
    ) -> None:
        values = model.value_vars if free is None else list(free)
        reading = read_pymc_model(model, values, start, jacobian, curvature)
        super().__init__(
            reading.loss,
            reading.outputs,
            list(reading.params.values()),
            inputs=[],
            likelihood=reading.likelihoods,
        )
        self._pymc_model, self._curvatures, self._jacobian = model, reading.curvatures, jacobian
        self._fixed = {v.name: start[v.name] for v in model.value_vars if v not in values}

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
        values = self._fixed | {str(p.name): np.array(p.get_value()) for p in self.params}
        return {v.name: values[v.name] for v in self.pymc_model.value_vars}

    def __repr__(self) -> str:
        params = ", ".join(f"{p.name} {np.shape(p.get_value())}" for p in self.params)
        lines = [f"params: {params}, {self.size:,} numbers, {self.dtype}"]
        if self._fixed:
            lines.append(f"fixed: {', '.join(self._fixed)}")
        lines.append(
            "loss: negative log posterior, "
            f"{'with' if self._jacobian else 'without'} the Jacobian of the transforms"
        )
        lines += [f"{name}: {taken}" for name, taken in self._curvatures.items()]
        return "\n".join(["PyMCObjective", *(f"  {line}" for line in lines)])


def check_model(model: pm.Model | None) -> pm.Model:
    """Return ``model`` or, if it is None, that of the ``with`` block; refuse anything else."""
    if model is None:
        try:
            return pm.modelcontext(None)
        except TypeError:
            hint = "Give one, or call within `with model:`."
            raise argument_error("model", "a PyMC model", None, hint, TypeError) from None
    check_instance("model", model, pm.Model, "a PyMC model")
    return model


def free_values(model: pm.Model, variables: Any, argument: str = "vars") -> list[Variable]:
    """Return the value variables of some free variables, in the order of the model."""
    if variables is None:
        return list(model.value_vars)
    given = [variables] if isinstance(variables, str | Variable) else list(variables)
    by_name = {v.name: v for v in model.value_vars}
    by_name |= {model.values_to_rvs[v].name: v for v in model.value_vars}
    chosen = [by_name.get(str(getattr(v, "name", v))) for v in given]
    if None in chosen or not chosen:
        expected = f"free variables of the model ({', '.join(v.name for v in model.free_RVs)})"
        names = ", ".join(str(getattr(v, "name", v)) for v in given)
        raise argument_error(argument, expected, Verbatim(names or "none"))
    return [v for v in model.value_vars if v in chosen]


def start_of(
    model: pm.Model,
    initvals: Any,
    jitter: bool = False,
    rng: Any = None,
    retries: int = 0,
    free: Sequence[Variable] | None = None,
) -> Point:
    """Return where to start, in the transformed variables."""
    rng = get_random_generator(rng)
    values = model.value_vars if free is None else free
    [draw] = make_initial_point_fns_per_chain(
        model=model,
        overrides=initvals,
        jitter_rvs={model.values_to_rvs[v] for v in values} if jitter else set(),
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
