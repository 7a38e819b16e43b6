"""The programs of a step: compiled for each combination of batches when it is first met."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from pytensor.compile import Function
from pytensor.compile.mode import Mode

from symng.backends import enabled_backend, fallback_mode, warn_of_other_backend
from symng.backends.failures import backend_failure, comes_from
from symng.backends.generators import sync_generators
from symng.graphs.building import building
from symng.objective import ObjectiveLike
from symng.objective.dry_run import DryRun
from symng.optimizers import Step
from symng.training.batch_arrays import BatchArrays, Batches, Groups, Layouts, names_of_terms
from symng.training.program import Program, Records
from symng.training.stages import begin_stage


class Programs:
    """Compile and call programs, and explain the errors of both.

    Attributes
    ----------
    by_layouts : dict
        The programs compiled so far.
    arrays : BatchArrays
        The batches as programs take them, on the backend of the programs.
    seconds : float
        Seconds spent compiling so far, without those spent building the graphs.
    """

    def __init__(
        self,
        objective: ObjectiveLike,
        chunk_size: int | None,
        mode: str | Mode | None,
        build: Callable[[Layouts], Step],
        by_example: bool = False,
    ) -> None:
        self.arrays = BatchArrays(objective, chunk_size, enabled_backend(mode))
        self.by_layouts: dict[Layouts, Program] = {}
        self.seconds = 0.0
        self._latest: Program | None = None
        self._mode, self._build = mode, build
        self._objective = objective
        # Whether gradients of single examples, or of chunks, have to be those in the full batch.
        self._by_example = by_example or chunk_size is not None
        self._dry_runs = [DryRun(term.model) for term in objective.terms]

    @property
    def functions(self) -> list[Function]:
        """The compiled functions of all programs."""
        return [function for program in self.by_layouts.values() for function in program.functions]

    def check_shapes(self, name: str, groups: Groups, *, again: bool = False) -> None:
        """Evaluate the model on a batch in plain Python, unless arrays of these lengths passed.

        With ``again`` it is evaluated in any case.
        """
        self.arrays.check(name, groups)
        names = names_of_terms(self._objective, name)
        chunks = self.arrays.first_chunks(groups)
        for own, dry_run, arrays, full in zip(names, self._dry_runs, chunks, groups, strict=True):
            is_new = not dry_run.knows(arrays)
            if again or is_new:
                dry_run(own, arrays)
            if is_new and self._by_example:
                dry_run.check_examples(full, chunked=self.arrays.chunk_size is not None)

    def has(self, batches: Batches) -> bool:
        """Return whether the program for a combination of batches is compiled."""
        return self.arrays.layouts(batches) in self.by_layouts

    @building()
    def compile(self, batches: Batches) -> None:
        """Compile the program for a combination of batches."""
        try:
            self._compile(batches)
        except Exception as error:
            fallback = fallback_mode(self._mode)
            if fallback is None:
                raise
            self._mode = fallback
            self.arrays.change_backend(enabled_backend(fallback))
            self._compile(batches)
            warn_of_other_backend(error, self.arrays.backend)

    def run(self, batches: Batches) -> Records:
        """Call the program for a combination of batches and return its records."""
        self._latest = self.by_layouts[self.arrays.layouts(batches)]
        with self._explained(batches):
            return self._latest(self.arrays.flatten(batches))

    def sync_generators(self) -> None:
        """Advance shared generators to the states of their copies in the last program run."""
        if self._latest is not None:
            sync_generators(self._latest.functions[-1:])

    def _compile(self, batches: Batches) -> None:
        """Compile the program on the current backend."""
        layouts = self.arrays.layouts(batches)
        step = self._build(layouts)
        start = time.perf_counter()
        backend = self.arrays.backend
        compiles_now = backend.compiler and not backend.compiles_on_first_call
        begin_stage("PyTensor's rewrites" + f" and {backend.compiler}" * bool(compiles_now))
        self.by_layouts[layouts] = Program(step, self._mode)
        if backend.compiles_on_first_call:
            begin_stage(backend.describe_compiler())
        with self._explained(batches):
            self.by_layouts[layouts].compile(self.arrays.flatten(batches))
        self.seconds += time.perf_counter() - start

    @contextmanager
    def _explained(self, batches: Batches) -> Iterator[None]:
        """Name the batch that does not fit the model, or the backend, in an error."""
        try:
            yield
        except Exception as error:
            if not comes_from(error, "pytensor"):  # it comes from a search on the host
                raise
            for name, groups in batches.items():
                self.check_shapes(f"{name}_batch", groups, again=True)
            arrays = [a for groups in batches.values() for group in groups for a in group]
            raise backend_failure(error, self.arrays.backend, arrays) from error
