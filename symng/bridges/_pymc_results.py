"""MAP estimates of PyMC models as DataTrees."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pymc as pm
from pymc.backends.base import MultiTrace
from pymc.backends.ndarray import NDArray
from xarray import DataArray, Dataset, DataTree

from symng.training import TrainingResult

Point = dict[str, np.ndarray]


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
    model: pm.Model,
    point: Point,
    result: TrainingResult,
    idata_kwargs: dict[str, Any] | None,
    covariance: np.ndarray | None = None,
) -> DataTree:
    """Return a point as the DataTree of a single draw, with how it was found."""
    fn, values = values_at(model, point)
    tree = _single_draw(model, fn, values, point, idata_kwargs or {})
    tree["fit"] = DataTree(_fit(point, covariance))
    tree["optimizer_result"] = DataTree(_describe_run(result))
    return tree


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


def _labels(point: Point) -> list[str]:
    """Return a label for each number of the flat vector."""
    labels: list[str] = []
    for name, value in point.items():
        where = np.ndindex(value.shape)
        labels += [name + (f"[{','.join(map(str, i))}]" if i else "") for i in where]
    return labels


def _fit(point: Point, covariance: np.ndarray | None) -> Dataset:
    """Return the flat vector, and its covariance matrix."""
    labels = _labels(point)
    flat = np.concatenate([v.ravel() for v in point.values()])
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
