"""The history of a run: a row of figures per trainer and held-out measurement."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from saebench.train.columns import Columns
from saebench.train.heldout import HeldOut
from saebench.train.step import Trainer

Row = Mapping[str, Any]
OnLog = Callable[[int, Row], None]


class Log:
    """A history per trainer, with the held-out figures of every row."""

    def __init__(
        self, trainers: Sequence[Trainer], heldout: Sequence[HeldOut | None], on_log: OnLog | None
    ) -> None:
        self.trainers = trainers
        self.heldout = heldout
        self.on_log = on_log
        self.histories: list[list[Row]] = [[] for _ in trainers]
        self.last_step = 0
        self._started = time.perf_counter()

    def write(self, stats: Sequence[Row]) -> dict[str, str]:
        """Add a row to each history; returns the first trainer's figures for the progress bar."""
        for which, trainer in enumerate(self.trainers):
            heldout = self.heldout[which]
            measured = {} if heldout is None else heldout.measure(trainer.sae())
            row = {
                "step": trainer.steps,
                "tokens": trainer.tokens,
                **stats[which],
                **measured,
                "dead_share": trainer.dead_share,
                "seconds": round(time.perf_counter() - self._started, 3),
            }
            self.histories[which].append(row)
            if self.on_log is not None:
                self.on_log(which, row)
        self.last_step = self.trainers[0].steps
        newest = self.histories[0][-1]
        shown = {name: newest.get(name) for name in ("loss", "fve", "l0")}
        return {name: f"{value:.4g}" for name, value in shown.items() if value is not None}


def heldout_of(
    trainers: Sequence[Trainer],
    columns: Sequence[Columns],
    rows: Tensor | None,
    device: torch.device | str,
) -> list[HeldOut | None]:
    """What each trainer is measured on; those that read the same share it."""
    if rows is None:
        return [None] * len(trainers)
    rows = rows.to(device)
    keys = [(taken, t.n_sources) for t, taken in zip(trainers, columns, strict=True)]
    found = {key: HeldOut(rows, *key) for key in dict.fromkeys(keys)}
    return [found[key] for key in keys]
