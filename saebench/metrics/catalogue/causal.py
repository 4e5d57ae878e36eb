"""Definitions of what ablating latents does to the predictions of each model."""

from __future__ import annotations

from saebench.metrics.catalogue.definition import Definition

CAUSAL: tuple[Definition, ...] = ()
