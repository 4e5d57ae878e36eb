"""What is kept of a large score matrix, and what the rest is bounded by."""

import numpy as np
import pytest
import torch

from saebench.matching import BlockScores, CosineScores
from saebench.matching.candidates import above, column_thresholds, find_candidates, ordered


def gaussian(m, d, seed=0):
    return torch.randn(m, d, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shift", [-1.0, 0.0, 1.0])
@pytest.mark.parametrize("absolute", [False, True])
def test_what_is_above_a_threshold_is_what_a_comparison_of_numbers_finds(
    dtype, shift, absolute, monkeypatch
):
    monkeypatch.setattr("saebench.matching.candidates.CHUNK_BYTES", 4 * 60 * 7)  # several chunks
    block = gaussian(50, 60).to(dtype)
    block[3, :5], block[4, :5] = 0.0, -0.0
    limit, across = (gaussian(m, 1, m)[:, 0].to(dtype) + shift for m in (50, 60))
    if absolute:
        limit, across = limit.abs(), across.abs()
    values = block.abs() if absolute else block
    expected = (values > torch.minimum(limit[:, None], across)).flatten().nonzero()[:, 0]
    found = above(block, limit, across, absolute)
    assert found.tolist() == expected.tolist()
    assert 0 < len(expected) < block.numel()


def test_ordered_bits_have_the_order_of_the_numbers():
    numbers = torch.tensor([-3.0, -1.0, -1e-30, 0.0, 1e-30, 0.5, 2.0])
    assert (np.diff(ordered(numbers.view(torch.int32).numpy())) > 0).all()


@pytest.mark.parametrize("n", [4, 48, 600])
def test_about_n_rows_exceed_the_threshold_of_a_column(n):
    source = CosineScores(gaussian(1200, 32), gaussian(900, 32, 1))
    exceed = (source.dense() > column_thresholds(source, n, False).double().numpy()).sum(0)
    assert n / 2 < exceed.mean() < 2 * n


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("order", ["any", "sorted"])
def test_every_pair_is_a_candidate_or_within_both_bounds(absolute, order, monkeypatch):
    monkeypatch.setattr("saebench.matching.scores.BLOCK_BYTES", 2**16)  # several blocks
    a, b = gaussian(400, 6), gaussian(300, 6, 1)
    if order == "sorted":  # a block's rows are then alike, and a sample stands for them badly
        a = a[a[:, 0].argsort()]
    source = CosineScores(a, b, dtype=torch.bfloat16)
    values = np.abs(source.dense()) if absolute else source.dense()
    pairs = find_candidates(source, 10, absolute)
    assert (pairs.upper >= values.reshape(-1)[pairs.keys]).all()
    out = np.ones(values.shape, bool)
    out[pairs.rows, pairs.columns] = False
    assert (values <= np.minimum(pairs.rest_a[:, None], pairs.rest_b))[out].all()
    assert 10 * 300 < len(pairs.keys) < 8 * 10 * 700


def test_rows_and_columns_of_zeros_are_noticed_in_blocks():
    scores = gaussian(30, 20)
    scores[3], scores[:, 5] = 0, 0
    pairs = find_candidates(BlockScores(lambda i, j: scores[i:j], (30, 20)), 4, False)
    assert np.flatnonzero(pairs.empty_a).tolist() == [3]
    assert np.flatnonzero(pairs.empty_b).tolist() == [5]
