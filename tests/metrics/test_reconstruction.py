"""Seven definitions of explained variance and their companions, on vectors worked out by hand."""

import math

import numpy as np
import pytest
import torch
from sklearn.metrics import explained_variance_score, r2_score

from saebench.errors import ConfigError
from saebench.metrics import reconstruction
from saebench.metrics.reconstruction import ReconstructionSums, SiteSums

SEVEN = (
    "fve",
    "fve_legacy",
    "fve_mean_square",
    "fve_var_residual",
    "fve_scalar",
    "fve_uncentred",
    "fve_per_dim",
)


def tensor(rows: object) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def make_v6() -> tuple[torch.Tensor, torch.Tensor]:
    i, j = torch.arange(12)[:, None], torch.arange(5)[None]
    x = ((7 * i + 13 * j) % 11 - 5 + 3 * (j == 0)).double()
    return x, x + ((3 * i + 5 * j) % 7 - 3) / 4


X = tensor([[1, 0, 2], [3, 1, 0], [0, 2, 4], [4, 1, 2]])
X3 = tensor([[1, 0, 1.5], [2.5, 1, 0], [0, 2.5, 3.5], [4, 0.5, 2]])
V = {
    "V1": (tensor([[2, 0], [0, 4]]), tensor([[2, 1], [0, 3]])),
    "V2": (X, X + 0.5),
    "V3": (X, X3),
    "V4": (torch.cat((tensor([[100, 0, 0]]), X)), torch.cat((tensor([[99, 0, 0]]), X3))),
    "V5": (X, tensor([[2, 1, 2]]).expand(4, 3)),
    "V6": make_v6(),
}
GOLDEN = {
    "V1": (0.800000, 0.800000, 1.066667, 0.800000, 0.818182, 0.900000, 0.875000),
    "V2": (0.850000, 0.801042, 1.096429, 1.000000, 1.000000, 0.946429, 0.758333),
    "V3": (0.937500, 0.926736, 1.040179, 0.953125, 0.953125, 0.977679, 0.887500),
    "V4": (0.999708, 0.999334, 1.000001, 0.999792, 0.999798, 0.999776, 0.925541),
    "V5": (0.000000, 0.000000, 1.642857, 0.000000, 0.117647, 0.642857, 0.000000),
    "V6": (0.974524, 0.973510, 1.018001, 0.974692, 0.977088, 0.977619, 0.974441),
}


def sums_of(x, x_hat, groups=None, reference=None) -> tuple[SiteSums, ReconstructionSums]:
    groups = torch.arange(x.shape[0]) % 512 if groups is None else groups
    site = SiteSums(x.double().mean(0) if reference is None else reference)
    sae = ReconstructionSums(x.shape[1])
    sae.update(site.update(x, groups), x_hat)
    return site, sae


def values_of(x, x_hat, **how) -> dict[str, float]:
    return {name: float(v) for name, v in reconstruction.values(*sums_of(x, x_hat, **how)).items()}


