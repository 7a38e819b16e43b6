"""Take the steps of a run one by one: limits, verdicts, evaluation, progress and callback."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields
from typing import get_args

import numpy as np
from numpy.typing import ArrayLike

from symng._checks import Verbatim, argument_error
from symng.training.arguments import count_arguments
from symng.training.convergence import ConvergenceTest
from symng.training.info import StepInfo
from symng.training.interrupt import Interrupts
from symng.training.progress import ProgressBar
from symng.training.result import Ending
from symng.training.run import TrainingRun
from symng.training.stages import stages_shown
from symng.training.verdicts import Watch, message_of

_ENDINGS: tuple[Ending, ...] = get_args(Ending)

Evaluated = ArrayLike | Mapping[str, ArrayLike] | None
"""What an evaluation returns: a number, numbers by their names, or nothing."""


@dataclass(frozen=True)
class Limits:
    """The limits of a run; None means no limit."""

    max_steps: int | None
    max_seconds: float | None
    target_loss: float | None

    def reached(self, run: TrainingRun) -> Ending | None:
        """Return which limit on steps or seconds the run has reached, if any."""
        if self.max_steps is not None and run.steps >= self.max_steps:
            return "max_steps"
        if self.max_seconds is not None and run.step.processes.agree(
            run.seconds >= self.max_seconds
        ):
            return "max_seconds"
        if self.max_steps is None and run.is_at_end:
            return "end_of_data"
        return None

    def at_end_of_data(self, run: TrainingRun) -> Ending:
        """Return the status of a run whose stream has ended; an error if it was to take more."""
        if self.max_steps is None:
            return "end_of_data"
        raise argument_error(
            "data",
            f"batches for {self.max_steps} steps",
            Verbatim(f"a stream that ended after {run.steps}"),
            "The parameters are those after the last step. Give a function that returns the "
            "batches of one pass, which is called anew for each, or max_steps=None to stop there.",
        )

    def is_target(self, loss: float) -> bool:
        """Return whether a loss is low enough to stop."""
        return self.target_loss is not None and loss <= self.target_loss


@dataclass(frozen=True)
class Evaluation:
    """The user's evaluation, if any: a function, its arguments, and after how many steps."""

    function: Callable[..., Evaluated] | None
    arguments: Sequence[object] | None
    every: int

    def is_due(self, steps: int, last: bool) -> bool:
        """Return whether to evaluate after so many steps."""
        return self.function is not None and (last or steps % self.every == 0)

    def __call__(self) -> dict[str, float]:
        """Return the columns of the evaluation."""
        values = None if self.function is None else self.function(*(self.arguments or ()))
        if values is None:
            return {}
        named = values if isinstance(values, Mapping) else {"evaluate": values}
        columns: dict[str, float] = {}
        for name, value in named.items():
            _check_storable(str(name), columns)
            if name in ("step", "seconds", *(f.name for f in fields(StepInfo))):
                raise argument_error(
                    "evaluate",
                    "names that no column of the history has",
                    name,
                    "Choose another name.",
                )
            number = np.asarray(value)
            if number.ndim or number.dtype.kind not in "biuf":
                expected = "a number, or a mapping from names to numbers"
                raise argument_error("evaluate", expected, value, error=TypeError)
            columns[str(name)] = float(number)
        return columns


def _check_storable(name: str, columns: Mapping[str, float]) -> None:
    """Refuse the name of a column that a file cannot hold, or that ``columns`` has already."""
    is_storable = "\0" not in name and len(name) < 1000
    try:
        name.encode()
    except UnicodeEncodeError:
        is_storable = False
    if not is_storable:
        expected = "names of columns that a file can hold: short text without NUL or surrogates"
        raise argument_error("evaluate", expected, name, "Choose another name.")
    if name in columns:
        raise argument_error("evaluate", "each name once", Verbatim(f"{name!r} twice"))


