"""Two checkpoints latent by latent: directions matched, codes matched, most frequent latents compared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from saebench.evals.seeds.codes import CodeSample, FiringCounts
from saebench.evals.seeds.directions import SIDES, Side, directions, units, why_none
from saebench.matching import (
    Matched,
    Matching,
    cosine_histogram,
    match_alive,
    match_among,
    match_directions,
    share_above,
    shared_curve,
)
from saebench.matching.functional import (
    MIN_TOKENS,
    FunctionalMatching,
    PairScores,
    match_functionally,
    score_pairs,
)
from saebench.protocols import SeedsProtocol
from saebench.sae import Dictionary

Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
ChanceFloor = Callable[[int, int, int], dict[str, Any]]

# alive latents: above it, a floor of their own beside that of all costs too much
FLOOR_UP_TO = 2048
NUMBERS = (  # of one side of a pair, None where it has no matrix
    *("matched_cosine", "matched_abs_cosine", "matched_cosine_alive", "shared", "shared_alive"),
    *("max_cosine_shared_a", "max_cosine_shared_b", "certified", "gap", "how"),
    *("denominator", "denominator_alive", "histogram", "curve", "units"),
)


@dataclass(frozen=True)
class Member:
    """One checkpoint of a group with what a pass over the run's text kept of it."""

    name: str
    sae: Dictionary
    firings: FiringCounts
    sample: CodeSample

    @property
    def alive(self) -> Bools:
        """The latents that fired, ``[d_sae]``."""
        return self.firings.fired > 0

    def most_frequent(self, k: int) -> Ints:
        """The ``k`` latents that fire most often; between equals the one with more mass."""
        order = np.lexsort((-self.firings.mass, -self.firings.fired))
        return order[:k]


@dataclass(frozen=True)
class Sided:
    """What one side, decoder or encoder, of a pair gives: numbers for records and both matchings."""

    numbers: dict[str, Any]
    every: Matched | None = None
    alive: Matched | None = None


def compare(
    a: Member,
    b: Member,
    protocol: SeedsProtocol,
    floor: ChanceFloor,
) -> dict[str, Any]:
    """Everything about one pair as JSON values; ``floor(m_a, m_b, d)`` is what chance gives."""
    sides = {side: compare_side(a, b, side, protocol.threshold) for side in SIDES}
    m = min(len(a.alive), len(b.alive))
    decoder, encoder = sides["decoder"].every, sides["encoder"].every
    both = None
    if decoder is not None and encoder is not None:
        both = len(decoder.above(protocol.threshold) & encoder.above(protocol.threshold)) / m
    functional = compare_codes(a, b, sides["decoder"].alive, protocol.threshold)
    counts = int(a.alive.sum()), int(b.alive.sum())
    sizes = len(a.alive), len(b.alive)
    return {
        "a": a.name,
        "b": b.name,
        **{side: sides[side].numbers for side in SIDES},
        "shared_both": both,
        "functional": functional,
        "firing_jaccard": functional["jaccard"],
        **_top_k(a, b, sides["decoder"].alive, protocol.top_k),
        "alive": {"a": counts[0], "b": counts[1], "both": min(counts)},
        "latents": {"a": sizes[0], "b": sizes[1], "both": min(sizes)},
        "floor": _floors(floor, sizes, counts, a.sae.cfg.width_out),
    }


def compare_side(a: Member, b: Member, side: Side, threshold: float) -> Sided:
    """Directions of one side matched among all latents, and among those alive in both."""
    left, right = (directions(member.sae, side) for member in (a, b))
    if left is None or right is None:
        reason = why_none(a.sae, side) or why_none(b.sae, side)
        return Sided({**dict.fromkeys(NUMBERS), "reason": reason})
    every = match_among(left, right)
    absolute = match_directions(left, right, absolute=True)
    alive = match_alive(left, right, a.alive, b.alive, every)
    matching, m = every.matching, len(every.cosines)
    m_alive = 0 if alive is None else len(alive.cosines)
    numbers = {
        "matched_cosine": float(every.cosines.mean()),
        "matched_abs_cosine": float(np.nanmean(np.abs(absolute.scores))),
        "matched_cosine_alive": None if alive is None else float(alive.cosines.mean()),
        "shared": share_above(every.cosines, threshold),
        "shared_alive": None if alive is None else share_above(alive.cosines, threshold),
        "max_cosine_shared_a": share_above(matching.best_a, threshold),
        "max_cosine_shared_b": share_above(matching.best_b, threshold),
        "certified": bool(matching.certified),
        "gap": float(matching.bound - matching.total),
        "how": matching.how,
        "denominator": m,
        "denominator_alive": m_alive,
        "histogram": cosine_histogram(every.cosines),
        "curve": shared_curve(every.cosines),
        "units": {"a": units(a.sae, side), "b": units(b.sae, side)},
        "absolute": _proof(absolute),
        "alive": None if alive is None else _proof(alive.matching),
        "reason": None,
    }
    return Sided(numbers, every, alive)


