"""Concepts: texts of two classes, read once for all checkpoints, and what single latents say of the classes.

``rows`` reads and pools the texts, for probes and steering too; ``sides`` tests all columns of one split,
``findings`` what one checkpoint has there, ``examples`` cuts windows around peaks, ``results`` makes
measurements of it, ``job`` the record of each case.
"""

from saebench.measure.concepts.job import PART, ConceptsJob, identity

__all__ = ["PART", "ConceptsJob", "identity"]
