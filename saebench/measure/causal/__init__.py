"""Ablation of latents in every model that they are of: selection, arms, and the record of each checkpoint."""

from saebench.measure.causal.job import PART, CausalJob, identity, protocol

__all__ = ["PART", "CausalJob", "identity", "protocol"]
