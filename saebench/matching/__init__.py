"""Matching two dictionaries latent by latent: exact assignments, their certificates, chance floors."""

from saebench.matching.assignment import Matching, match_directions, match_scores
from saebench.matching.floor import Floor, chance_floor
from saebench.matching.scores import BlockScores, CosineScores, ScoreBlocks
from saebench.matching.shared import Curve, Shared, cosine_histogram, shared, shared_curve

__all__ = [
    "BlockScores",
    "CosineScores",
    "Curve",
    "Floor",
    "Matching",
    "ScoreBlocks",
    "Shared",
    "chance_floor",
    "cosine_histogram",
    "match_directions",
    "match_scores",
    "shared",
    "shared_curve",
]
