"""A model as it was read off the user's graph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from pytensor.compile.sharedvalue import SharedVariable
from pytensor.graph.traversal import ancestors
from pytensor.tensor.variable import TensorVariable

from symng.backends import compile_in_python
from symng.graphs import vectors
from symng.graphs.rebuild import rebuild
from symng.objective.heads import Head


@dataclass(frozen=True, eq=False, kw_only=True)
class Model:
    """Loss and outputs on one set of inputs and targets, and what is known of them.

    Attributes
    ----------
    heads : tuple of Head
        The outputs with their likelihoods.
    data_axes : tuple of int
        Axis of each input and then each target that runs over examples.
    example_losses : symbolic vector or None
        The loss of every single example, where it is known.
    reduction : {"mean", "sum", "given", None}
        How the loss follows from these.
    sum_factor : float or None
        c, where the loss is c times the sum of the losses of the examples.
    """

    loss: TensorVariable
    outputs: tuple[TensorVariable, ...]
    heads: tuple[Head, ...]
    params: tuple[SharedVariable, ...]
    inputs: tuple[TensorVariable, ...]
    targets: tuple[TensorVariable, ...]
    data_axes: tuple[int, ...]
    example_losses: TensorVariable | None
    reduction: str | None
    sum_factor: float | None

    @property
    def dtype(self) -> str:
        """The dtype of the parameters."""
        return self.params[0].type.dtype

    @property
    def size(self) -> int:
        """The number of parameters, the length of the flat vector."""
        return vectors.count(self.params)

    @property
    def loss_params(self) -> tuple[SharedVariable, ...]:
        """The parameters that the loss depends on and no output does."""
        ends = [v for h in self.heads for v in (h.y, h.r, h.curvature_at) if v is not None]
        of_outputs, of_loss = set(ancestors([*self.outputs, *ends])), set(ancestors([self.loss]))
        return tuple(p for p in self.params if p in of_loss and p not in of_outputs)

    @property
    def variables(self) -> tuple[TensorVariable, ...]:
        """The inputs and then the targets."""
        return (*self.inputs, *self.targets)

    @property
    def axis_of(self) -> dict[TensorVariable, int]:
        """The axis of examples of each input and target."""
        return dict(zip(self.variables, self.data_axes, strict=True))

    @property
    def count(self) -> TensorVariable:
        """The number of examples, as a symbolic integer."""
        if not self.variables:
            return self.heads[0].y.shape[self.heads[0].example_axis]
        first = self.variables[0]
        return first.shape[self.data_axes[0]]

    def count_of(self, arrays: Sequence[np.ndarray]) -> int:
        """Return the number of examples in the arrays of a batch."""
        if not arrays:
            return int(compile_in_python([], self.count)())
        return int(arrays[0].shape[self.data_axes[0]])

    def on_inputs(self, variables: list[TensorVariable]) -> Model:
        """Return the same model on other inputs and targets."""
        graphs = [
            self.loss,
            self.example_losses,
            *self.outputs,
            *(v for h in self.heads for v in (h.y, h.r, h.curvature_at)),
        ]
        present = list(dict.fromkeys(v for v in graphs if v is not None))
        copies = rebuild(present, dict(zip(self.variables, variables, strict=True)))
        copy_of = dict(zip(present, copies, strict=True))

        def copy_if_known(v: TensorVariable | None) -> TensorVariable | None:
            return None if v is None else copy_of[v]

        return replace(
            self,
            loss=copy_of[self.loss],
            outputs=tuple(copy_of[y] for y in self.outputs),
            heads=tuple(
                replace(
                    h, y=copy_of[h.y], r=copy_if_known(h.r), curvature_at=copy_of[h.curvature_at]
                )
                for h in self.heads
            ),
            inputs=tuple(variables[: len(self.inputs)]),
            targets=tuple(variables[len(self.inputs) :]),
            example_losses=copy_if_known(self.example_losses),
        )

    def with_loss(self, loss: TensorVariable, reduction: str | None) -> Model:
        """Return the model with another loss, the ``reduction`` of the per-example losses."""
        return replace(self, loss=loss, reduction=reduction, sum_factor=None)
