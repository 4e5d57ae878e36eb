"""Definitions of what SAEs on the difference of two models reconstruct, token subset by token subset."""

from __future__ import annotations

from saebench.metrics.catalogue.definition import Definition

DIFFERENCE: tuple[Definition, ...] = ()
