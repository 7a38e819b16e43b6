"""The state of a run: the presets, and checks of its keys."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from symng._checks import Verbatim, argument_error, check_instance, check_number, warn

# Keys that something reads.
_READ = frozenset(
    "path seed prefix overwrite profile nhid nkerns fold bs mbs ebs cbs unlabled natSGD matrix "
    "minresQLP mrtol miters trancond damp adapt adapt_start adapt_change adapt_decrease mindamp "
    "damp_ratio lr lr0 lr_beta lr_adapt lr_adapt_start lr_adapt_change lr_adapt_decrease loopIters "
    "timeStop minerr trainFreq validFreq saveFreq quirks".split()
)
# Keys that a run writes.
_WRITTEN = frozenset(
    "validcost bvalidcost testcost traincost btraincost validtime step gotNaN wholetime".split()
)

_ADAPT = {4: ("adapt_start", "adapt_change", "adapt_decrease")}
_LR_ADAPT = {
    1: ("lr_adapt_start", "lr_adapt_change", "lr_adapt_decrease"),
    2: ("lr_adapt_start", "lr0", "lr_beta"),
}
# What a number must be: at least so much, and whole or not. The solver checks its own.
_NUMBERS: dict[str, tuple[float | None, bool]] = {
    **dict.fromkeys(("seed", "fold"), (0, True)),
    **dict.fromkeys(("bs", "mbs", "ebs", "cbs", "trainFreq", "validFreq"), (1, True)),
    **dict.fromkeys(("damp", "loopIters", "timeStop", "minerr", "saveFreq"), (0, False)),
    **dict.fromkeys(("adapt_start", "lr_adapt_start", "lr", "lr0"), (None, False)),
    **dict.fromkeys(("adapt_decrease", "lr_adapt_decrease", "mindamp"), (0, False)),
    **dict.fromkeys(("adapt_change", "lr_adapt_change"), (1, True)),
}
SIZES = ("bs", "mbs", "ebs", "cbs")
LEARNING = ("lr", "lr_adapt", "trainFreq")


def require(state: Mapping[str, Any], keys: Iterable[str], reader: str) -> None:
    """Refuse a state without one of the keys that a class reads, or with a wrong number in it."""
    check_instance("state", state, Mapping, "a dictionary, such as dict(state_mlpMNIST)")
    keys = tuple(keys)
    missing = [key for key in keys if key not in state]
    if missing:
        near = get_close_matches(missing[0], state, n=1)
        hint = f"Is {near[0]!r} meant to be it?" if near else "A preset has all of them."
        expected = f"the key {missing[0]!r}, which {reader} reads"
        raise argument_error("state", expected, Verbatim("a state without it"), hint)
    for key in keys:
        if key in _NUMBERS:
            least, whole = _NUMBERS[key]
            value = state[key]
            whole = whole and not (isinstance(value, float) and value.is_integer())
            check_number(f"state[{key!r}]", value, minimum=least, integer=whole, finite=False)


def require_rules(state: Mapping[str, Any], reader: str, *, damped: bool) -> None:
    """Refuse a rule for damping or step size that does not exist or lacks its keys."""
    rules: list[tuple[str, Mapping[int, tuple[str, ...]], tuple[int, ...]]]
    rules = [("lr_adapt", _LR_ADAPT, (0, 1, 2))]
    if damped:
        rules.append(("adapt", _ADAPT, (0, 1, 2, 3, 4)))
    for key, needed, known in rules:
        if state[key] not in known:
            words = ", ".join(map(str, known[:-1])) + f" or {known[-1]}"
            raise argument_error(f"state[{key!r}]", words, state[key])
        require(state, needed.get(int(state[key]), ()), f"{reader} with {key}={state[key]}")


def require_chunks(state: Mapping[str, Any], keys: Iterable[str]) -> None:
    """Refuse batches without a chunk in them."""
    for key in keys:
        size = state[key]
        if size < state["cbs"]:
            hint = "A batch is computed in chunks of cbs examples; those left over are not used."
            expected = f"at least cbs, {state['cbs']}"
            raise argument_error(f"state[{key!r}]", expected, size, hint)


def require_attributes(name: str, value: object, attributes: Iterable[str]) -> None:
    """Refuse a model or data without something that a method reads."""
    missing = [attribute for attribute in attributes if not hasattr(value, attribute)]
    if missing:
        got = Verbatim(f"one without it, of type {type(value).__name__}")
        raise argument_error(name, f"an object with {missing[0]!r}", got, error=TypeError)


def warn_of_unread(state: Mapping[str, Any]) -> None:
    """Warn of keys that nothing reads."""
    for key in state:
        if key not in _READ | _WRITTEN:
            near = get_close_matches(str(key), sorted(_READ), n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            warn(f"state: nothing reads the key {key!r}.{hint}")


# The settings of the scripts that came with the code. Copy one, `dict(state_mlpMNIST)`, and change
# what is to be different: a run writes to its state.
state_mlpMNIST: dict[str, Any] = dict(
    path="mnist.npz",
    prefix="mlp_",
    seed=203,
    nhid=1500,
    overwrite=1,
    profile=0,
    bs=2500,
    mbs=2500,
    ebs=2500,
    cbs=2500,
    unlabled=0,
    natSGD=1,
    matrix="KL",
    minresQLP=1,
    mrtol=1e-4,
    miters=30,
    trancond=1e-3,
    damp=6.0,
    adapt=1,
    adapt_start=100,
    adapt_change=100,
    adapt_decrease=0.5,
    lr=1.0,
    lr0=1.0,
    lr_beta=20,
    lr_adapt=2,
    lr_adapt_start=150,
    lr_adapt_change=100,
    lr_adapt_decrease=0.5,
    loopIters=2000,
    timeStop=30,
    minerr=1e-5,
    trainFreq=1,
    validFreq=10,
    saveFreq=2,
)

state_convMNIST: dict[str, Any] = dict(
    path="mnist.npz",
    prefix="Conv_",
    seed=200,
    nkerns="[32,64]",
    nhid=750,
    overwrite=1,
    profile=0,
    bs=10000,
    mbs=10000,
    ebs=4000,
    cbs=1000,
    unlabled=1,
    natSGD=1,
    matrix="KL",
    minresQLP=1,
    mrtol=1e-4,
    miters=40,
    trancond=1e-3,
    damp=6.0,
    adapt=1,
    adapt_start=100,
    adapt_change=100,
    adapt_decrease=0.5,
    lr=1.0,
    lr_adapt=1,
    lr_adapt_start=150,
    lr_adapt_change=100,
    lr_adapt_decrease=0.5,
    loopIters=1000,
    timeStop=4,
    minerr=1e-5,
    trainFreq=1,
    validFreq=10,
    saveFreq=20,
)

state_TFD: dict[str, Any] = dict(
    path="",
    prefix="conv_",
    seed=123,
    fold=0,
    overwrite=1,
    profile=0,
    bs=256,
    mbs=384,
    ebs=256,
    cbs=128,
    unlabled=1,
    natSGD=1,
    matrix="KL",
    minresQLP=1,
    mrtol=1e-4,
    miters=50,
    trancond=1e-4,
    damp=5.0,
    adapt=1,
    mindamp=0.5,
    damp_ratio=5 / 4,
    lr=0.2,
    lr_adapt=0,
    loopIters=6000,
    timeStop=1920,
    minerr=1e-5,
    trainFreq=1,
    validFreq=20,
    saveFreq=20,
)
