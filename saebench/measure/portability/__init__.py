"""Checkpoints under variants of their model: the same tokens through both, aligned token by token.

``variants`` opens what may not open, ``paired_pass`` reads the text through the reference and some variants,
``separation`` reads texts of concepts under both, ``job`` makes the record of each case.
"""

from saebench.measure.portability.job import PART, PortabilityJob, identity

__all__ = ["PART", "PortabilityJob", "identity"]
