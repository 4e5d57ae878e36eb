"""Functional matching: correlations over the union, matched on one half of the text, scored on the other."""

import numpy as np
import pytest
from scipy import sparse
from scipy.optimize import linear_sum_assignment

from saebench.errors import DataError
from saebench.matching.functional import (
    MIN_TOKENS,
    CodeTable,
    Correlations,
    match_functionally,
    score_pairs,
)


def codes(n=240, m=12, *, density=0.3, seed=0, signed=False):
    """Independent sparse codes ``[n, m]``."""
    rng = np.random.default_rng(seed)
    values = rng.uniform(0.5, 2.0, (n, m)) * (rng.random((n, m)) < density)
    return values * rng.choice([-1, 1], (n, m)) if signed else values


def table(dense, length=10):
    """Codes with sequences of ``length`` tokens."""
    ids = np.arange(len(dense)) // length
    return CodeTable(sparse.csr_matrix(dense.astype(np.float32)), ids.astype(np.int64))


def naive(a, b, minimum=MIN_TOKENS):
    """Correlation and Jaccard of every pair by a double loop over latents."""
    correlation, jaccard = (np.full((a.shape[1], b.shape[1]), np.nan) for _ in range(2))
    for i, x in enumerate(a.T):
        for j, y in enumerate(b.T):
            union = (x != 0) | (y != 0)
            if union.any():
                jaccard[i, j] = ((x != 0) & (y != 0)).sum() / union.sum()
            if union.sum() >= minimum and x[union].std() and y[union].std():
                correlation[i, j] = np.corrcoef(x[union], y[union])[0, 1]
    return correlation, jaccard


@pytest.mark.parametrize("signed", [False, True])
def test_correlations_and_jaccard_are_those_of_a_double_loop(signed):
    a = codes(seed=1, signed=signed).astype(np.float32)
    b = codes(m=7, density=0.05, seed=2, signed=signed).astype(np.float32)
    b[:, 3] = a[:, 5] + b[:, 3]
    rows, columns = (item.ravel() for item in np.indices((12, 7)))
    found = score_pairs(sparse.csr_matrix(a), sparse.csr_matrix(b), rows, columns)
    correlation, jaccard = naive(a.astype(float), b.astype(float))
    np.testing.assert_allclose(found.correlation, correlation.ravel(), atol=1e-12)
    np.testing.assert_allclose(found.jaccard, jaccard.ravel(), atol=1e-12)
    assert np.nanmax(found.correlation) > 0.5
    scores = Correlations(sparse.csr_matrix(a), sparse.csr_matrix(b))
    assert scores.rows.tolist() == np.flatnonzero((a != 0).sum(0) >= 10).tolist()
    assert scores.columns.tolist() == np.flatnonzero((b != 0).sum(0) >= 10).tolist()
    blocks = scores.table.toarray()
    together = np.nan_to_num(jaccard) > 0
    positive = np.where(together, np.nan_to_num(correlation).clip(0), 0)
    positive = positive[np.ix_(scores.rows, scores.columns)]
    np.testing.assert_allclose(blocks, positive, atol=1e-6)
    assert 0 < (positive > 0).sum() < positive.size


def test_blocks_of_any_size_hold_the_same_scores(monkeypatch):
    two = table(codes(density=2.0)).codes, table(codes(density=2.0, seed=3)).codes
    scores = Correlations(*two)
    monkeypatch.setattr("saebench.matching.functional.BLOCK_BYTES", 8 * 12 * 5)
    again = Correlations(*two)
    np.testing.assert_array_equal(again.table.toarray(), scores.table.toarray())
    assert scores.table.nnz


def test_latents_that_never_fire_are_left_out_of_the_scores():
    a = codes()
    a[:, [0, 7]] = 0
    scores = Correlations(table(a).codes, table(codes(seed=1)).codes)
    assert scores.shape == (10, 12)
    assert scores.rows.tolist() == [1, 2, 3, 4, 5, 6, 8, 9, 10, 11]


