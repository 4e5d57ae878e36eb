"""Matching two dictionaries latent by latent: exact assignments, their certificates, chance floors."""

from saebench.matching.assignment import Matching, match_directions, match_scores
from saebench.matching.floor import Floor, chance_floor
from saebench.matching.scores import BlockScores, CosineScores, ScoreBlocks
from saebench.matching.shared import (
    Matched,
    cosine_histogram,
    match_alive,
    match_among,
    share_above,
    shared_curve,
)

__all__ = [
    "BlockScores",
    "CosineScores",
    "Floor",
    "Matched",
    "Matching",
    "ScoreBlocks",
    "chance_floor",
    "cosine_histogram",
    "match_alive",
    "match_among",
    "match_directions",
    "match_scores",
    "share_above",
    "shared_curve",
]
