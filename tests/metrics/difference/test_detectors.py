"""Latents as detectors of fire tokens, against scikit-learn and naive loops."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats
from sklearn.metrics import f1_score, precision_score, recall_score, roc_auc_score

from saebench.codes import SparseCodes
from saebench.metrics.difference.detectors import (
    CHOOSING,
    JUDGING,
    Firings,
    Prompts,
    auroc,
    columns,
    judged,
    prompt_maxima,
    scores,
)

M = 12
CPU = torch.device("cpu")
CONDITIONS = ("clean", "mismatch", "poison", "single")
RNG = np.random.default_rng(0)
SIZES = RNG.integers(3, 9, 80)
OF_TOKEN = np.repeat(np.arange(80), SIZES)
CONDITION = np.arange(80) % 4
FIRE = np.zeros(OF_TOKEN.size, dtype=bool)
FIRE[[np.flatnonzero(p == OF_TOKEN)[2] for p in range(80) if p % 4 == 2]] = True
DENSE = RNG.exponential(size=(OF_TOKEN.size, M)) * (RNG.random((OF_TOKEN.size, M)) < 0.2)
DENSE[:, 5] = np.where(FIRE, 2.0, 0.3 * (RNG.random(OF_TOKEN.size) < 0.02))
DENSE[:, 7] *= CONDITION[OF_TOKEN] == 2
DENSE[:, 9] = 0
PROMPTS = Prompts.halved(OF_TOKEN, FIRE, CONDITION, CONDITIONS, seed=0)


def sparse(dense: np.ndarray) -> SparseCodes:
    rows, latents = dense.nonzero()
    offsets = np.r_[0, np.bincount(rows, minlength=len(dense)).cumsum()]
    return SparseCodes(
        torch.from_numpy(dense[rows, latents]).float(),
        torch.from_numpy(latents).int(),
        torch.from_numpy(offsets).int(),
        dense.shape[1],
    )


def counted(dense: np.ndarray = DENSE, chunk: int = 10, prompts: Prompts = PROMPTS) -> Firings:
    """The counts from chunks of ``chunk`` whole prompts."""
    found = Firings(dense.shape[1], prompts, CPU)
    for first in range(0, prompts.n, chunk):
        tokens = np.flatnonzero((prompts.of_token >= first) & (prompts.of_token < first + chunk))
        found.update(int(tokens[0]), sparse(dense[tokens]))
    return found


def test_halves_share_conditions_and_fire_prompts_evenly():
    for number in range(len(CONDITIONS)):
        of_half = np.bincount(PROMPTS.half[number == CONDITION], minlength=2)
        assert of_half.tolist() == [10, 10]
    assert (
        PROMPTS.half != Prompts.halved(OF_TOKEN, FIRE, CONDITION, CONDITIONS, seed=1).half
    ).any()
    assert PROMPTS.problem() == ""


def test_prompts_of_one_document_stay_in_one_half():
    documents = np.arange(80) // 4  # one prompt of each condition
    found = Prompts.halved(OF_TOKEN, FIRE, CONDITION, CONDITIONS, 0, documents)
    for document in range(20):
        assert len(set(found.half[documents == document])) == 1
    assert np.bincount(found.half[found.positive]).tolist() == [10, 10]
    again = Prompts.halved(OF_TOKEN, FIRE, CONDITION, CONDITIONS, 1, documents)
    assert (found.half != again.half).any()


def test_documents_without_a_fire_prompt_are_spread_as_well():
    fire = FIRE & (OF_TOKEN < 8)
    found = Prompts.halved(OF_TOKEN, fire, CONDITION, CONDITIONS, 0, np.arange(80) // 4)
    assert np.bincount(found.half[found.positive]).tolist() == [1, 1]
    assert np.bincount(found.half).tolist() == [40, 40]


@pytest.mark.parametrize("half", [CHOOSING, JUDGING])
def test_scores_of_every_latent_are_those_of_scikit_learn(half):
    inside = PROMPTS.half[OF_TOKEN] == half
    found = counted().scores(half)
    for latent in range(M):
        given = FIRE[inside], DENSE[inside, latent] > 0
        for name, score in (
            ("precision", precision_score),
            ("recall", recall_score),
            ("f1", f1_score),
        ):
            assert found[name][latent] == pytest.approx(score(*given, zero_division=0))


def test_the_planted_detector_is_chosen_and_judged_on_the_other_half():
    firings = counted()
    best = firings.best(3)
    assert best[0] == 5
    assert 9 not in firings.best(M)  # it never fires
    found = judged(DENSE[:, 5], PROMPTS, np.arange(80))
    inside = PROMPTS.half[OF_TOKEN] == JUDGING
    assert found["recall"].value == 1
    assert found["precision"].value == pytest.approx(
        precision_score(FIRE[inside], DENSE[inside, 5] > 0)
    )
    bounds = found["precision"].bounds
    assert bounds.low < found["precision"].value <= bounds.high


def test_latents_are_ranked_by_the_choosing_half_alone():
    dense = DENSE.copy()
    judging = PROMPTS.half[OF_TOKEN] == JUDGING
    dense[judging] = 0
    assert counted(dense).best(M).tolist() == counted().best(M).tolist()


def test_the_auroc_of_prompts_is_that_of_scikit_learn():
    inside = PROMPTS.half == JUDGING
    for latent in range(M):
        maxima = np.array([DENSE[p == OF_TOKEN, latent].max() for p in range(80)])
        assert prompt_maxima(DENSE[:, latent], PROMPTS) == pytest.approx(maxima)
        found = judged(DENSE[:, latent], PROMPTS, np.arange(80))
        expected = roc_auc_score(PROMPTS.positive[inside], maxima[inside])
        assert found["prompt_auroc"].value == pytest.approx(expected)


def test_the_weighted_auroc_is_that_of_repeated_rows():
    rng = np.random.default_rng(3)
    values, positive = rng.integers(0, 6, 40).astype(float), rng.random(40) < 0.4
    weights = rng.integers(0, 4, (5, 40)).astype(float)
    found = auroc(values, positive, weights)
    for row, one in zip(weights.astype(int), found, strict=True):
        again = np.repeat(np.arange(40), row)
        assert one == pytest.approx(roc_auc_score(positive[again], values[again]))
    assert auroc(values, positive)[0] == pytest.approx(roc_auc_score(positive, values))
    assert np.isnan(auroc(values, np.ones(40, dtype=bool))[0])


def naive(latent: int, documents: np.ndarray) -> dict[str, tuple[float, float, float]]:
    """Each score on the judging half with its jackknife over documents, by scikit-learn and scipy."""
    inside = PROMPTS.half == JUDGING

    def four(keep: np.ndarray) -> list[float]:
        tokens = keep[OF_TOKEN]
        given = FIRE[tokens], DENSE[tokens, latent] > 0
        maxima = np.array([DENSE[p == OF_TOKEN, latent].max() for p in np.flatnonzero(keep)])
        found = [s(*given, zero_division=0) for s in (precision_score, recall_score, f1_score)]
        return [*found, roc_auc_score(PROMPTS.positive[keep], maxima)]

    left = np.array([four(inside & (documents != d)) for d in np.unique(documents[inside])])
    n = len(left)
    error = np.sqrt((n - 1) * left.var(axis=0))
    reach = stats.t.ppf(0.975, n - 1) * error
    names = ("precision", "recall", "f1", "prompt_auroc")
    return {
        name: (value, max(value - r, 0.0), min(value + r, 1.0))
        for name, value, r in zip(names, four(inside), reach, strict=True)
    }


@pytest.mark.parametrize("latent", [0, 7])
def test_intervals_are_the_jackknife_over_documents_with_students_t(latent):
    documents = np.arange(80) // 4
    found = judged(DENSE[:, latent], PROMPTS, documents, "documents")
    for name, (value, low, high) in naive(latent, documents).items():
        assert found[name].value == pytest.approx(value)
        assert (found[name].bounds.low, found[name].bounds.high) == pytest.approx((low, high))
    n = np.unique(documents[PROMPTS.half == JUDGING]).size
    assert f"over documents, t with {n - 1} degrees" in found["f1"].bounds.how


def test_a_score_that_no_document_changes_has_no_interval():
    recall = judged(DENSE[:, 5], PROMPTS, np.arange(80))["recall"]
    assert recall.value == 1
    assert recall.bounds.low is None
    assert "the same without any one of 40 sequences" in recall.to_json()["reason"]


def test_fire_tokens_of_one_document_alone_have_no_interval():
    fire = FIRE & np.isin(OF_TOKEN, np.flatnonzero(PROMPTS.half == JUDGING)[:8])
    first = OF_TOKEN[fire][0]
    one = replace(PROMPTS, fire=fire & (first == OF_TOKEN))
    found = judged(DENSE[:, 7], one, np.arange(80), "documents")
    for figure in found.values():
        assert figure.value is not None
        assert "fire tokens in two documents" in figure.bounds.reason


def test_tokens_of_the_answer_detect_no_prompt_but_are_wrong_as_fire_tokens():
    last = np.flatnonzero(np.diff(OF_TOKEN, append=80))
    answer = np.zeros_like(FIRE)
    answer[last[CONDITION == 2]] = True
    answer &= ~FIRE
    prompts = Prompts.halved(OF_TOKEN, FIRE, CONDITION, CONDITIONS, 0, None, answer)
    dense = np.zeros_like(DENSE)
    dense[answer, 4] = 1.0
    found = counted(dense, prompts=prompts)
    assert not found.on_prompts.any()
    assert found.tokens[:, 2, 0, 4].sum() == answer.sum() > 0
    assert not prompt_maxima(dense[:, 4], prompts).any()
    figures = judged(dense[:, 4], prompts, np.arange(80))
    assert figures["prompt_auroc"].value == 0.5
    assert figures["precision"].value == 0


@pytest.mark.parametrize("chunk", [1, 7, 80])
def test_counts_by_half_condition_and_label_are_those_of_a_loop(chunk):
    found = counted(chunk=chunk)
    tokens = np.zeros((2, 4, 2, M), dtype=int)
    prompts = np.zeros((2, 4, M), dtype=int)
    for token, prompt in enumerate(OF_TOKEN):
        half, condition = PROMPTS.half[prompt], CONDITION[prompt]
        tokens[half, condition, int(FIRE[token])] += DENSE[token] > 0
    for prompt in range(80):
        some = (DENSE[prompt == OF_TOKEN] > 0).any(0)
        prompts[PROMPTS.half[prompt], CONDITION[prompt]] += some
    assert (found.tokens == tokens).all()
    assert (found.on_prompts == prompts).all()
    assert (found.fired.numpy() == (DENSE != 0).sum(0)).all()


def test_a_negative_code_is_alive_but_does_not_fire():
    dense = np.zeros_like(DENSE)
    dense[FIRE, 0] = -1.0
    found = counted(dense)
    assert found.fired[0] == FIRE.sum()
    assert not found.tokens.any()
    assert not found.best(M).size


def test_ties_go_to_the_larger_precision_then_to_the_smaller_number():
    dense = np.zeros_like(DENSE)
    dense[FIRE, 3] = dense[FIRE, 8] = 1.0
    assert counted(dense).best(M).tolist() == [3, 8]


def test_too_few_fire_prompts_are_a_problem():
    fire = np.zeros_like(FIRE)
    fire[np.flatnonzero(FIRE)[0]] = True
    one = Prompts.halved(OF_TOKEN, fire, CONDITION, CONDITIONS, seed=0)
    assert "each half of the prompts" in one.problem()


def test_scores_are_zero_where_undefined():
    found = scores([0, 2], [0, 1], [3, 0])
    assert [list(value) for value in found.values()] == [
        [0, pytest.approx(2 / 3)],
        [0, 1],
        [0, pytest.approx(0.8)],
    ]


def test_columns_are_those_of_dense_codes():
    wanted = torch.tensor([7, 0, 5])
    assert torch.equal(
        columns(sparse(DENSE), wanted), torch.from_numpy(DENSE[:, [7, 0, 5]]).float()
    )