def random_pair(n=200, d=6, seed=0, noise=0.3):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64) * torch.arange(1, d + 1) + 2
    return x, 0.9 * x + noise * torch.randn(n, d, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("name", V)
def test_all_seven_definitions_give_the_golden_values(name):
    found = values_of(*V[name])
    assert [found[one] for one in SEVEN] == pytest.approx(GOLDEN[name], abs=5e-7)


def test_the_other_scalars_give_the_golden_values():
    found = values_of(*V["V6"])
    assert found["mse"] == pytest.approx(1.255208, abs=5e-7)
    assert found["mse_per_dim"] == pytest.approx(0.251042, abs=5e-7)
    assert found["cosine"] == pytest.approx(0.988686, abs=5e-7)
    assert found["l2_ratio"] == pytest.approx(1.004260, abs=5e-7)
    assert found["relative_reconstruction_bias"] == pytest.approx(1.016536, abs=5e-7)


def test_two_halves_pool_to_the_whole_and_their_average_is_another_number():
    x, x_hat = V["V6"]
    halves = [values_of(x[rows], x_hat[rows]) for rows in (slice(6), slice(6, 12))]
    averages = [sum(half[one] for half in halves) / 2 for one in SEVEN]
    expected = (0.974509, 0.973482, 1.017993, 0.975197, 0.977077, 0.977625, 0.974123)
    assert averages == pytest.approx(expected, abs=5e-7)
    bias = sum(half["relative_reconstruction_bias"] for half in halves) / 2
    assert bias == pytest.approx(1.014337, abs=5e-7)


def test_fve_is_sklearns_variance_weighted_r2():
    x, x_hat = random_pair()
    found = values_of(x, x_hat)
    args = (x.numpy(), x_hat.numpy())
    assert found["fve"] == pytest.approx(
        r2_score(*args, multioutput="variance_weighted"), abs=1e-12
    )
    assert found["fve_per_dim"] == pytest.approx(r2_score(*args), abs=1e-12)
    weighted = explained_variance_score(*args, multioutput="variance_weighted")
    assert found["fve_var_residual"] == pytest.approx(weighted, abs=1e-12)


def test_a_constant_dimension_counts_as_in_sklearn():
    x, x_hat = random_pair(d=3)
    x[:, 1] = 7.0
    for offset in (0.0, 0.5):
        x_hat[:, 1] = 7.0 + offset
        site, sae = sums_of(x, x_hat)
        expected = r2_score(x.numpy(), x_hat.numpy())
        assert float(reconstruction.values(site, sae)["fve_per_dim"]) == pytest.approx(expected)
        found = reconstruction.measurements(site, sae, n_sequences=200)
        assert found["fve_per_dim@1"].detail["constant_dims"] == 1


def test_fve_scalar_and_companions_are_numpys():
    x, x_hat = random_pair()
    found = values_of(x, x_hat)
    a, b = x.numpy(), x_hat.numpy()
    assert found["fve_scalar"] == pytest.approx(1 - (a - b).var() / a.var(), abs=1e-12)
    assert found["l2_norm_in"] == pytest.approx(np.linalg.norm(a, axis=1).mean(), rel=1e-12)
    assert found["l2_norm_out"] == pytest.approx(np.linalg.norm(b, axis=1).mean(), rel=1e-12)
    cosine = torch.nn.functional.cosine_similarity(x, x_hat).mean()
    assert found["cosine"] == pytest.approx(float(cosine), rel=1e-12)
    assert found["mse_per_dim"] == pytest.approx(float(torch.nn.functional.mse_loss(x_hat, x)))


@pytest.mark.parametrize("seed", range(5))
def test_an_offset_is_free_only_for_the_residual_variance(seed):
    x, x_hat = random_pair(seed=seed)
    plain, shifted = values_of(x, x_hat), values_of(x, x_hat + 1.5)
    assert plain["fve"] <= plain["fve_var_residual"]
    assert plain["fve"] <= plain["fve_uncentred"]
    assert shifted["fve_var_residual"] == pytest.approx(plain["fve_var_residual"], abs=1e-12)
    assert shifted["fve"] < plain["fve"]


def test_without_a_mean_residual_pooled_and_residual_variance_agree():
    x, x_hat = random_pair()
    x_hat = x_hat + (x - x_hat).mean(0)
    found = values_of(x, x_hat)
    assert found["fve"] == pytest.approx(found["fve_var_residual"], abs=1e-12)


def test_the_mean_predictor_scores_zero_where_a_definition_is_centred():
    x, _ = random_pair()
    found = values_of(x, x.mean(0).expand_as(x))
    for name in ("fve", "fve_legacy", "fve_var_residual", "fve_per_dim"):
        assert found[name] == pytest.approx(0, abs=1e-12)
    assert found["fve_scalar"] > 0
    assert found["fve_uncentred"] > 0


def test_a_perfect_reconstruction_scores_one():
    x, _ = random_pair()
    found = values_of(x, x)
    assert [found[name] for name in SEVEN] == pytest.approx([1.0] * 7)
    assert (found["mse"], found["cosine"]) == (0.0, pytest.approx(1.0))
    assert found["l2_ratio"] == found["relative_reconstruction_bias"] == pytest.approx(1.0)


def test_one_bos_token_lifts_the_pooled_score():
    without, with_bos = values_of(*V["V3"]), values_of(*V["V4"])
    assert without["fve"] == pytest.approx(0.9375)
    assert with_bos["fve"] > 0.9997


def test_a_large_mean_costs_no_digits():
    x, x_hat = random_pair(n=3000, d=4)
    x, x_hat = (x / 4 + 1e4).float(), (x_hat / 4 + 1e4).float()
    args = (x.double().numpy(), x_hat.double().numpy())
    found = values_of(x, x_hat)
    expected = r2_score(*args, multioutput="variance_weighted")
    assert found["fve"] == pytest.approx(expected, abs=1e-9)
    error = args[0] - args[1]
    assert found["fve_scalar"] == pytest.approx(1 - error.var() / args[0].var(), rel=1e-6)


def test_a_massive_activation_dimension_does_not_drown_the_others():
    x, x_hat = random_pair()
    x[:, 2] += 3000
    x_hat[:, 2] += 3000
    expected = r2_score(x.numpy(), x_hat.numpy())
    assert values_of(x, x_hat)["fve_per_dim"] == pytest.approx(expected, abs=1e-9)


def test_zero_reconstructions_have_cosine_zero_and_are_counted():
    x, x_hat = V["V3"]
    x_hat = x_hat.clone()
    x_hat[0] = 0
    found = reconstruction.measurements(*sums_of(x, x_hat), n_sequences=4)["cosine@1"]
    expected = torch.nn.functional.cosine_similarity(x[1:], x_hat[1:]).sum() / 4
    assert found.value == pytest.approx(float(expected))
    assert found.detail["zero_outputs"] == 1


def test_tokens_at_the_reference_are_left_out_of_the_mean_of_ratios_and_counted():
    x = tensor([[1, 1], [3, 1], [1, 5]])
    x_hat = tensor([[1, 2], [3, 2], [1, 4]])
    sums = sums_of(x, x_hat, reference=tensor([1, 1]))
    found = reconstruction.measurements(*sums, n_sequences=3)["fve_legacy@1"]
    assert found.value == pytest.approx(((1 - 1 / 4) + (1 - 1 / 16)) / 2)
    assert found.detail["tokens_at_the_reference"] == 1
    assert found.detail["min_token"] == pytest.approx(0.75)


def test_tokens_near_the_reference_are_counted_because_they_can_decide_the_mean_of_ratios():
    x = tensor([[1.01, 1], [3, 1]])
    sums = sums_of(x, x + tensor([0, 1]), reference=tensor([1, 1]))
    found = reconstruction.measurements(*sums, n_sequences=2)["fve_legacy@1"]
    assert found.detail["min_token"] == pytest.approx(1 - 1e4)
    assert found.detail["tokens_below_minus_1"] == 1


def test_every_metric_has_an_interval_that_holds_its_value():
    x, x_hat = random_pair(n=600)
    found = reconstruction.measurements(
        *sums_of(x, x_hat, groups=torch.arange(600) // 10), n_sequences=60
    )
    assert len(found) == 14
    for measured in found.values():
        assert measured.low < measured.value < measured.high, measured
        assert measured.n_tokens == 600
        assert measured.n_sequences == 60
        assert "bootstrap over sequences" in measured.interval


def test_the_interval_of_fve_comes_from_repeating_whole_sequences():
    x, x_hat = random_pair(n=60)
    groups = torch.arange(60) // 10
    site, sae = sums_of(x, x_hat, groups=groups)
    weights = tensor([[1, 0, 2, 0, 3, 0]])
    times = weights[0].long()[groups]
    drawn = [part.repeat_interleave(times, 0) for part in (x, x_hat)]
    resampled = reconstruction.values(site, sae, weights)
    direct = values_of(*drawn, reference=x.mean(0))
    for name, value in direct.items():
        assert float(resampled[name]) == pytest.approx(value, rel=1e-11), name


def test_one_sequence_has_a_value_and_no_interval():
    x, x_hat = random_pair(n=20)
    sums = sums_of(x, x_hat, groups=torch.zeros(20, dtype=torch.int64))
    found = reconstruction.measurements(*sums, n_sequences=1)["fve@1"]
    assert found.value is not None
    assert found.low is None
    assert found.reason == "no interval: an interval needs at least two sequences"


def test_constant_activations_have_no_variance_to_explain():
    x = torch.full((50, 3), 0.1)
    found = reconstruction.measurements(*sums_of(x, x + 0.01), n_sequences=50)
    for name in ("fve", "fve_var_residual", "fve_per_dim"):
        assert found[f"{name}@1"].value is None
        assert "no variance" in found[f"{name}@1"].reason
    assert found["mse@1"].value is not None


def test_no_tokens_give_no_values_but_reasons():
    site, sae = SiteSums(torch.zeros(3)), ReconstructionSums(3)
    sae.update(site.update(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)), torch.zeros(0, 3))
    for measured in reconstruction.measurements(site, sae, n_sequences=0).values():
        assert measured.value is None
        assert measured.reason == "no token was counted"
        assert not any(isinstance(v, float) and math.isinf(v) for v in measured.detail.values())


def test_values_that_are_not_finite_are_not_reported_as_numbers():
    x, x_hat = random_pair()
    x_hat[3, 1] = math.nan
    found = reconstruction.measurements(*sums_of(x, x_hat), n_sequences=200)
    assert found["fve@1"].value is None
    assert found["fve@1"].reason


def test_sums_of_different_tokens_are_refused():
    site, sae = sums_of(*V["V3"])
    site.update(X, torch.arange(4))
    with pytest.raises(ConfigError, match="tokens in each group"):
        reconstruction.measurements(site, sae, n_sequences=4)


def test_sites_with_different_references_do_not_merge():
    with pytest.raises(ConfigError, match="reference mean"):
        SiteSums(torch.zeros(3)).merge(SiteSums(torch.ones(3)))
