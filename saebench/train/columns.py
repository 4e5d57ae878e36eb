"""What a trainer takes of the rows that all trainers of a run share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

Span = tuple[int, int]  # first column, and the one after the last


@dataclass(frozen=True)
class Columns:
    """Parts of a row ``[W]`` side by side; each a span of columns, less another where one is named."""

    parts: tuple[tuple[Span, Span | None], ...]

    @classmethod
    def joined(cls, parts: Iterable[tuple[Span, Span | None]]) -> Columns:
        """The same, with spans that follow each other made one: those are not copied."""
        found: list[tuple[Span, Span | None]] = []
        for span, minus in parts:
            if found and minus is None and found[-1][1] is None and found[-1][0][1] == span[0]:
                found[-1] = ((found[-1][0][0], span[1]), None)
            else:
                found.append((span, minus))
        return cls(tuple(found))

    @classmethod
    def whole(cls, width: int) -> Columns:
        """Rows as they are."""
        return cls((((0, width), None),))

    @property
    def width(self) -> int:
        """How many columns there are."""
        return sum(stop - start for (start, stop), _ in self.parts)

    def of(self, rows: Tensor) -> Tensor:
        """``[n, width]`` of ``rows[n, W]``; a view where it is one span, from which nothing is taken."""
        parts = [
            rows[:, slice(*span)]
            if minus is None
            else rows[:, slice(*span)] - rows[:, slice(*minus)]
            for span, minus in self.parts
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, 1)
