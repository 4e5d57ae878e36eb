"""Scores, the constant predictor, collapsed probes, and resamples that all probes share."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

from saebench.probing import Collapse, Majority, Resamples, accuracy_and_f1, looks_constant

COLA = np.repeat([1, 0], [721, 322])  # CoLA's validation examples: 721 of 1,043 are acceptable


def noisy(labels: np.ndarray, share: float, seed: int = 0) -> np.ndarray:
    """``labels`` with a share of them redrawn among the classes."""
    generator = np.random.default_rng(seed)
    drawn = generator.choice(np.unique(labels), len(labels))
    return np.where(generator.random(len(labels)) < share, drawn, labels)


def test_macro_f1_is_computed_by_hand():
    labels, predictions = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 1, 1, 1])
    # F1 by class: 2·1/(2+1), 2·2/(2+4), 0
    accuracy, macro_f1 = accuracy_and_f1(labels, predictions)
    assert accuracy == pytest.approx(3 / 5)
    assert macro_f1 == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)


def test_the_constant_predictor_of_cola_has_the_known_scores():
    found = Majority.of(COLA, COLA)
    assert found.label == 1
    assert found.accuracy == pytest.approx(721 / 1043)
    assert round(found.accuracy, 4) == 0.6913
    assert round(found.macro_f1, 4) == 0.4087


def test_the_constant_predictor_says_the_commonest_training_label_even_where_tests_differ():
    found = Majority.of(np.array([0, 0, 1]), np.array([0, 1, 1, 1]))
    assert (found.label, found.accuracy) == (0, 0.25)
    assert found.macro_f1 == pytest.approx(0.5 * 2 / 5)


def test_of_equally_common_labels_the_smallest_is_said():
    assert Majority.of(np.array([2, 1, 1, 2]), np.array([1, 2])).label == 1


def test_a_published_probe_on_the_scores_of_the_constant_predictor_is_recognised():
    assert looks_constant(0.6908, 0.4115, 0.6913, 0.4087)


def test_a_published_probe_above_the_constant_predictor_is_not():
    assert not looks_constant(0.708, 0.55, 0.6913, 0.4087)
    assert not looks_constant(0.69, 0.55, 0.6913, 0.4087)  # its F1 is another


@pytest.mark.parametrize("says", [0, 1])
def test_a_probe_that_says_one_class_has_collapsed_whichever_it_is(says):
    found = Collapse.of(COLA, np.full_like(COLA, says))
    assert found.collapsed
    assert found.share == 1


def test_a_probe_with_a_handful_of_other_predictions_has_collapsed():
    predictions = np.ones_like(COLA)
    predictions[[0, 100, 730, 800]] = 0
    assert Collapse.of(COLA, predictions).collapsed


def test_a_probe_that_says_another_class_once_in_a_hundred_times_has_collapsed_even_if_rightly():
    labels = np.repeat([0, 1], 500)
    predictions = np.ones_like(labels)
    predictions[:9] = 0  # accuracy .509 and macro-F1 .352, where always saying 1 gives .5 and .333
    found = Collapse.of(labels, predictions)
    assert found.collapsed
    assert found.share == 0.991
    predictions[:40] = 0
    assert not Collapse.of(labels, predictions).collapsed


def test_one_collapsed_probe_of_the_minority_and_one_of_the_majority_average_to_the_published_pair():
    scores = [accuracy_and_f1(COLA, np.full_like(COLA, says)) for says in (0, 1)]
    assert np.mean(scores, axis=0) == pytest.approx([0.5, 0.322], abs=0.005)
    assert all(Collapse.of(COLA, np.full_like(COLA, says)).collapsed for says in (0, 1))


def test_a_probe_that_learned_something_has_not_collapsed():
    assert not Collapse.of(COLA, noisy(COLA, 0.4)).collapsed


def test_a_probe_at_chance_on_balanced_classes_is_not_collapsed():
    labels = np.tile([0, 1], 500)
    guesses = np.random.default_rng(0).integers(0, 2, 1000)
    found = Collapse.of(labels, guesses)
    assert not found.collapsed
    assert found.share == pytest.approx(0.5, abs=0.05)


def test_a_right_probe_has_not_collapsed_where_nearly_all_texts_are_of_one_class():
    labels = np.repeat([0, 1], [995, 5])
    assert not Collapse.of(labels, labels).collapsed
    assert Collapse.of(labels, np.zeros_like(labels)).collapsed


@pytest.mark.parametrize("n_classes", [2, 4])
def test_resampled_scores_are_those_of_scikit_learn_on_each_resample(n_classes):
    labels = np.random.default_rng(3).integers(0, n_classes, 60) * 10
    predictions = noisy(labels, 0.6)
    resamples = Resamples("task", labels, seed=1, n_resamples=140)
    found = resamples.scores(predictions)
    for i in (0, 1, 127, 128, 139):
        drawn = np.repeat(np.arange(60), resamples._counts[i])
        assert len(drawn) == 60
        expected = (
            accuracy_score(labels[drawn], predictions[drawn]),
            f1_score(labels[drawn], predictions[drawn], average="macro", zero_division=0),
        )
        assert (found[0][i], found[1][i]) == pytest.approx(expected)


def test_a_class_that_a_resample_lacks_does_not_count_there():
    labels = np.array([0] * 30 + [1])
    resamples = Resamples("task", labels, seed=0)
    lacking = resamples._counts[:, -1] == 0
    assert lacking.any()
    np.testing.assert_allclose(resamples.scores(labels)[1][lacking], 1)


def test_the_interval_has_the_width_of_a_proportion():
    labels = np.tile([0, 1], 200)
    predictions = np.where(np.arange(400) < 300, labels, 1 - labels)
    accuracy, _ = Resamples("task", labels, seed=0).scores(predictions)
    assert accuracy.mean() == pytest.approx(0.75, abs=0.002)
    assert accuracy.std() == pytest.approx((0.75 * 0.25 / 400) ** 0.5, rel=0.05)


def test_resamples_are_the_same_for_every_probe_and_apart_between_tasks():
    labels = np.tile([0, 1], 100)
    predictions = noisy(labels, 0.5)
    first = Resamples("a", labels, seed=0).scores(predictions)
    again = Resamples("a", labels, seed=0).scores(predictions)
    np.testing.assert_array_equal(first, again)
    others = [
        Resamples("b", labels, seed=0).scores(predictions)[0],
        Resamples("a", labels, seed=1).scores(predictions)[0],
    ]
    for other in others:
        assert abs(np.corrcoef(first[0], other)[0, 1]) < 0.1


def test_documents_are_drawn_whole():
    generator = np.random.default_rng(4)
    labels = generator.integers(0, 3, 90)
    documents = generator.choice([3, 7, 8, 20, 21, 40], 90)
    predictions = noisy(labels, 0.6)
    resamples = Resamples("task", labels, seed=1, n_resamples=140, documents=documents)
    found = resamples.scores(predictions)
    members = [np.flatnonzero(documents == one) for one in np.unique(documents)]
    assert resamples.n_units == len(members) == 6
    for i in (0, 1, 127, 128, 139):
        assert resamples._counts[i].sum() == 6
        drawn = np.concatenate(
            [np.tile(rows, n) for rows, n in zip(members, resamples._counts[i], strict=True)]
        )
        expected = (
            accuracy_score(labels[drawn], predictions[drawn]),
            f1_score(labels[drawn], predictions[drawn], average="macro", zero_division=0),
        )
        assert (found[0][i], found[1][i]) == pytest.approx(expected)


def test_texts_that_are_right_or_wrong_by_document_are_as_many_as_there_are_documents():
    documents = np.repeat(np.arange(40), 10)
    labels = np.tile([0, 1], 200)
    predictions = np.where(documents < 30, labels, 1 - labels)
    accuracy, _ = Resamples("task", labels, seed=0, documents=documents).scores(predictions)
    assert accuracy.mean() == pytest.approx(0.75, abs=0.01)
    assert accuracy.std() == pytest.approx((0.75 * 0.25 / 40) ** 0.5, rel=0.05)


def test_documents_of_one_text_each_are_drawn_as_texts_are():
    labels = np.random.default_rng(0).integers(0, 2, 70)
    predictions = noisy(labels, 0.5)
    texts = Resamples("task", labels, seed=0).scores(predictions)
    documents = Resamples("task", labels, seed=0, documents=np.arange(100, 170))
    np.testing.assert_array_equal(documents.scores(predictions), texts)