def compare_codes(
    a: Member, b: Member, decoder: Matched | None, threshold: float
) -> dict[str, Any]:
    """How codes go together: pairs matched by their codes, and pairs matched by alive decoder rows."""
    left, right = a.sample.table(), b.sample.table()
    found = match_functionally(left, right)
    by_decoder = None
    if decoder is not None:
        pairs = score_pairs(left.codes, right.codes, decoder.rows, decoder.columns)
        by_decoder = _scored(pairs, threshold)
    return {
        **_functional(found, threshold),
        "threshold": threshold,
        "minimum_tokens": MIN_TOKENS,
        "n_tokens": len(left.sequence_ids),
        "n_sequences": len(np.unique(left.sequence_ids)),
        "decoder_matched": by_decoder,
    }


def _floors(
    floor: ChanceFloor, sizes: tuple[int, int], alive: tuple[int, int], d: int
) -> dict[str, Any]:
    """What chance gives for decoders of these sizes and, where that is cheap, for the alive latents."""
    every = floor(*sizes, d)
    if alive == sizes:
        return {**every, "alive": every}
    affordable = min(alive) > 0 and max(alive) <= FLOOR_UP_TO
    return {**every, "alive": floor(*alive, d) if affordable else None}


def _proof(matching: Matching) -> dict[str, Any]:
    gap = float(matching.bound - matching.total)
    return {"certified": bool(matching.certified), "gap": gap, "how": matching.how}


def _scored(pairs: PairScores, threshold: float) -> dict[str, Any]:
    """Means over the pairs that have a correlation."""
    defined = np.isfinite(pairs.correlation)
    n_scored = int(defined.sum())
    if not n_scored:
        return {"correlation": None, "shared": None, "jaccard": None, "n_scored": 0}
    return {
        "correlation": float(pairs.correlation[defined].mean()),
        "shared": share_above(pairs.correlation[defined], threshold),
        "jaccard": float(pairs.jaccard[defined].mean()),
        "n_scored": n_scored,
    }


def _functional(found: FunctionalMatching | None, threshold: float) -> dict[str, Any]:
    if found is None:
        reason = "no latent of one of the two fires on the first half of the text kept"
        empty: Mapping[str, Any] = dict.fromkeys(("correlation", "shared", "jaccard", "null"))
        return {**empty, "n_scored": 0, "n_matched": 0, "reason": reason}
    matched = found.matched
    held_out = _scored(found.held_out, threshold)
    problem = None
    if not len(matched.rows):
        problem = "no two latents have a positive correlation on the first half of the text kept"
    elif not held_out["n_scored"]:
        problem = (
            f"no matched pair fires on {MIN_TOKENS} tokens of the second half of the text kept"
        )
    return {
        **held_out,
        "n_matched": len(matched.rows),
        "n_firing": {"a": found.n_latents[0], "b": found.n_latents[1]},
        "null": None if found.null is None else _scored(found.null, threshold)["correlation"],
        "n_tokens_matched": found.n_tokens[0],
        "n_tokens_scored": found.n_tokens[1],
        "certified": bool(matched.certified),
        "gap": float(matched.bound - matched.total),
        "reason": problem,
    }


def _top_k(a: Member, b: Member, decoder: Matched | None, top_k: int) -> dict[str, Any]:
    """How many of the most frequent latents of a have a partner among those of b.

    By chance one of a is matched at all with probability ``min(n_a, n_b) / n_a`` of the alive ones, and then
    to one of b's ``k`` with ``k / n_b``: the product is ``k / max(n_a, n_b)``.
    """
    k = min(top_k, int(a.alive.sum()), int(b.alive.sum()))
    if decoder is None or k == 0:
        return {"top_k": k, "top_k_overlap": None, "top_k_chance": None}
    partner = dict(zip(decoder.rows.tolist(), decoder.columns.tolist(), strict=True))
    mapped = {partner.get(row) for row in a.most_frequent(k).tolist()}
    common = mapped & set(b.most_frequent(k).tolist())
    return {
        "top_k": k,
        "top_k_overlap": len(common) / k,
        "top_k_chance": k / max(int(a.alive.sum()), int(b.alive.sum())),
    }
