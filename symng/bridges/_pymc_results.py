"""MAP estimates of PyMC models as DataTrees."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pymc as pm
from pymc.backends.base import MultiTrace
from pymc.backends.ndarray import NDArray
from xarray import DataArray, Dataset, DataTree

from symng.bridges._pymc_objective import Point, PyMCObjective
from symng.graphs.vectors import get_flat
from symng.training import TrainingResult


def values_at(model: pm.Model, point: Point) -> tuple[Any, Point]:
    """Return a function for the values of all unobserved variables, and these at a point."""
    unobserved = model.unobserved_value_vars
    fn = model.compile_fn(
        unobserved,
        inputs=model.value_vars,
        point_fn=False,
        on_unused_input="ignore",
        mode="FAST_COMPILE",
    )
    return fn, dict(zip([v.name for v in unobserved], fn(**point), strict=True))


def as_tree(
    objective: PyMCObjective,
    result: TrainingResult,
    points: Sequence[Point],
    idata_kwargs: dict[str, Any] | None,
    covariance: DataArray | None = None,
) -> DataTree:
    """Return a DataTree of points as draws, with the mode and how it was found."""
    tree = _draws(objective.pymc_model, points, idata_kwargs or {})
    mean = DataArray(get_flat(objective.params), dims=["rows"], coords={"rows": labels(objective)})
    fit = {"mean_vector": mean}
    if covariance is not None:
        fit["covariance_matrix"] = covariance
    tree["fit"] = DataTree(Dataset(fit))
    tree["optimizer_result"] = DataTree(_describe_run(result))
    return tree


def _draws(model: pm.Model, points: Sequence[Point], kwargs: dict[str, Any]) -> DataTree:
    """Return a DataTree whose posterior has the points as draws."""
    fn, values = values_at(model, points[0])
    trace = NDArray(
        model=model,
        fn=fn,
        var_shapes={name: np.shape(v) for name, v in values.items()},
        var_dtypes={name: np.asarray(v).dtype for name, v in values.items()},
    )
    trace.setup(draws=len(points), chain=0)
    for point in points:
        trace.record(point, in_warmup=False)
    trace.close()
    tree = pm.to_inference_data(MultiTrace([trace]), model=model, **kwargs)
    if "sample_stats" in tree.children and not tree["sample_stats"].data_vars:
        del tree["sample_stats"]
    return tree


def labels(objective: PyMCObjective) -> list[str]:
    """Return a label for each number of the flat vector."""
    names: list[str] = []
    for p in objective.params:
        indices = np.ndindex(np.shape(p.get_value(borrow=True)))
        names += [str(p.name) + (f"[{','.join(map(str, i))}]" if i else "") for i in indices]
    return names


def label_covariance(matrix: np.ndarray, names: list[str], size: int) -> DataArray | None:
    """Return a covariance matrix with the names of its rows as labels; None without names.

    The dimensions are those of the mode if it has all of the ``size`` names.
    """
    if not names:
        return None
    dims = ["rows", "columns"]
    if len(names) < size:
        dims = [f"covariance_{name}" for name in dims]
    return DataArray(matrix, dims=dims, coords=dict.fromkeys(dims, names))


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
