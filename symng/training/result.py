"""What a training run returns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from pytensor.compile.sharedvalue import SharedVariable

from symng.training.history import History
from symng.training.step import CompiledStep

Ending = Literal[
    "max_steps",
    "max_seconds",
    "target_loss",
    "end_of_data",
    "callback",
    "early_stopping",
    "converged",
    "interrupted",
    "diverged",
    "refused",
    "not_finite",
    "zero_gradient",
    "stalled",
]
"""Why a run ended."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class TrainingResult:
    """What `minimize` returns.

    It can be pickled, for instance to return it from another process, without the compiled step.

    Attributes
    ----------
    status : str
        Why the run ended: "max_steps", "max_seconds", "target_loss", "end_of_data", "callback",
        "early_stopping", "converged", "interrupted", "diverged", "refused", "not_finite",
        "zero_gradient" or "stalled" (see the notes of `minimize`). ``stopped`` is an older name.
    loss : float
        Loss of the parameters as the last step left them, on the gradient batch of that step. After
        a step that an optimizer does not evaluate, as those of `SGD` and `Adam`, the loss before
        that step. NaN without steps. After a run whose loss blew up, that of the parameters put
        back. Where `EarlyStopping` has restored the best parameters, that of their step, or NaN
        where they are an average.
    params : dict of array
        Copies of the parameters as they are at the end, by name; by position where there is no name
        or another parameter has it too. The parameters themselves are in their shared variables.
    average_params : dict of array or None
        The average of the parameters that ``average_decay`` asks for, in the same form.
    best_params : dict of array or None
        The parameters of the best evaluation, which `EarlyStopping` has kept, in the same form;
        None without it, or where no evaluation gave a number.
    best_step : int or None
        The step after which they were evaluated.
    best_value : float
        Their value; NaN where there is none.
    history : History
        One row a step.
    steps : int
        Steps taken, those before a resumed checkpoint included.
    seconds : float
        Seconds of training, compilation and evaluation not counted.
    compile_seconds : float
        Seconds of compilation in this call.
    message : str
        Which test "converged" has met, with its numbers, and what "diverged", "refused",
        "not_finite", "zero_gradient" and "stalled" mean, in a sentence; empty for other reasons.
    step : CompiledStep or None
        The compiled step, to continue by hand; None in a result that was unpickled or deep-copied.

    Examples
    --------
    >>> import pickle
    >>> import numpy as np, pytensor, pytensor.tensor as pt
    >>> import symng
    >>> x, t = pt.matrix("x"), pt.vector("t")
    >>> w = pytensor.shared(np.zeros(2), name="w")
    >>> y = x @ w
    >>> loss = pt.sqr(y - t).mean() / 2
    >>> objective = symng.Objective(loss, output=y, params=[w], inputs=[x], targets=[t])
    >>> result = symng.minimize(
    ...     objective, symng.NaturalGradient(damping=0.0), data=(np.eye(2), np.array([3.0, 4.0])),
    ...     max_steps=1, progress=False, mode="FAST_COMPILE",
    ... )
    >>> result = pickle.loads(pickle.dumps(result))
    >>> result.status, result.params["w"].round(3), round(result.loss, 6)
    ('max_steps', array([3., 4.]), 0.0)
    """

    status: Ending
    loss: float
    params: dict[str | int, np.ndarray]
    history: History
    steps: int
    seconds: float
    compile_seconds: float
    message: str = ""
    average_params: dict[str | int, np.ndarray] | None = None
    best_params: dict[str | int, np.ndarray] | None = None
    best_step: int | None = None
    best_value: float = float("nan")
    step: CompiledStep | None = None

    @property
    def stopped(self) -> Ending:
        """The ``status``, by its older name."""
        return self.status

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "step": None}  # compiled functions do not pickle

    def __copy__(self) -> TrainingResult:
        return replace(self)

    def __repr__(self) -> str:
        params = [f"{name} {array.shape}" for name, array in self.params.items()]
        if len(params) > 6:
            params[6:] = [f"and {len(params) - 6} more"]
        lines = {
            "status": f"{self.status}. {self.message}" if self.message else self.status,
            "loss": f"{self.loss:.6g}",
            "steps": f"{self.steps} in {self.seconds:.3g} s (compilation: "
            f"{self.compile_seconds:.3g} s)",
            "params": ", ".join(params),
        }
        if self.best_step is not None:
            lines["best"] = f"{self.best_value:.6g} after step {self.best_step}"
        return "\n".join(
            ["TrainingResult", *(f"    {name}: {text}" for name, text in lines.items())]
        )


def loss_after(history: History, step: int) -> float:
    """Return the loss after a step, or before it if that was not evaluated; NaN after none."""
    if not step:
        return float("nan")
    row = history.row(step - 1)
    new_loss = float(row["new_loss"])
    return new_loss if row["accepted"] and not np.isnan(new_loss) else float(row["loss"])


def copies(params: Sequence[SharedVariable]) -> list[np.ndarray]:
    """Return copies of the values of the parameters, in order."""
    return [np.array(p.get_value(borrow=True)) for p in params]


def by_name(
    params: Sequence[SharedVariable], values: Sequence[np.ndarray]
) -> dict[str | int, np.ndarray]:
    """Return one value for each parameter by its name, or by position if that is not unique."""
    names = [p.name for p in params]
    keys: list[str | int] = [
        name if name and names.count(name) == 1 else i for i, name in enumerate(names)
    ]
    return dict(zip(keys, values, strict=True))
