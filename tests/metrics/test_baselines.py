"""PCA and the mean: the floors and ceilings beside an FVE."""

import pytest
import torch
from sklearn.decomposition import PCA

from saebench.errors import ConfigError
from saebench.metrics import baselines
from saebench.metrics.baselines import Covariance, pca_fve
from saebench.metrics.reconstruction import ReconstructionSums, SiteSums, values


def activations(n=300, d=8, mean=0.0):
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(d, d, generator=generator, dtype=torch.float64)
    return torch.randn(n, d, generator=generator, dtype=torch.float64) @ mixing + mean


def covariance_of(x, shift=None) -> Covariance:
    covariance = Covariance(torch.zeros(x.shape[1]) if shift is None else shift)
    covariance.update(x)
    return covariance


def test_explained_variance_of_components_is_sklearns():
    x = activations()
    ratios = PCA().fit(x.numpy()).explained_variance_ratio_
    eigenvalues = covariance_of(x).eigenvalues()
    for k in range(1, 9):
        assert pca_fve(eigenvalues, k) == pytest.approx(ratios[:k].sum(), abs=1e-12)


def test_no_linear_reconstruction_of_that_rank_does_better():
    x = activations()
    best = PCA(n_components=3).fit(x.numpy())
    x_hat = torch.from_numpy(best.inverse_transform(best.transform(x.numpy())))
    site, sae = SiteSums(x.mean(0)), ReconstructionSums(8)
    sae.update(site.update(x, torch.arange(300)), x_hat)
    fve = float(values(site, sae)["fve"])
    assert fve == pytest.approx(pca_fve(covariance_of(x).eigenvalues(), 3), abs=1e-12)


def test_a_large_mean_costs_nothing_when_the_shift_is_near_it():
    x = (activations(mean=1e4)).float()
    near = covariance_of(x, shift=x[0]).eigenvalues()
    # the default solver of scikit-learn loses these digits itself
    ratios = PCA(svd_solver="full").fit(x.double().numpy()).explained_variance_ratio_
    assert pca_fve(near, 2) == pytest.approx(ratios[:2].sum(), abs=1e-6)


def test_batches_and_shards_do_not_matter():
    x = activations()
    whole = covariance_of(x).eigenvalues()
    parts = [covariance_of(x[rows]) for rows in (slice(0, 7), slice(7, 200), slice(200, 300))]
    parts[2].merge(parts[0])
    parts[2].merge(parts[1])
    torch.testing.assert_close(parts[2].eigenvalues(), whole, rtol=1e-10, atol=1e-12)


def test_covariances_about_different_shifts_do_not_merge():
    with pytest.raises(ConfigError, match="shift"):
        covariance_of(activations()).merge(Covariance(torch.ones(8)))


@pytest.mark.parametrize(("l0", "components"), [(0.2, 1), (3.4, 3), (100.0, 8)])
def test_pca_gets_as_many_components_as_latents_fire(l0, components):
    eigenvalues = covariance_of(activations()).eigenvalues()
    found = baselines.measurements(eigenvalues, l0, n_tokens=300, n_sequences=10)["fve_pca@1"]
    assert found.detail["components"] == components
    assert found.value == pytest.approx(pca_fve(eigenvalues, components))
    assert (found.low, found.reason) == (None, None)


def test_the_mean_predictor_is_the_zero_of_the_scale():
    x = activations()
    found = baselines.measurements(
        covariance_of(x).eigenvalues(), 2.0, n_tokens=300, n_sequences=10
    )
    site, sae = SiteSums(x.mean(0)), ReconstructionSums(8)
    sae.update(site.update(x, torch.arange(300)), x.mean(0).expand_as(x))
    assert found["fve_mean_predictor@1"].value == 0
    assert float(values(site, sae)["fve"]) == pytest.approx(0, abs=1e-12)


def test_there_is_no_pca_baseline_without_an_l0_or_without_variance():
    none = baselines.measurements(torch.ones(3), None, n_tokens=5, n_sequences=1)["fve_pca@1"]
    assert (none.value, none.reason) == (None, "L0 was not measured")
    flat = covariance_of(torch.ones(10, 3, dtype=torch.float64)).eigenvalues()
    assert baselines.measurements(flat, 1.0, n_tokens=10, n_sequences=1)["fve_pca@1"].value is None
