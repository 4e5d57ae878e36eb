"""Intervals of means and slopes over prompts: wide enough with few, none where all say the same."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from saebench.stats import Interval, jackknife, wilson

TWO_PROMPTS = "an interval needs two prompts"
ALIKE = 1e-9  # relative: estimates that differ by rounding alone are equal


def over_prompts(
    top: np.ndarray,
    bottom: np.ndarray | None = None,
    *,
    bounds: tuple[float, float] = (-math.inf, math.inf),
) -> Interval:
    """The interval of ``Σ top / Σ bottom`` from each prompt's ``top[n]`` and ``bottom[n]`` (> 0; default 1).

    ``estimate ± t · SE`` with the delete-one jackknife's SE and ``n − 1`` degrees of freedom, cut to
    ``bounds``: for a mean it is Student's interval. A percentile bootstrap is too narrow with few
    prompts. There is none where every prompt says the same, which is no proof that others would.
    """
    n = len(top)
    if n < 2:
        return Interval(None, None, reason=TWO_PROMPTS)
    bottom = np.ones(n) if bottom is None else bottom
    own = top / bottom
    if float(np.ptp(own)) <= ALIKE * float(np.abs(own).max()):
        return Interval(None, None, reason=f"it is the same in each of {n} prompts")
    without = (top.sum() - top) / (bottom.sum() - bottom)
    found = jackknife(float(top.sum() / bottom.sum()), without, bounds=bounds)
    if found.reason:
        return found
    how = f"delete-one-prompt jackknife, t with {n - 1} degrees of freedom, 95%, {n} prompts"
    return replace(found, how=how)


def of_share(shares: np.ndarray) -> Interval:
    """The interval of the mean of ``shares[n]``, one from 0 to 1 for each prompt.

    Where all are 0 the mean of other prompts is at most the share of prompts with any at all, for which
    the bound is Wilson's; where all are 1 likewise from below.
    """
    n = len(shares)
    if n >= 2 and ((shares == 0).all() or (shares == 1).all()):
        found = wilson(int(shares.sum()), n)
        return replace(found, how=f"Wilson, 95%, {n} prompts that are all alike")
    return over_prompts(shares, bounds=(0.0, 1.0))