@dataclass
class Stepper:
    """Take steps, judge each, and report it to the user.

    ``ending`` is why the run ends, None while it continues; ``convergence_message`` which test it
    has met where that is convergence; ``restored`` whether the parameters of the lowest loss were
    put back.
    """

    run: TrainingRun
    watch: Watch
    convergence: ConvergenceTest
    limits: Limits
    evaluation: Evaluation
    callback: Callable[..., object] | None
    bar: ProgressBar
    ending: Ending | None = None
    convergence_message: str = ""
    restored: bool = False

    def begin(self, interrupts: Interrupts) -> None:
        """End a run at once if, by its checkpoint, it has converged or waited long enough.

        An evaluation that Ctrl-C cut short in the last step is made now.
        """
        self._end_if_converged()
        best = self.run.best_evaluation
        if best is None:
            return
        steps = self.run.steps
        if steps > best.last_step and self.evaluation.is_due(steps, last=False):
            self._evaluate({}, interrupts)
            interrupts.raise_if_requested()
        if self.ending is None and best.is_exhausted:
            self.ending = "early_stopping"

    def message_of(self, status: Ending, kept: str = "its lowest value") -> str:
        """Return what the status of the run means, with ``kept`` for the parameters put back."""
        if status in ("converged", "stalled"):
            return self.convergence_message
        if status == "refused":
            return self.watch.refusal
        return message_of(status, self.restored, kept)

    def take_steps(self, interrupts: Interrupts) -> None:
        """Take steps until the run ends, and write its checkpoint when that is due."""
        run = self.run
        try:
            self.begin(interrupts)
            if self.ending is None:
                with (
                    self._undone_on_error(),
                    interrupts.immediate(),
                    stages_shown(self.bar.compiling),
                ):
                    run.step.compile(*run.sampler.peek())
                self.bar.compiled(run.step.compile_seconds)
            while self.ending is None:
                self.take_step(interrupts)
                interrupts.raise_if_requested()
                if run.is_due_for_saving:
                    run.save(self.watch.best)
        except KeyboardInterrupt:
            if interrupts.must_stop:
                raise
            self.ending = "interrupted"

    @contextmanager
    def _undone_on_error(self) -> Iterator[None]:
        """Put parameters, state and other variables back if the context is left by an exception."""
        self.watch.remember()
        self.run.remember()
        try:
            yield
        except BaseException:
            self.watch.undo()
            self.run.undo()
            raise

    def take_step(self, interrupts: Interrupts) -> None:
        """Take one step and append its row to the history.

        A step that fails, or is cut short, leaves everything as it was before.
        """
        with interrupts.immediate():
            self.run.wait_for_batches()
        if self.run.is_at_end:
            self.ending = self.limits.at_end_of_data(self.run)
            return
        with self._undone_on_error():
            with interrupts.stepping():
                info = self.run.take_step()
            self.run.count_step()
        row = {"step": self.run.steps, "seconds": self.run.seconds, **info.to_dict()}
        try:
            if self.limits.max_steps is None:  # is there another step?
                with interrupts.immediate():
                    self.run.wait_for_batches()
            self._judge(info, row)
            self._report(row, interrupts)
        finally:
            self.run.history.append(**row)  # also after Ctrl-C or an error of the user's code

    def _judge(self, info: StepInfo, row: dict[str, float]) -> None:
        """Set ``ending`` if the run ends with this step."""
        self.convergence.see(row)
        self.ending = self.limits.reached(self.run)
        if self.limits.is_target(info.loss):
            self.ending = "target_loss"
        elif verdict := self.watch.judge(info, last=self.ending is not None):
            self.ending = verdict
        else:
            self._end_if_converged()
        self.restored = self.ending == "diverged" and self.watch.restore()
        if self.restored:
            self.run.step.restart_average()

    def _end_if_converged(self) -> None:
        """Set ``ending`` if the run has converged, or only seems to have."""
        if message := self.convergence.message:
            self.ending, self.convergence_message = "converged", message
        elif message := self.convergence.stall:
            self.ending, self.convergence_message = "stalled", message

    def _report(self, row: dict[str, float], interrupts: Interrupts) -> None:
        """Report a step to the user, whose code may end the run: in all processes, if in one."""
        due = self.evaluation.is_due(self.run.steps, last=self.ending is not None)
        if not due and self.callback is None:
            with interrupts.immediate(own=False):
                self.bar.show(row, last=self.ending is not None)
            return
        processes = self.run.step.processes
        self.run.step.sync_to_host()  # the user's code may read the parameters
        with processes.together("evaluate, callback"):
            self._call(row, interrupts, due)
        number = 0 if self.ending is None else 1 + _ENDINGS.index(self.ending)
        number = processes.agree(number)
        self.ending = _ENDINGS[number - 1] if number else None

    def _call(self, row: dict[str, float], interrupts: Interrupts, due: bool) -> None:
        """Evaluate if due, show the step and call the callback, which may end the run."""
        if due:
            self._evaluate(row, interrupts)
        with interrupts.immediate(own=False):
            self.bar.show(row, last=self.ending is not None)
            answer = None
            if self.callback is not None:
                given = dict(row), self.run.step
                answer = self.callback(*given[: count_arguments(self.callback, 1, 2)])
        if isinstance(answer, bool | np.bool_) and answer:
            if not due:
                self._evaluate(row, interrupts)
            self.ending = "callback"

    def _evaluate(self, row: dict[str, float], interrupts: Interrupts) -> None:
        """Add the columns of an evaluation, of the average where there is one, and judge it."""
        step = self.run.step
        averaged = nullcontext() if step.average_decay is None else step.use_average()
        # Outside of the part that Ctrl-C may cut short: the parameters get their values back.
        with averaged:
            with interrupts.immediate(own=False):
                columns = self.evaluation()
            row |= columns
            if (best := self.run.best_evaluation) is not None:
                steps, params = self.run.steps, step.objective.params
                counts = self.evaluation.is_due(steps, last=False) and not self.restored
                best.see(columns, steps, params, counts)
                if self.ending is None and best.is_exhausted:
                    self.ending = "early_stopping"
