"""Kept rows: whole sequences, in order, in chunks that never cut one, and smaller ones without memory."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from saebench.errors import ModelError
from saebench.measure.difference import rows as rows_module
from saebench.measure.difference.rows import Rows, within_memory
from saebench.passes import Reading, SiteView
from saebench.sae import SAE
from saebench.sites import parse_site
from tests.difference_runs import make_pair_world, measured, prepared, write_prompts

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


def out_of_memory_above(monkeypatch, limit):
    """Make reconstructions of more tokens than ``limit`` run out of memory; the sizes asked for."""
    sizes, plain = [], SAE.reconstruct

    def short(sae, x):
        sizes.append(x.shape[0])
        if x.shape[0] > limit:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return plain(sae, x)

    monkeypatch.setattr(SAE, "reconstruct", short)
    return sizes


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_pair_world(tmp_path_factory.mktemp("rows") / "world")


def run_of(world, out):
    """A run with labelled prompts, two difference SAEs and an SAE of the base model."""
    text = str(write_prompts(world.folder / "prompts.jsonl"))
    base = (str(world.folder / "saes" / "good"),)
    return prepared(world, saes=("diff", "diff-k8"), text=text, base_saes=base, out=out)


def test_where_memory_runs_out_fewer_tokens_are_worked_on_and_figures_stay(world, monkeypatch):
    plain = measured(run_of(world, "plain"))
    sizes = out_of_memory_above(monkeypatch, 20)
    found = measured(run_of(world, "short"))
    assert sizes[0] == 24 * 8
    assert 0 < sizes[-1] <= 20
    assert sum(size > 20 for size in sizes) < 12  # what did not fit is not tried again
    for name, record in plain.items():
        for key, one in record.measurements.items():
            if one.value is None:
                assert found[name].measurements[key].value is None
            else:
                assert found[name].measurements[key].value == pytest.approx(one.value, rel=1e-4)
        assert found[name].details["difference"]["dead"] == record.details["difference"]["dead"]


def test_one_sequence_that_does_not_fit_is_an_error_with_a_way_out(world, monkeypatch):
    out_of_memory_above(monkeypatch, 7)
    with pytest.raises(ModelError, match="sae_dtype") as caught:
        measured(run_of(world, "never"))
    assert "diff on kept activations at" in str(caught.value)
    assert "8 tokens at a time" in str(caught.value)


def test_work_is_begun_again_with_half_the_tokens_down_to_one_sequence(tmp_path):
    found, sizes = kept(tmp_path, 40), []

    def fails():
        sizes.append(found.chunk_tokens)
        raise torch.OutOfMemoryError("CUDA out of memory.")

    found.chunk_tokens = 40
    with pytest.raises(ModelError, match="memory runs out"):
        within_memory(found, fails, "rows")
    assert sizes == [40, 20, 10, 6]  # the longest sequence has 6 tokens
