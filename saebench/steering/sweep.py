"""What one sweep over strengths gave, prompt by prompt, and what controls give at both of its ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from saebench.stats import wilson

Kind = Literal["random", "latent"]
ROUNDING = 1e-9  # relative: effects that differ by rounding alone are equal


@dataclass(frozen=True)
class Outcomes:
    """Outcomes of every prompt at every strength, ``[n, A]`` float64, NaN where there is none.

    ``label`` is 1 for a completion of the positive class and 0 for another, ``logit_difference`` and ``kl``
    as in :class:`saebench.steering.teacher_forced.Effect`, ``ce`` nats per token of the unsteered model on
    the completion. A whole array of NaN stands for an outcome that was not read.
    """

    label: np.ndarray
    logit_difference: np.ndarray
    kl: np.ndarray
    ce: np.ndarray

    @classmethod
    def empty(cls, n_prompts: int, n_alphas: int) -> Outcomes:
        """Nothing read yet."""
        return cls(*(np.full((n_prompts, n_alphas), np.nan) for _ in range(4)))


@dataclass(frozen=True)
class Control:
    """Another direction at the ends of the sweep: ``outcomes`` of the least α and of the largest."""

    name: str
    kind: Kind
    outcomes: Outcomes


@dataclass(frozen=True)
class Sweep:
    """A sweep over ``alphas``, the run without steering (one column), and the controls.

    ``missing`` says of an outcome why it was not read: ``label`` or ``logit_difference``.
    ``same_at_zero`` is whether what adds nothing gave the very completions and logits of the unsteered
    run; None where that was not tried.
    """

    alphas: tuple[float, ...]
    steered: Outcomes
    unsteered: Outcomes
    controls: tuple[Control, ...] = ()
    missing: Mapping[str, str] = field(default_factory=dict)
    same_at_zero: bool | None = None

    @property
    def n_prompts(self) -> int:
        """How many prompts there are."""
        return self.steered.label.shape[0]

    @property
    def ends(self) -> tuple[int, int]:
        """The columns of the least and of the largest α."""
        return int(np.argmin(self.alphas)), int(np.argmax(self.alphas))

    def at_ends(self, outcome: str) -> np.ndarray:
        """The values ``[n, 2]`` of an outcome at both ends."""
        return getattr(self.steered, outcome)[:, list(self.ends)]

    def effect(self, outcome: str, values: np.ndarray) -> float | None:
        """One number for ``values[n, 2]`` at the ends: the slope between their means; of ``kl`` the mean.

        None where no prompt has the outcome at one of the ends.
        """
        at_low, at_high = mean(values[:, 0]), mean(values[:, 1])
        if at_low is None or at_high is None:
            return None
        if outcome == "kl":
            return (at_low + at_high) / 2
        low, high = self.ends
        return (at_high - at_low) / (self.alphas[high] - self.alphas[low])

    def rows(self) -> list[dict[str, Any]]:
        """The table of the sweep: one row per α, plain JSON values; the unsteered run is row one, α None."""
        plain = [self._row(None, self.unsteered, 0)]
        return plain + [self._row(a, self.steered, i) for i, a in enumerate(self.alphas)]

    def _row(self, alpha: float | None, found: Outcomes, column: int) -> dict[str, Any]:
        labels = found.label[:, column]
        row: dict[str, Any] = {"alpha": alpha, "n_prompts": self.n_prompts}
        if "label" not in self.missing:
            decided = labels[~np.isnan(labels)]
            n, hits = len(decided), int(decided.sum())
            bounds = wilson(hits, n)
            row |= {"n": n, "n_dropped": self.n_prompts - n, "n_positive": hits}
            row |= {"rate": hits / n if n else None, "low": bounds.low, "high": bounds.high}
            row["rate_if_undecided_0"] = hits / self.n_prompts
            row["rate_if_undecided_1"] = (hits + self.n_prompts - n) / self.n_prompts
        for name in ("logit_difference", "kl", "ce"):
            row[name] = mean(getattr(found, name)[:, column])
        return row


def mean(values: np.ndarray) -> float | None:
    """The mean of what is there, None where nothing is."""
    there = values[~np.isnan(values)]
    return float(there.mean()) if len(there) else None


@dataclass(frozen=True)
class Against:
    """An effect beside those of controls of one kind, for one outcome.

    ``p`` is ``(1 + #{controls at least as far from 0}) / (1 + n)``, two-sided; the ``n_unread`` controls that
    have the outcome at no more than one end count as far, and in n. ``ratio`` is the size of the effect in
    units of the root mean square of ``controls``. None with the ``reason`` where there is none.
    """

    effect: float | None
    controls: tuple[float, ...]
    p: float | None
    ratio: float | None
    reason: str | None = None
    n_unread: int = 0

    @property
    def n(self) -> int:
        """How many controls there are, those that could not be read included."""
        return len(self.controls) + self.n_unread

    @property
    def smallest_p(self) -> float | None:
        """The smallest p that any effect could have: ``1 / (1 + n)`` if all controls could be read."""
        return (1 + self.n_unread) / (1 + self.n) if self.controls else None

    @classmethod
    def of(cls, sweep: Sweep, outcome: str, kind: Kind) -> Against:
        """The sweep's own direction against its controls of a kind."""
        if outcome in sweep.missing:
            return cls(None, (), None, None, sweep.missing[outcome])
        effect = sweep.effect(outcome, sweep.at_ends(outcome))
        found = [
            sweep.effect(outcome, getattr(control.outcomes, outcome))
            for control in sweep.controls
            if control.kind == kind
        ]
        known = tuple(value for value in found if value is not None)
        unread = len(found) - len(known)
        if effect is None:
            reason = "no prompt has the outcome at both ends of the sweep"
            return cls(None, known, None, None, reason, unread)
        if not known:
            reason = "no control has the outcome at both ends" if found else "no controls were run"
            return cls(effect, known, None, None, reason, unread)
        rms = float(np.sqrt(np.mean(np.square(known))))
        far = unread + sum(abs(value) >= abs(effect) * (1 - ROUNDING) for value in known)
        ratio = abs(effect) / rms if rms > 0 else None
        return cls(effect, known, (1 + far) / (1 + len(found)), ratio, None, unread)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "effect": self.effect,
            "controls": list(self.controls),
            "p": self.p,
            "smallest_p": self.smallest_p,
            "ratio": self.ratio,
            "reason": self.reason,
            "n": self.n,
            "n_unread": self.n_unread,
        }
