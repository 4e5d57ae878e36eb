"""Sums per resampling group: ``S_g = Σ value of the tokens in group g``, float64; counts int64.

A group is ``sequence_id % n_groups``: with at most ``n_groups`` sequences it is one sequence,
beyond that a fixed share of them, so memory is bounded whatever is read and the grouping depends on
neither batches nor shards.

Updates and merges of every accumulator run in inference mode: sums that a pass made there could not be
changed in place anywhere else.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from saebench.errors import ConfigError

N_GROUPS = 512

# float64 temporaries of a row chunk: what fits in a core's cache, and what fills an accelerator
CHUNK_BYTES = {"cpu": 3 * 2**19}
ACCELERATOR_CHUNK_BYTES = 2**28


def group_of(sequence_ids: Tensor, n_groups: int = N_GROUPS) -> Tensor:
    """The resampling group of each sequence id, same shape, in ``[0, n_groups)``."""
    return sequence_ids.remainder(n_groups)


def wide(x: Tensor) -> Tensor:
    """``x`` in float64, moved to the CPU where its device has no float64."""
    return (x.cpu() if x.device.type == "mps" else x).double()


def row_chunks(n_rows: int, row_bytes: int, device: torch.device) -> Iterator[slice]:
    """Slices over ``n_rows`` such that a temporary of ``row_bytes`` a row stays small."""
    budget = CHUNK_BYTES.get(device.type, ACCELERATOR_CHUNK_BYTES)
    rows = max(1, budget // max(row_bytes, 1))
    for start in range(0, n_rows, rows):
        yield slice(start, min(start + rows, n_rows))


class GroupSums:
    """Named sums of per-token scalars in ``n_groups`` groups, and ``n`` tokens in each (int64)."""

    def __init__(self, n_groups: int, names: Iterable[str]) -> None:
        self.n_groups = n_groups
        self.n = torch.zeros(n_groups, dtype=torch.int64)
        self.sums = {name: torch.zeros(n_groups, dtype=torch.float64) for name in names}

    @torch.inference_mode()
    def count(self, groups: Tensor) -> None:
        """Count one token in each of ``groups[n]``: once, whatever number of sums it is added to."""
        self.n += torch.bincount(groups, minlength=self.n_groups).cpu()

    @torch.inference_mode()
    def add(self, name: str, values: Tensor, groups: Tensor) -> None:
        """Add ``values[n]`` to the sum ``name`` of ``groups[n]``."""
        values = wide(values)
        groups = groups.to(values.device)
        self.sums[name] += torch.bincount(groups, weights=values, minlength=self.n_groups).cpu()

    @torch.inference_mode()
    def merge(self, other: GroupSums) -> None:
        """Add another shard's sums; raises :class:`ConfigError` where the names differ."""
        check_alike("groups and names", (self.n_groups, *self.sums), (other.n_groups, *other.sums))
        self.n += other.n
        for name, sums in other.sums.items():
            self.sums[name] += sums

    @property
    def present(self) -> Tensor:
        """The groups that hold tokens, ascending (the columns of resampling weights)."""
        return self.n.nonzero().squeeze(1)

    @property
    def n_tokens(self) -> int:
        """How many tokens were counted."""
        return int(self.n.sum())

    def tokens(self, weights: Tensor | None = None) -> Tensor:
        """Tokens in all groups ``[1]``, or in each resample of ``weights[R, present]``: ``[R]``."""
        return weighted(self.n.double()[self.present], weights)

    def total(self, name: str, weights: Tensor | None = None) -> Tensor:
        """The sum over all groups ``[1]``, or in each resample of ``weights[R, present]``: ``[R]``."""
        return weighted(self.sums[name][self.present], weights)

    def mean(self, name: str, weights: Tensor | None = None) -> Tensor:
        """The mean per token, ``[1]`` or ``[R]``; not a number where no token was counted."""
        return self.total(name, weights) / self.tokens(weights)


def weighted(sums: Tensor, weights: Tensor | None) -> Tensor:
    """``weights[R, G] @ sums[G, ...]``, or the plain sum over ``G`` with a leading 1."""
    return sums.sum(0, keepdim=True) if weights is None else weights @ sums


def check_alike(what: str, ours: object, theirs: object) -> None:
    """Raise :class:`ConfigError` unless two accumulators agree in ``what``."""
    if ours != theirs:
        raise ConfigError(
            f"combining sums with the same {what}",
            f"{reprlib.repr(ours)} and {reprlib.repr(theirs)}",
            "Accumulate both on the same tokens, sites and settings.",
        )
