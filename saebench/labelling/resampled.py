"""Statistics of labels that several judges gave, resampled over texts or the documents they are of.

Texts with the same labels by all judges count together, so that a statistic reads a weight per *profile*
(one label or none per judge) and never the texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from saebench.errors import DataError
from saebench.stats import N_RESAMPLES, interval

NONE = -1  # the code of a text that a judge gave no label
_AT_ONCE = 2**21  # weights of texts in memory

Floats = npt.NDArray[np.float64]
Statistic = Callable[[Floats], Floats]


@dataclass(frozen=True)
class Figure:
    """A number over ``n`` texts with its interval; ``value`` is None where ``reason`` says why.

    ``low`` and ``high`` are None where there is no interval; ``how`` says how it was made.
    """

    value: float | None
    n: int
    low: float | None = None
    high: float | None = None
    how: str = ""
    reason: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return asdict(self)


class LabelTable:
    """The labels of ``n`` texts by judge, as codes of ``classes``; unlabelled ones have :data:`NONE`.

    ``profiles[p, j]`` are the distinct rows and ``counts[p]`` how often each occurs. ``groups`` names the
    document of each text: these are resampled, texts where there are none. Raises :class:`DataError`
    where judges label different numbers of texts.
    """

    def __init__(
        self,
        judges: Mapping[str, Sequence[str | None]],
        groups: Sequence[Any] | None = None,
        classes: Sequence[str] | None = None,
    ) -> None:
        lengths = {name: len(labels) for name, labels in judges.items()}
        if groups is not None:
            lengths["the documents"] = len(groups)
        if len(set(lengths.values())) > 1:
            raise DataError(
                "a label, or none, of every text by each judge",
                ", ".join(f"{n} by {name!r}" for name, n in lengths.items()),
                "Give all judges the same texts.",
            )
        self.judges = tuple(judges)
        found = {label for labels in judges.values() for label in labels if label is not None}
        self.classes = tuple(classes) if classes is not None else tuple(sorted(found))
        number: dict[str | None, int] = {label: i for i, label in enumerate(self.classes)}
        codes = np.array(
            [[number.get(label, NONE) for label in labels] for labels in judges.values()],
            dtype=np.int64,
        ).reshape(len(judges), -1)
        self.n = codes.shape[1]
        self.profiles, inverse, counts = np.unique(
            codes.T, axis=0, return_inverse=True, return_counts=True
        )
        self.counts: Floats = counts.astype(np.float64)
        inverse = inverse.reshape(-1)
        self._profile = inverse
        self._order = np.argsort(inverse, kind="stable")
        self._starts = np.searchsorted(inverse[self._order], np.arange(len(self.profiles)))
        self.unit = "texts" if groups is None else "documents"
        members = range(self.n) if groups is None else groups
        names = {name: i for i, name in enumerate(sorted(set(members), key=str))}
        self._group = np.array([names[name] for name in members], dtype=np.int64)

    def figure(self, statistic: Statistic, where: npt.NDArray[np.bool_], undefined: str) -> Figure:
        """A statistic of weights ``[b, p]`` of the profiles that ``where[p]`` marks.

        ``undefined`` is the reason where the statistic is NaN.
        """
        counts = np.where(where, self.counts, 0)
        n = int(counts.sum())
        if n == 0:
            return Figure(None, 0, reason="no text that has the labels it takes")
        value = float(statistic(counts[None])[0])
        if not np.isfinite(value):
            return Figure(None, n, reason=undefined)
        with np.errstate(invalid="ignore", divide="ignore"):
            parts = [statistic(weights * where) for weights in self._resamples()]
        samples = np.concatenate(parts)
        if (samples == samples[0]).all():  # a bound of no width would promise too much
            return Figure(value, n, how="no interval: every resample gives the same")
        found = interval(samples, unit=self.unit)
        how = found.how or f"no interval: {found.reason}"
        return Figure(value, n, found.low, found.high, how)

    def n_groups(self, where: npt.NDArray[np.bool_]) -> int:
        """How many groups have a text of the profiles that ``where[p]`` marks."""
        return len(np.unique(self._group[where[self._profile]]))

    def _resamples(self, seed: int = 0) -> Iterator[Floats]:
        """Weights ``[b, p]`` of the profiles in resamples of the groups, some resamples at a time."""
        n_groups = int(self._group.max()) + 1
        rng = np.random.default_rng(seed)
        if (
            self.unit == "texts"
        ):  # texts of a profile are alike: how often it is drawn is multinomial
            size = max(1, _AT_ONCE // len(self.counts))
            for first in range(0, N_RESAMPLES, size):
                rows = min(size, N_RESAMPLES - first)
                yield rng.multinomial(self.n, self.counts / self.n, size=rows).astype(np.float64)
            return
        size = max(1, _AT_ONCE // max(self.n, n_groups))
        for first in range(0, N_RESAMPLES, size):
            rows = min(size, N_RESAMPLES - first)
            draws = rng.integers(0, n_groups, size=(rows, n_groups))
            draws += n_groups * np.arange(rows)[:, None]
            drawn = np.bincount(draws.ravel(), minlength=rows * n_groups).reshape(rows, n_groups)
            of_text = drawn[:, self._group[self._order]]
            yield np.add.reduceat(of_text, self._starts, axis=1).astype(np.float64)
