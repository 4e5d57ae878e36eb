"""The suites' evaluations: what each needs from a pass, and how its sums become measurements."""

from saebench.evals.reconstruction import ReconstructionEval, SiteEval
from saebench.evals.sparsity import SparsityEval

__all__ = ["ReconstructionEval", "SiteEval", "SparsityEval"]
