"""Matchings against scipy's dense solver, on dictionaries that are easy, hard, tied and degenerate."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from saebench.errors import CheckpointError, DataError
from saebench.matching import CosineScores, match_directions, match_scores

A = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
B = torch.tensor([[0.8, 0.6], [-1.0, 0.0], [0.0, 1.0]])
PATHS = pytest.mark.parametrize("dense_up_to", [2048, 0], ids=["dense", "candidates"])
SCREENS = pytest.mark.parametrize("screen", [torch.float32, torch.bfloat16], ids=str)


def gaussian(m, d, seed=0):
    return torch.randn(m, d, generator=torch.Generator().manual_seed(seed))


def cosines(a, b):
    a, b = a.double(), b.double()
    scale = a.norm(dim=1)[:, None] * b.norm(dim=1)
    return torch.where(scale > 0, a @ b.T / scale.clamp(min=1e-300), 0.0).numpy()


def best_total(scores, absolute=False):
    values = np.abs(scores) if absolute else scores
    rows, columns = linear_sum_assignment(values, maximize=True)
    return values[rows, columns].sum()


def is_right(found, scores, absolute=False):
    """The same total as scipy's, one-to-one, complete, scored as it says, and bounded truly."""
    values = np.abs(scores) if absolute else scores
    rows = np.flatnonzero(found.columns >= 0)
    columns = found.columns[rows]
    assert len(rows) == min(scores.shape)
    assert len(set(columns.tolist())) == len(columns)
    np.testing.assert_allclose(found.scores[rows], scores[rows, columns], atol=1e-7)
    assert np.isnan(found.scores[found.columns < 0]).all()
    expected = best_total(scores, absolute)
    slack = 1e-7 * (1 + abs(scores).max()) * min(scores.shape)
    assert found.bound >= expected - slack
    assert found.total == pytest.approx(values[rows, columns].sum(), abs=slack)
    if found.certified:
        assert found.total == pytest.approx(expected, abs=slack)
    np.testing.assert_allclose(found.best_a, values.max(1), atol=1e-6)
    np.testing.assert_allclose(found.best_b, values.max(0), atol=1e-6)


