"""The outer loop: batches, stopping, evaluation, progress, history, checkpoints."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from pytensor.compile.mode import Mode

from symng._checks import check_flag, explain_keywords
from symng.backends import Devices
from symng.objective import ObjectiveLike
from symng.optimizers import Optimizer
from symng.training.arguments import (
    check_batches,
    check_checkpoint,
    check_evaluation,
    check_limits,
)
from symng.training.batch_arrays import Arrays, Groups
from symng.training.checkpoint_file import CheckpointFile, CheckpointSettings, Resume
from symng.training.convergence import ConvergenceTest, LossTolerance, Tolerances
from symng.training.early_stopping import BestEvaluation, EarlyStopping, check_early_stopping
from symng.training.finishing import make_result
from symng.training.history import History
from symng.training.interrupt import Interrupts
from symng.training.mismatch import warn_of_mismatch, warn_of_unseen_sum
from symng.training.prefetch import Prefetcher
from symng.training.processes import share
from symng.training.progress import ProgressBar
from symng.training.result import TrainingResult
from symng.training.run import TrainingRun
from symng.training.sampler import Sampler
from symng.training.step import CompiledStep
from symng.training.stepping import Evaluated, Evaluation, Limits, Stepper
from symng.training.streams import Source, can_restart, is_stream, make_sampler
from symng.training.term_batches import BatchSize, MetricBatch, SearchBatch
from symng.training.updates import OwnUpdates
from symng.training.verdicts import Watch


@explain_keywords
def minimize(
    objective: ObjectiveLike,
    optimizer: Optimizer,
    data: Arrays | Groups | Source,
    *,
    batch_size: BatchSize | Sequence[BatchSize] = None,
    drop_last: bool = True,
    metric_batch: MetricBatch = "same",
    metric_data: Arrays | Groups | Source | None = None,
    metric_batch_size: int | Sequence[int | None] | None = None,
    search_batch: SearchBatch = "same",
    max_steps: int | None = 200,
    max_seconds: float | None = None,
    target_loss: float | None = None,
    gradient_tolerance: float | None = None,
    loss_tolerance: LossTolerance = "auto",
    update_tolerance: float | None = None,
    evaluate: Callable[..., Evaluated] | None = None,
    evaluate_every: int = 1,
    evaluate_data: Sequence[object] | None = None,
    seed: int = 0,
    progress: bool = True,
    callback: Callable[..., object] | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 60.0,
    checkpoint_every: int | None = None,
    keep: int = 1,
    resume: Resume = True,
    mode: str | Mode | None = None,
    chunk_size: int | None = None,
    average_decay: float | None = None,
    updates: OwnUpdates | None = None,
    early_stopping: EarlyStopping | None = None,
    devices: Devices = None,
) -> TrainingResult:
    """Train a model: take steps over batches until a limit is reached.

    Parameters
    ----------
    objective : Objective or ObjectiveSum
        The model and its loss. The parameters are updated in place.
    optimizer : Optimizer
        For instance `NaturalGradient`.
    data : tuple of arrays, or iterable of batches, or function that returns one
        Values of the inputs and then the targets for all examples; () where the data are constants
        of the graph. For an `ObjectiveSum` a tuple of one such tuple for each term: ``((X, F), (Z,
        G))``. They must not change during training: full batches stay on the device of JAX and are
        read-only meanwhile. With a ``batch_size`` memory-mapped arrays are read, and checked, as
        their examples are drawn.

        Or a stream of batches, each such a tuple: a generator, a data loader, or a function that
        returns an iterable of the batches of one pass. The function is called with the pass number,
        from 0, if it needs an argument. The next batch is made, and moved to the device, in a
        thread while a step runs.
    batch_size : int, callable or tuple of them, optional
        Examples in a gradient batch, drawn without replacement. A schedule is a function of the
        step number, from 0; its sizes are limited to the examples that metric and search batch
        leave. JAX recompiles for each new size, so change it rarely. Not with a stream of batches.
        Default: all examples, in order. Then a step that raises the loss is undone, and the next
        has more damping, or with a fixed damping half the size; `SGD`, `Adam`, `TONGA` and a
        damping with ``reject_below`` follow their own rules. For an `ObjectiveSum` one for all
        terms, or a tuple of one for each: ``(500, None)``.
    drop_last : bool, default True
        Whether the examples that do not fill the last batch of an epoch wait for the next epoch.
        With False they are a shorter batch, so that each epoch takes every example once; a step on
        it counts as much as any other, and JAX compiles for its size, too.
    metric_batch : {"same", "other", "own"}, default "same"
        Examples for the metric: those of the gradient batch; others of the training set, none of
        which is in the gradient batch of the same step (of a stream, the batch after that); or
        ``metric_data``. A term that takes all of its examples in each batch, in a sum with terms
        that do not, takes them here, too.
    metric_data : tuple of arrays, or stream of such, optional
        Data for ``metric_batch="own"``: inputs alone, with targets only if the metric's graph
        reaches them.
    metric_batch_size : int or tuple of int, optional
        Examples in a metric batch of its own. Default: ``batch_size``, or all available examples
        if there are fewer; all of ``metric_data`` where ``batch_size`` is 1 or ``data`` a stream.
    search_batch : {"same", "other", "all"}, default "same"
        Examples for a search, or for the reduction ratio of a damping rule with
        ``on_search_batch``: those of the gradient batch; as many others, or fewer if there are not
        enough (of a stream, its next batch); or the training set. With ``metric_batch="other"``
        too, metric and search batch have no example in common if those outside of the gradient
        batch suffice for both; else they are drawn independently.
    max_steps : int or None, default 200
        Limit on the steps. A stream that cannot begin again must last that long; with None the run
        ends with it.
    max_seconds : float, optional
        Limit on the seconds of training (compilation and evaluation not counted), checked between
        steps.
    target_loss : float, optional
        Stop when the loss on the gradient batch is at most this.
    gradient_tolerance : float, optional
        Stop when the norm of the gradient is at most this times that of the first step: at least 0
        and below 1, as all tolerances. Default: no such test.
    loss_tolerance : float, "auto" or None, default "auto"
        Stop when the loss has changed by at most this times its value in three accepted steps in a
        row. "auto" makes its test only on full batches, without ``average_decay`` and ``updates``:
        the loss has changed by no more than its rounding errors, four units, in nine accepted steps
        in a row, and the gradient is below eps^(3/4) of the first one, with eps that of the dtype.
        A loss near 0 is compared with eps times the first loss. None makes no such test.
    update_tolerance : float, optional
        Stop when the norm of an update is at most this times the norm of the parameters. Default:
        no such test.
    evaluate : callable, optional
        Called after steps; returns a number, or a mapping from names to numbers, which become
        columns of the history (``"evaluate"`` for a number). Its time is not counted.
    evaluate_every : int, default 1
        Evaluate after every so many steps, and after the last one unless that was interrupted.
    evaluate_data : tuple, optional
        Arguments to call ``evaluate`` with; default none.
    seed : int, default 0
        Seed of the order of examples. The same seed on the same backend gives the same numbers.
    progress : bool, default True
        Whether to show a progress bar, or lines where there is neither a terminal nor a notebook.
    callback : callable, optional
        Called with the row of each step (a mapping) and, if it needs a second argument, with the
        `CompiledStep`, whose ``state`` it may change; stops the run when it returns True.
    checkpoint : path, optional
        File for the state of the run: parameters, state of the optimizer, random generators and
        other variables that a step updates, order of examples; the history is beside it, in
        ``NAME.history.jsonl``. It is written every ``checkpoint_seconds`` and whenever the run
        ends. If the file exists, the run continues from it with the same numbers as without
        interruption; ``seed`` is then that of the file. A stream is read up to where it was: the
        pass by its number, and then its batches one by one. A file that is damaged, of another
        model, or in use by another run is refused, and one that cannot be written, before anything
        changes. If writing fails later, for instance because the disk is full, there is a warning
        and the run continues.
    checkpoint_seconds : float, default 60.0
        Seconds from one write of the checkpoint to the next, at least 20 times those that a write
        takes, so that writing takes no more than 5 % of the run; 0 writes after every step.
    checkpoint_every : int, optional
        Write the checkpoint after every so many steps, too.
    keep : int, default 1
        How many checkpoints to keep: the newest, and those before it as ``NAME.1``, ``NAME.2``, ...
        If the newest is damaged the run continues from the one before it, with a warning.
    resume : bool or "must", default True
        Whether to continue from the checkpoint if there is one. False starts again and replaces
        it; "must" refuses to start without one.
    mode : str or Mode, optional
        PyTensor mode; default that of `set_mode`, as a rule JAX where it is installed.
    chunk_size : int, optional
        Examples to compute with at a time, as in `compile_step`.
    average_decay : float, optional
        Decay of an average of the parameters over the steps, as in `compile_step`: at least 0 and
        below 1, for instance 0.99. While ``evaluate`` is called the parameters have the values of
        the average; a callback sees their own, which they also have at the end. The result has the
        average as ``average_params``. It begins anew where the parameters of the lowest loss are
        restored.
    updates : mapping, or sequence of pairs, optional
        Next values of other shared variables, as in `compile_step`. The checkpoint holds these
        variables. They keep their last values where the parameters of an earlier step are restored.
    early_stopping : EarlyStopping, optional
        Stop when a value that ``evaluate`` returns no longer improves, and keep the parameters of
        its best value.
    devices : int, list of JAX devices, Mesh or NamedSharding, optional
        On JAX, split the examples of each batch over these devices, as in `compile_step`. Arrays of
        JAX stay on their devices, where minibatches are drawn from them. With the devices of
        several processes (`jax.distributed`) each gives its part of the examples, as many as the
        others; sizes of batches are those of all. The first process shows progress and writes the
        checkpoint, which all have to be able to read.

    Returns
    -------
    TrainingResult
        After Ctrl-C, SIGTERM and SIGHUP too (``status="interrupted"``), with all steps so far. The
        current step is finished first, unless the signal comes twice: then that step is undone.

    Raises
    ------
    TypeError, ValueError
        For data or arguments that do not fit, before anything is compiled.
    KeyboardInterrupt
        After Ctrl-C while the step is built or the checkpoint is read, with everything as it was,
        and at once when it comes three times. This and any other exception of a run has the
        attribute ``history``.

    Notes
    -----
    The history has one row per step with the columns step, seconds (of training, up to the end of
    the step), the fields of `StepInfo` and what ``evaluate`` returns, NaN in the rows without
    evaluation.

    A run ends early as

    - "converged" if it meets one of the tolerances; ``message`` says which, with the numbers. Steps
      that were undone do not count as changes of zero. For an optimizer that does not evaluate the
      loss after its step, as `SGD` and `Adam`, the losses of two steps are compared. Steps whose
      solve has not met its tolerance may be small far from an optimum, and count only for
      ``gradient_tolerance``.
    - "stalled" if a hundred such steps in a row were within ``loss_tolerance`` or
      ``update_tolerance``.
    - "diverged" if nine steps in a row failed while neither the damping grew nor the step became
      shorter, or the loss was a thousand times its initial value for nine steps without falling. In
      the latter case, or if the loss is not finite, the parameters with the lowest loss are
      restored.
    - "refused" if a hundred steps in a row were undone; ``message`` says why the last was.
    - "not_finite" if nothing was finite in the first nine steps: loss, gradient or solve.
    - "zero_gradient" if the gradient was exactly zero for nine steps and for all batches.

    In a run that reaches its limit earlier, three steps of high losses are enough for "diverged",
    and all its steps together for the last two.

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
    >>> loss = pt.sqr(y - t).mean() / 2
    >>> objective = symng.Objective(loss, output=y, params=[w], inputs=[x], targets=[t])
    >>> result = symng.minimize(
    ...     objective, symng.NaturalGradient(damping=1e-3), data=(X, T), batch_size=50,
    ...     metric_batch="other", max_steps=20, progress=False, mode="FAST_COMPILE",
    ... )
    >>> w.get_value().round(3), result.history["loss"].shape, result.status
    (array([ 1., -2.,  3.]), (20,), 'max_steps')
    """
    tolerances = Tolerances(
        gradient=gradient_tolerance, loss=loss_tolerance, update=update_tolerance
    )
    ends = is_stream(data) and not can_restart(data)
    check_limits(max_steps, max_seconds, target_loss, tolerances, callback, ends=ends)
    check_evaluation(evaluate, evaluate_every, evaluate_data)
    check_early_stopping(early_stopping, evaluate)
    check_batches(batch_size, metric_batch, metric_batch_size, search_batch, seed)
    check_checkpoint(checkpoint, checkpoint_seconds, checkpoint_every, keep, resume)
    check_flag("progress", progress)
    check_flag("drop_last", drop_last)
    is_full = batch_size is None and not is_stream(data)
    saving = CheckpointSettings(checkpoint, checkpoint_seconds, checkpoint_every, keep, resume)
    with (
        Interrupts() as interrupts,
        _with_history(KeyboardInterrupt, None),
        CheckpointFile(saving) as file,
    ):
        with interrupts.immediate():
            step = CompiledStep(
                objective,
                optimizer,
                mode,
                chunk_size,
                average_decay=average_decay,
                updates=updates,
                refuses_increases=is_full,
                devices=devices,
            )
            parts = step.processes.parts_of(data)
            with step.processes.together("data"):
                sampler = make_sampler(
                    objective,
                    step.metric_inputs,
                    data,
                    np.random.default_rng(seed),
                    batch_size=share("batch_size", batch_size, parts),
                    drop_last=drop_last,
                    metric_batch=metric_batch,
                    metric_data=metric_data,
                    metric_batch_size=share("metric_batch_size", metric_batch_size, parts),
                    search_batch=search_batch,
                )
                _try_out(step, sampler)
            best = None if early_stopping is None else BestEvaluation(early_stopping)
            prefetcher = Prefetcher(sampler, step.place, max_steps) if sampler.is_lazy else None
            run = TrainingRun(step, sampler, file, best, prefetcher, parts)
        run.resume()
        if step.processes.count > 1:
            step.check_agreement({"checkpoint, steps": run.steps}, *sampler.peek())
        shows = progress and step.processes.is_first
        limits = Limits(max_steps, max_seconds, target_loss)
        evaluation = Evaluation(evaluate, evaluate_data, evaluate_every)
        losses = run.history["loss"] if run.steps else ()
        watch = Watch(step, is_full, sampler.batches_per_epoch, losses, run.best)
        # An average, and running statistics, go on to change after the parameters.
        stays = is_full and average_decay is None and not step.updated
        convergence = ConvergenceTest(tolerances, objective.params, stays, run.comparable_history)
        with (
            _with_history(BaseException, run),
            ProgressBar(max_steps, max_seconds, quiet=not shows) as bar,
            step.keep_on_device(sampler.data, sampler.metric_data),
        ):
            reached = limits.reached(run)
            stepper = Stepper(run, watch, convergence, limits, evaluation, callback, bar, reached)
            try:
                stepper.take_steps(interrupts)
            finally:
                if prefetcher is not None:
                    prefetcher.close()
                if not interrupts.must_stop:
                    step.sync_to_host()
                    run.save(watch.best, final=True)
                if interrupts.count:
                    stepper.ending = "interrupted"
            return make_result(run, stepper)


@contextmanager
def _with_history(kind: type[BaseException], run: TrainingRun | None) -> Iterator[None]:
    """Give the history of a run to an exception that ends it, unless it has one."""
    try:
        yield
    except kind as error:
        if not hasattr(error, "history"):
            error.history = History() if run is None else run.history  # type: ignore[attr-defined]
            if run is not None:
                error.add_note(
                    f"minimize: {run.steps} steps were taken; their history is in the attribute "
                    "`history` of this exception."
                )
        raise


def _try_out(step: CompiledStep, sampler: Sampler) -> None:
    """Build the step and evaluate the model on the first batches, before minutes of compilation."""
    gradient, metric, search = sampler.peek()
    step.build_for(gradient, metric, search)
    step.check_shapes("data", gradient)
    if (short := sampler.peek_short()) is not None:
        step.check_shapes("data (the shorter last batch)", short)
    if metric is not None and sampler.metric_batch == "own":
        step.check_shapes("metric_data", metric)
    groups = step.objective.by_term("data", gradient)
    for term, arrays in zip(step.objective.terms, groups, strict=True):
        warn_of_mismatch(term, step.optimizer, arrays)
        warn_of_unseen_sum(term, step.optimizer, arrays)
