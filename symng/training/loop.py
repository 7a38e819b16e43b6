"""The outer loop: batches, stopping, evaluation, progress, history, checkpoints."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from pytensor.compile.mode import Mode

from symng._checks import Words, check_batch, check_choice, check_flag, check_number, problem
from symng.checkpoint import load_checkpoint, save_checkpoint
from symng.history import History
from symng.objective import Objective
from symng.optimizers import Optimizer
from symng.training.batches import Batches, take
from symng.training.progress import ProgressBar
from symng.training.step import CompiledStep, compile_step


@dataclass(frozen=True)
class TrainingResult:
    """What `minimize` returns. The parameters are in their shared variables.

    Attributes
    ----------
    history : History
        One row a step.
    stopped : str
        Why the run ended: "max_steps", "max_seconds", "target_loss", "callback", "interrupted" or "diverged".
    steps : int
        Steps taken, those before a resumed checkpoint included.
    seconds : float
        Seconds of training, compilation and evaluation not counted.
    compile_seconds : float
        Seconds of compilation in this call.
    step : CompiledStep
        The compiled step, to go on by hand.
    """

    history: History = field(repr=False)
    stopped: str
    steps: int
    seconds: float
    compile_seconds: float
    step: CompiledStep = field(repr=False)


def minimize(
    objective: Objective,
    optimizer: Optimizer,
    data: Sequence[Any],
    *,
    batch_size: int | None = None,
    metric_batch: str = "same",
    metric_data: Sequence[Any] | None = None,
    metric_batch_size: int | None = None,
    search_batch: str = "same",
    max_steps: int | None = 200,
    max_seconds: float | None = None,
    target_loss: float | None = None,
    evaluate: Callable[..., Any] | None = None,
    evaluate_every: int = 1,
    evaluate_data: Sequence[Any] | None = None,
    seed: int = 0,
    progress: bool = True,
    callback: Callable[[Mapping[str, Any]], Any] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 60.0,
    mode: str | Mode | None = None,
) -> TrainingResult:
    """Train a model: take steps over batches until told to stop.

    Parameters
    ----------
    objective : Objective
        The model and its loss; its parameters are updated in place.
    optimizer : Optimizer
        For instance `NaturalGradient`.
    data : tuple of arrays
        Values of the inputs and then the targets for all examples.
    batch_size : int, optional
        Examples in a gradient batch, drawn without replacement; examples that do not fill a last batch wait for the
        next epoch. Default: all of them, in order.
    metric_batch : {"same", "other", "own"}, default "same"
        Examples for the metric: those of the gradient batch; others of the training set, none of which is in the
        gradient batch of the same step; or ``metric_data``.
    metric_data : tuple of arrays, optional
        Data for ``metric_batch="own"``: inputs alone, with targets only if the metric's graph reaches them.
    metric_batch_size : int, optional
        Examples in a metric batch that is not the same. Default: ``batch_size``, as far as there are examples.
    search_batch : {"same", "other", "all"}, default "same"
        Examples for a line search: the gradient batch, as many others, or the whole training set.
    max_steps : int or None, default 200
        Steps at most.
    max_seconds : float, optional
        Seconds of training at most (compilation and evaluation not counted), looked at between steps.
    target_loss : float, optional
        Stop when the loss on the gradient batch is at most this.
    evaluate : callable, optional
        Called after steps; returns a number, or a mapping from names to numbers, which
        become columns of the history (``"evaluate"`` for a number). Its time is not counted.
    evaluate_every : int, default 1
        Evaluate after every so many steps, and after the last one.
    evaluate_data : tuple of arrays, optional
        Arguments of ``evaluate``; default none.
    seed : int, default 0
        Of the order of examples. The same seed on the same backend gives the same numbers.
    progress : bool, default True
        Whether to show a progress bar, or lines where there is no terminal.
    callback : callable, optional
        Called with the row of each step (a mapping); stops the run when it returns True.
    checkpoint : path, optional
        File in which the run is kept: parameters, state of the optimizer, order of examples, history. Written every
        ``checkpoint_seconds`` and when the run ends, however it ends. If the file exists the run goes on from it.
    checkpoint_seconds : float, default 60.0
        Seconds between two writings.
    mode : str or Mode, optional
        PyTensor mode; default PyTensor's own.

    Returns
    -------
    TrainingResult
        Also after Ctrl-C (``stopped="interrupted"``), with all steps so far.

    Raises
    ------
    TypeError, ValueError
        For data or arguments that do not fit; before anything is compiled.

    Notes
    -----
    The history has a row a step with the columns step, seconds (of training, up to the end of the step), the fields of
    `StepInfo` and what ``evaluate`` returns, NaN in the rows without evaluation. Nine steps in a row that are not
    finite end the run as "diverged".

    Examples
    --------
    >>> import numpy as np, pytensor, pytensor.tensor as pt
    >>> import symng
    >>> rng = np.random.default_rng(0)
    >>> X = rng.standard_normal((100, 3))
    >>> T = X @ np.array([1.0, -2.0, 3.0])
    >>> x, t = pt.matrix("x"), pt.vector("t")
    >>> w = pytensor.shared(np.zeros(3), name="w")
    >>> y = x @ w
    >>> objective = symng.Objective(pt.sqr(y - t).mean() / 2, output=y, params=[w], inputs=[x], targets=[t])
    >>> result = symng.minimize(
    ...     objective, symng.NaturalGradient(damping=1e-3), data=(X, T), batch_size=50, metric_batch="other",
    ...     max_steps=20, progress=False, mode="FAST_COMPILE",
    ... )
    >>> w.get_value().round(3), result.history["loss"].shape, result.stopped
    (array([ 1., -2.,  3.]), (20,), 'max_steps')
    """
    # Everything that can be refused is refused here, before anything is compiled.
    for name, value in (("batch_size", batch_size), ("metric_batch_size", metric_batch_size)):
        if value is not None:
            check_number(name, value, minimum=1, integer=True)
    check_choice("metric_batch", metric_batch, ("same", "other", "own"))
    check_choice("search_batch", search_batch, ("same", "other", "all"))
    if max_steps is not None:
        check_number("max_steps", max_steps, minimum=0, integer=True)
    if max_seconds is not None:
        check_number("max_seconds", max_seconds, above=0, finite=False)
    if target_loss is not None:
        check_number("target_loss", target_loss, finite=False)
    if max_steps is None and max_seconds is None and target_loss is None and callback is None:
        raise problem("max_steps", "a limit", None, "Give max_steps, max_seconds, target_loss or a callback.")
    check_number("evaluate_every", evaluate_every, minimum=1, integer=True)
    check_number("seed", seed, minimum=0, integer=True)
    check_number("checkpoint_seconds", checkpoint_seconds, minimum=0, finite=False)
    check_flag("progress", progress)
    for name, function in (("evaluate", evaluate), ("callback", callback)):
        if function is not None and not callable(function):
            raise problem(name, "a callable", function, error=TypeError)
    step = compile_step(objective, optimizer, mode)
    feed = _Feed(
        step, data, batch_size, metric_batch, metric_data, metric_batch_size, search_batch, np.random.default_rng(seed)
    )
    if checkpoint is not None:
        _check_folder(checkpoint)

    run = _Run(step, feed, checkpoint)
    if checkpoint is not None and os.path.exists(checkpoint):
        run.load()
    stopped = "interrupted"
    failures = 0
    last_saved = time.monotonic()

    def evaluation() -> dict[str, float]:
        values = evaluate(*(evaluate_data or ())) if evaluate is not None else {}
        if not isinstance(values, Mapping):
            values = {"evaluate": values}
        return {name: float(value) for name, value in values.items()}

    def reached_limit() -> str | None:
        if max_steps is not None and run.steps >= max_steps:
            return "max_steps"
        return "max_seconds" if max_seconds is not None and run.seconds >= max_seconds else None

    with ProgressBar(max_steps, max_seconds, quiet=not progress) as bar:
        try:
            stopped = reached_limit() or ""
            if not stopped:
                bar.compiling()
                step.compile(*feed.peek())
                bar.compiled(step.compile_seconds)
            while not stopped:
                start = time.perf_counter()
                info = step.run(*feed.next())
                run.seconds += time.perf_counter() - start
                run.steps += 1
                row = {"step": run.steps, "seconds": run.seconds, **info.to_dict()}
                failures = 0 if info.accepted or np.isfinite(info.loss + info.new_loss) else failures + 1
                stopped = reached_limit() or ""
                if target_loss is not None and info.loss <= target_loss:
                    stopped = "target_loss"
                if failures > 8:
                    stopped = "diverged"
                if evaluate is not None and (stopped or run.steps % evaluate_every == 0):
                    row |= evaluation()
                run.history.append(**row)
                bar.show(row, run.seconds)
                if callback is not None and callback(dict(row)) is True:
                    stopped = "callback"
                if checkpoint is not None and time.monotonic() - last_saved >= checkpoint_seconds:
                    run.save()
                    last_saved = time.monotonic()
        except KeyboardInterrupt:
            stopped = "interrupted"
        finally:
            if checkpoint is not None and run.steps:
                run.save()
    return TrainingResult(run.history, stopped, run.steps, run.seconds, step.compile_seconds, step)


class _Feed:
    """Check the data of a run once, and hand out the batches of each step."""

    def __init__(
        self,
        step: CompiledStep,
        data: Any,
        batch_size: int | None,
        metric_batch: str,
        metric_data: Any,
        metric_batch_size: int | None,
        search_batch: str,
        rng: np.random.Generator,
    ) -> None:
        objective, optimizer = step.objective, step.optimizer
        self.axes = objective.data_axes
        self.data = check_batch("data", data, (*objective.inputs, *objective.targets), self.axes)
        step.check_targets("data", self.data)
        count = self.data[0].shape[self.axes[0]]
        if batch_size is not None and batch_size > count:
            raise problem("batch_size", f"at most the {count} examples of data", batch_size, "None takes all of them.")
        self.rng = rng
        self.gradient = Batches(count, batch_size, rng)
        self.size = self.gradient.size
        self.metric_batch, self.search_batch = metric_batch, search_batch

        wanted = optimizer.metric_inputs(objective)
        if metric_batch != "same" and wanted is None:
            raise problem("metric_batch", "'same', for the optimizer has no metric", metric_batch)
        if metric_batch == "same" and metric_batch_size is not None:
            raise problem(
                "metric_batch_size", "none with metric_batch='same'", metric_batch_size, "Use 'other' or 'own'."
            )
        if metric_batch != "own" and metric_data is not None:
            raise problem(
                "metric_data", f"none with metric_batch={metric_batch!r}", Words("data"), "Use metric_batch='own'."
            )
        self.metric_axes = self.axes[: len(wanted or ())]
        self.metric_part = self.data[: len(self.metric_axes)]
        left = count - self.size
        for name, value in (("metric_batch", metric_batch), ("search_batch", search_batch)):
            if value == "other" and left == 0:
                raise problem(name, "examples outside of the gradient batch", Words("none, for it holds all of them"),
                              f"Give a smaller batch_size, or {name}='same'.")  # fmt: skip
        self.metric_size = min(self.size, left) if metric_batch_size is None else metric_batch_size
        if metric_batch == "other" and self.metric_size > left:
            raise problem("metric_batch_size", f"at most the {left} examples outside of the gradient batch",
                          self.metric_size)  # fmt: skip
        self.own: Batches | None = None
        if metric_batch == "own":
            if metric_data is None:
                raise problem("metric_data", "a tuple of arrays with metric_batch='own'", None)
            self.metric_data = check_batch("metric_data", metric_data, wanted or (), self.metric_axes)
            own_count = self.metric_data[0].shape[self.metric_axes[0]]
            size = min(self.size if metric_batch_size is None else metric_batch_size, own_count)
            if metric_batch_size is not None and metric_batch_size > own_count:
                raise problem("metric_batch_size", f"at most the {own_count} examples of metric_data", metric_batch_size)
            self.own = Batches(own_count, size, rng)

    def next(self) -> tuple[Any, Any, Any]:
        """Return gradient, metric and search batch of the next step; None for one that is the gradient batch."""
        chosen = self.gradient.next()
        metric = search = None
        if self.metric_batch == "other":
            metric = take(self.metric_part, self.metric_axes, self.gradient.others(self.metric_size))
        elif self.own is not None:
            metric = take(self.metric_data, self.metric_axes, self.own.next())
        if self.search_batch == "other":
            others = self.gradient.others(min(self.size, self.gradient.count - self.size))
            search = take(self.data, self.axes, others)
        elif self.search_batch == "all":
            search = tuple(self.data)
        return take(self.data, self.axes, chosen), metric, search

    def peek(self) -> tuple[Any, Any, Any]:
        """Return batches of the right shapes for compilation, leaving the order of examples as it is."""
        first = None if self.size == self.gradient.count else np.arange(self.size)
        metric = search = None
        if self.metric_batch == "other":
            metric = take(self.metric_part, self.metric_axes, np.arange(self.metric_size))
        elif self.own is not None:
            metric = take(self.metric_data, self.metric_axes, np.arange(self.own.size))
        if self.search_batch == "other":
            search = take(self.data, self.axes, np.arange(min(self.size, self.gradient.count - self.size)))
        elif self.search_batch == "all":
            search = tuple(self.data)
        return take(self.data, self.axes, first), metric, search

    def get_state(self) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Return arrays and text for a checkpoint."""
        arrays, meta = {"order": self.gradient.order}, {"position": self.gradient.position}
        if self.own is not None:
            arrays["own_order"], meta["own_position"] = self.own.order, self.own.position
        return arrays, meta | {"rng": self.rng.bit_generator.state}

    def set_state(self, arrays: Mapping[str, np.ndarray], meta: Mapping[str, Any]) -> None:
        """Go on from what `get_state` returned."""
        self.gradient.set_state(arrays["order"], meta["position"])
        if self.own is not None:
            self.own.set_state(arrays["own_order"], meta["own_position"])
        self.rng.bit_generator.state = meta["rng"]