def test_a_stored_zero_is_no_firing():
    stored = sparse.csr_matrix((np.array([1.0, 0.0]), np.array([0, 0]), np.arange(3)), shape=(2, 1))
    (found,) = zip(*score_pairs(stored, stored, np.array([0]), np.array([0])), strict=True)
    assert found[2] == 1


def test_a_pair_seen_on_too_few_tokens_has_no_correlation():
    a = np.zeros((100, 1))
    a[: MIN_TOKENS - 1, 0] = np.arange(1, MIN_TOKENS)
    pair = np.array([0]), np.array([0])
    few = score_pairs(sparse.csr_matrix(a), sparse.csr_matrix(a), *pair)
    assert np.isnan(few.correlation[0])
    assert few.jaccard[0] == 1
    a[MIN_TOKENS - 1, 0] = 7.5
    enough = score_pairs(sparse.csr_matrix(a), sparse.csr_matrix(a), *pair)
    assert enough.correlation[0] == pytest.approx(1)


def test_a_code_that_is_constant_over_the_union_has_no_correlation():
    a = np.full((50, 1), 0.1)
    found = score_pairs(
        sparse.csr_matrix(a.astype(np.float32)),
        sparse.csr_matrix(codes(50, 1)),
        *[np.array([0])] * 2,
    )
    assert np.isnan(found.correlation[0])


def test_a_permuted_copy_is_matched_back_exactly_and_scores_one():
    a = codes(800, 30, density=0.1)
    order = np.random.default_rng(4).permutation(30)
    found = match_functionally(table(a), table(a[:, order]))
    assert found.matched.certified
    assert order[found.matched.columns].tolist() == found.matched.rows.tolist() == list(range(30))
    np.testing.assert_allclose(found.held_out.correlation, 1)
    np.testing.assert_allclose(found.held_out.jaccard, 1)
    assert found.n_tokens == (400, 400)


def test_the_matching_is_the_best_assignment_of_the_first_half_and_its_scores_are_of_the_second():
    rng = np.random.default_rng(5)
    a = codes(400, 9, seed=6)
    b = codes(400, 11, seed=7) + a[:, rng.integers(0, 9, 11)] * rng.random(11)
    b = b.astype(np.float32).astype(float)
    a = a.astype(np.float32).astype(float)
    first, _ = naive(a[:200], b[:200])
    rows, columns = linear_sum_assignment(first.clip(0), maximize=True)
    rows, columns = (item[first[rows, columns] > 0] for item in (rows, columns))
    found = match_functionally(table(a), table(b))
    assert 3 < len(rows) <= 9
    assert found.n_latents == (9, 11)
    assert found.matched.rows.tolist() == rows.tolist()
    assert found.matched.columns.tolist() == columns.tolist()
    np.testing.assert_allclose(found.matched.scores, first[rows, columns], atol=1e-6)
    second, jaccard = naive(a[200:], b[200:])
    np.testing.assert_allclose(found.held_out.correlation, second[rows, columns], atol=1e-12)
    np.testing.assert_allclose(found.held_out.jaccard, jaccard[rows, columns], atol=1e-12)


def test_what_is_matched_by_chance_does_not_score_on_the_other_half():
    a, b = codes(400, 40, density=0.9), codes(400, 40, density=0.9, seed=1)
    found = match_functionally(table(a), table(b))
    chance = np.nanmean(naive(a[200:], b[200:])[0])
    assert found.matched.scores.mean() > chance + 0.1
    assert found.held_out.correlation.mean() == pytest.approx(chance, abs=0.03)
    assert found.null.correlation.mean() == pytest.approx(chance, abs=0.03)


def test_the_null_of_shared_codes_is_what_independent_codes_score():
    a = codes(4000, 20, density=0.2)
    found = match_functionally(table(a), table(a))
    independent = np.nanmean(naive(a, codes(4000, 20, density=0.2, seed=8))[0])
    assert found.held_out.correlation.mean() == pytest.approx(1)
    assert found.null.correlation.mean() == pytest.approx(independent, abs=0.02)
    assert independent < -0.5  # most tokens of the union have only one of the two


