"""Random directions and partners: unit, uniform, never the latent itself."""

import numpy as np

from saebench.causal.nulls import partners, random_units


def test_random_directions_are_unit_and_centred():
    found = random_units(4000, 8, seed=1)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-12)
    assert np.abs(found.mean(0)).max() < 4 / np.sqrt(4000 * 8)
    np.testing.assert_array_equal(found, random_units(4000, 8, seed=1))
    assert not np.array_equal(found, random_units(4000, 8, seed=2))


def test_a_partner_is_another_latent_of_the_same_class():
    latents = np.array([1, 3, 4, 7, 8, 9])
    classes = ["shared", "other", "shared", "shared", "other", "alone"]
    pools = {"shared": np.array([1, 4, 7, 20]), "other": np.array([3, 8]), "alone": np.array([9])}
    for seed in range(50):
        partner, found = partners(latents, classes, pools, seed)
        assert found.tolist() == [True] * 5 + [False]
        assert partner[5] == 9
        for latent, name, other in zip(latents[:5], classes[:5], partner[:5], strict=True):
            assert other in pools[name]
            assert other != latent


def test_partners_are_uniform_over_the_others_of_the_class():
    pool = np.arange(5)
    latents = np.full(20_000, 2)
    partner, _ = partners(latents, ["a"] * 20_000, {"a": pool}, 0)
    counts = np.bincount(partner, minlength=5)
    assert counts[2] == 0
    assert np.abs(counts[[0, 1, 3, 4]] / 20_000 - 0.25).max() < 0.015


def test_a_latent_outside_the_pool_may_get_any_of_it():
    partner, found = partners(np.arange(100), ["a"] * 100, {"a": np.array([500])}, 0)
    assert found.all()
    assert (partner == 500).all()


def test_an_empty_pool_gives_no_partner():
    _, found = partners(np.arange(3), ["a"] * 3, {}, 0)
    assert not found.any()
