"""The loop of ``natgrad``: steps, validation, printed lines and files."""

from __future__ import annotations

import pickle
import time
from typing import Any

import numpy as np

from symng._files import write_atomically, write_npz
from symng.legacy.natgrad.state import require
from symng.legacy.natgrad.utils import print_mem, print_time

_KEYS = "prefix overwrite loopIters timeStop minerr trainFreq validFreq saveFreq".split()
# Costs before the first one is known.
_UNKNOWN = 1e20


class MainLoop:
    """Take steps until one of the limits, validate, keep the best parameters, and write files.

    Parameters
    ----------
    data : object
        Not used.
    model : object
        With params, best_params, validate, test_eval and save, as `mlp`.
    algo : natSGD or SGD
        Called once a step.
    state : dict
        Settings: prefix, overwrite, loopIters, timeStop (minutes), minerr, trainFreq, validFreq
        (steps) and saveFreq (minutes). The costs of the run are written to it.
    channel : object or None
        Its method ``save`` is called each time files are written.

    Attributes
    ----------
    timings : dict of arrays
        The columns of the run, by the names in ``algo.return_names``, and valid and test.
    step : int
        Steps taken.

    Notes
    -----
    The run ends after loopIters steps, after timeStop minutes, with a cost of a tenth of minerr or
    less, or with one that is not finite. It writes ``<prefix>timing.npz`` with the columns,
    ``<prefix>model.npz`` by the model, with the number of the file before ``.npz`` unless
    ``overwrite``, and ``<prefix>state.pkl``: at the start, each saveFreq minutes, and at the end.

    Examples
    --------
    >>> import contextlib, io, tempfile
    >>> from types import SimpleNamespace
    >>> from symng.legacy.natgrad import MainLoop
    >>> class Halving:
    ...     return_names, cost = ["cost"], 1.0
    ...
    ...     def __call__(self):
    ...         self.cost /= 2
    ...         return {"cost": self.cost}
    >>> model = SimpleNamespace(
    ...     params=[], validate=lambda: 2.0, test_eval=lambda: 3.0, save=lambda filename: None
    ... )
    >>> state = dict(loopIters=3, timeStop=1, minerr=0.0, trainFreq=1, validFreq=2, saveFreq=1)
    >>> with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
    ...     state |= dict(prefix=f"{folder}/run_", overwrite=1)
    ...     loop = MainLoop(None, model, Halving(), state, None)
    ...     loop.main()
    >>> loop.timings["cost"].tolist(), state["bvalidcost"], state["testcost"]
    ([0.5, 0.25, 0.125], 2.0, 3.0)
    """

    def __init__(
        self, data: Any, model: Any, algo: Any, state: dict[str, Any], channel: Any
    ) -> None:
        require(state, _KEYS, "MainLoop")
        self.data, self.model, self.algo = data, model, algo
        self.state, self.channel = state, channel
        names = ("validcost", "bvalidcost", "testcost", "traincost", "btraincost")
        state.update(dict.fromkeys(names, _UNKNOWN), validtime=0)
        steps, validations = int(state["loopIters"]), int(state["loopIters"] // state["validFreq"])
        rows = -(-steps // state["trainFreq"])
        self.timings = {name: np.zeros(rows, "float32") for name in algo.return_names}
        self.timings |= {name: np.zeros(validations + 1, "float32") for name in ("valid", "test")}
        self.step = self.save_iter = 0
        self._notify_channel()
        self.start_time = self.batch_start_time = self.save_time = time.time()

    def validate(self) -> None:
        """Compute the validation cost, and the test cost where it is the best so far."""
        cost, state = self.model.validate(), self.state
        print(
            f"** validation cost {cost:6.3f} computed in "
            f"{print_time(time.time() - self.batch_start_time)}, best cost is "
            f"{state['bvalidcost']:6.3f}, test {state['testcost']:6.3f}, whole time "
            f"{self._minutes():6.3f} min"
        )
        self.batch_start_time = time.time()
        row = self.step // state["validFreq"]
        self.timings["valid"][row], self.timings["test"][row] = cost, state["testcost"]
        state["validcost"], state["validtime"] = float(cost), self._minutes()
        if state["bvalidcost"] > cost:
            state["bvalidcost"], state["btraincost"] = float(cost), float(state["traincost"])
            self.test()
        print_mem("validate")

    def test(self) -> None:
        """Keep the parameters as the best ones, and compute the test cost."""
        self.model.best_params = [
            (p.name, np.array(p.get_value(borrow=True))) for p in self.model.params
        ]
        cost = self.model.test_eval()
        print(">>> Test cost", cost)
        self.timings["test"][self.step // self.state["validFreq"]] = cost
        self.state["testcost"] = float(cost)

    def save(self) -> None:
        """Write the three files."""
        prefix = self.state["prefix"]
        write_npz(f"{prefix}timing.npz", self.timings)
        number = "" if self.state["overwrite"] else self.save_iter
        self.model.save(f"{prefix}model{number}.npz")
        write_atomically(f"{prefix}state.pkl", lambda file: pickle.dump(self.state, file))
        self.save_iter += 1

    def main(self) -> None:
        """Run."""
        print_mem("start")
        state, cost = self.state, 1.0
        state["gotNaN"] = 0
        self.start_time = self.batch_start_time = time.time()
        self.step = self.save_iter = 0
        self._save_all()
        while (
            self.step < state["loopIters"]
            and cost > 0.1 * state["minerr"]
            and self._minutes() < state["timeStop"]
        ):
            if (time.time() - self.save_time) / 60 > state["saveFreq"]:
                self._save_all()
            try:
                cost = self._take_step()
            except BaseException:
                state["wholetime"] = self._minutes() * 60
                self._save_all()
                print("Error in running natgrad (lr issue)")
                self._print_scores()
                raise
        state["wholetime"] = self._minutes() * 60
        self.validate()
        self._save_all()
        self._print_scores()

    def _take_step(self) -> float:
        """Take a step, record it, and return its cost; 0 where that is not finite."""
        state, values = self.state, self.algo()
        cost = state["traincost"] = float(values["cost"])
        state["step"] = self.step
        for name, value in values.items():
            self.timings[name][self.step // state["trainFreq"]] = value
        if not np.isfinite(cost):
            state["gotNaN"] = 1
            self._save_all()
            print("Got NaN while training")
            cost = 0.0
        if self.step % state["validFreq"] == 0:
            self.validate()
        self.step += 1
        return cost

    def _save_all(self) -> None:
        """Write the files, and notify the channel."""
        self.save()
        self._notify_channel()
        self.save_time = time.time()

    def _notify_channel(self) -> None:
        if self.channel is not None:
            self.channel.save()

    def _minutes(self) -> float:
        return (time.time() - self.start_time) / 60

    def _print_scores(self) -> None:
        """Print the last and the best costs."""
        state = self.state
        print("BEST SCORE")
        print("Validation", state["validcost"])
        print("Validation time", print_time(state["validtime"] * 60))
        print("Train cost", state["traincost"])
        print("Best Train", state["btraincost"])
        print("Best Valid", state["bvalidcost"])
        print("TEST", state["testcost"])
        print("Took", self._minutes(), "min")
