import numpy as np
import pytest
import torch

from saebench.errors import ModelError
from saebench.train import Recipe
from saebench.train.inputs import Inputs

D = 16


def fitted(x, n_sources=1, **changes):
    settings = {"d_sae": 8, "k": 2, "architecture": "batchtopk"}
    if n_sources > 1:
        settings |= {"reads": "models", "others": ["m"] * (n_sources - 1)}
    inputs = Inputs(Recipe(**{**settings, **changes}), x.shape[1] // n_sources, torch.device("cpu"))
    inputs.fit(x)
    return inputs


@pytest.fixture
def x():
    """Two sources of different sizes and means, with a spread of its own in every dimension."""
    generator = torch.Generator().manual_seed(0)
    spread = torch.rand(2 * D, generator=generator) + torch.tensor([0.1, 20.0]).repeat_interleave(D)
    return 3 * torch.arange(2 * D) + spread * torch.randn(20_000, 2 * D, generator=generator)


def test_scale_makes_the_mean_norm_of_every_source_the_root_of_the_width(x):
    scaled = fitted(x, 2)(x).view(-1, 2, D)
    assert scaled.norm(dim=2).mean(0).tolist() == pytest.approx([4.0, 4.0], rel=1e-4)


def test_one_source_has_one_factor_and_nothing_else(x):
    inputs = fitted(x[:, :D])
    assert inputs.affine is None
    assert torch.equal(inputs(x[:, :D]), x[:, :D] * inputs.scale)


@pytest.mark.parametrize("target_rms", [None, 100.0])
@pytest.mark.parametrize("n_sources", [1, 2])
def test_standardize_is_mean_zero_and_one_spread_in_all_dimensions(x, target_rms, n_sources):
    x = x[:, : n_sources * D]
    inputs = fitted(x, n_sources, normalization="standardize", target_rms=target_rms)
    spread = (target_rms or D**0.5) / D**0.5
    plain = x.double().numpy()
    expected = (plain - plain.mean(0)) / plain.std(0) * spread
    np.testing.assert_allclose(inputs(x), expected, rtol=1e-3, atol=1e-3)
    rms = inputs(x).view(-1, n_sources, D).double().square().sum(2).mean(0).sqrt()
    assert rms.tolist() == pytest.approx([target_rms or 4.0] * n_sources, rel=1e-4)


def test_centre_takes_the_mean_out_and_has_one_factor_for_each_source(x):
    inputs = fitted(x, 2, normalization="centre", target_rms=100.0)
    total = np.sqrt(np.var(x.double().numpy(), axis=0).reshape(2, D).sum(1))
    factors = inputs.affine.scale.view(2, D)
    assert (factors == factors[:, :1]).all()
    np.testing.assert_allclose(factors[:, 0], 100 / total, rtol=1e-5)
    np.testing.assert_allclose(inputs.affine.shift, x.double().mean(0), rtol=1e-5)


@pytest.mark.parametrize("normalization", ["scale", "centre", "standardize"])
def test_all_of_it_is_undone(x, normalization):
    affine = fitted(x, 2, normalization=normalization).affine
    torch.testing.assert_close(affine.undo(affine(x), None), x, rtol=1e-5, atol=1e-4)


def test_a_dimension_that_does_not_vary_is_not_blown_up(x):
    x[:, 3] = 1000 + 1e-4 * torch.randn(len(x), generator=torch.Generator().manual_seed(1))
    inputs = fitted(x[:, :D], normalization="standardize")
    assert inputs(x[:, :D])[:, 3].abs().max() < 0.01
    torch.testing.assert_close(inputs.affine.undo(inputs(x[:, :D]), None), x[:, :D])


@pytest.mark.parametrize("normalization", ["scale", "centre", "standardize"])
def test_activations_that_do_not_vary_stay_finite(normalization):
    inputs = fitted(torch.zeros(50, 2 * D), 2, normalization=normalization)
    assert inputs(torch.zeros(50, 2 * D)).isfinite().all()


def test_a_difference_of_zero_everywhere_is_an_error():
    with pytest.raises(ModelError, match="exactly zero"):
        fitted(torch.zeros(50, D), reads="difference_ftb", others=["m"])


def test_what_was_done_is_described_source_by_source(x):
    described = fitted(x, 2, normalization="standardize").describe()
    assert (described["kind"], described["rows"]) == ("standardize", 20_000)
    first, second = described["sources"]
    assert first["norm_of_mean"] == pytest.approx(float(x[:, :D].mean(0).norm()), rel=1e-5)
    assert second["smallest_std"] == pytest.approx(float(x[:, D:].std(0).min()), rel=1e-3)
    assert fitted(x[:, :D]).describe()["sources"] == [{"factor": fitted(x[:, :D]).scale}]
