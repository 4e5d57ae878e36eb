"""Kept rows: whole sequences, in order, in chunks that never cut one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from saebench.measure.difference import rows as rows_module
from saebench.measure.difference.rows import Rows
from saebench.passes import Reading, SiteView
from saebench.sites import parse_site

CPU = torch.device("cpu")
SITE = parse_site("blocks.1.hook_resid_post")
STACK = (Reading(SITE, 0), Reading(SITE, 1))
SIZES = (4, 1, 6, 3, 5)
IDS = np.repeat(np.arange(len(SIZES)), SIZES)
X = torch.arange(2 * IDS.size, dtype=torch.float32).reshape(-1, 2)


def kept(tmp_path, capacity, batches=(2, 2, 1)):
    """Rows after batches of so many sequences."""
    found = Rows(STACK, capacity, tmp_path)
    first = 0
    for n in batches:
        inside = (first <= IDS) & (first + n > IDS)
        found.update(SiteView(STACK, X[inside], torch.from_numpy(IDS[inside])))
        first += n
    return found


@pytest.mark.parametrize("capacity", [4, 5, 10, 11, 18, 19, 40])
@pytest.mark.parametrize("batches", [(1,) * 5, (5,), (2, 2, 1)])
def test_the_first_whole_sequences_that_fit_are_kept(tmp_path, capacity, batches):
    found = kept(tmp_path, capacity, batches)
    ends = np.cumsum(SIZES)
    n = int(ends[ends <= capacity][-1])
    assert found.n == n
    assert (found.sequences == IDS[:n]).all()
    assert torch.equal(torch.cat([x for _, x in found.chunks(CPU)]), X[:n])


def test_nothing_is_kept_after_a_sequence_that_did_not_fit(tmp_path):
    found = kept(tmp_path, 8)  # 4 + 1, then 6 do not fit and 3 would
    assert found.n == 5


@pytest.mark.parametrize("size", [1, 5, 7, 100])
def test_chunks_hold_whole_sequences_and_all_of_them(tmp_path, size):
    found = kept(tmp_path, 40)
    starts = set(np.cumsum((0, *SIZES)))
    at = 0
    for first, x in found.chunks(CPU, size):
        assert first == at
        assert {first, first + len(x)} <= starts
        assert len(x) <= size or len(np.unique(IDS[first : first + len(x)])) == 1
        at += len(x)
    assert at == IDS.size


def test_what_is_too_large_goes_to_a_file_without_a_name(tmp_path, monkeypatch):
    monkeypatch.setattr(rows_module, "IN_MEMORY_BYTES", 8 * IDS.size - 1)
    found = kept(tmp_path / "out", IDS.size)
    assert isinstance(found._x, np.memmap)
    assert not list((tmp_path / "out").iterdir())
    assert torch.equal(torch.cat([x for _, x in found.chunks(CPU)]), X)
    file = found._file
    found.close()
    assert file.closed


def test_what_is_small_stays_in_memory_shared_by_sites(tmp_path, monkeypatch):
    monkeypatch.setattr(rows_module, "IN_MEMORY_BYTES", 8 * IDS.size)
    assert not isinstance(kept(tmp_path, IDS.size)._x, np.memmap)
    shared = Rows(STACK, IDS.size, tmp_path, n_sites=2)
    shared.update(SiteView(STACK, X, torch.from_numpy(IDS)))
    assert isinstance(shared._x, np.memmap)
    shared.close()
