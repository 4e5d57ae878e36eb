"""A planted crosscoder measured whole: classes, cosines, shares, ratios, variance explained."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from fixtures.planted_crosscoder import Latent, PlantedCrosscoder, planted_crosscoder
from saebench.evals.crosscoder import CrosscoderEval, SourcesEval
from saebench.metrics.catalogue import CROSSCODER
from saebench.metrics.crosscoder import results
from saebench.metrics.crosscoder.ratios import Ratios
from saebench.metrics.crosscoder.results import Found, unmeasured
from saebench.metrics.crosscoder.shares import shares
from saebench.passes import SiteView, SubjectView
from saebench.protocols import CrosscoderProtocol
from saebench.record import Measurement
from saebench.sae import Crosscoder
from saebench.sae.normalization import ConstantNorm

N, LENGTH = 2000, 20


def found(
    planted: PlantedCrosscoder,
    *,
    sae: Crosscoder | None = None,
    noise: float = 0.0,
    batch: int = N,
    order: torch.Tensor | None = None,
    **asked: int,
) -> Found:
    """A pass over ``N`` tokens in sequences of 20."""
    sae = sae or planted.crosscoder()
    x, ids = planted.sample(N, noise=noise).flat.float(), torch.arange(N) // LENGTH
    if order is not None:
        x, ids = x[order], ids[order]
    sources = SourcesEval(x.shape[1])
    item = CrosscoderEval(sae, sources, CrosscoderProtocol(**asked))
    for rows, names in zip(x.split(batch), ids.split(batch), strict=True):
        codes, x_hat = sae.reconstruct(rows)
        sources.update(SiteView((), rows, names))
        item.update(SubjectView(rows, rows, codes, x_hat, names))
    return item.found()


@pytest.fixture(scope="module")
def whole() -> Found:
    return found(planted_crosscoder(scales=(2.0, 0.25)))


@pytest.fixture(scope="module")
def measured(whole: Found) -> dict[str, Measurement]:
    return {item.name: item for item in whole.measurements(n_sequences=100).values()}


def test_every_definition_is_measured(measured):
    assert {item.id for item in CROSSCODER} == set(measured)


def test_the_planted_classes_are_counted(measured, whole):
    alive, classes = 18, planted_crosscoder().classes
    for name in ("shared", "base_only", "chat_only", "other"):
        assert measured[f"cc_{name}"].value == pytest.approx(classes.count(name) / alive)
        assert measured[f"cc_{name}"].detail == {"n": classes.count(name), "of": alive}
    assert measured["cc_dead"].value == 2 / 20
    assert measured["cc_dead"].detail["n_tokens"] == N
    parts = [f"cc_{name}" for name in ("shared", "base_only", "chat_only", "other")]
    assert sum(measured[name].value for name in parts) == pytest.approx(1)
    assert whole.details()["latents"]["class"] == classes


def test_every_convention_counts_every_latent(whole):
    tables = whole.details()
    for counts in (*tables["counts"].values(), *tables["counts_stored_units"].values()):
        assert sum(counts.values()) == 20
    # on-the-bound latents are of no class where bounds are excluded
    exclusive = {"shared": 6, "base_only": 2, "chat_only": 4, "other": 6, "dead": 2}
    assert tables["counts"]["dec_norm_diff"] == exclusive
    assert tables["counts"]["relative_norm"]["shared"] == 10
    assert tables["counts_stored_units"]["delta_norm"]["shared"] == 0  # factors 2 and ¼ not undone


def test_variance_explained_is_that_of_each_model(measured):
    planted = planted_crosscoder(scales=(2.0, 0.25))
    tokens = planted.sample(N)
    x_hat = planted.crosscoder()(torch.stack((tokens.base, tokens.chat), 1).float()).double()
    for name, x, given in (("base", tokens.base, x_hat[:, 0]), ("chat", tokens.chat, x_hat[:, 1])):
        expected = 1 - (x - given).square().sum() / (x - x.mean(0)).square().sum()
        assert measured[f"cc_fve_{name}"].value == pytest.approx(float(expected), abs=1e-6)
        assert measured[f"cc_fve_{name}"].interval.startswith("bootstrap over sequences")
    assert measured["cc_fve_lowest"].value == measured["cc_fve_base"].value < 0.99


def test_the_interval_of_variance_explained_is_that_of_resampled_sequences(measured):
    low, high = measured["cc_fve_base"].low, measured["cc_fve_base"].high
    tokens = planted_crosscoder().sample(N)
    x = tokens.base.reshape(-1, LENGTH, 64).numpy()
    hidden = np.array([latent.hidden for latent in planted_crosscoder().latents])
    missed = (tokens.codes.numpy() * hidden) @ planted_crosscoder().directions[:, 1].numpy()
    missed = missed.reshape(-1, LENGTH, 64)
    rng, drawn = np.random.default_rng(1), []
    for _ in range(1000):
        rows = rng.integers(0, len(x), len(x))
        own = x[rows].reshape(-1, 64)
        drawn.append(1 - (missed[rows] ** 2).sum() / ((own - own.mean(0)) ** 2).sum())
    assert np.quantile(drawn, [0.025, 0.975]) == pytest.approx([low, high], abs=0.1 * (high - low))


def test_cosines_are_summed_up_by_class(measured, whole):
    planted = planted_crosscoder()
    own = planted.cosine[[name == "shared" for name in planted.classes]]
    assert measured["cc_cosine_shared"].value == pytest.approx(np.median(own), abs=1e-6)
    row = whole.details()["classes"]["shared"]["cosine"]
    assert row["quartiles"] == pytest.approx(np.quantile(own, [0.25, 0.75]), abs=1e-6)
    assert (row["above_0_7"], row["above_0_9"]) == (7 / 8, 5 / 8)
    histogram = whole.details()["histograms"]["cosine"]
    assert len(histogram["edges"]) == 11
    assert sum(histogram["counts"]["shared"]) == 8
    assert sum(histogram["counts"]["chat_only"]) == 1  # the others have no base direction


def test_medians_of_ratios_are_the_planted_ones(measured):
    planted = planted_crosscoder()
    for name in ("shared", "chat_only"):
        own = [one == name for one in planted.classes]
        for target, truth in (
            ("error", planted.nu_error),
            ("reconstruction", planted.nu_reconstruction),
        ):
            item = measured[f"cc_nu_{target}_{name}"]
            assert item.value == pytest.approx(np.median(truth[own]), abs=1e-5)
            assert item.low - 1e-9 <= item.value <= item.high + 1e-9
            assert item.interval == "delete-one-block jackknife, 95%, 16 blocks"
            assert item.detail == {"n": sum(own)}


CLEAR = (
    Latent("chat_only", 0.0, 1.0),
    Latent("chat_only", 0.0, 1.0),
    Latent("chat_only", 0.0, 1.0, hidden=0.5),
    Latent("chat_only", 0.0, 1.0),
    Latent("base_only", 0.8, 0.0, follows=3),
    Latent("shared", 1.0, 1.0),
)


def test_artefacts_among_chat_only_latents_are_told_from_what_is_specific():
    found_ = found(planted_crosscoder(CLEAR), noise=0.01)
    measured = found_.measurements(n_sequences=100)
    assert measured["cc_chat_specific@1"].value == 0.5
    assert measured["cc_complete_shrinkage@1"].value == 0.25
    assert measured["cc_latent_decoupling@1"].value == 0.25
    assert measured["cc_chat_only_compared@1"].value == 4
    assert measured["cc_chat_specific@1"].detail == {"n": 2, "of": 4, "left_out": 0}
    tables = found_.details()["scaling"]
    expected = {
        "n": 4,
        "left_out": 0,
        "chat_specific": 2,
        "complete_shrinkage": 1,
        "latent_decoupling": 1,
        "both": 0,
    }
    assert tables["candidates"] == expected
    assert tables["matched_shared"]["n"] == 1  # there are no more
    assert tables["undefined"]["no_chat_direction"]["by_class"]["base_only"] == 1
    assert tables["control"]["own"] == pytest.approx(1, abs=1e-4)
    assert tables["control"]["random"] < 0.3


def test_bounds_of_a_median_are_the_jackknife_of_passes_without_each_block():
    planted = planted_crosscoder()
    sae = planted.crosscoder()  # with rows that are not orthogonal: latents write into each other
    sae.W_dec = sae.W_dec + 0.1 * torch.randn(sae.W_dec.shape, generator=torch.manual_seed(0))
    of_all = found(planted, sae=sae, noise=0.3, min_firings=1)
    measured, blocks = of_all.measurements(n_sequences=100), torch.arange(N) // LENGTH % 16
    for target in ("error", "reconstruction"):
        left = []
        for block in range(16):
            order = (blocks != block).nonzero().squeeze(1)
            part = found(planted, sae=sae, noise=0.3, min_firings=1, order=order)
            left.append(np.median(part.ratios.nu[target][part.names == "shared"]))
        spread = np.sqrt(15 / 16 * np.sum((np.array(left) - np.mean(left)) ** 2))
        item = measured[f"cc_nu_{target}_shared@1"]
        reach = stats.t.ppf(0.975, 15) * spread
        assert reach > 1e-4
        assert item.low == pytest.approx(item.value - reach, abs=1e-6)
        assert item.high == pytest.approx(item.value + reach, abs=1e-6)


def test_the_bounds_of_a_share_are_at_least_one_latent_wide():
    measured = found(planted_crosscoder(CLEAR), noise=0.01).measurements(n_sequences=100)
    item = measured["cc_chat_specific@1"]
    assert (item.low, item.value, item.high) == (0.25, 0.5, 0.75)
    assert item.interval == "delete-one-block jackknife, 95%, 16 blocks, in whole latents"


def test_a_base_model_that_holds_a_latent_the_other_way_round_holds_it():
    own = replace(CLEAR[2], hidden=-4.9)
    opposite = found(planted_crosscoder((*CLEAR[:2], own, *CLEAR[3:])), noise=0.01)
    assert opposite.ratios.nu["error"][2] == pytest.approx(-4.9, abs=1e-2)
    measured = opposite.measurements(n_sequences=100)
    assert measured["cc_chat_specific@1"].value == 0.5
    assert measured["cc_complete_shrinkage@1"].value == 0.25
    # a follower's base direction is what decouples: here it points the other way
    follower = opposite.geometry, opposite.ratios.sums
    follower[1].dot[0, 0, :, 3] -= 2 * (follower[1].dot[0, 0, :, 3] - follower[1].dot[0, 1, :, 3])
    ratios = Ratios(follower[1], follower[0], opposite.names, min_firings=1, n_compared=99, seed=0)
    assert ratios.nu["reconstruction"][3] < -0.5
    assert ratios.measured()["cc_latent_decoupling"].value == 0.25


@pytest.mark.parametrize("target", ["error", "reconstruction"])
def test_latents_with_a_scaling_below_0_in_the_chat_model_are_left_out_and_counted(target):
    item = found(planted_crosscoder(CLEAR), noise=0.01)
    sums, geometry = item.ratios.sums, item.geometry
    own = sums.squares[:, 0] * geometry.along[1, 0]
    if target == "error":  # ν^ε is small whichever sign its divisor has
        sums.dot[1, :, :, 0] -= 2 * own
    else:
        sums.dot[1, 0, :, 0] = sums.dot[1, 1, :, 0] - own
    ratios = Ratios(sums, geometry, item.names, min_firings=1, n_compared=99, seed=0)
    other = {"error": "reconstruction", "reconstruction": "error"}[target]
    assert ratios.found.beta[target][1, 0] < 0 < ratios.found.beta[other][1, 0]
    measured = ratios.measured()
    assert measured["cc_chat_only_compared"].value == 3
    assert measured["cc_chat_specific"].value == pytest.approx(1 / 3)
    assert measured["cc_chat_specific"].detail == {"n": 1, "of": 3, "left_out": 1}
    bounds = measured["cc_chat_specific"].bounds  # without any block they are left out too
    assert (bounds.low, bounds.high) == (0, 2 / 3)
    assert ratios.details()["candidates"]["left_out"] == 1
    sums.dot[1, 1, :, :4] -= 2 * sums.squares[:, :4] * torch.from_numpy(geometry.along[1, :4])
    none = Ratios(sums, geometry, item.names, min_firings=1, n_compared=99, seed=0).measured()
    assert none["cc_chat_specific"].value is None
    assert "above 0 in the chat model" in none["cc_chat_specific"].reason
    assert none["cc_chat_only_compared"].value == 0


def test_shared_latents_are_set_beside_as_many_drawn_at_random():
    tables = found(planted_crosscoder()).details()["scaling"]
    assert tables["classes"]["chat_only"]["n"] == tables["matched_shared"]["n"] == 5
    assert tables["classes"]["shared"]["n"] == 8
    capped = found(planted_crosscoder(), n_compared=3).details()["scaling"]
    assert [capped["classes"][name]["n"] for name in ("chat_only", "shared")] == [3, 3]
    assert capped["candidates"]["n"] == 5  # counts are of all


def test_the_draw_of_shared_latents_follows_the_seed():
    one, same, other = (found(planted_crosscoder(), seed=seed).ratios for seed in (42, 42, 7))
    assert one.draw("shared", 4).tolist() == same.draw("shared", 4).tolist()
    assert one.draw("shared", 4).tolist() != other.draw("shared", 4).tolist()


@pytest.mark.parametrize("how", ["batches", "order"])
def test_neither_batches_nor_order_matter(how):
    planted = planted_crosscoder()
    one = found(planted, noise=0.02).measurements(n_sequences=100)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    more = {"batch": 37} if how == "batches" else {"order": order, "batch": 300}
    other = found(planted, noise=0.02, **more).measurements(n_sequences=100)
    for name in one:
        for field in ("value", "low", "high"):
            expected = getattr(one[name], field)
            assert getattr(other[name], field) == pytest.approx(expected, abs=1e-5), (name, field)


def test_details_are_plain_json_and_columns_end_with_the_limit(whole, monkeypatch):
    tables = whole.details()
    assert json.loads(json.dumps(tables, allow_nan=False)) == tables
    columns = tables["latents"]
    assert {len(column) for column in columns.values()} == {20}
    assert columns["nu_error"][13] == pytest.approx(0.8, abs=1e-4)
    assert columns["cosine"][11] is None
    monkeypatch.setattr(results, "STORED_LATENTS", 19)
    assert "latents" not in whole.details()


def test_where_no_latent_is_chat_only_its_metrics_say_so():
    measured = found(planted_crosscoder([Latent("shared", 1, 1)] * 2)).measurements(n_sequences=100)
    for name in ("cc_nu_error_chat_only", "cc_chat_specific", "cc_latent_decoupling"):
        item = measured[f"{name}@1"]
        assert item.value is None
        assert item.reason == "no chat-only latent has a scaling"
    assert measured["cc_nu_error_shared@1"].value == pytest.approx(1, abs=1e-5)


def test_where_no_latent_fires_there_is_no_share_but_of_the_dead():
    silent = planted_crosscoder([Latent("dead", 1, 1, rate=0.0)] * 2)
    measured = found(silent, noise=0.01).measurements(n_sequences=100)
    assert measured["cc_dead@1"].value == 1
    assert measured["cc_shared@1"].value is None
    assert "no latent fired" in measured["cc_shared@1"].reason
    assert measured["cc_cosine_shared@1"].value is None


def test_tokens_that_are_normalised_one_by_one_have_no_scaling():
    planted = planted_crosscoder()
    sae = planted.crosscoder()
    sae.normalization = ConstantNorm(2)
    item = found(planted, sae=sae)
    measured = item.measurements(n_sequences=100)
    assert measured["cc_nu_error_shared@1"].value is None
    assert "its own statistics" in measured["cc_nu_error_shared@1"].reason
    assert measured["cc_fve_base@1"].value is not None
    assert set(measured) == {definition.metric for definition in CROSSCODER}
    assert "its own statistics" in item.details()["scaling"]["reason"]


def test_shares_move_by_the_latents_that_a_block_alone_woke(whole):
    """One of 20 sequences wakes a latent: without its block that latent would count as dead."""
    firing = found(planted_crosscoder()).firing
    norms = planted_crosscoder().norms.numpy()
    before = shares(norms, firing)
    assert before["dead"].bounds.low == 1 / 20
    assert before["dead"].bounds.high == 3 / 20  # at least one latent either way
    firing.firings[:, 0] = 0
    firing.firings[:, 1] = 0
    firing.firings[5, :2] = 1
    after = shares(norms, firing)
    assert after["dead"].count == 2
    assert after["dead"].bounds.high > 3 / 20
    assert after["shared"].bounds.low < before["shared"].bounds.low
    assert all(0 <= one.bounds.low <= one.bounds.high <= 1 for one in after.values())


def test_what_does_not_apply_has_every_metric_with_its_reason():
    measured = unmeasured("it reads one activation")
    assert set(measured) == {definition.metric for definition in CROSSCODER}
    assert all(m.value is None and m.reason == "it reads one activation" for m in measured.values())


def test_a_latent_scale_is_divided_out_of_decoder_rows():
    planted = planted_crosscoder()
    sae = planted.crosscoder()
    scale = torch.linspace(0.5, 2, sae.cfg.d_sae)
    weights = {name: getattr(sae, name) for name in ("W_enc", "W_dec", "b_dec", "b_in", "b_enc")}
    weights["W_enc"] = weights["W_enc"] / scale  # pre-activations are multiplied by the scale again
    weights["W_dec"] = weights["W_dec"] * scale[:, None]
    scaled = Crosscoder(
        replace(sae.cfg),
        sae.activation,
        **weights,
        latent_scale=scale,
        normalization=sae.normalization,
    )
    one, other = found(planted), found(planted, sae=scaled)
    np.testing.assert_allclose(other.geometry.norms, one.geometry.norms, atol=1e-6)
    np.testing.assert_allclose(other.ratios.nu["error"], one.ratios.nu["error"], atol=1e-5)
