"""Sums over two models against dense double loops, and their verdicts against hand-made cases."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats as scipy_stats

from saebench.codes import SparseCodes
from saebench.errors import ConfigError
from saebench.metrics.portability import latents
from saebench.metrics.portability.latents import alive_shift, describe, survival
from saebench.metrics.portability.pairing import PairedCodes
from saebench.metrics.portability.results import measurements, values
from saebench.metrics.portability.sums import (
    ModelSums,
    Resampling,
    fve,
)
from saebench.metrics.portability.tokens import correlations, drift, top_agreement
from tests.metrics.two_models import (
    N_SEQUENCES,
    PROTOCOL,
    K,
    M,
    N,
    Sums,
    found,
    sparse,
    whole,
    world,
)


def naive_correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if a.std() and b.std() else math.nan


def token_correlation(a: np.ndarray, b: np.ndarray) -> float:
    return 0.0 if a.any() != b.any() else naive_correlation(a, b)


def naive_top(codes: np.ndarray, k: int) -> set[int]:
    ranked = sorted(np.flatnonzero(codes), key=lambda j: (-abs(codes[j]), j))
    return set(map(int, ranked[:k]))


def test_tokens_correlate_and_agree_as_dense_codes_do():
    data = world()
    paired = PairedCodes.of(sparse(data["f0"]), sparse(data["f1"]))
    f0, f1 = data["f0"].double().numpy(), data["f1"].double().numpy()
    expected = [token_correlation(a, b) for a, b in zip(f0, f1, strict=True)]
    assert (expected[3], expected[4]) == (0, 0)  # each silent under one model
    np.testing.assert_allclose(correlations(paired), expected, atol=1e-12)
    shares = []
    for a, b in zip(f0, f1, strict=True):
        top0, top1 = naive_top(a, K), naive_top(b, K)
        shares.append(len(top0 & top1) / max(len(top0), len(top1)) if top0 or top1 else math.nan)
    np.testing.assert_allclose(top_agreement(paired, K), shares)
    assert math.isnan(shares[5])
    assert shares[4] == 0


def test_largest_codes_are_those_of_largest_magnitude_and_ties_go_to_the_lower_latent():
    signed = torch.tensor([[0.0, -3.0, 1.0, 2.0]])
    other = torch.tensor([[0.0, -3.0, 2.0, 2.0]])
    paired = PairedCodes.of(sparse(signed), sparse(other))
    assert top_agreement(paired, 1).tolist() == [1.0]
    assert top_agreement(paired, 2).tolist() == [0.5]  # {1, 3} and {1, 2}


def test_equal_codes_agree_fully_where_fewer_than_k_are_active():
    one = torch.tensor([[0.0, 2.0, 0.0, 0.0]])
    assert top_agreement(PairedCodes.of(sparse(one), sparse(one)), 10).tolist() == [1.0]
    two = torch.tensor([[1.0, 2.0, 0.0, 0.0]])
    assert top_agreement(PairedCodes.of(sparse(one), sparse(two)), 10).tolist() == [0.5]


def test_tokens_whose_codes_are_all_alike_have_no_correlation():
    flat = torch.full((1, 11), 1.1)  # whose variance, from sums, is not quite 0
    other = torch.arange(1.0, 12.0)[None]
    assert correlations(PairedCodes.of(sparse(flat), sparse(other))).isnan().all()
    assert correlations(PairedCodes.of(sparse(other), sparse(flat))).isnan().all()


def test_entries_in_any_order_are_paired_by_latent():
    codes = sparse(torch.tensor([[1.0, 2.0, 3.0]]))
    shuffled = SparseCodes(
        torch.tensor([3.0, 1.0, 2.0]), torch.tensor([2, 0, 1], dtype=torch.int32), codes.offsets, 3
    )
    assert correlations(PairedCodes.of(codes, shuffled)).tolist() == [1.0]
    assert PairedCodes.of(shuffled, codes).products.tolist() == [1.0, 4.0, 9.0]


def test_codes_of_other_tokens_or_latents_are_refused():
    with pytest.raises(ConfigError, match="tokens and latents"):
        PairedCodes.of(sparse(torch.ones(2, 3)), sparse(torch.ones(3, 3)))
    with pytest.raises(ConfigError, match="tokens and latents"):
        PairedCodes.of(sparse(torch.ones(2, 3)), sparse(torch.ones(2, 4)))


def test_every_latent_correlates_as_its_dense_column_does():
    data = world()
    totals = whole(data).pair.latents.totals()
    f0, f1 = data["f0"].double().numpy(), data["f1"].double().numpy()
    eligible, r, jaccards, union, both = [], [], [], 0, 0
    for j in range(M):
        fires0, fires1 = set(np.flatnonzero(f0[:, j])), set(np.flatnonzero(f1[:, j]))
        union, both = union + len(fires0 | fires1), both + len(fires0 & fires1)
        if len(fires0) < latents.MIN_FIRINGS:
            continue
        eligible.append(j)
        known = naive_correlation(f0[:, j], f1[:, j])
        r.append(0.0 if math.isnan(known) else known)
        jaccards.append(len(fires0 & fires1) / len(fires0 | fires1))
    assert totals.eligible.nonzero().squeeze(1).tolist() == eligible
    assert 7 not in eligible
    assert 2 in eligible
    np.testing.assert_allclose(totals.correlation[totals.eligible], r, atol=1e-12)
    expected = {
        "survival": np.mean(np.array(r) >= 0.8),
        "survival_median": np.median(r),
        "jaccard": np.mean(jaccards),
        "jaccard_pooled": both / union,
    }
    assert totals.values(0.8) == pytest.approx(expected)
    assert 0 < expected["survival"] < 1


def test_details_count_what_became_of_latents_and_follow_them_by_peak():
    data = world()
    told = describe(whole(data).pair.latents, 0.8)
    f0, f1 = data["f0"], data["f1"]
    alive0, alive1 = (f0 != 0).any(0), (f1 != 0).any(0)
    assert told["alive_on_reference_only"] == int((alive0 & ~alive1).sum()) == 1
    assert told["alive_on_variant_only"] == 0
    assert told["silent_on_variant"] == 1
    assert told["alive_on_both"] == int((alive0 & alive1).sum())
    strata = told["by_peak"]
    assert sum(part["n"] for part in strata) == told["eligible"]
    shares = sum(part["n"] * part["survival"] for part in strata)
    assert shares == pytest.approx(told["surviving"])
    peaks = sorted(float(f0[:, j].max()) for j in range(M) if (f0[:, j] != 0).sum() >= 10)
    assert [strata[0]["peak_from"], strata[-1]["peak_to"]] == pytest.approx([peaks[0], peaks[-1]])


def test_a_latent_that_fires_rarely_is_not_followed():
    rare = torch.zeros(N, 2)
    rare[: latents.MIN_FIRINGS - 1, 0] = torch.arange(1.0, latents.MIN_FIRINGS)
    rare[: latents.MIN_FIRINGS, 1] = torch.arange(1.0, latents.MIN_FIRINGS + 1)
    sums = latents.LatentSums(2)
    sums.update(PairedCodes.of(sparse(rare), sparse(rare)), torch.arange(N))
    assert sums.totals().eligible.tolist() == [False, True]


def test_a_latent_whose_code_never_varies_is_not_followed():
    sums = latents.LatentSums(1)
    flat = sparse(torch.full((N, 1), 0.1))
    sums.update(PairedCodes.of(flat, flat), torch.arange(N))
    assert not sums.totals().eligible.any()


def test_activations_fve_and_l0_are_those_of_plain_formulas():
    data = world()
    got = whole(data).points()
    x0, x1, y0, y1 = (data[name].double().numpy() for name in ("x0", "x1", "y0", "y1"))
    fves = [
        1 - ((x - y) ** 2).sum() / ((x - x.mean(0)) ** 2).sum() for x, y in ((x0, y0), (x1, y1))
    ]
    cosines = (x0 * x1).sum(1) / np.linalg.norm(x0, axis=1) / np.linalg.norm(x1, axis=1)
    f0, f1 = data["f0"].double().numpy(), data["f1"].double().numpy()
    r = np.array([token_correlation(a, b) for a, b in zip(f0, f1, strict=True)])
    expected = {
        "fve_reference": fves[0],
        "fve_variant": fves[1],
        "fve_shift": fves[1] - fves[0],
        "fve_drop": (fves[0] - fves[1]) / fves[0],
        "l0_reference": (f0 != 0).sum(1).mean(),
        "l0_variant": (f1 != 0).sum(1).mean(),
        "l0_ratio": (f1 != 0).sum() / (f0 != 0).sum(),
        "drift": np.linalg.norm(x1 - x0) / np.linalg.norm(x0),
        "drift_cosine": cosines.mean(),
        "error_over_drift": np.linalg.norm(x1 - y1) / np.linalg.norm(x1 - x0),
        "sample_correlation": np.nanmean(r),
        "alive_shift": (f1 != 0).any(0).sum() / (f0 != 0).any(0).sum() - 1,
    }
    for name, value in expected.items():
        assert got[name] == pytest.approx(value, rel=1e-6), name


def test_drift_of_zero_vectors_has_a_cosine():
    shift, square, cosine = drift(
        torch.tensor([[0.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 0.0], [3.0, 4.0]])
    )
    assert (shift.tolist(), square.tolist(), cosine.tolist()) == ([0, 25], [0, 0], [1, 0])


def test_intervals_of_the_fve_drop_are_a_paired_bootstrap_of_whole_sequences():
    data = world()
    got, _ = found(data)
    how = Resampling(N_SEQUENCES, 300, 0)
    draws = []
    ids = data["ids"].numpy()
    for row in how.weights().numpy():
        tokens = np.concatenate(
            [np.repeat(np.flatnonzero(ids == g), int(w)) for g, w in enumerate(row)]
        )
        ev = []
        for x, y in ((data["x0"], data["y0"]), (data["x1"], data["y1"])):
            x, y = x[tokens].double().numpy(), y[tokens].double().numpy()
            ev.append(1 - ((x - y) ** 2).sum() / ((x - x.mean(0)) ** 2).sum())
        draws.append((ev[0] - ev[1]) / ev[0])
    low, high = np.quantile(draws, [0.025, 0.975])
    assert (got["fve_drop"].low, got["fve_drop"].high) == pytest.approx((low, high))
    tost = found(data)[1].details["equivalence_intervals"]["fve_drop"]
    assert (tost["low"], tost["high"]) == pytest.approx(tuple(np.quantile(draws, [0.05, 0.95])))
    assert "90%" in tost["how"]


def test_the_jackknife_of_survival_leaves_out_one_block_of_sequences_at_a_time():
    data = world()
    ids = data["ids"].numpy()
    point, bounds = survival(whole(data).pair.latents, 0.8)
    left_out = [
        survival(Sums().over(data, np.flatnonzero(ids != g)).pair.latents, 0.8)[0]
        for g in range(N_SEQUENCES)
    ]
    for name in ("jaccard", "survival_median"):
        each = np.array([one[name] for one in left_out])
        error = math.sqrt((N_SEQUENCES - 1) / N_SEQUENCES * ((each - each.mean()) ** 2).sum())
        reach = scipy_stats.t.ppf(0.975, N_SEQUENCES - 1) * error
        assert reach > 0
        assert bounds[name].low == pytest.approx(point[name] - reach)
        assert bounds[name].high == pytest.approx(point[name] + reach)


def test_the_jackknife_of_the_alive_shift_counts_latents_that_fire_elsewhere():
    # latent 0 fires everywhere, 1 in sequence 3 of the reference only, 2 in sequence 5 of the variant only
    f0, f1 = torch.zeros(N, 3), torch.zeros(N, 3)
    f0[:, 0] = f1[:, 0] = 1
    ids = torch.arange(N) // 6
    f0[ids == 3, 1] = 1
    f1[ids == 5, 2] = 1
    sums = latents.LatentSums(3)
    sums.update(PairedCodes.of(sparse(f0), sparse(f1)), ids)
    value, bounds = alive_shift(sums)
    left_out = np.zeros(N_SEQUENCES)
    left_out[3], left_out[5] = 2 / 1 - 1, 1 / 2 - 1
    error = math.sqrt(39 / 40 * ((left_out - left_out.mean()) ** 2).sum())
    reach = scipy_stats.t.ppf(0.975, 39) * error
    assert value == 0
    assert (bounds.low, bounds.high) == pytest.approx((-reach, reach))
    narrow = alive_shift(sums, 0.9)[1]
    reach = max(scipy_stats.t.ppf(0.95, 39) * error, 1 / 2)
    assert (narrow.low, narrow.high) == pytest.approx((-reach, reach))


def test_a_count_of_alive_latents_is_known_to_one_latent_at_best():
    f0 = torch.ones(N, 4)
    f1 = f0.clone()
    f1[0, 0] = 0  # one firing differs, and no latent dies
    sums = latents.LatentSums(4)
    sums.update(PairedCodes.of(sparse(f0), sparse(f1)), torch.arange(N) // 6)
    value, bounds = alive_shift(sums)
    assert (value, bounds.low, bounds.high) == (0, -0.25, 0.25)


@pytest.mark.parametrize("size", [1, 7, 100, N])
def test_no_number_depends_on_the_size_or_order_of_batches(size):
    data = world()
    order = np.random.default_rng(size).permutation(N)
    sums = Sums()
    for start in range(0, N, size):
        sums.over(data, order[start : start + size])
    assert sums.points() == pytest.approx(whole(data).points(), rel=1e-9, nan_ok=True)


def test_shards_merge_to_the_whole():
    data = world()
    parts = [Sums().over(data, np.arange(start, N, 3)) for start in range(3)]
    merged = parts[0].merge(parts[1]).merge(parts[2])
    assert merged.points() == pytest.approx(whole(data).points(), rel=1e-9)
    ours, theirs = merged.pair.latents, whole(data).pair.latents
    for name in ("peak", "fired", "firings", "present", "tokens"):
        assert torch.equal(getattr(ours, name), getattr(theirs, name)), name


def test_a_model_against_itself_shifts_by_exactly_nothing():
    data = world()
    data |= {f"{name}1": data[f"{name}0"] for name in ("x", "y", "f")}
    got, made = found(data)
    exact = {"fve_shift": 0, "fve_drop": 0, "l0_ratio": 1, "drift": 0, "drift_cosine": 1}
    exact |= {"alive_shift": 0, "survival": 1, "survival_median": 1, "jaccard": 1}
    exact |= {"jaccard_pooled": 1, "sample_correlation": 1, "top_k_agreement": 1}
    for name, value in exact.items():
        assert (got[name].value, got[name].low, got[name].high) == (value, value, value), name
    assert got["error_over_drift"].value is None
    assert "the same under both" in got["error_over_drift"].reason
    assert got["portable"].value == got["equivalent"].value == 1
    assert made.details["latents"]["silent_on_variant"] == 0


def test_scaled_activations_have_the_drift_of_the_scale():
    data = world()
    data["x1"] = 1.5 * data["x0"]
    got = whole(data).points()
    assert got["drift"] == pytest.approx(0.5)
    assert got["drift_cosine"] == pytest.approx(1)


def test_a_native_checkpoint_is_compared_on_the_same_resamples():
    data = world()
    sums = whole(data)
    native = ModelSums()
    native.update(data["x1"], data["x1"] * 0.9, sparse(data["f1"]), data["ids"])
    both = replace(sums.both(), native=native)
    got = values(both)
    x = data["x1"].double().numpy()
    expected = 1 - ((0.1 * x) ** 2).sum() / ((x - x.mean(0)) ** 2).sum()
    assert float(got["fve_native"]) == pytest.approx(expected, rel=1e-5)
    assert float(got["transfer_gap"]) == pytest.approx(
        float(got["fve_variant"]) - expected, rel=1e-5
    )
    how = Resampling(N_SEQUENCES, 50, 0)
    in_resamples = values(both, how)
    gap = in_resamples["fve_variant"] - in_resamples["fve_native"]
    assert torch.equal(in_resamples["transfer_gap"], gap)
    assert torch.equal(fve(sums.spreads[1], native, how), in_resamples["fve_native"])


def test_sums_of_other_tokens_are_refused():
    data = world()
    sums = whole(data)
    sums.models[1].update(data["x1"], data["y1"], sparse(data["f1"]), data["ids"])
    with pytest.raises(ConfigError, match="tokens in each group"):
        measurements(sums.both(), PROTOCOL, n_sequences=N_SEQUENCES)


def test_a_native_checkpoint_that_saw_other_tokens_is_refused():
    data = world()
    native = ModelSums()
    some = slice(0, N // 2)
    native.update(data["x1"][some], data["x1"][some], sparse(data["f1"][some]), data["ids"][some])
    both = replace(whole(data).both(), native=native)
    with pytest.raises(ConfigError, match="tokens in each group"):
        measurements(both, PROTOCOL, n_sequences=N_SEQUENCES)


def test_a_reference_that_explains_nothing_leaves_no_verdict():
    data = world()
    data["y0"] = -data["x0"] * 3
    got, _ = found(data)
    for name in ("fve_drop", "portable", "equivalent"):
        assert got[name].value is None
        assert "not positive" in got[name].reason
    assert got["survival"].value is not None


def test_one_sequence_has_estimates_and_no_intervals():
    data = world()
    data["ids"] = torch.zeros(N, dtype=torch.int64)
    got, _ = found(data)
    for name in ("fve_drop", "survival", "alive_shift", "drift"):
        assert got[name].value is not None
        assert got[name].low is None
        assert "at least two" in got[name].reason
    assert got["equivalent"].value == 0
    assert got["equivalent"].detail["verdict"] == "inconclusive"


def test_codes_that_never_fire_leave_reasons():
    data = world()
    data["f0"] = data["f1"] = torch.zeros(N, M)
    got, _ = found(data)
    for name in ("survival", "jaccard", "sample_correlation", "top_k_agreement", "alive_shift"):
        assert got[name].value is None
        assert got[name].reason
    assert got["portable"].value is None


def test_a_small_shift_on_few_sequences_passes_the_rule_and_not_equivalence():
    data = {name: column[:18] for name, column in world(3, noise=0.6).items()}
    sums = Sums().over(data, np.arange(18)).both()
    protocol = replace(PROTOCOL, fve_drop=0.9, fve_margin=0.05)
    made = measurements(sums, protocol, n_sequences=3, n_resamples=200).measurements
    assert made["port_portable@1"].value == 1
    assert made["port_equivalent@1"].value == 0
    assert made["port_equivalent@1"].detail["verdict"] in ("inconclusive", "different")


def test_blocks_are_as_many_as_fit_and_never_fewer_than_eight():
    assert latents.LatentSums(100).n_blocks == 64
    wide = latents.BLOCK_BYTES // latents.LATENT_BYTES // 20
    assert latents.LatentSums(wide).n_blocks == 20
    assert latents.LatentSums(2 * latents.BLOCK_BYTES // latents.LATENT_BYTES).n_blocks == 8
