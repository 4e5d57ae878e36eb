"""Exact one-to-one matchings of largest total score, with a proof of optimality where they are large.

Small matrices are solved whole. Large ones are never held: the best pairs of every row and column are
candidates, the assignment is solved on those, and its potentials are then checked against all pairs.
Pairs that contradict them join the candidates, and it is solved again until none is left.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from saebench.matching.candidates import value_of
from saebench.matching.rounds import Optimum, optimise
from saebench.matching.scores import BlockScores, CosineScores, Floats, Ints, ScoreBlocks, Source

WHOLE_UP_TO = 8192  # rows and columns; half a gigabyte of scores, some seconds
DENSE_UP_TO = 2048  # rows and columns; scipy's dense solver takes under a second
CANDIDATES = 48
MAX_ROUNDS = 24


@dataclass(frozen=True)
class Matching:
    """A one-to-one matching of the rows of a with the rows of b, of largest total.

    ``columns[m_a]`` is the row of b matched to each row of a, −1 where there is none; ``scores[m_a]`` its
    signed score, NaN where there is none. ``best_a[m_a]`` and ``best_b[m_b]`` are the largest score of each
    row of a and of b with anything (absolute scores where those are matched). ``total`` is what was
    maximised; no matching exceeds ``bound``; ``certified`` says that the two agree within rounding.
    """

    columns: Ints
    scores: Floats
    best_a: Floats
    best_b: Floats
    total: float
    bound: float
    certified: bool
    n_candidates: int
    rounds: int
    how: str
    absolute: bool = False


def match_directions(
    a: Tensor,
    b: Tensor,
    *,
    absolute: bool = False,
    candidates: int = CANDIDATES,
    max_rounds: int = MAX_ROUNDS,
    dense_up_to: int = DENSE_UP_TO,
    screen: torch.dtype | None = None,
) -> Matching:
    """Match the rows of ``a[m_a, d]`` with rows of ``b[m_b, d]`` so that the sum of cosines is largest.

    ``absolute`` maximises the sum of absolute cosines. Zero rows have cosine 0 with everything. Up to
    ``dense_up_to`` rows the matrix is solved whole (0: never); above, about ``candidates`` pairs per row
    and column are kept in at most ``max_rounds`` rounds, and up to 8,192 rows it is solved whole after
    all where those leave it unproven. ``screen`` is the dtype of the first, rough products (bfloat16
    where this machine multiplies it faster); the result does not depend on it but for ties.

    Raises:
        CheckpointError: not two matrices of one width, or NaN or infinite weights.
    """
    source = CosineScores(a, b, dtype=screen)
    return _match(source, absolute, candidates, max_rounds, dense_up_to)


def match_scores(
    scores: ScoreBlocks | Callable[[int, int], Tensor],
    shape: tuple[int, int] | None = None,
    *,
    absolute: bool = False,
    candidates: int = CANDIDATES,
    max_rounds: int = MAX_ROUNDS,
    dense_up_to: int = DENSE_UP_TO,
) -> Matching:
    """Match by any score matrix ``[m_a, m_b]`` that ``scores(start, stop)`` gives in row blocks.

    Blocks are read as float32, in any order and more than once, and must be the same each time. ``shape`` is
    that of the matrix; without it ``scores.shape`` is taken. The rest is as in :func:`match_directions`.

    Raises:
        DataError: a block has the wrong shape, or holds NaN or infinite scores.
    """
    m_a, m_b = scores.shape if shape is None else shape  # type: ignore[union-attr]
    source = BlockScores(scores, (int(m_a), int(m_b)))
    return _match(source, absolute, candidates, max_rounds, dense_up_to)


def _match(
    source: CosineScores | BlockScores, absolute: bool, n: int, max_rounds: int, dense_up_to: int
) -> Matching:
    if max(source.shape) <= dense_up_to:
        return _dense(source, absolute)
    found = _summarised(source, absolute, optimise(source, absolute, n, max_rounds))
    if not found.certified and dense_up_to > 0 and max(source.shape) <= WHOLE_UP_TO:
        return _dense(
            source, absolute
        )  # many equal scores defeat candidates; here memory allows it
    return found


def _dense(source: CosineScores | BlockScores, absolute: bool) -> Matching:
    scores = source.dense()
    values = value_of(scores, absolute)
    rows, partners = linear_sum_assignment(values, maximize=True)
    columns = np.full(len(scores), -1)
    matched = np.full(len(scores), np.nan)
    columns[rows], matched[rows] = partners, scores[rows, partners]
    total = float(values[rows, partners].sum())
    return Matching(
        columns=columns,
        scores=matched,
        best_a=values.max(1),
        best_b=values.max(0),
        total=total,
        bound=total,
        certified=True,
        n_candidates=scores.size,
        rounds=1,
        how="dense",
        absolute=absolute,
    )


def _summarised(source: Source, absolute: bool, found: Optimum) -> Matching:
    scores = np.full(source.shape[0], np.nan)
    rows = np.flatnonzero(found.columns >= 0)
    scores[rows] = source.exact(rows, found.columns[rows])
    total = float(value_of(scores[rows], absolute).sum())
    return Matching(
        columns=found.columns,
        scores=scores,
        best_a=found.best_a,
        best_b=found.best_b,
        total=total,
        bound=max(found.bound, total),
        certified=found.bound - total <= found.tolerance,
        n_candidates=found.n_candidates,
        rounds=found.rounds,
        how="candidates",
        absolute=absolute,
    )
