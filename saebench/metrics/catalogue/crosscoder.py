"""Definitions of how the latents of a crosscoder over two models divide."""

from __future__ import annotations

from saebench.metrics.catalogue.definition import Definition

CROSSCODER: tuple[Definition, ...] = ()
