"""What `natSGD` and `SGD` share: batches in chunks, gradients, costs, and the step size."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt

from symng.backends import compile_function
from symng.graphs.derivatives import grad
from symng.graphs.rebuild import rebuild
from symng.graphs.rewrites import accumulate_in_own_dtype
from symng.legacy._broadcasting import fit
from symng.legacy.natgrad.state import (
    LEARNING,
    SIZES,
    require,
    require_attributes,
    require_chunks,
    require_rules,
    warn_of_unread,
)

Arrays = list[np.ndarray]
_OF_MODEL = ("params", "params_shape", "inputs", "x", "y", "train_cost", "error")
_OF_DATA = (
    *("variables", "eval_variables", "update_before_computing_gradients"),
    *("update_before_computing_natural_gradients", "update_before_evaluation"),
)
# A cost on the training examples this many times the best one ends a run.
_BLOW_UP = 6


class Descent:
    """A descent on a model that is only known by its graphs, in batches of chunks.

    Subclasses call `_compile_evaluation` with the directions of their steps.
    """

    def __init__(self, model: Any, state: dict[str, Any], data: Any, keys: Sequence[str]) -> None:
        reader = type(self).__name__
        require(state, (*SIZES, *LEARNING, *keys), reader)
        require_attributes("model", model, _OF_MODEL)
        require_attributes("data", data, _OF_DATA)
        if type(model).__module__.startswith("symng."):  # another may read keys of its own
            warn_of_unread(state)
        require_chunks(state, SIZES)
        require_rules(state, reader, damped="damp" in keys)
        self.model, self.state, self.data = model, state, data
        self.bs, self.mbs, self.ebs, self.cbs = (int(state[key]) for key in SIZES)
        self.floatX = pytensor.config.floatX
        self.lr: Any = np.float32(state["lr"])
        self.step, self.old_cost, self.step_timer = 0, 1e20, time.time()
        self.gs = self._zeros()
        # The cost of the batch of the last gradient. Data of this package go back to that batch
        # before the costs of a step; others may go anywhere.
        self._gradient_cost: Any = None
        self._batch_stays = type(data).__module__.startswith("symng.")

        index = pt.iscalar("batch_idx")
        chunk = index * self.cbs, (index + 1) * self.cbs
        self._gradient_chunk = self._reader(index, [x(*chunk) for x in data.variables])
        rows = slice(*chunk)
        self._evaluation_chunk = self._reader(index, [x[rows] for x in data.eval_variables])
        self._add_gradient = self._compile_gradient()

    def _zeros(self) -> list[Any]:
        """Return shared zeros in the shapes of the parameters."""
        return [pytensor.shared(np.zeros(s, dtype=self.floatX)) for s in self.model.params_shape]

    def _reader(self, index: Any, slices: Sequence[Any]) -> Callable[[int], Arrays]:
        """Return a function from the number of a chunk to its arrays, views where they can be."""
        outputs: list[Any] = [pytensor.Out(rows, borrow=True) for rows in slices]
        read = compile_function([index], outputs, mode="FAST_COMPILE")
        dtypes = [v.type.dtype for v in self.model.inputs]
        return lambda k: [np.asarray(a, d) for a, d in zip(read(k), dtypes, strict=True)]

    def _compile_gradient(self) -> Any:
        """Return a function that adds a chunk's share to `gs`, or begins with it.

        It returns the cost of the chunk.
        """
        fresh = pt.bscalar("fresh")
        share = np.asarray(self.cbs / self.bs, self.floatX)
        slopes = grad(self.model.train_cost, self.model.params)
        gradient = [accumulate_in_own_dtype(slope) for slope in slopes]
        updates = []
        for g, part in zip(self.gs, gradient, strict=True):
            before = pt.switch(fresh, pt.zeros_like(g), g)
            added = pt.cast(before + part * share, self.floatX)
            updates.append((g, fit(added, g)))
        return compile_function(
            [*self.model.inputs, fresh],
            self.model.train_cost,
            updates=updates,
            on_unused_input="ignore",
        )

    def _compile_evaluation(self, rs: Sequence[Any]) -> None:
        """Compile the functions that evaluate a step along ``rs``, and that take it."""
        lr = pt.scalar("lr", dtype=self.floatX)
        model = self.model
        moved = [pt.cast(p - lr * r, p.type.dtype) for p, r in zip(model.params, rs, strict=True)]
        at = dict(zip(model.params, moved, strict=True))
        costs = rebuild([model.train_cost, model.error], at)
        self._cost_and_error = compile_function(
            [*model.inputs, lr], costs, on_unused_input="ignore"
        )
        updates = [(p, fit(value, p)) for p, value in at.items()]
        self._take_step = compile_function([lr], [], updates=updates)

    def compute_gradients(self) -> None:
        """Put the mean gradient over the chunks of the current batch into ``gs``."""
        costs = [
            self._add_gradient(*self._gradient_chunk(k), np.int8(k == 0))
            for k in range(self.bs // self.cbs)
        ]
        self._gradient_cost = self._mean(costs)

    def compute_old_cost(self) -> Any:
        """Return the cost of the current batch at the parameters."""
        return self._evaluate(self._gradient_chunk, self.bs, 0.0)[0]

    def compute_new_cost(self, lr: Any) -> tuple[Any, Any]:
        """Return cost and error of the current batch after a step of size ``lr``."""
        return self._evaluate(self._gradient_chunk, self.bs, lr)

    def _evaluate(self, read: Callable[[int], Arrays], size: int, lr: Any) -> tuple[Any, Any]:
        """Return the means over chunks of cost and error after a step of size ``lr``."""
        step = np.asarray(lr, self.floatX)
        pairs = [self._cost_and_error(*read(k), step) for k in range(size // self.cbs)]
        return self._mean([cost for cost, _ in pairs]), self._mean([error for _, error in pairs])

    def _mean(self, values: Sequence[Any]) -> Any:
        """Return the mean of numbers, in floatX."""
        return np.mean([float(value) for value in values]).astype(self.floatX)

    def _adapt_lr(self) -> None:
        """Change the step size by the rule ``lr_adapt``."""
        state = self.state
        if not state["lr_adapt"] or self.step <= state["lr_adapt_start"]:
            return
        if state["lr_adapt"] == 1:
            if self.step % state["lr_adapt_change"] == 0:
                self.lr = float(self.lr) * state["lr_adapt_decrease"]
        else:
            late = float(self.step - state["lr_adapt_start"])
            self.lr = state["lr0"] / (1.0 + late / state["lr_beta"])
            state["lr"] = float(self.lr)

    def _refuse_blow_up(self, cost: Any) -> None:
        """End a run whose cost is many times the best one."""
        if cost > self.state.get("btraincost", 1e20) * _BLOW_UP:
            raise Exception("Variance too large on training cost!")
