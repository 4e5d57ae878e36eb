"""Where to steer: directions of latents and of classes, and how far they agree."""

import numpy as np
import pytest
import torch
from scipy import sparse, stats

from saebench.concepts import Columns, separate
from saebench.errors import DataError
from saebench.steering.directions import (
    Cosine,
    best_latent,
    code_difference,
    decoded_difference,
    mean_difference,
    random_directions,
    random_latents,
)
from tests.small_runs import random_sae
from tests.tiny_models import WIDTH

POSITIVE = np.array([True, False, True, True, False, False, False])


def some_codes(n=7, d_sae=24, seed=0):
    rng = np.random.default_rng(seed)
    dense = rng.exponential(size=(n, d_sae)) * (rng.random((n, d_sae)) < 0.3)
    dense[:, 5] = 0
    return sparse.csr_array(dense.astype(np.float32))


def test_the_mean_difference_is_that_of_class_means():
    x = np.random.default_rng(0).standard_normal((7, WIDTH)).astype(np.float32)
    expected = x[POSITIVE].mean(0) - x[~POSITIVE].mean(0)
    np.testing.assert_allclose(mean_difference(x, POSITIVE), expected, rtol=1e-5, atol=1e-7)


def test_the_decoded_difference_is_that_of_decoded_means_and_the_bias_cancels():
    sae, codes = random_sae(), some_codes()
    dense = torch.from_numpy(codes.toarray())
    means = [dense[torch.from_numpy(side)].mean(0, keepdim=True) for side in (POSITIVE, ~POSITIVE)]
    expected = (sae.decode(means[0]) - sae.decode(means[1]))[0]
    found = decoded_difference(sae, codes, POSITIVE)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    np.testing.assert_allclose(
        code_difference(codes, POSITIVE), (means[0] - means[1])[0], atol=1e-6
    )


@pytest.mark.parametrize("value", [True, False])
def test_one_class_has_no_difference(value):
    with pytest.raises(DataError, match="texts of two classes"):
        mean_difference(np.zeros((3, 4)), np.full(3, value))
    with pytest.raises(DataError):
        code_difference(some_codes(3), np.full(3, value))


def test_cosines_have_the_two_sided_p_of_random_directions():
    drawn = random_directions(8, 40_000, seed=0).double()
    fixed = torch.randn(8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = Cosine.of(drawn[0], fixed)
    cosines = torch.cosine_similarity(drawn, fixed[None], dim=1).numpy()
    assert found.value == pytest.approx(cosines[0])
    assert np.std(cosines) == pytest.approx(found.sd, rel=0.02)
    for value in (0.05, 0.31, 0.8):
        share = np.mean(np.abs(cosines) >= value)
        assert Cosine(value, 8).p == pytest.approx(share, abs=0.01)
        # the t statistic of a correlation without centring has width − 1 degrees of freedom
        t = value * np.sqrt(7 / (1 - value**2))
        assert Cosine(value, 8).p == pytest.approx(2 * stats.t.sf(t, 7))
    assert Cosine(-0.31, 8).p == Cosine(0.31, 8).p


def test_a_vector_without_length_has_no_cosine():
    found = Cosine.of(torch.zeros(4), torch.ones(4))
    assert found.value is None
    assert found.p is None


def test_parallel_vectors_have_cosine_one():
    found = Cosine.of(torch.ones(5), 3 * torch.ones(5))
    assert found.value == pytest.approx(1)
    assert found.p == pytest.approx(0, abs=1e-9)


def test_random_directions_are_units_that_the_seed_and_their_number_fix():
    few, many = random_directions(6, 3, seed=4), random_directions(6, 10, seed=4)
    assert torch.equal(few, many[:3])
    assert not torch.equal(few, random_directions(6, 3, seed=5))
    torch.testing.assert_close(many.norm(dim=1), torch.ones(10))


def test_random_latents_are_alive_distinct_and_not_the_one_itself():
    codes = some_codes(40)
    for seed in range(5):
        drawn = random_latents(codes, 6, seed, without=2)
        assert len(set(drawn)) == 6
        assert not {2, 5} & set(drawn)
    assert len(random_latents(codes, 1000, 0, without=2)) == 22
    assert random_latents(sparse.csr_array((3, 9)), 4, 0) == []


def test_the_best_latent_may_lie_lower_in_the_positive_class_and_fires_often_enough():
    rng = np.random.default_rng(1)
    x = rng.random((7, 4)) + 1
    x[POSITIVE, 2] = 0.01 * rng.random(3)  # far lower, and on every text
    x[:, 3] = 0
    x[POSITIVE, 3] = [0, 0, 9.0]  # fires once
    columns = Columns.of(sparse.csr_array(x))
    found = separate(columns, columns.ranks(), POSITIVE)
    assert best_latent(found, 2) == 2
    assert found.d[2] < 0
    with pytest.raises(DataError, match="none fires on 8 training texts"):
        best_latent(found, 8)