def half_shared(m, d):
    a, b = gaussian(m, d), gaussian(m, d, 1)
    b[: m // 2] = a[: m // 2] + 0.4 * gaussian(m // 2, d, 2)
    return a, b[torch.randperm(m, generator=torch.Generator().manual_seed(3))]


def with_duplicates(m, d):
    a, b = half_shared(m, d)
    a[m // 4 : m // 2], b[: m // 3] = a[0], a[0]
    return a, b


def with_zeros(m, d):
    a, b = half_shared(m, d)
    a[: m // 3], b[m // 5 : m // 2] = 0, 0
    return a, b


DICTIONARIES = {
    "half shared": half_shared(300, 24),
    "independent": (gaussian(300, 24), gaussian(300, 24, 1)),
    "permuted and noisy": (
        gaussian(300, 24),
        gaussian(300, 24).flip(0) + 0.1 * gaussian(300, 24, 1),
    ),
    "sign flipped": (gaussian(300, 24), -gaussian(300, 24).flip(0)),
    "duplicates": with_duplicates(200, 24),
    "zero rows": with_zeros(300, 24),
    "wide": (gaussian(150, 24), gaussian(320, 24, 1)),
    "tall": (gaussian(320, 24), gaussian(150, 24, 1)),
    "narrow": (gaussian(250, 2), gaussian(250, 2, 1)),
    "all zero": (torch.zeros(5, 3), gaussian(5, 3)),
    "common direction": (gaussian(200, 24) + 3, gaussian(200, 24, 1) + 3),
}


@PATHS
@pytest.mark.parametrize(
    ("absolute", "columns", "mean"), [(False, [0, 1, 2], 1.6 / 3), (True, [1, 2, 0], 2.96 / 3)]
)
def test_the_case_worked_by_hand(absolute, columns, mean, dense_up_to):
    found = match_directions(A, B, absolute=absolute, dense_up_to=dense_up_to)
    assert found.columns.tolist() == columns
    assert found.total / 3 == pytest.approx(mean, abs=1e-6)
    assert found.certified
    signed = match_directions(A, B, dense_up_to=dense_up_to)
    assert signed.best_a.mean() == pytest.approx(0.92, abs=1e-6)


def test_scores_keep_their_sign_where_absolute_ones_are_matched():
    found = match_directions(A, B, absolute=True)
    np.testing.assert_allclose(found.scores, [-1.0, 1.0, 0.96], atol=1e-6)


@SCREENS
@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("name", DICTIONARIES)
def test_candidates_give_the_total_of_the_dense_solver(name, absolute, screen):
    a, b = DICTIONARIES[name]
    found = match_directions(a, b, absolute=absolute, dense_up_to=0, candidates=12, screen=screen)
    is_right(found, cosines(a, b), absolute)
    assert found.how == "candidates"
    assert found.certified, found.bound - found.total


LARGE = {
    "independent": (gaussian(2500, 48), gaussian(2500, 48, 1)),
    "half shared": half_shared(2500, 48),
    "wide": (gaussian(1200, 48), half_shared(2500, 48)[1]),
    "tall": (half_shared(2500, 48)[1], gaussian(1200, 48)),
    "sorted": tuple(x[x[:, 0].argsort()] for x in half_shared(2500, 48)),
    "some duplicates": (
        torch.cat([gaussian(2300, 48), gaussian(20, 48, 4).repeat_interleave(10, 0)]),
        torch.cat([gaussian(2200, 48, 1), gaussian(20, 48, 4).repeat(15, 1)]),
    ),
}


@pytest.mark.parametrize("absolute", [False, True])
@pytest.mark.parametrize("name", LARGE)
def test_a_few_thousand_rows_are_certified_and_have_the_total_of_the_dense_solver(name, absolute):
    a, b = LARGE[name]
    found = match_directions(a, b, absolute=absolute)
    is_right(found, cosines(a, b), absolute)
    assert found.how == "candidates"
    assert found.certified, found.bound - found.total


@PATHS
def test_a_permuted_copy_is_matched_back_exactly(dense_up_to):
    a = gaussian(200, 16)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    found = match_directions(a[order], a * 3, dense_up_to=dense_up_to)
    assert found.columns.tolist() == order.tolist()
    np.testing.assert_allclose(found.scores, 1.0, atol=1e-12)


@settings(deadline=None, max_examples=60)
@given(
    m_a=st.integers(1, 40),
    m_b=st.integers(1, 40),
    d=st.integers(1, 6),
    seed=st.integers(0, 10**6),
    levels=st.sampled_from([0, 1, 2]),
    absolute=st.booleans(),
    candidates=st.integers(1, 8),
)
def test_any_small_dictionaries_with_ties(m_a, m_b, d, seed, levels, absolute, candidates):
    a, b = gaussian(m_a, d, seed), gaussian(m_b, d, seed + 1)
    if levels:  # few distinct directions, zero rows among them
        a, b = (
            (a * levels).round().clamp(-levels, levels),
            (b * levels).round().clamp(-levels, levels),
        )
    found = match_directions(a, b, absolute=absolute, dense_up_to=0, candidates=candidates)
    is_right(found, cosines(a, b), absolute)


@settings(deadline=None, max_examples=60)
@given(
    m_a=st.integers(1, 40),
    m_b=st.integers(1, 40),
    seed=st.integers(0, 10**6),
    levels=st.sampled_from([1, 3, 1000]),
    zeros=st.floats(0, 1),
    scale=st.sampled_from([1e-3, 1.0, 1e4]),
    absolute=st.booleans(),
    candidates=st.integers(1, 8),
)
def test_any_small_scores_with_ties(m_a, m_b, seed, levels, zeros, scale, absolute, candidates):
    rng = np.random.default_rng(seed)
    scores = rng.integers(-levels, levels + 1, (m_a, m_b)) * (rng.random((m_a, m_b)) > zeros)
    matrix = torch.from_numpy(scores * scale).float()
    found = match_scores(
        lambda start, stop: matrix[start:stop],
        (m_a, m_b),
        absolute=absolute,
        dense_up_to=0,
        candidates=candidates,
    )
    is_right(found, matrix.double().numpy(), absolute)


@PATHS
def test_scores_in_blocks_match_as_the_directions_they_come_from(dense_up_to):
    a, b = half_shared(300, 24)
    matrix = torch.from_numpy(cosines(a, b)).float()
    found = match_scores(lambda i, j: matrix[i:j], (300, 300), dense_up_to=dense_up_to)
    assert found.columns.tolist() == match_directions(a, b).columns.tolist()


def test_the_order_of_rows_does_not_matter():
    a, b = half_shared(400, 24)
    order = torch.randperm(400, generator=torch.Generator().manual_seed(5))
    one = match_directions(a, b, dense_up_to=0, candidates=16)
    two = match_directions(a[order], b, dense_up_to=0, candidates=16)
    assert two.columns.tolist() == one.columns[order.numpy()].tolist()


def test_a_search_that_is_cut_short_gives_an_honest_bound():
    a, b = with_duplicates(200, 24)
    found = match_directions(a, b, dense_up_to=0, candidates=1, max_rounds=1)
    expected = best_total(cosines(a, b))
    assert not found.certified
    assert found.total < expected < found.bound


@SCREENS
@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_screened_scores_are_as_near_as_they_claim(screen, scale):
    a, b = gaussian(200, 96) * scale, gaussian(300, 96, 1)
    b[:100] = a[:100] / scale + 0.01
    source = CosineScores(a, b, dtype=screen)
    screened = source.screened(0, 200).double().numpy()
    allowed = source.error_a[:, None] + source.error_b + source.relative * np.abs(screened)
    assert (np.abs(screened - cosines(a, b)) <= allowed).all()
    assert allowed.max() < 0.02


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_undefined_weights_are_refused(bad):
    a = gaussian(4, 3)
    a[1, 2] = bad
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        match_directions(a, gaussian(4, 3))


def test_other_widths_are_refused_and_both_named():
    with pytest.raises(CheckpointError, match="width 3 and of width 5"):
        match_directions(gaussian(4, 3), gaussian(4, 5))


@pytest.mark.parametrize("shape", [(0, 3), (3,)])
def test_what_is_no_matrix_is_refused(shape):
    with pytest.raises(CheckpointError, match="shape"):
        match_directions(torch.zeros(shape), gaussian(4, 3))


def test_blocks_of_the_wrong_shape_and_undefined_scores_are_refused():
    with pytest.raises(DataError, match="shape"):
        match_scores(lambda i, j: torch.zeros(j - i, 2), (4, 3))
    with pytest.raises(DataError, match="NaN"):
        match_scores(lambda i, j: torch.full((j - i, 3), float("nan")), (4, 3))
