"""Which numbers of trials a published rate can come from: an audit of rates without denominators."""

from __future__ import annotations

from collections.abc import Iterable

MOST = 255


def denominators(rate: float, *, decimals: int = 3, most: int = MOST) -> list[int]:
    """Every n from 1 to ``most`` for which some k of n, rounded, is the published ``rate``.

    Rounding half either way counts as fitting, as publications differ in it.
    """
    half = 0.5 * 10.0**-decimals * (1 + 1e-9)
    return [n for n in range(1, most + 1) if abs(round(rate * n) / n - rate) <= half]


def common_denominators(
    rates: Iterable[float], *, decimals: int = 3, most: int = MOST
) -> list[int]:
    """Every n that could be behind all of ``rates``; empty where they cannot share one."""
    sets = [set(denominators(rate, decimals=decimals, most=most)) for rate in rates]
    return sorted(set.intersection(*sets)) if sets else []
