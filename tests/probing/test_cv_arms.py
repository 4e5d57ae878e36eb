"""All arms of a comparison: what one lacks does not stop the others."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from saebench.metrics.catalogue.cv_probing import CV_PROBING
from saebench.probing.cv_arms import Comparison, HeldOut
from saebench.probing.cv_folds import draw_folds
from saebench.probing.cv_results import ARMS, CaseProbes
from saebench.protocols import CrossValidation

N, D = 40, 60
LABELS = np.arange(N) % 2 == 0
RNG = np.random.default_rng(0)
CODES = RNG.exponential(size=(N, D)) * (RNG.random((N, D)) < 0.3)
CODES[:, 5] += LABELS
CODES = sparse.csr_array(CODES.astype(np.float32))
RAW = (RNG.normal(size=(N, 12)) + 0.4 * LABELS[:, None]).astype(np.float32)
ASKED = CrossValidation(repeats=3, n_permutations=99, ks=(1, 5, 100), n_path=3)


def compared(labels=LABELS, documents=None, held_out=None, asked=ASKED) -> Comparison:
    folds = draw_folds(
        labels, documents, n_folds=asked.folds, n_repeats=asked.repeats, seed=asked.seed
    )
    return Comparison(folds, asked, held_out)


def case(**arms) -> CaseProbes:
    comparison = compared()
    known = {
        "raw": comparison.arm(RAW, k_sparse=True),
        "latents": comparison.arm(CODES, k_sparse=True, path=True),
        "other": comparison.arm(CODES[:, ::-1]),
        "reconstruction": comparison.arm(RAW + 0.1),
        "random": comparison.arm(CODES[:, :20]),
    }
    return CaseProbes(comparison.folds, {**known, **arms}, n_tokens=300)


def test_every_metric_of_the_catalogue_is_measured_but_what_was_not_asked_for():
    found = {m.name: m for m in case().measurements().values()}
    assert set(found) == {item.id for item in CV_PROBING}
    assert {name for name, m in found.items() if m.value is None} == {"cv_k20_auroc"}
    assert "ks" in found["cv_k20_auroc"].reason
    assert found["cv_auroc_raw"].n_sequences == N
    assert found["cv_auroc_raw"].low < found["cv_auroc_raw"].value < found["cv_auroc_raw"].high
    assert found["cv_p"].detail["n_permutations"] == 99


def test_gaps_are_differences_of_scores_on_the_same_draws():
    probes = case()
    found = {m.name: m.value for m in probes.measurements().values()}
    for metric, arm in (("cv_gap", "raw"), ("cv_over_random", "random")):
        assert found[metric] == pytest.approx(found["cv_auroc_latents"] - found[f"cv_auroc_{arm}"])
    samples = [probes.arms[name].scores.samples["auroc"] for name in ("latents", "raw")]
    percentiles = np.quantile(samples[0] - samples[1], [0.025, 0.975])
    gap = probes.measurements()["cv_gap@1"]
    low, high = gap.value + 1.5 * (percentiles - gap.value)  # five folds
    assert (gap.low, gap.high) == pytest.approx((low, high))
    assert gap.interval.endswith("widened for training sets (Nadeau and Bengio 2003)")


def test_arms_that_separate_perfectly_have_values_without_intervals_and_the_reason():
    perfect = compared().arm(RAW + 100 * LABELS[:, None].astype(np.float32), k_sparse=True)
    found = case(raw=perfect, latents=perfect).measurements()
    for metric, value in (("cv_auroc_raw@1", 1), ("cv_gap@1", 0), ("cv_k1_auroc@1", 1)):
        assert (found[metric].value, found[metric].low, found[metric].high) == (value, None, None)
        assert found[metric].reason.startswith("no interval: all resamples give the same")


def test_an_arm_without_scores_leaves_the_others_and_says_why():
    raw = RAW.copy()
    raw[3, 2] = np.inf
    broken = compared().arm(raw, k_sparse=True)
    assert "1 of 40 rows are infinite" in broken.reason
    assert "bfloat16 or float32" in broken.reason
    found = {m.name: m for m in case(raw=broken).measurements().values()}
    assert found["cv_auroc_raw"].reason == found["cv_gap"].reason == broken.reason
    assert found["cv_auroc_latents"].value is not None
    assert found["cv_over_random"].value is not None


def test_codes_that_are_not_finite_are_refused():
    codes = CODES.copy()
    codes.data[[3, 8]] = [np.nan, np.inf]
    assert "2 codes are infinite or not a number" in compared().arm(codes).reason


def test_latents_that_are_all_zero_give_a_reason_with_a_remedy():
    for nothing in (sparse.csr_array((N, D)), np.zeros((N, D))):
        assert "all of them are zero" in compared().arm(nothing).reason
        assert "scale of activations" in compared().arm(nothing).reason


def test_sizes_beyond_the_width_are_left_out():
    arm = compared().arm(CODES, k_sparse=True)
    assert list(arm.by_k) == [1, 5]
    assert arm.path == ()
    assert compared().arm(CODES).by_k == {}


def test_without_shuffles_there_is_no_p():
    asked = CrossValidation(repeats=2, n_permutations=0, ks=(1,), n_path=0)
    comparison = compared(asked=asked)
    arm = comparison.arm(CODES, k_sparse=True, path=True)
    assert arm.null is None
    probes = CaseProbes(comparison.folds, dict.fromkeys(ARMS, arm), 10)
    assert probes.measurements()["cv_p@1"].reason.startswith("no shuffles")


def test_held_out_texts_are_judged_by_a_probe_fitted_to_all_others():
    others = np.random.default_rng(1).normal(size=(30, 12)).astype(np.float32)
    labels = np.arange(30) % 3 == 0
    others += 0.4 * labels[:, None]
    arm = compared(held_out=HeldOut.of(labels, None, 0)).arm(RAW, others)
    model = make_pipeline(StandardScaler(), LogisticRegression(tol=1e-10, max_iter=10_000))
    fitted = model.fit(RAW.astype(np.float64), LABELS)
    expected = roc_auc_score(labels, fitted.decision_function(others.astype(np.float64)))
    assert arm.transfer.values["auroc"] == pytest.approx(expected)
    ends = arm.transfer.interval("auroc")
    assert ends.low < expected < ends.high
    assert "30 texts" in ends.how
    assert ends.how.endswith("the probe as fitted")


def test_sparse_held_out_texts_are_scaled_by_the_others():
    labels = np.arange(30) % 2 == 0
    held = sparse.csr_array(np.random.default_rng(2).exponential(size=(30, D)) * 3)
    arm = compared(held_out=HeldOut.of(labels, None, 0)).arm(CODES, held)
    peak = CODES.toarray().astype(np.float64).max(0)
    rows = [one.toarray().astype(np.float64)[:, peak > 0] / peak[peak > 0] for one in (CODES, held)]
    fitted = LogisticRegression(tol=1e-10, max_iter=10_000).fit(rows[0], LABELS)
    expected = roc_auc_score(labels, fitted.decision_function(rows[1]))
    assert arm.transfer.values["auroc"] == pytest.approx(expected)


def test_the_tables_are_plain_json_and_name_the_shuffling():
    plain = json.loads(json.dumps(case().to_json(), allow_nan=False))
    assert plain["shuffling"] == "between texts, inside the folds of the first repeat"
    assert set(plain["arms"]) == set(ARMS)
    assert plain["arms"]["latents"]["shuffled_labels"]["n_permutations"] == 99
    assert len(plain["arms"]["latents"]["l1_path"]) == 3
    assert plain["latents_minus"]["raw"]["auroc_interval"][0] is not None


def test_the_same_question_gets_the_same_answer():
    one, other = (json.dumps(case().to_json()) for _ in range(2))
    assert one == other


def test_held_out_texts_of_one_document_have_no_interval_but_a_reason():
    labels = np.arange(6) < 3
    held = HeldOut.of(labels, np.zeros(6, dtype=np.int64), 0)
    arm = compared(held_out=held).arm(RAW, RAW[:6])
    assert arm.transfer.interval("auroc").reason == "all texts are of one document"
    assert arm.to_json()["transfer"]["auroc_interval"] == [None, None]
