"""What a definition is: one named, versioned meaning for each metric id."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Better = Literal["higher", "lower", "none"]
Range = tuple[float | None, float | None]

BOOTSTRAP = "percentile bootstrap over sequences"
JACKKNIFE = "delete-one-block jackknife over 64 blocks of sequences"
BLOCK_BOOTSTRAP = "percentile bootstrap over 64 blocks of sequences"
NO_INTERVAL = "none"

SHARE: Range = (0.0, 1.0)
UP_TO_ONE: Range = (None, 1.0)
NOT_NEGATIVE: Range = (0.0, None)
ANY: Range = (None, None)


@dataclass(frozen=True)
class Definition:
    """One metric: formula, unit, direction, attainable ``range``, source and kind of interval."""

    id: str
    label: str
    formula: str
    unit: str
    better: Better
    range: Range
    source: str
    interval: str = BOOTSTRAP
    version: int = 1

    @property
    def metric(self) -> str:
        """The id with its version, as in records: ``fve@1``."""
        return f"{self.id}@{self.version}"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "range": list(self.range)}
