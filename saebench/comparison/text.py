"""Numbers of a comparison as text: a mean with its sd and n, a difference with its interval, a p."""

from __future__ import annotations

from saebench.comparison.inference import SignTest, Spread
from saebench.record import Measurement
from saebench.report.digits import estimate, number, number_or_dash

NOTHING = "–"
SMALLEST_P = 0.001  # below this a p is shown as smaller


def mean_and_sd(spread: Spread) -> str:
    """``0.812 (sd 0.004, n 3)``; one value has no sd."""
    if spread.mean is None:
        return NOTHING
    if spread.sd is None:
        return f"{number(spread.mean)} (n {spread.n})"
    if spread.sd == 0:
        return f"{number(spread.mean)} (sd 0, n {spread.n})"
    low, high = spread.mean - spread.sd, spread.mean + spread.sd
    value, _ = estimate(Measurement("", spread.mean, low, high))
    return f"{value} (sd {_two_digits(spread.sd)}, n {spread.n})"


def with_interval(value: float, low: float | None, high: float | None) -> tuple[str, str]:
    """The value and ``[low, high]``, with the digits that the interval allows."""
    text, bounds = estimate(Measurement("", value, low, high))
    return text, bounds or NOTHING


def value_text(value: float | None) -> str:
    """A number without an interval, a dash for none."""
    return number_or_dash(value)


def p_text(p: float | None) -> str:
    """``0.30``, ``0.021``, ``< 0.001``; a dash for none."""
    if p is None:
        return NOTHING
    if p < SMALLEST_P:
        return f"< {SMALLEST_P}"
    return f"{p:.2f}" if p >= 0.1 else f"{p:.3f}"


def _two_digits(sd: float) -> str:
    return f"{sd:.0f}" if sd >= 10 else f"{sd:#.2g}"


def tally(sign: SignTest) -> str:
    """``10–0–5``: wins, ties and losses."""
    return f"{sign.wins}–{sign.ties}–{sign.losses}"