class _Run:
    """Count the steps and seconds of a run, keep its history, save and load all of it."""

    def __init__(self, step: CompiledStep, feed: _Feed, path: str | os.PathLike[str] | None) -> None:
        self.step, self.feed, self.path = step, feed, path
        self.history, self.steps, self.seconds = History(), 0, 0.0

    def _variables(self) -> dict[str, Any]:
        """Return every shared variable that a run lives on, by its name in the checkpoint."""
        named = {f"param_{i}": p for i, p in enumerate(self.step.objective.params)}
        named |= {f"state_{name}": v for name, v in self.step.state.items()}
        return named | {f"hyperparameter_{name}": v for name, v in self.step.hyperparameters.items()}

    def save(self) -> None:
        """Write the checkpoint."""
        assert self.path is not None
        arrays = {name: np.asarray(v.get_value(borrow=True)) for name, v in self._variables().items()}
        feed_arrays, feed_meta = self.feed.get_state()
        arrays |= {f"feed_{name}": a for name, a in feed_arrays.items()}
        arrays |= {f"history_{name}": column for name, column in self.history.to_dict().items()}
        meta = {"steps": self.steps, "seconds": self.seconds, "feed": feed_meta, "kind": self._kind()}
        save_checkpoint(self.path, arrays, meta)

    def load(self) -> None:
        """Go on from the checkpoint."""
        assert self.path is not None
        arrays, meta = load_checkpoint(self.path)
        variables = self._variables()
        expected = {name: np.shape(v.get_value(borrow=True)) for name, v in variables.items()}
        found = {name: arrays[name].shape for name in arrays if name.split("_")[0] in ("param", "state", "hyperparameter")}
        if meta.get("kind") != self._kind() or found != expected or arrays["feed_order"].shape != self.feed.gradient.order.shape:
            raise problem(
                "checkpoint", "one of the same model, optimizer, data and batches",
                Words(f"{os.fspath(self.path)!r} of {meta.get('kind')}"),
                "Give another path, or delete the file to start anew.",
            )  # fmt: skip
        for name, variable in variables.items():
            variable.set_value(arrays[name].astype(variable.type.dtype))
        prefix = "feed_"
        self.feed.set_state({n[len(prefix) :]: a for n, a in arrays.items() if n.startswith(prefix)}, meta["feed"])
        columns = {n[len("history_") :]: a for n, a in arrays.items() if n.startswith("history_")}
        for i in range(meta["steps"]):
            self.history.append(**{name: column[i] for name, column in columns.items()})
        self.steps, self.seconds = meta["steps"], meta["seconds"]

    def _kind(self) -> str:
        """Name what the checkpoint belongs to, beside the shapes of its arrays."""
        feed = self.feed
        return f"{type(self.step.optimizer).__name__}, batch {feed.size}, metric batch {feed.metric_batch!r}"


def _check_folder(path: str | os.PathLike[str]) -> None:
    """Refuse a file whose folder does not exist: it would be found out only after the first minutes."""
    folder = Path(path).parent
    if not folder.is_dir():
        raise problem("checkpoint", "a file in a folder that exists", Words(f"folder {str(folder)!r}"), "Make it first.")
