"""Loops over named symbolic state: the only module that calls `pytensor.scan`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, TypeVar, runtime_checkable

import pytensor
import pytensor.tensor as pt
from pytensor.compile.ops import TypeCastingOp
from pytensor.graph.basic import Apply, Constant, Variable
from pytensor.graph.traversal import toposort
from pytensor.scalar.basic import Mul, ScalarType
from pytensor.scan.utils import until
from pytensor.tensor.elemwise import DimShuffle, Elemwise
from pytensor.tensor.variable import TensorVariable

from symng.graphs.rebuild import V, rebuild
from symng.graphs.types import Integer

Entries = dict[str, TensorVariable]


@runtime_checkable
class _Record(Protocol):
    """A NamedTuple."""

    def _asdict(self) -> dict[str, TensorVariable | _Record | None]: ...


State = TypeVar("State", bound=Entries | _Record)


def while_loop(
    body: Callable[[State], State],
    cond: Callable[[State], TensorVariable],
    state: State,
    max_iterations: Integer,
) -> State:
    """Repeat ``state = body(state)`` while ``cond(state)``, at most ``max_iterations`` times.

    Parameters
    ----------
    body : callable
        Takes the state and returns the next one, with the same names. Every entry keeps its number
        of dimensions; dtype and static shape are those of the initial state.
    cond : callable
        Takes the state, returns a symbolic Boolean scalar. Also tested before the first round.
    state : dict or NamedTuple
        The initial state: symbolic tensors by name. A field of a NamedTuple may be another
        NamedTuple, or None, which stays None.
    max_iterations : int or symbolic integer scalar
        The largest number of rounds.

    Returns
    -------
    dict or NamedTuple
        The state after the last round; the initial state if there was none.

    Notes
    -----
    Only the last value of each entry is kept. What ``body`` computes only from variables outside of
    the loop is moved out of it here, not by a later rewrite: it is computed once in every mode, and
    a random draw in it stays one draw.
    """
    initial: Entries = {n: pt.as_tensor_variable(v) for n, v in _flatten(state).items()}
    current: Entries = {name: value.type() for name, value in initial.items()}
    result = _flatten(body(_unflatten(state, current)))
    if set(result) != set(initial):
        raise ValueError(f"body: expected the entries {list(initial)}, got {list(result)}.")
    following = {name: _like(result[name], value) for name, value in initial.items()}
    stop = pt.invert(_as_bool(cond(_unflatten(state, following))))
    start = _as_bool(cond(_unflatten(state, initial)))
    n_steps = pt.switch(start, pt.cast(max_iterations, "int64"), 0)

    varying = list(current.values())
    outputs = _gather_factors(_put_barriers([*following.values(), stop], varying), varying)
    return _unflatten(state, _scan(initial, current, outputs, n_steps))


def _scan(
    initial: Entries, current: Entries, outputs: Sequence[TensorVariable], n_steps: TensorVariable
) -> Entries:
    """Return the entries after at most ``n_steps`` rounds of a scan.

    ``outputs`` are the next entries and whether to stop, computed from the ``current`` ones.
    """
    packing = _Packing(initial)
    packed = packing.pack(initial)
    outer = invariants(outputs, current.values())

    def step(*arguments: TensorVariable) -> tuple[list[TensorVariable], until]:
        values = packing.unpack(arguments[: len(packed)])
        replace: dict[Variable, Variable] = {current[name]: values[name] for name in current}
        replace.update(zip(outer, arguments[len(packed) :], strict=True))
        *following, stop = rebuild(outputs, replace)
        return packing.pack(dict(zip(current, following, strict=True))), until(stop)

    # Scan infers the shape of each buffer from the graphs of its initial state and of the number of
    # steps. With placeholders for these it does not walk the model once for each state.
    n, placeholders = pt.lscalar("n_steps"), [value.type() for value in packed]
    traces = pytensor.scan(
        step,
        outputs_info=placeholders,
        non_sequences=outer,
        n_steps=n,
        strict=True,
        return_updates=False,
    )
    traces = traces if isinstance(traces, list | tuple) else [traces]
    lasts = [_last(trace, value) for trace, value in zip(traces, packed, strict=True)]
    given = dict(zip([n, *placeholders], [n_steps, *packed], strict=True))
    return packing.unpack(rebuild(lasts, given))


def _flatten(state: Entries | _Record, prefix: str = "") -> Entries:
    """Return the tensors of a state by name; those of a nested NamedTuple as "outer.inner"."""
    entries: Entries = {}
    fields = state if isinstance(state, dict) else state._asdict()
    for name, value in fields.items():
        if isinstance(value, _Record):
            entries |= _flatten(value, f"{prefix}{name}.")
        elif value is not None:
            entries[prefix + name] = value
    return entries


def _unflatten(pattern: State, entries: Entries, prefix: str = "") -> State:
    """Return a state of the form of ``pattern`` with the tensors in ``entries``."""
    make: Callable[..., State] = type(pattern)
    if isinstance(pattern, dict):
        return make({name: entries[name] for name in pattern})
    values = {
        name: _unflatten(value, entries, f"{prefix}{name}.")
        if isinstance(value, _Record)
        else entries.get(prefix + name)
        for name, value in pattern._asdict().items()
    }
    return make(**values)


class _Packing:
    """Pack a state into fewer variables: each array, and a vector of the numbers of each dtype."""

    def __init__(self, state: Mapping[str, TensorVariable]) -> None:
        self.arrays = [name for name, value in state.items() if value.type.ndim]
        self.numbers: dict[str, list[str]] = {}
        for name, value in state.items():
            if value.type.ndim == 0:
                self.numbers.setdefault(value.type.dtype, []).append(name)

    def pack(self, state: Mapping[str, TensorVariable]) -> list[TensorVariable]:
        """Return the arrays, then the vectors."""
        vectors = [pt.stack([state[name] for name in names]) for names in self.numbers.values()]
        return [*(state[name] for name in self.arrays), *vectors]

    def unpack(self, variables: Sequence[TensorVariable]) -> Entries:
        """Return the entries by name; the inverse of `pack`."""
        count = len(self.arrays)
        state = dict(zip(self.arrays, variables[:count], strict=True))
        for names, vector in zip(self.numbers.values(), variables[count:], strict=True):
            state.update({name: vector[i] for i, name in enumerate(names)})
        return state


class _Barrier(TypeCastingOp):
    """The identity, as an op that no rewrite looks through."""

    def make_node(self, *inputs: Variable) -> Apply:
        return Apply(self, list(inputs), [inputs[0].type()])

    def do_constant_folding(self, *arguments: object) -> bool:
        return False

    def infer_shape(self, *arguments: object) -> object:
        return arguments[-1]  # the shapes, after the node and, in early PyTensor 3, the graph


def optimization_barrier(x: Variable) -> TensorVariable:
    """Return ``x`` behind a barrier that no rewrite of PyTensor looks through.

    PyTensor fuses elementwise ops and gathers factors across products. Without a barrier a scalar
    coefficient would be recomputed for every element of a vector, and a vector would be recomputed
    from its factors.
    """
    return pt.as_tensor_variable(_Barrier()(x))


def _put_barriers(outputs: Sequence[V], varying: Sequence[Variable]) -> list[V]:
    """Return ``outputs`` with a barrier around each number that scales an array."""

    def rewrite(node: Apply, new: Mapping[Variable, Variable]) -> list[Variable]:
        inputs = [new.get(variable, variable) for variable in node.inputs]
        source = node.inputs[0]
        if isinstance(node.op, DimShuffle) and source.type.ndim == 0 and source.owner is not None:
            inputs[0] = optimization_barrier(inputs[0])
        return node.clone_with_new_inputs(inputs).outputs

    return rebuild(outputs, {v: v for v in varying}, rewrite)


def _gather_factors(outputs: Sequence[V], varying: Sequence[Variable]) -> list[V]:
    """Return ``outputs`` with the factors of each product that do not vary multiplied first.

    Their product, such as y (1 - y), the derivative of a sigmoid, is then computed before the loop.
    """
    # Of each product, the factors that vary and those that do not.
    factors: dict[Variable, tuple[list[Variable], list[Variable]]] = {}
    nodes = toposort(outputs, blockers=set(varying))
    uses = Counter(variable for node in nodes for variable in node.inputs) + Counter(outputs)

    def rewrite(node: Apply, new: Mapping[Variable, Variable]) -> list[Variable]:
        results = node.clone_with_new_inputs(
            [new.get(variable, variable) for variable in node.inputs]
        ).outputs
        if not (isinstance(node.op, Elemwise) and isinstance(node.op.scalar_op, Mul)):
            return results
        varied: list[Variable] = []
        fixed: list[Variable] = []
        for variable in node.inputs:
            inner = factors.get(variable) if uses[variable] == 1 else None
            if inner is not None:
                varied += inner[0]
                fixed += inner[1]
            else:
                (varied if variable in new else fixed).append(new.get(variable, variable))
        factors[node.outputs[0]] = varied, fixed
        type_ = results[0].type
        is_worth_it = len(fixed) > 1 and any(
            f.type.ndim == type_.ndim > 0 and not any(f.type.broadcastable) for f in fixed
        )
        if not is_worth_it or any(f.type.dtype != type_.dtype for f in varied + fixed):
            return results
        return [pt.mul(*varied, pt.mul(*fixed))]

    return rebuild(outputs, {v: v for v in varying}, rewrite)


def map_rows(
    fn: Callable[[TensorVariable], TensorVariable], matrix: TensorVariable
) -> TensorVariable:
    """Apply ``fn``, a function of vectors, to each row of ``matrix`` and stack the results."""
    matrix = pt.as_tensor_variable(matrix)
    row = matrix.type.clone(shape=matrix.type.shape[1:])()
    value = fn(row)
    outer = invariants([value], [row])

    def step(*arguments: TensorVariable) -> Variable:
        return rebuild([value], dict(zip([row, *outer], arguments, strict=True)))[0]

    return pytensor.scan(
        step, sequences=[matrix], non_sequences=outer, strict=True, return_updates=False
    )


def invariants(outputs: Sequence[Variable], varying: Iterable[Variable]) -> list[Variable]:
    """Return what ``outputs`` are computed from besides ``varying``, as variables for a scan.

    Each depends on none of ``varying``, and is the last such variable on its path to the outputs.
    """
    depends = set(varying)
    needed: list[Variable] = []
    for node in toposort(outputs, blockers=set(varying)):
        if any(variable in depends for variable in node.inputs):
            depends.update(node.outputs)
            needed += node.inputs
    needed += outputs
    found: dict[Variable, None] = {}
    while needed:
        v = needed.pop(0)
        if v in depends or isinstance(v, Constant):
            continue
        if isinstance(v.type, ScalarType) and v.owner is not None:
            needed[:0] = v.owner.inputs  # scan takes tensors, but no scalars such as an index
        else:
            found[v] = None
    return list(found)


def _like(value: pt.TensorLike, pattern: TensorVariable) -> TensorVariable:
    """Return ``value`` with the dtype and the static shape of ``pattern``."""
    tensor = pt.cast(pt.as_tensor_variable(value), pattern.type.dtype)
    if not pattern.type.is_super(tensor.type):
        tensor = pt.specify_shape(tensor, pattern.type.shape)
    return tensor


def _as_bool(value: pt.TensorLike) -> TensorVariable:
    """Return a condition as a symbolic Boolean scalar."""
    return pt.cast(pt.as_tensor_variable(value), "bool")


def _last(trace: TensorVariable, initial: TensorVariable) -> TensorVariable:
    """Return the last value of a scan output, or the initial one if there was no round.

    `pytensor.scan` returns the trace without the initial value, so it is empty after no round; the
    buffer that it is a slice of has both.
    """
    node = trace.owner
    if node is None or not node.inputs[0].owner:
        raise RuntimeError(
            f"expected pytensor.scan to return a part of a buffer, got {trace}. This version of "
            "PyTensor is not supported."
        )
    last: TensorVariable = pt.as_tensor_variable(node.inputs[0])[-1]
    shape = initial.type.shape
    return last if last.type.shape == shape else pt.specify_shape(last, shape)
