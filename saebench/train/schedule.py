"""What changes from step to step: the learning rate, and how many latents may be active."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """Learning rates of the steps 0 … ``steps`` − 1, between 0 and ``peak``.

    A linear warm-up, a plateau, and a linear fall at the end.
    ``warmup`` is a share of the steps if below 1, else a number of steps; ``decay`` is the share at the
    end. No step has a rate of zero: the first is ``peak / warmup steps``, the last ``peak / decay steps``.
    """

    peak: float
    steps: int
    warmup: float
    decay: float

    @property
    def warmup_steps(self) -> int:
        """Steps before the plateau."""
        return round(self.warmup * self.steps if self.warmup < 1 else self.warmup)

    @property
    def decay_steps(self) -> int:
        """Steps after the plateau."""
        return round(self.decay * self.steps)

    def at(self, step: int) -> float:
        """The learning rate of a step; steps past the last keep its rate."""
        rising = (step + 1) / self.warmup_steps if self.warmup_steps else 1.0
        left = max(self.steps - step, 1)
        falling = left / self.decay_steps if self.decay_steps else 1.0
        return self.peak * min(1.0, rising, falling)


@dataclass(frozen=True)
class Annealing:
    """Active latents per token: from ``start`` down to ``k`` over the first ``share`` of the steps.

    Linear in steps and rounded; ``start`` at step 0, ``k`` from the step on at which the share has passed.
    """

    start: int
    k: int
    steps: int
    share: float

    def at(self, step: int) -> int:
        """The number of active latents at a step."""
        passed = min(1.0, step / (self.share * self.steps)) if self.share else 1.0
        return round(self.start + (self.k - self.start) * passed)
