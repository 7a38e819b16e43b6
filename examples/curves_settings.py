"""Settings of curves.py: what it trains with in each preset, and where they come from."""

from __future__ import annotations

from typing import Any

import symng

OPTIMIZERS = {
    "ngd": "natural gradient",
    "ngd-l": "natural gradient with a line search",
    "ncg-l": "natural conjugate gradient, plane search",
    "ncg-f": "natural conjugate gradient, Polak-Ribiere",
    "ncg-q": "natural conjugate gradient, quadratic model",
    "hf": "Hessian-free",
    "ksd": "Krylov subspace descent",
    "tonga": "online TONGA",
    "sgd": "gradient descent",
    "momentum": "gradient descent with momentum",
    "nesterov": "gradient descent with Nesterov's momentum",
    "adam": "Adam",
}
_FULL = dict(
    batch=None,
    metric_batch="same",
    metric_examples=None,
    search_batch="same",
    damping=3.0,
    evaluate_every=1,
)
_SMALL_BATCHES = dict(
    batch=100, metric_batch="same", metric_examples=None, search_batch="same", evaluate_every=200
)
# The paper's solver and damping.
_NATURAL = dict(
    warm_start=0.0, solver="minres-qlp", preconditioner="none", ratio="linear", rtol=1e-4
)

# The start by Adam, whose steps are many and cheap: they leave the plateau at the mean image, where
# natural gradient stays for its first forty steps.
START: dict[str, Any] = dict(batch=50, step_size=1e-3, evaluate_every=200)

# The first damping from random weights, for `--start 0`: where the quadratic model is poor, steps
# have to be shorter at first.
COLD_DAMPING = 10.0

# A few iterations from a warm start, on fewer images than the gradient.
_CHEAP: dict[str, Any] = dict(
    batch=2000,
    metric_batch="other",
    metric_examples=500,
    search_batch="same",
    damping=COLD_DAMPING,
    iterations=3,
    warm_start=0.9,
    solver="cg",
    preconditioner="kronecker",
    ratio="quadratic",
    rtol=0.0,
    step_size=1.0,
    evaluate_every=20,
)

# How each optimizer runs on the full network; docs/curves.md has how the settings were found.
DEFAULTS: dict[str, dict[str, Any]] = {
    "ngd": _CHEAP | dict(start=900, damping=0.01),
    "ngd-l": _FULL | _NATURAL | dict(iterations=15, step_size=1.0),
    "ncg-l": _FULL | _NATURAL | dict(iterations=15),
    "ncg-f": _FULL | _NATURAL | dict(iterations=15, step_size=1.0),
    "ncg-q": _CHEAP,
    "hf": dict(
        batch=5000,
        metric_batch="other",
        metric_examples=1000,
        search_batch="same",
        damping=3.0,
        iterations=50,
        warm_start=0.95,
        preconditioner="martens",
        rtol=0.0,
        step_size=1.0,
        evaluate_every=2,
    ),
    "ksd": dict(
        batch=5000,
        metric_batch="other",
        metric_examples=1000,
        search_batch="other",
        damping=0.0,
        iterations=20,
        evaluate_every=2,
    ),
    "tonga": _SMALL_BATCHES | dict(damping=0.1, step_size=0.1),
    "sgd": _SMALL_BATCHES | dict(step_size=0.01),
    "momentum": _SMALL_BATCHES | dict(step_size=0.01, momentum=0.9),
    "nesterov": _SMALL_BATCHES | dict(step_size=0.01, momentum=0.9),
    "adam": _SMALL_BATCHES | dict(step_size=0.001),
}

# The appendix of the paper. Optimizers that search take full batches. Natural gradient with a fixed
# step takes minibatches and, as sections 10 and 11 ask for, the metric on other images. Settings
# that are not here are those of DEFAULTS.
_PAPER = dict(batch=None, metric_batch="same", metric_examples=None, warm_start=0.0, iterations=250)
PAPER: dict[str, dict[str, Any]] = {
    "ngd": _NATURAL
    | dict(
        batch=5000,
        metric_batch="other",
        metric_examples=5000,
        damping=3.0,
        iterations=250,
        evaluate_every=1,
        start=0,
    ),
    "ngd-l": _PAPER,
    "ncg-l": _PAPER,
    "ncg-f": _PAPER,
    "hf": dict(
        batch=None, metric_batch="same", metric_examples=None, iterations=250, evaluate_every=1
    ),
    "ksd": dict(
        batch=None, metric_batch="same", metric_examples=None, search_batch="same", evaluate_every=1
    ),
}

# The paper's settings scaled to 2,000 images: a minibatch is a quarter of them, as 5,000 images are
# of 20,000.
SMALL: dict[str, dict[str, Any]] = {
    **PAPER,
    "ngd": PAPER["ngd"] | dict(batch=500, metric_batch="other", metric_examples=500),
    "ncg-q": dict(batch=500),
}

# Algorithm 2 of the appendix: 20 iterations of linear CG, no line search, and the damping of the
# text below it. Its rtol=1e-4 is that of theano_optimize: compared with the residual squared.
ALGORITHM_2: dict[str, dict[str, Any]] = {
    "ngd": PAPER["ngd"] | dict(solver="cg", iterations=20, rtol=0.0, atol=1e-4**0.5)
}

# Damping rules of natural gradient: the paper's, Martens's, which undoes steps that raise the loss,
# and none.
RATIOS: dict[str, dict[str, Any] | None] = {
    "linear": {},
    "quadratic": dict(ratio="quadratic", minimum=1e-3, reject_below=0.0),
    "fixed": None,
}

PRECONDITIONERS: dict[str, Any] = {
    "none": None,
    "kronecker": symng.KroneckerPreconditioner(),
    "martens": "martens",
}

# Images, units and limits of each preset.
PRESETS: dict[str, dict[str, Any]] = {
    "default": dict(
        examples=20_000, sizes=[784, 400, 200, 100, 50, 25, 6], seconds=180.0, steps=None
    ),
    "paper": dict(examples=20_000, sizes=[784, 400, 200, 100, 50, 25, 6], seconds=None, steps=200),
    "algorithm-2": dict(
        examples=20_000, sizes=[784, 400, 200, 100, 50, 25, 6], seconds=None, steps=200
    ),
    "small": dict(examples=2000, sizes=[784, 100, 50, 25, 12, 6], seconds=60.0, steps=None),
}
_OVERRIDES = {"default": {}, "paper": PAPER, "algorithm-2": ALGORITHM_2, "small": SMALL}


def settings_of(optimizer: str, preset: str) -> dict[str, Any]:
    """Return the settings of an optimizer in a preset."""
    return PRESETS[preset] | DEFAULTS[optimizer] | _OVERRIDES[preset].get(optimizer, {})
