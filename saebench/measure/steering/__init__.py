"""Steering on concepts: a direction is added while the model goes on from prompts, and what comes of it.

``plan`` chooses direction, scale and controls on training texts, ``prompts`` reads what to go on from,
``case`` runs the sweep of one case, ``job`` makes the record.
"""

from saebench.measure.steering.job import PART, SteeringJob, identity

__all__ = ["PART", "SteeringJob", "identity"]
