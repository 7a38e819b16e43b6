"""Blocks of Kronecker factors beside dense Fisher matrices."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytensor
import pytensor.tensor as pt

from helpers import oracles
from symng.optimizers.preconditioners._blocks import Block, Diagonal, Joint, Layer
from symng.optimizers.preconditioners._factors import Kronecker
from symng.optimizers.preconditioners._layers import Sharing

MODE = "FAST_COMPILE"


def parts(kronecker: Kronecker, flat: np.ndarray) -> list[list[np.ndarray]]:
    """Return the factors of each block."""
    found, start = [], 0
    for block in kronecker.blocks:
        tensors = []
        for shape in block.shapes:
            tensors.append(flat[start : start + int(np.prod(shape))].reshape(shape))
            start += int(np.prod(shape))
        found.append(tensors)
    assert start == flat.size == kronecker.size
    return found


def places(case: Any, block: Block) -> np.ndarray:
    """Return the indices of a block's parameters, in the order of its Kronecker product."""
    sizes = [p.get_value().size for p in case.params]
    starts = np.concatenate([[0], np.cumsum(sizes)])
    where = [np.arange(a, b) for a, b in itertools.pairwise(starts)]
    own = [where[i] for i in block.params]
    if isinstance(block, Layer):
        view = block.matrix
        if view.order:
            own[0] = own[0].reshape(view.shape).transpose(view.order)
    return np.concatenate([indices.ravel() for indices in own])


def draws_of_factors(
    case: Any, kronecker: Kronecker, draws: int, sharing: Sharing = "expand"
) -> np.ndarray:
    """Return the flat factors on the batch of a case, for several draws of signs."""
    seed = pt.lscalar("seed")
    f = pytensor.function(
        [*case.givens, seed],
        kronecker.factors(seed, 0, sharing),
        mode=MODE,
        on_unused_input="ignore",
    )
    return np.stack([f(*case.givens.values(), k) for k in range(draws)])


def assert_blocks_are_exact(
    case: Any, draws: int = 300, kind: type = Block, sharing: Sharing = "expand"
) -> Kronecker:
    """Check that, in the mean over signs, blocks are those of the Fisher matrix.

    Those of one kind, or all that are no diagonals.
    """
    kronecker = Kronecker(case.objective)
    flat = draws_of_factors(case, kronecker, draws, sharing)
    F = oracles.fisher(case)
    mean = parts(kronecker, flat.mean(axis=0))
    error = parts(kronecker, flat.std(axis=0) / np.sqrt(draws))
    assert kronecker.layers
    for block, factors, errors in zip(kronecker.blocks, mean, error, strict=True):
        if isinstance(block, Diagonal) or not isinstance(block, kind):
            continue
        where = places(case, block)
        if isinstance(block, Joint):
            assert (abs(factors[0] - F[np.ix_(where, where)]) <= 5 * errors[0] + 1e-10).all()
            assert abs(factors[0]).max() > 0
            continue
        difference = -F[np.ix_(where, where)]
        bound = np.full_like(difference, 1e-10)
        for k, (A, G) in enumerate(zip(factors[::2], factors[1::2], strict=True)):
            A = np.diag(A) if A.ndim == 1 else A
            spread = 5 * np.kron(abs(A), errors[2 * k + 1])
            # Of a use as W^T the factors stand in the other order.
            difference += np.kron(G, A) if k else np.kron(A, G)
            bound += 5 * np.kron(errors[2 * k + 1], abs(A)) if k else spread
            assert abs(np.kron(A, G)).max() > 0
        assert (abs(difference) <= bound).all()
    return kronecker
