"""From a pass to numbers: each equals a direct formula, and one that means nothing says so."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.metrics import r2_score
from sklearn.metrics.pairwise import paired_cosine_distances

from fixtures import planted
from saebench.evals import ReconstructionEval, SiteEval, SparsityEval
from saebench.evals.reconstruction import random_init, transcoder_baseline
from saebench.metrics.catalogue import MAIN_PASS
from saebench.passes import (
    CALIBRATION_SEQUENCES,
    Calibration,
    Reading,
    SiteView,
    SubjectView,
    as_stack,
)
from saebench.sites import Site
from tests.small_runs import D_SAE, K, identity_sae, measured, ragged, random_sae, tokens
from tests.small_world import counting, counting_model
from tests.tiny_models import WIDTH, shared_model

SITE, MLP_OUT = "blocks.1.hook_resid_post", "blocks.1.hook_mlp_out"
BOS = 1


@cache
def run_and_activations():
    """A pass over padded sequences with special tokens, and ``x[n, d]`` at its counted positions."""
    model, sae = shared_model("gpt_neox"), random_sae(k=None)
    ids = [[BOS, *row] for row in ragged([9, 5, 7, 2, 8])]
    run = measured(model, ids, {"a": sae}, batch_size=2, mask="special", special_ids=(BOS,))
    site = model.site(SITE)
    rows = [model.prefix(torch.tensor([row]), None, [site]).at(site)[0, 1:] for row in ids]
    return run, sae, torch.cat(rows)


# --- numbers against direct formulas ---------------------------------------------------------------


def test_explained_variance_is_that_of_scikit_learn():
    run, sae, x = run_and_activations()
    x, x_hat = x.double().numpy(), sae(x).double().numpy()
    found = run.values("a")
    weighted = r2_score(x, x_hat, multioutput="variance_weighted")
    assert found["fve"] == pytest.approx(weighted, rel=1e-5)
    uniform = r2_score(x, x_hat, multioutput="uniform_average")
    assert found["fve_per_dim"] == pytest.approx(uniform, rel=1e-5)


def test_errors_directions_and_shrinkage_are_direct_formulas():
    run, sae, x = run_and_activations()
    x, x_hat = x.double().numpy(), sae(x).double().numpy()
    errors = ((x - x_hat) ** 2).sum(1)
    norms = np.linalg.norm(x, axis=1), np.linalg.norm(x_hat, axis=1)
    expected = {
        "mse": errors.mean(),
        "mse_per_dim": ((x - x_hat) ** 2).mean(),
        "cosine": 1 - paired_cosine_distances(x, x_hat).mean(),
        "l2_norm_in": norms[0].mean(),
        "l2_norm_out": norms[1].mean(),
        "l2_ratio": (norms[1] / norms[0]).mean(),
        "relative_reconstruction_bias": (norms[1] ** 2).mean() / (x * x_hat).sum(1).mean(),
        "fve_legacy": (1 - errors / ((x - x.mean(0)) ** 2).sum(1)).mean(),
        "fve_uncentred": 1 - errors.sum() / (x**2).sum(),
        "fve_var_residual": 1 - (x - x_hat).var(0).sum() / x.var(0).sum(),
        "fve_scalar": 1 - (x - x_hat).var() / x.var(),
    }
    found = run.values("a")
    for metric, value in expected.items():
        assert found[metric] == pytest.approx(value, rel=1e-5), metric


def test_sparsity_counts_what_the_dense_codes_hold():
    run, sae, x = run_and_activations()
    fires = sae.encode(x) != 0
    found = run.measurements("a")
    assert found["l0"].value == pytest.approx(float(fires.sum(1).double().mean()))
    assert found["l1"].value == pytest.approx(float(sae.encode(x).abs().sum(1).mean()), rel=1e-5)
    assert found["alive"].value == int(fires.any(0).sum())
    assert found["alive_10"].value == int((fires.sum(0) >= 10).sum())
    assert found["dead_fraction"].value == pytest.approx(float((~fires.any(0)).double().mean()))
    dense = (fires.double().mean(0) > 0.1).double().mean()
    assert found["freq_over_10_percent"].value == pytest.approx(float(dense))


def test_every_number_says_how_many_tokens_it_rests_on():
    run, _, x = run_and_activations()
    found = run.measurements("a")
    assert {found[metric].n_tokens for metric in ("fve", "mse", "l0", "dead_fraction")} == {len(x)}
    assert {found[metric].n_tokens for metric in ("ce_clean", "kl", "ce_mean")} == {len(x) - 5}


def test_every_measurement_has_a_definition_and_together_they_are_those_of_the_main_pass():
    run, _, _ = run_and_activations()
    baselines = run.site.baselines(3.0, n_sequences=5)
    names = {*run.measurements("a"), *(item.name for item in baselines.values())}
    assert names == {item.id for item in MAIN_PASS} - {"fve_random_init", "fve_lowest_reading"}


def test_a_known_dictionary_is_measured_exactly():
    """Planted codes in the site's own place: the model's activations are not used at all."""
    world = planted.world(24, WIDTH * 2, k=K, n_used=20)
    sample = world.sample(64)
    site, x = Site(0, "resid_post"), sample.x.float()
    shared = SiteEval(site)
    shared.begin(Calibration({Reading(site): sample.x.mean(0)}, 1, 64))
    rebuilt = ReconstructionEval(shared, x.shape[1], predictions=False)
    firing = SparsityEval(24, torch.device("cpu"))
    ids = torch.arange(64) // 8
    codes, x_hat = world.oracle_sae().reconstruct(x)
    shared.update(SiteView(as_stack(site), x, ids))
    for item in (rebuilt, firing):
        item.update(SubjectView(x, x, codes, x_hat, ids))
    found = rebuilt.measurements(n_sequences=8, seed=0) | firing.measurements(n_sequences=8, seed=0)
    assert found["fve@1"].value == pytest.approx(1, abs=1e-9)
    assert found["l0@1"].value == K
    assert found["dead_fraction@1"].value == pytest.approx(4 / 24)
    assert "ce_clean@1" not in found


# --- predictions that mean something, and those that do not ------------------------------------------


@pytest.mark.parametrize("site", [SITE, MLP_OUT])
@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
def test_an_sae_that_returns_its_input_changes_no_prediction(name, site):
    found = measured(shared_model(name), tokens(), {"a": identity_sae()}, site).values("a")
    assert found["ce_delta"] == pytest.approx(0, abs=1e-6)
    assert found["kl"] == pytest.approx(0, abs=1e-6)
    assert found["kl_reverse"] == pytest.approx(0, abs=1e-6)
    assert found["fve"] == 1
    assert found["mse"] == 0


def test_ce_recovered_of_a_model_that_ablation_hurts_is_the_ratio_of_means():
    found = measured(counting_model(), counting(), {"a": random_sae(), "b": identity_sae()})
    assert found.values("a")["ce_clean"] < 1 < found.values("a")["ce_zero"]
    measurement = found.measurements("a")["ce_recovered"]
    losses = found.values("a")
    gap = losses["ce_zero"] - losses["ce_clean"]
    assert measurement.value == pytest.approx((losses["ce_zero"] - losses["ce_spliced"]) / gap)
    assert measurement.low < measurement.value < measurement.high
    assert found.measurements("b")["ce_recovered"].value == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_ce_recovered_of_a_random_model_is_not_evaluable_and_says_why(name):
    model = shared_model(name)
    found = measured(model, tokens(), {"a": identity_sae()}, MLP_OUT).measurements("a")
    assert found["ce_recovered"].value is None
    assert "ablation does not hurt this model" in found["ce_recovered"].reason
    assert found["ce_clean"].value is not None


def test_where_nothing_is_scored_losses_are_there_without_a_value():
    ids = [[BOS, 5], [BOS, 6]]
    run = measured(
        shared_model("gpt2"), ids, {"a": random_sae()}, mask="special", special_ids=(BOS,)
    )
    found = run.measurements("a")
    assert found["fve"].value is not None
    assert found["ce_recovered"].value is None
    assert found["kl"].value is None
    assert found["kl"].reason == "no token was counted"


def test_without_predictions_there_are_no_losses_at_all():
    run = measured(shared_model("gpt2"), tokens(), {"a": random_sae()}, predictions=False)
    assert not [metric for metric in run.measurements("a") if metric.startswith(("ce", "kl"))]


def test_a_single_sequence_has_estimates_and_no_intervals():
    found = measured(shared_model("gpt2"), tokens(1), {"a": random_sae()}).measurements("a")
    assert found["fve"].value is not None
    assert found["fve"].low is None
    assert "two sequences" in found["fve"].reason


# --- baselines ---------------------------------------------------------------------------------------


def test_the_pca_baseline_is_that_of_scikit_learn_with_as_many_components_as_l0():
    run, _, x = run_and_activations()
    expected = PCA(3).fit(x.double().numpy()).explained_variance_ratio_.sum()
    found = run.site.baselines(3.2, n_sequences=5)
    assert found["fve_pca@1"].value == pytest.approx(expected, rel=1e-5)
    assert found["fve_pca@1"].detail["components"] == 3
    assert found["fve_mean_predictor@1"].value == 0


def test_the_random_baseline_is_an_untrained_sae_measured_on_the_first_sequences():
    model, ids = shared_model("gpt2"), tokens(CALIBRATION_SEQUENCES + 6, 3)
    run = measured(model, ids, {"a": random_sae()}, batch_size=5, predictions=False)
    found = run.site.random_baseline(D_SAE, 3.6, seed=7)
    site = model.site(SITE)
    x = model.prefix(ids[:CALIBRATION_SEQUENCES], None, [site]).at(site).flatten(0, 1)
    mean = x.double().mean(0)
    given = (random_init(mean.float(), D_SAE, 4, 7)(x).double() - mean).flatten()
    gain = np.linalg.lstsq(given[:, None].numpy(), (x.double() - mean).flatten().numpy())[0][0]
    x_hat = mean + gain * given.view_as(x)
    expected = r2_score(x.double(), x_hat.double(), multioutput="variance_weighted")
    assert found.value == pytest.approx(expected, rel=1e-4)
    assert found.metric == "fve_random_init@1"
    assert found.n_tokens == len(x)
    assert found.n_sequences == CALIBRATION_SEQUENCES
    assert found.detail == {
        "k": 4,
        "d_sae": D_SAE,
        "seed": 7,
        "gain": pytest.approx(gain, rel=1e-4),
    }


@pytest.mark.parametrize(("l0", "k"), [(0.0, 1), (0.4, 1), (1000.0, D_SAE)])
def test_the_random_baseline_has_at_least_one_latent_and_no_more_than_there_are(l0, k):
    run = measured(shared_model("gpt2"), tokens(3), {"a": random_sae()}, predictions=False)
    assert run.site.random_baseline(D_SAE, l0, seed=0).detail["k"] == k


def test_the_random_baseline_does_not_depend_on_the_batch_size():
    found = [
        measured(
            shared_model("gpt2"), tokens(7), {"a": random_sae()}, batch_size=size, predictions=False
        ).site.random_baseline(D_SAE, 4, seed=0)
        for size in (1, 7)
    ]
    assert found[0].value == pytest.approx(found[1].value, rel=1e-5)


def test_what_is_kept_for_the_random_baseline_does_not_grow_with_the_stream():
    model = shared_model("gpt2")
    ids = tokens(3 * CALIBRATION_SEQUENCES, 3)
    site = measured(model, ids, {"a": random_sae()}, batch_size=8, predictions=False).site
    assert sum(x.shape[0] for x, _ in site.first) == 3 * CALIBRATION_SEQUENCES


def test_a_random_init_sae_has_unit_directions_and_the_mean_as_bias():
    mean = torch.arange(6.0)
    sae = random_init(mean, 20, 3, seed=1)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(20))
    assert torch.equal(sae.W_enc, sae.W_dec.T)
    assert torch.equal(sae(mean[None]), mean[None])
    assert torch.equal(random_init(mean, 20, 3, seed=1).W_dec, sae.W_dec)
    assert not torch.equal(random_init(mean, 20, 3, seed=2).W_dec, sae.W_dec)


def test_a_transcoder_has_no_baseline_of_reconstruction_and_says_why():
    found = transcoder_baseline("fve_pca", n_tokens=8, n_sequences=2)
    assert found.value is None
    assert "another site" in found.reason
