"""The sample of contexts: what it holds, that it is uniform, and that batches and order do not matter."""

import numpy as np
import pytest
import torch
from scipy import stats

from saebench.causal import ContextIndex, contexts
from saebench.codes import SparseCodes

N, LENGTH, D_SAE = 60, 16, 40  # sequences, tokens of each, latents
COLUMNS = ("latent", "sequence", "position", "code")


def dense_codes(seed=0, density=0.1):
    """``f[sequence, token, latent]``; latent 0 never fires, latent 1 always."""
    generator = torch.Generator().manual_seed(seed)
    shape = (N, LENGTH, D_SAE)
    codes = torch.rand(shape, generator=generator) + 0.1
    codes *= torch.rand(shape, generator=generator) < density
    codes[..., 0] = 0
    codes[..., 1] = 0.5
    return codes


def sparse(dense):
    fires = dense != 0
    offsets = torch.zeros(len(dense) + 1, dtype=torch.int32)
    offsets[1:] = fires.sum(1).cumsum(0)
    return SparseCodes(dense[fires], fires.nonzero()[:, 1].to(torch.int32), offsets, dense.shape[1])


def index_of(dense, order=None, batch_size=N, n_probes=8, seed=3):
    order = torch.arange(N) if order is None else order
    index = ContextIndex(D_SAE, n_probes, seed)
    for some in order.split(batch_size):
        sequence = some.repeat_interleave(LENGTH)
        index.update(
            sparse(dense[some].flatten(0, 1)), sequence, torch.arange(LENGTH).repeat(len(some))
        )
    return index


def test_every_probe_is_a_firing_and_no_sequence_comes_twice():
    dense = dense_codes()
    probes = index_of(dense).probes()
    found = dense[probes.sequence, probes.position, probes.latent]
    np.testing.assert_array_equal(found.numpy(), probes.code.astype(np.float32))
    assert (found > 0).all()
    pairs = set(zip(probes.latent.tolist(), probes.sequence.tolist(), strict=True))
    assert len(pairs) == len(probes)


def test_each_latent_has_as_many_probes_as_it_can():
    dense = dense_codes(density=0.005)
    index = index_of(dense)
    fires = (dense != 0).any(1)
    expected = fires.sum(0).clamp(max=8).numpy()
    assert expected.min() == 0 < expected.max() == 8
    found = np.bincount(index.probes().latent, minlength=D_SAE)
    np.testing.assert_array_equal(found, expected)
    sequences, tokens = index.counts
    np.testing.assert_array_equal(sequences, fires.sum(0).numpy())
    np.testing.assert_array_equal(tokens, (dense != 0).sum((0, 1)).numpy())


def test_probes_are_sorted_by_sequence_position_and_latent():
    probes = index_of(dense_codes()).probes()
    keys = list(zip(probes.sequence, probes.position, probes.latent, strict=True))
    assert keys == sorted(keys)


@pytest.mark.parametrize("batch_size", [1, 7, 60])
@pytest.mark.parametrize("pending", [1, 200, 2**18])
def test_neither_batch_size_nor_order_matters(batch_size, pending, monkeypatch):
    dense = dense_codes()
    expected = index_of(dense).probes()
    monkeypatch.setattr(contexts, "_MIN_PENDING", pending)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(batch_size))
    index = index_of(dense, order, batch_size)
    for column in COLUMNS:
        np.testing.assert_array_equal(getattr(index.probes(), column), getattr(expected, column))
    np.testing.assert_array_equal(index.counts[0], index_of(dense).counts[0])


def test_more_can_be_read_after_probes_were_asked_for():
    dense = dense_codes()
    index = ContextIndex(D_SAE, 8, 3)
    for some in torch.arange(N).split(20):
        sequence = some.repeat_interleave(LENGTH)
        index.update(sparse(dense[some].flatten(0, 1)), sequence, torch.arange(LENGTH).repeat(20))
        index.probes()
    for column in COLUMNS:
        np.testing.assert_array_equal(
            getattr(index.probes(), column), getattr(index_of(dense).probes(), column)
        )


def test_the_probes_of_some_latents_are_those_among_all():
    index = index_of(dense_codes())
    every, some = index.probes(), index.probes(np.array([1, 5, 6]))
    keep = np.isin(every.latent, [1, 5, 6])
    for column in COLUMNS:
        np.testing.assert_array_equal(getattr(some, column), getattr(every, column)[keep])


def test_sequences_and_positions_are_drawn_uniformly_and_each_seed_draws_others():
    dense = torch.ones(N, LENGTH, D_SAE)
    sequences, positions = [], []
    for seed in range(5):
        probes = index_of(dense, n_probes=6, seed=seed).probes()
        sequences.append(np.bincount(probes.sequence, minlength=N))
        positions.append(np.bincount(probes.position, minlength=LENGTH))
    assert not (sequences[0] == sequences[1]).all()
    for counts in (np.sum(sequences, 0), np.sum(positions, 0)):  # 5 · 40 · 6 draws
        assert counts.sum() == 1200
        assert stats.chisquare(counts).pvalue > 0.001


def test_latents_draw_independently():
    dense = torch.ones(N, LENGTH, D_SAE)
    probes = index_of(dense, n_probes=6).probes()
    drawn = np.zeros((D_SAE, N))
    drawn[probes.latent, probes.sequence] = 1
    shared = (drawn @ drawn.T)[np.triu_indices(D_SAE, 1)]
    assert shared.mean() == pytest.approx(6 * 6 / N, abs=0.1)


def test_an_index_that_has_read_nothing_is_empty():
    index = ContextIndex(D_SAE, 8, 0)
    assert len(index.probes()) == 0
    assert index.counts[0].sum() == index.counts[1].sum() == 0


def test_memory_is_bounded_by_the_sample(monkeypatch):
    monkeypatch.setattr(contexts, "_MIN_PENDING", 1)
    index = ContextIndex(D_SAE, 4, 0)
    dense = torch.ones(10, LENGTH, D_SAE)
    for start in range(0, 200, 10):
        sequence = torch.arange(start, start + 10).repeat_interleave(LENGTH)
        index.update(sparse(dense.flatten(0, 1)), sequence, torch.arange(LENGTH).repeat(10))
        assert index._waiting <= D_SAE * 10
    assert len(index.probes()) == D_SAE * 4
    assert sum(len(block.latent) for block in index._kept.values()) == D_SAE * 4


def test_merging_sorts_no_more_than_a_block_of_latents_at_a_time(monkeypatch):
    index = ContextIndex(D_SAE, 4, 0)
    dense = torch.ones(10, LENGTH, D_SAE)
    sequence = torch.arange(10).repeat_interleave(LENGTH)
    index.update(sparse(dense.flatten(0, 1)), sequence, torch.arange(LENGTH).repeat(10))
    sorts = []
    sort = contexts._sorted
    monkeypatch.setattr(
        contexts, "_sorted", lambda *columns: (sorts.append(len(columns[0])), sort(*columns))[1]
    )
    index.probes()
    assert max(sorts) <= 10 * -(-D_SAE // contexts._BLOCKS)
    assert sum(sorts) == 10 * D_SAE
