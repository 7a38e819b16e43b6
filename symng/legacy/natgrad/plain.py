"""Gradient descent, which ``natgrad`` has besides the natural gradient."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from symng.legacy.natgrad._descent import Descent
from symng.legacy.natgrad.utils import print_time


class SGD(Descent):
    """Gradient descent on a model known by its graphs: called once a step.

    Parameters
    ----------
    model : object
        With the attributes that `mlp` has; its metric is not used.
    state : dict
        Settings: bs, mbs, ebs, cbs, lr, lr_adapt and trainFreq, and what lr_adapt needs.
    data : object
        With the attributes and methods that `DataMNIST` has.

    Attributes
    ----------
    return_names : list of str
        The keys of what a step returns.
    step : int
        Steps taken.
    lr : float
        The step size.
    gs : list of shared variables
        The gradient.

    Notes
    -----
    A step goes to the next batch, computes its gradient g, changes the step size by lr_adapt,
    evaluates (each trainFreq steps) and takes p - lr g. rho = (new - old cost) / (-lr g·g), on the
    batch of the gradient; cost and error are those of the first ebs training examples.

    Examples
    --------
    See `natSGD`, which takes the same arguments:

    >>> from symng.legacy.natgrad import SGD, natSGD
    >>> SGD.return_names
    ['cost', 'error', 'time_grads', 'time_eval', 'norm_grad', 'rho', 'lr']
    """

    return_names = ["cost", "error", "time_grads", "time_eval", "norm_grad", "rho", "lr"]  # noqa: RUF012

    def __init__(self, model: Any, state: dict[str, Any], data: Any) -> None:
        super().__init__(model, state, data, ())
        self._compile_evaluation(self.gs)
        self._last: dict[str, Any] = dict(old=0, new=0, error=0, time=0.0)

    def compute_new_cost_all(self, lr: Any) -> tuple[Any, Any]:
        """Return cost and error of the first ebs training examples after a step of ``lr``."""
        return self._evaluate(self._evaluation_chunk, self.ebs, lr)

    def __call__(self) -> dict[str, Any]:
        """Take a step, and return what `return_names` lists."""
        self.data.update_before_computing_gradients()
        start = time.time()
        self.compute_gradients()
        time_grads = time.time() - start
        self.data.update_before_computing_natural_gradients()
        gradient = np.concatenate([np.asarray(g.get_value(borrow=True)).ravel() for g in self.gs])
        squared = float(gradient @ gradient)
        self._adapt_lr()
        start = time.time()
        evaluated = self.step % self.state["trainFreq"] == 0
        if evaluated:
            old = self.compute_old_cost()
            self._last |= dict(old=old, new=self.compute_new_cost(self.lr)[0])
        rho = (float(self._last["new"]) - float(self._last["old"])) / (-float(self.lr) * squared)
        if evaluated:
            cost, error = self.compute_new_cost_all(self.lr)
            self._refuse_blow_up(cost)
            if not np.isfinite(cost):
                raise Exception("Learning rate too small !")
            # Later steps compare the cost of the training examples with the old one of a batch.
            self._last |= dict(new=cost, error=error)
        self.old_cost = self._last["new"]
        self._take_step(np.asarray(self.lr, self.floatX))
        if evaluated:
            self._last["time"] = time.time() - start
            self._report(rho, squared**0.5, time_grads)
        self.step += 1
        return dict(
            cost=float(self._last["new"]),
            error=float(self._last["error"]),
            time_grads=time_grads,
            time_eval=self._last["time"],
            norm_grad=squared**0.5,
            rho=np.float32(rho),
            lr=self.lr,
        )

    def _report(self, rho: float, norm_grad: float, time_grads: float) -> None:
        """Print a line on the step."""
        last = self._last
        print(
            f".. iter {self.step:4d} cost {last['new']:.3g}, error {last['error']:.3g} "
            f"step_size {self.lr:.3g} rho {rho:.3g} norm grad {norm_grad:.3g} "
            f"time [grad] {print_time(time_grads)},[updates param] {print_time(last['time'])},"
            f"whole time {print_time(time.time() - self.step_timer)}"
        )
        self.step_timer = time.time()
