"""Seed reproducibility: what a pass keeps of each checkpoint, a pair compared, a group summed up."""

from saebench.evals.seeds.codes import CodeSample, FiringCounts
from saebench.evals.seeds.group import SeedsEval, jackknife_over_checkpoints
from saebench.evals.seeds.pair import Member

__all__ = ["CodeSample", "FiringCounts", "Member", "SeedsEval", "jackknife_over_checkpoints"]
