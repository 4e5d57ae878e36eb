"""Difference SAEs of a run, token subset by token subset, from activations that are read once.

``rows`` keeps what both models have at each site, ``places`` what all checkpoints at a site share,
``baselines`` what simpler reconstructions reach there, ``job`` puts it together.
"""

from saebench.measure.difference.job import DifferenceJob, identity

__all__ = ["DifferenceJob", "identity"]
