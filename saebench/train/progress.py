"""How far a training is: a bar on a terminal, or a line now and then where there is none."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Protocol

from tqdm import tqdm

Say = Callable[[str], None]  # takes one line
Progress = bool | Say | None
"""Whether to show a bar, or what takes lines; None shows a bar where stderr is a terminal."""

EVERY = 30.0  # seconds from one line to the next, at least


class Shown(Protocol):
    """What the loop tells how far it is; ends with the ``with`` block that it is used in."""

    def __enter__(self) -> Shown:
        """Start."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End."""

    def update(self, n: float = 1) -> object:
        """``n`` more tokens were trained on."""

    def set_postfix(self, ordered_dict: Mapping[str, object]) -> object:
        """What was measured on held-out tokens, by name."""


class Lines:
    """A line per measurement, the first at once and then at most one in ``every`` seconds.

    ``tokens`` are those of the whole run. The rate counts from ``started`` (by default now) on ``clock``, as
    that of a finished run does.
    """

    def __init__(
        self,
        tokens: int,
        say: Say,
        *,
        n_saes: int = 1,
        started: float | None = None,
        every: float = EVERY,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.tokens = tokens
        self.done = 0
        self._say = say
        self._whose = "" if n_saes == 1 else f" (first of {n_saes} SAEs)"
        self._every = every
        self._clock = clock
        self._started = clock() if started is None else started
        self._last: float | None = None

    def __enter__(self) -> Lines:
        """Nothing is opened."""
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing is left to close."""

    def update(self, n: float = 1) -> None:
        """``n`` more tokens were trained on."""
        self.done += int(n)

    def set_postfix(self, ordered_dict: Mapping[str, object]) -> None:
        """Say what was measured, unless the last line is too recent."""
        now = self._clock()
        if self._last is not None and now - self._last < self._every:
            return
        self._last = now
        rate = self.done / max(now - self._started, 1e-9)
        left = max(self.tokens - self.done, 0) / max(rate, 1e-9)
        parts = [
            f"{self.done:,} of {self.tokens:,} tokens",
            f"{rate:,.0f} tokens/s",
            f"about {duration(left)} left" if left else "done",
        ]
        if "fve" in ordered_dict:
            parts.append(f"held-out FVE {ordered_dict['fve']}{self._whose}")
        self._say("training: " + ", ".join(parts))


def shown(
    tokens: int, progress: Progress, *, n_saes: int = 1, started: float | None = None
) -> Shown:
    """What shows how far a run of ``tokens`` is, for ``n_saes`` SAEs; it may show nothing.

    ``started`` is when the run began by ``time.perf_counter``, now if it is not said.
    """
    if callable(progress):
        return Lines(tokens, progress, n_saes=n_saes, started=started)
    visible = sys.stderr.isatty() if progress is None else progress
    bar: Shown = tqdm(
        total=tokens, disable=not visible, unit="tok", unit_scale=True, desc="training"
    )
    return bar


def announce(progress: Progress, line: str) -> None:
    """Say what starts now, where lines are taken."""
    if callable(progress):
        progress(f"training: {line}")


def duration(seconds: float) -> str:
    """``40 s``, ``7 min``, ``3.2 h``."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