def test_the_null_of_codes_that_always_fire_is_zero():
    a = codes(4000, 20, density=2.0)
    found = match_functionally(table(a), table(a))
    assert found.null.correlation.mean() == pytest.approx(0, abs=0.02)


def test_rolling_moves_whole_sequences_in_a_circle():
    ids = np.array([0, 0, 0, 1, 2, 2, 3])
    rolled = CodeTable(sparse.csr_matrix(np.arange(1.0, 8)[:, None]), ids).rolled()
    assert rolled.codes.toarray().ravel().tolist() == [4, 5, 6, 7, 1, 2, 3]
    assert rolled.sequence_ids is ids


def test_one_sequence_has_no_null_and_nothing_to_score_on():
    found = match_functionally(table(codes(50), 50), table(codes(50), 50))
    assert found.n_tokens == (50, 0)
    assert found.null is None
    assert np.isnan(found.held_out.correlation).all()


def test_codes_that_never_fire_are_not_matched():
    silent = table(np.zeros((40, 3)))
    assert match_functionally(silent, table(codes(40, 3))) is None
    assert match_functionally(table(codes(40, 3)), silent) is None
    assert match_functionally(table(np.zeros((0, 3))), table(np.zeros((0, 3)))) is None


def test_codes_of_other_tokens_are_refused():
    with pytest.raises(DataError, match="same tokens"):
        match_functionally(table(codes()), table(codes(), length=12))


def test_the_halves_are_blocks_so_that_one_document_at_most_is_in_both():
    ids = np.array([4, 4, 5, 7, 7, 8, 11])
    first, second = CodeTable(sparse.csr_matrix((7, 1)), ids).halves()
    assert ids[first].tolist() == [4, 4, 5, 7, 7]  # of five sequences, the first three
    assert ids[second].tolist() == [8, 11]


def test_what_two_codes_share_within_single_documents_does_not_score():
    """Two documents of eight sequences each; the pairing of the first says nothing of the second."""
    a = codes(160, density=0.5, seed=4)
    b = a.copy()
    b[80:] = a[80:, np.roll(np.arange(12), 1)]
    found = match_functionally(table(a), table(b))
    chance = np.nanmean(naive(a[80:], b[80:])[0])
    assert found.matched.scores.mean() == pytest.approx(1)
    assert found.held_out.correlation.mean() < chance + 0.25


@pytest.mark.parametrize("better", [0, 1])
def test_pairings_that_tie_on_the_grid_of_the_solver_are_both_optimal(better):
    scores = Correlations(table(codes(m=2)).codes, table(codes(m=2, seed=1)).codes)
    values = np.full((2, 2), 0.5)
    values[[0, 1], [better, 1 - better]] += 5e-9  # less than half of a unit of 2^-26
    scores.table = sparse.coo_matrix(values)
    found = scores.assignment()
    assert found.bound - found.total < 2e-8
    assert found.certified


def test_a_matching_that_is_worse_than_its_bound_is_not_certified():
    a, b = codes(400, 9, seed=6), codes(400, 9, seed=7)
    found = Correlations(table(a).codes, table(b + a).codes).assignment()
    assert found.certified
    assert found.tolerance == 2 * 9 * 2.0**-26
    for short, certified in ((1e-7, True), (1e-6, False)):
        assert found._replace(total=found.bound - short).certified is certified


def test_a_copy_with_latents_too_rare_to_be_judged_is_matched_back_where_it_can_be():
    """A latent that fires on few tokens must not be given to another one: its own partner is as rare."""
    generator = np.random.default_rng(0)
    density = np.geomspace(0.3, 0.002, 40)  # the last ones fire on one token or two
    a = generator.gamma(2, 1, (1200, 40)) * (generator.random((1200, 40)) < density)
    order = generator.permutation(40)
    left, right = table(a.astype(np.float32)), table(a[:, order].astype(np.float32))
    found = match_functionally(left, right)
    assert 20 < len(found.matched.rows) < 40
    np.testing.assert_array_equal(order[found.matched.columns], found.matched.rows)
    known = found.held_out.correlation[~np.isnan(found.held_out.correlation)]
    np.testing.assert_allclose(known, 1, atol=1e-9)
