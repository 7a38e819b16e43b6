"""Check the settings that a user changes between steps, as arguments of the optimizer."""

from __future__ import annotations

from dataclasses import fields, is_dataclass, replace

from pytensor.compile.sharedvalue import SharedVariable

from symng._checks import check_number
from symng.optimizers import Optimizer
from symng.optimizers.base import State


class Settings:
    """Check hyperparameters and damping before each step, as the optimizer would.

    Only values that have changed since the last check are checked; those that follow a schedule are
    checked where it is called. A check reads a few scalars.
    """

    def __init__(self, optimizer: Optimizer, state: State) -> None:
        self.optimizer = optimizer
        self.variables = {
            n: v for n, v in state.hyperparameters.items() if n not in state.schedules
        }
        if "damping" in state.values:
            self.variables["damping"] = state.values["damping"]
        self.seen = self._read()

    def check(self) -> None:
        """Refuse a value out of range that was set since the last check, naming the setting."""
        for name, value in self._read().items():
            if value != self.seen[name]:
                self._check_one(name, value)
                self.seen[name] = value

    def accept_damping(self) -> None:
        """Take the damping that the step has set as checked."""
        if "damping" in self.variables:
            self.seen["damping"] = _number(self.variables["damping"])

    def _read(self) -> dict[str, float]:
        return {name: _number(v) for name, v in self.variables.items()}

    def _check_one(self, name: str, value: float) -> None:
        """Make a new optimizer or solver with the value, so that its own checks refuse it."""
        optimizer: object = self.optimizer
        solver = self.optimizer.solver
        if name == "damping":
            check_number(name, value, minimum=0)
        if is_dataclass(optimizer) and name in {f.name for f in fields(optimizer) if f.init}:
            replace(optimizer, **{name: value})  # type: ignore[type-var]
        if solver is not None and name in solver.adjustable_settings():
            solver.with_settings(**{name: value})
        # An optimizer of the user's may check nothing, and NaN is never meant.
        check_number(name, value, finite=False)


def _number(variable: SharedVariable) -> float:
    """Return the value of a shared scalar as a Python number."""
    return variable.get_value(borrow=True).item()
