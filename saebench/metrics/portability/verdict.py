"""Whether a checkpoint may be used under a variant: a rule on estimates, and equivalence by intervals.

The rule asks for retraining where the FVE falls, or the number of alive latents moves, by more than a
share. A small shift on few sequences passes it by chance; equivalence is shown only where the whole 90 %
interval lies within the margins, which is two one-sided tests at 5 %.
Source: Schuirmann 1987, A comparison of the two one-sided tests procedure and the power approach.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from saebench.protocols import PortabilityProtocol
from saebench.stats import Interval

TOST_LEVEL = 0.9

Equivalence = Literal["equivalent", "different", "inconclusive"]


def exceeded(
    fve_drop: float, alive_shift: float, protocol: PortabilityProtocol
) -> list[Literal["fve_drop", "alive_shift"]]:
    """Which limits of the rule are passed; none where the checkpoint is portable by it."""
    found: list[Literal["fve_drop", "alive_shift"]] = []
    if fve_drop > protocol.fve_drop:
        found.append("fve_drop")
    if abs(alive_shift) > protocol.alive_shift:
        found.append("alive_shift")
    return found


def equivalence(bounds: Interval, margin: float) -> Equivalence:
    """What an interval says of a margin: inside ± margin, outside of it, or neither."""
    if bounds.low is None or bounds.high is None:
        return "inconclusive"
    if -margin < bounds.low and bounds.high < margin:
        return "equivalent"
    return "different" if bounds.low >= margin or bounds.high <= -margin else "inconclusive"


def overall(parts: Sequence[Equivalence]) -> Equivalence:
    """Equivalent where all are, different where one is."""
    if "different" in parts:
        return "different"
    return "equivalent" if all(part == "equivalent" for part in parts) else "inconclusive"


def plain(bounds: Mapping[str, Interval]) -> dict[str, dict[str, object]]:
    """Intervals as plain values for a record."""
    return {
        name: {"low": one.low, "high": one.high, "how": one.how, "reason": one.reason}
        for name, one in bounds.items()
    }
