"""Stop a run by a value that its evaluation gives, and keep the best parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np
from pytensor.compile.sharedvalue import SharedVariable

from symng._checks import Verbatim, argument_error, check_instance, check_number
from symng.graphs.config import Config, config, flag, number, setting

Columns = Mapping[str, float]
"""What an evaluation gave, by name."""


def _as_monitor(name: str, value: object) -> object:
    """Return the name of a column, or refuse what cannot be one."""
    check_instance(name, value, str, "the name of a column that evaluate returns")
    return value


def _as_patience(name: str, value: object) -> object:
    """Return a number of evaluations, or None."""
    if value is not None:
        hint = "It counts evaluations; None never stops."
        check_number(name, value, minimum=1, integer=True, hint=hint)
    return value


@config
class EarlyStopping(Config):
    """Stop when a value from ``evaluate`` has not improved for some evaluations.

    An evaluation is an improvement if its value is below the best one so far by more than
    ``min_delta``, or above it with ``higher_is_better``. The first value is one, NaN never is. The
    run ends with the status "early_stopping" after ``patience`` evaluations in a row without one.

    Parameters
    ----------
    monitor : str, default "validation_error"
        The column that ``evaluate`` returns; "evaluate" where it returns a number.
    patience : int or None, default 10
        Evaluations without improvement, at least 1; None never stops and only keeps the best
        parameters.
    min_delta : float, default 0.0
        How much a value has to be better, at least 0.
    higher_is_better : bool, default False
        Whether a higher value is a better one, as of an accuracy.
    restore_best : bool, default False
        Whether the parameters have the values of the best evaluation at the end, whatever ended the
        run.

    Notes
    -----
    The best parameters are copies of those that ``evaluate`` saw: with ``average_decay``, of the
    average. They are in the `TrainingResult` and in the checkpoint, with their value, their
    step and the count of evaluations since: a resumed run ends as an uninterrupted one does. For
    that reason an evaluation counts only where ``evaluate_every`` asks for it; the extra one after
    the last step of a run does not.

    It costs a copy of the parameters at each improvement.

    References
    ----------
    .. [1] L. Prechelt, "Early stopping - but when?", Neural Networks: Tricks of the Trade, 1998.

    Examples
    --------
    >>> import numpy as np, pytensor, pytensor.tensor as pt
    >>> import symng
    >>> x, t = pt.matrix("x"), pt.vector("t")
    >>> w = pytensor.shared(np.zeros(1), name="w")
    >>> y = x @ w
    >>> loss = pt.sqr(y - t).mean() / 2
    >>> objective = symng.Objective(loss, output=y, params=[w], inputs=[x], targets=[t])
    >>> result = symng.minimize(
    ...     objective, symng.SGD(step_size=0.5), data=(np.ones((1, 1)), np.ones(1)),
    ...     evaluate=lambda: {"distance": abs(w.get_value()[0] - 0.75)},
    ...     early_stopping=symng.EarlyStopping(monitor="distance", patience=2, restore_best=True),
    ...     progress=False, mode="FAST_COMPILE",
    ... )
    >>> result.history["distance"], result.status
    (array([0.25  , 0.    , 0.125 , 0.1875]), 'early_stopping')
    >>> result.best_step, w.get_value()
    (2, array([0.75]))
    """

    monitor: str = setting(convert=_as_monitor, default="validation_error")
    patience: int | None = setting(convert=_as_patience, default=10)
    min_delta: float = number(default=0.0, minimum=0)
    higher_is_better: bool = flag(default=False)
    restore_best: bool = flag(default=False)


class BestEvaluation:
    """Keep the parameters of the best evaluation, and count the evaluations since.

    Attributes
    ----------
    rule : EarlyStopping
        What the best one is, and how long to wait for a better one.
    value, step, params : float, int and list of array
        The best value, the step after which it came, and the parameters; NaN, 0 and an empty list
        before the first.
    count : int
        Evaluations since.
    last_step : int
        The step of the last evaluation that was seen.
    """

    def __init__(self, rule: EarlyStopping) -> None:
        self.rule = rule
        self.value, self.step, self.count, self.last_step = math.nan, 0, 0, 0
        self.params: list[np.ndarray] = []

    @property
    def is_exhausted(self) -> bool:
        """Whether the run has waited long enough."""
        return self.rule.patience is not None and self.count >= self.rule.patience

    def see(
        self, columns: Columns, step: int, params: Sequence[SharedVariable], counts: bool
    ) -> None:
        """Judge the evaluation of a step; one that does not count is checked for its column."""
        if self.rule.monitor not in columns:
            raise _unknown_column(self.rule.monitor, list(columns))
        value = columns[self.rule.monitor]
        if counts and self._is_better(value):
            copies = [np.array(p.get_value(borrow=True)) for p in params]
            self.value, self.step, self.params, self.count = value, step, copies, 0
        elif counts:
            self.count += 1
        self.last_step = step

    def restore(self, params: Sequence[SharedVariable]) -> bool:
        """Restore the best parameters if the rule asks for it; return whether there were any."""
        if not (self.rule.restore_best and self.params):
            return False
        for param, value in zip(params, self.params, strict=True):
            param.set_value(value)
        return True

    def get_state(self) -> tuple[dict[str, np.ndarray], dict[str, object]]:
        """Return arrays and text for a checkpoint."""
        arrays = {str(i): value for i, value in enumerate(self.params)}
        names = ("value", "step", "count", "last_step")
        return arrays, {"of": self._measure, **{name: getattr(self, name) for name in names}}

    def set_state(self, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
        """Continue from what `get_state` returned, unless that was of another measure."""
        if meta["of"] != self._measure:
            return
        self.value, self.step = meta["value"], meta["step"]
        self.count, self.last_step = meta["count"], meta["last_step"]
        self.params = [arrays[str(i)] for i in range(len(arrays))]

    @property
    def _measure(self) -> list[object]:
        """What values are compared by."""
        return [self.rule.monitor, self.rule.higher_is_better]

    def _is_better(self, value: float) -> bool:
        """Return whether a value is an improvement; NaN is none."""
        if math.isnan(self.value):
            return not math.isnan(value)
        if self.rule.higher_is_better:
            return value > self.value + self.rule.min_delta
        return value < self.value - self.rule.min_delta


def _unknown_column(monitor: str, columns: list[str]) -> Exception:
    """Return the exception for a column that the evaluation does not give."""
    likely = [*get_close_matches(monitor, columns, n=1), *columns]
    hint = f"Let evaluate return {{{monitor!r}: ...}}"
    if likely:
        hint = f"Write symng.EarlyStopping(monitor={likely[0]!r}), or let it return {monitor!r} too"
    there = ", ".join(map(repr, columns)) or "none"
    return argument_error(
        "monitor",
        f"a column that evaluate returns (there are: {there})",
        Verbatim(repr(monitor)),
        f"{hint}.",
    )


def check_early_stopping(early_stopping: object, evaluate: object) -> None:
    """Refuse what is no rule, and a rule without an evaluation."""
    if early_stopping is None:
        return
    check_instance(
        "early_stopping",
        early_stopping,
        EarlyStopping,
        "a symng.EarlyStopping",
        "Write symng.EarlyStopping(monitor=..., patience=...).",
    )
    if evaluate is None:
        raise argument_error(
            "early_stopping",
            "none without evaluate",
            early_stopping,
            "Give evaluate, a function that returns the value to monitor.",
            TypeError,
        )
