"""Progress on stderr, where that is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from saebench.data import Batch

T = TypeVar("T")


def watched(
    batches: Iterable[Batch], n_sequences: int | None, n_checkpoints: int
) -> Iterator[Batch]:
    """The same batches with a progress bar on stderr, where that is a terminal."""
    from tqdm import tqdm

    with tqdm(
        total=n_sequences,
        desc=f"measuring {n_checkpoints} checkpoint{'s' * (n_checkpoints != 1)}",
        unit="seq",
        file=sys.stderr,
        disable=not sys.stderr.isatty(),
    ) as bar:
        for batch in batches:
            yield batch
            bar.update(batch.ids.shape[0])


def counted(items: Sequence[T], what: str, unit: str) -> Iterator[T]:
    """The same items with a progress bar on stderr, where that is a terminal."""
    from tqdm import tqdm

    disabled = not sys.stderr.isatty()
    yield from tqdm(items, desc=what, unit=unit, file=sys.stderr, disable=disabled)
