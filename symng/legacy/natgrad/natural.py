"""The natural gradient of ``natgrad``, with `symng.legacy.minresQLP` or `minres` as solver."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

import numpy as np
import pytensor
import pytensor.tensor as pt
from pytensor.tensor.variable import TensorVariable

from symng._checks import argument_error
from symng.backends import compile_function
from symng.graphs.rebuild import rebuild
from symng.graphs.rewrites import accumulate_in_own_dtype
from symng.legacy._broadcasting import fit
from symng.legacy.minres import messages as minres_messages
from symng.legacy.minres import minres
from symng.legacy.minresQLP import messages as minresQLP_messages
from symng.legacy.minresQLP import minresQLP
from symng.legacy.natgrad._descent import Descent
from symng.legacy.natgrad.state import require, require_attributes
from symng.legacy.natgrad.utils import print_time
from symng.objective.chunks import sum_of_chunks

# Thresholds of rho, and the damping below which the rule does not shrink it further (adapt 1).
_LOWER, _UPPER, _LEAST = 0.25, 0.75, 1e-4
# The same where adapt is 2: below it, damping ends. What a damping of 0 grows to.
_LEAST_OF_2 = 1e-6
_FROM_ZERO = {1: 1e-5, 2: 1e-6}
# The iterations that shrink and grow the damping where adapt is 3, and its bounds.
_FEW, _MANY, _BOUNDS_OF_3 = 5, 30, (1e-5, 1024)
_RATIO = 3 / 2


class Solve(NamedTuple):
    """What a solve returned, as numbers."""

    flag: int
    niters: int
    relres: float
    Anorm: float
    Acond: float
    norm_grad: float
    norm_nat: float
    norm_ord0: float
    slope: float  # g·r


class natSGD(Descent):
    """Natural gradient descent on a model known by its graphs: called once a step.

    Parameters
    ----------
    model : object
        With params, params_shape, inputs, x, y, train_cost, error and the method Gvs, as `mlp`.
    state : dict
        Settings; ``state_mlpMNIST`` has them all. With ``quirks`` true also what the original did
        where it was wrong.
    data : object
        With the attributes and methods that `DataMNIST` has.

    Attributes
    ----------
    return_names : list of str
        The keys of what a step returns.
    step : int
        Steps taken.
    lr : float
        The step size.
    damping : shared float32
        λ.
    gs, rs : lists of shared variables
        The gradient, and the natural gradient.
    old_cost : float
        The cost of the last evaluation.

    Notes
    -----
    A step goes to the next batch and computes its gradient g; goes to the batch of the metric and
    solves (G + λI) x = g / norm(g), with r = norm(g) x; goes back, and compares the costs at p and
    p - lr r: rho = (new - old) / (-lr g·r). Damping and step size are changed by ``adapt`` and
    ``lr_adapt``. Each ``trainFreq`` steps cost and error of the first ebs training examples are
    those after a step of the new size, and a cost of more than 6 btraincost ends the run. Then
    p - lr r is taken; no step is refused.

    Examples
    --------
    >>> import contextlib, io, tempfile
    >>> import numpy as np
    >>> from symng.legacy.natgrad import DataMNIST, mlp, natSGD, state_mlpMNIST
    >>> rng = np.random.RandomState(0)
    >>> x = rng.rand(60, 3)
    >>> y = (x.sum(axis=1) > 1.5).astype("int32")
    >>> state = dict(state_mlpMNIST, nhid=4, bs=20, mbs=20, ebs=20, cbs=20)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(
    ...         f"{folder}/data.npz", train_x=x, train_y=y, valid_x=x, valid_y=y, test_x=x, test_y=y
    ...     )
    ...     data = DataMNIST(f"{folder}/data.npz", 20, 20, rng, 0)
    >>> step = natSGD(mlp(state, data), state, data)
    >>> with contextlib.redirect_stdout(io.StringIO()):
    ...     costs = [step()["cost"] for _ in range(3)]
    >>> costs[2] < costs[0]
    True
    """

    return_names = (
        "cost error time_grads time_metric time_eval minres_flag minres_iters minres_relres "
        "minres_Anorm minres_Acond norm_ord0 norm_grad norm_nat lr grad_angle r_g icost damping rho"
    ).split()

    def __init__(self, model: Any, state: dict[str, Any], data: Any) -> None:
        keys = ("damp", "adapt", "minresQLP", "mrtol", "miters")
        require_attributes("model", model, ("Gvs",))
        require_attributes("data", data, ("_natgrad", "_natgrady"))
        super().__init__(model, state, data, keys)
        if state["minresQLP"]:
            require(state, ("trancond",), "natSGD with minresQLP")
        self.quirks = bool(state.get("quirks", False))
        self.damping = pytensor.shared(np.array(state["damp"], "float32"), name="damping")
        self.rs = self._zeros()
        self._cost, self._error = 0.0, 0.0
        self._chunks = self.mbs // self.cbs
        self.msgs = minresQLP_messages if state["minresQLP"] else minres_messages

        index = pt.iscalar("batch_idx")
        rows = slice(index * self.cbs, (index + 1) * self.cbs)
        self._metric_chunk = self._reader(index, [data._natgrad[rows], data._natgrady[rows]])
        self._solve = self._compile_solve()
        self._compile_evaluation(self.rs)

    def _compile_solve(self) -> Any:
        """Return a function from the batch of the metric to a `Solve`; it updates `rs`."""
        model, state = self.model, self.state
        given = [model.x, model.y]
        if self._chunks > 1:
            given = [
                pt.TensorType(v.type.dtype, shape=(self._chunks, *v.type.shape))(f"{v.name}s")
                for v in given
            ]
        gs = [
            pt.specify_shape(g, shape) for g, shape in zip(self.gs, model.params_shape, strict=True)
        ]
        norm_grad = pt.sqrt(_sum(pt.sqr(g).sum() for g in gs))
        unit = pt.switch(norm_grad > 0, norm_grad, pt.ones_like(norm_grad))
        bs = [g / unit for g in gs]
        settings: dict[str, Any] = dict(
            rtol=state["mrtol"], maxit=state["miters"], damp=self.damping, quirks=self.quirks
        )

        def product(*vs: TensorVariable) -> tuple[list[TensorVariable], dict[Any, Any]]:
            return self._product(given, vs), {}

        if state["minresQLP"]:
            settings["TranCond"] = state["trancond"]
            x, *scalars = minresQLP(product, bs, model.params_shape, **settings)
        else:
            x, *scalars = minres(product, bs, **settings)
            # Where the original looks for Anorm and Acond, its minres has relAres and Anorm.
            scalars = scalars if self.quirks else [*scalars[:3], *scalars[4:]]
        rs = [pt.cast(part * norm_grad, self.floatX) for part in x]
        outputs = [
            *scalars[:5],
            norm_grad,
            pt.sqrt(_sum(pt.sqr(r).sum() for r in rs)),
            _largest([abs(r).max() for r in rs]),
            _sum((g * r).sum() for g, r in zip(gs, rs, strict=True)),
        ]
        updates = [(old, fit(new, old)) for old, new in zip(self.rs, rs, strict=True)]
        return compile_function(given, outputs, updates=updates, on_unused_input="ignore")

    def _product(self, given: list[Any], vs: Any) -> list[TensorVariable]:
        """Return the metric times a list of tensors: the sum over the chunks."""
        model = self.model
        parts = [accumulate_in_own_dtype(part) for part in model.Gvs(*vs)]
        if self._chunks == 1:
            return parts
        chunk = [v[0].type() for v in given]
        parts = rebuild(parts, dict(zip([model.x, model.y], chunk, strict=True)))
        parts = [pt.specify_shape(p, s) for p, s in zip(parts, model.params_shape, strict=True)]
        return sum_of_chunks(parts, dict(zip(chunk, given, strict=True)))

    def compute_natural_gradients(self) -> Solve:
        """Put the natural gradient on the batch of the metric into ``rs``; return its solve."""
        chunks = [self._metric_chunk(k) for k in range(self._chunks)]
        arrays = chunks[0]
        if len(chunks) > 1:
            arrays = [np.stack(of_input) for of_input in zip(*chunks, strict=True)]
        flag, niters, *rest = self._solve(*arrays)
        return Solve(int(flag), int(niters), *(float(value) for value in rest))

    def compute_new_cost_all(self, lr: Any) -> tuple[Any, Any, Any]:
        """Return new cost, old cost and error of the first ebs training examples."""
        cost, error = self._evaluate(self._evaluation_chunk, self.ebs, lr)
        return cost, self._evaluate(self._evaluation_chunk, self.ebs, 0.0)[0], error

    def __call__(self) -> dict[str, Any]:
        """Take a step, and return what `return_names` lists."""
        state, data = self.state, self.data
        data.update_before_computing_gradients()
        start = time.time()
        self.compute_gradients()
        time_grads = time.time() - start
        data.update_before_computing_natural_gradients()
        start = time.time()
        solve = self.compute_natural_gradients()
        time_metric = time.time() - start
        data.update_before_evaluation()
        start = time.time()
        old = self._gradient_cost if self._batch_stays else self.compute_old_cost()
        icost, _ = self.compute_new_cost(self.lr)
        rho, r_g = self._ratio(solve, old, icost)
        if state["adapt"] == 3:
            self._adapt_by_iterations(solve.niters)
        elif state["adapt"] == 1:
            self._adapt_by_ratio(rho, _LEAST, end=False)
        elif state["adapt"] == 4 and self.step > state["adapt_start"]:
            if self.step % state["adapt_change"] == 0:
                self._set_damping(self._damping() * state["adapt_decrease"], exact=True)
        self._adapt_lr()
        if self.step % state["trainFreq"] == 0:
            new, error = self._evaluate(self._evaluation_chunk, self.ebs, self.lr)
            self._refuse_blow_up(new)
            if state["adapt"] == 2:
                old = self._evaluate(self._evaluation_chunk, self.ebs, 0.0)[0]
                rho, r_g = self._ratio(solve, old, new)
                self._adapt_by_ratio(rho, _LEAST_OF_2, end=True)
            self._cost, self._error = new, error
            times = time_grads, time_metric, time.time() - start
            self._report(solve, icost, rho, r_g, times)
        self.old_cost = self._cost
        self._take_step(np.asarray(self.lr, self.floatX))
        self.step += 1
        return dict(
            cost=float(self._cost),
            error=float(self._error),
            time_grads=time_grads,
            time_metric=time_metric,
            time_eval=time.time() - start,
            minres_flag=solve.flag,
            minres_iters=solve.niters,
            minres_relres=solve.relres,
            minres_Anorm=solve.Anorm,
            minres_Acond=solve.Acond,
            norm_ord0=solve.norm_ord0,
            norm_grad=solve.norm_grad,
            norm_nat=solve.norm_nat,
            lr=self.lr,
            grad_angle=_divide(solve.slope, solve.norm_grad * solve.norm_nat),
            r_g=r_g,
            icost=float(icost),
            damping=self._damping(),
            rho=np.float32(rho),
        )

    def _ratio(self, solve: Solve, old: Any, new: Any) -> tuple[float, float]:
        """Return rho, and the decrease -lr g·r that the linear model predicts."""
        predicted = -float(self.lr) * solve.slope
        return _divide(float(new) - float(old), predicted), predicted

    def _damping(self) -> float:
        return float(self.damping.get_value())

    def _set_damping(self, value: float, *, exact: bool = False) -> None:
        """Set the damping, at least ``mindamp``.

        With quirks and ``exact`` a value that float32 does not hold is refused, as Theano did.
        """
        if self.quirks and exact and float(np.float32(value)) != value:
            expected = "a float32, as Theano demanded of this rule"
            raise argument_error("damping", expected, value, "Run it without quirks.", TypeError)
        least = 0.0 if self.quirks else min(self.state.get("mindamp", 0.0), self._damping())
        self.damping.set_value(np.array(max(value, least), "float32"))

    def _growth(self) -> float:
        return _RATIO if self.quirks else float(self.state.get("damp_ratio", _RATIO))

    def _adapt_by_ratio(self, rho: float, least: float, *, end: bool) -> None:
        """Change the damping by rho (adapt 1 and 2); with ``end`` a small one goes to zero."""
        damping = self._damping()
        if rho < _LOWER:
            from_zero = _FROM_ZERO[int(self.state["adapt"])]
            self._set_damping(damping * self._growth() if damping > 0 else from_zero)
        elif rho > _UPPER and damping > np.float32(least):
            self._set_damping(damping / self._growth())
        elif rho > _UPPER and end:
            self._set_damping(0.0)

    def _adapt_by_iterations(self, niters: int) -> None:
        """Change the damping by the iterations of the solve (adapt 3)."""
        damping, (least, most) = self._damping(), _BOUNDS_OF_3
        if niters < _FEW and damping > least:
            self._set_damping(damping / self._growth(), exact=True)
        if niters > _MANY and damping < most:
            self._set_damping(damping * self._growth(), exact=True)

    def _report(
        self, solve: Solve, icost: Any, rho: float, r_g: float, times: tuple[float, float, float]
    ) -> None:
        """Print the verdict of the solve, and a line on the step."""
        first = 1 if self.state["minresQLP"] else 0
        angle = _divide(solve.slope, solve.norm_grad * solve.norm_nat)
        grad, metric, update = (print_time(seconds) for seconds in times)
        print(
            f"Minres: {self.msgs[solve.flag + first]} # iters {solve.niters:04d} "
            f"relative error residuals {solve.relres:.4g} Anorm {solve.Anorm} Acond {solve.Acond}"
        )
        print(
            f".. iter {self.step:4d} cost {self._cost:.3g} ({icost:.3g}), error {self._error:.3g} "
            f"step_size {self.lr:.3g} rho {rho:.3g} damping {self._damping():.4g} r_g {r_g:.3g} "
            f"ord0_norm {solve.norm_ord0:.3g} norm grad {solve.norm_grad:.3g} "
            f"norm nat grad {solve.norm_nat:.3g} angle {angle:.3g} time [grad] {grad},"
            f"[riemann grad] {metric},[updates param] {update},"
            f"whole time {print_time(time.time() - self.step_timer)}"
        )
        self.step_timer = time.time()


def _divide(a: float, b: float) -> float:
    """Return a / b, NaN where b is zero."""
    return a / b if b else float("nan")


def _sum(terms: Any) -> TensorVariable:
    first, *rest = terms
    for term in rest:
        first = first + term
    return first


def _largest(values: list[TensorVariable]) -> TensorVariable:
    largest = values[0]
    for value in values[1:]:
        largest = pt.maximum(largest, value)
    return largest
