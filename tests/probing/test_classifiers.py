"""Classifiers against plain ones on dense copies, and what no classifier can learn."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MaxAbsScaler, StandardScaler

from saebench.errors import DataError
from saebench.probing import fit_and_score, logistic, one_epoch
from saebench.probing.scaling import scaled_sparse, standardised

N_TRAIN = 300


def features(n_classes: int = 3, *, n: int = 400, d: int = 30, strength: float = 3):
    """Sparse, signed features of which the first few follow the class."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, n_classes, n)
    x = generator.normal(size=(n, d)) * generator.lognormal(size=d)
    x[:, :n_classes] += strength * np.eye(n_classes)[labels]
    x[generator.random((n, d)) < 0.6] = 0
    x[:, -1] = 0  # a latent that never fires
    return x.astype(np.float32), labels


def split(x, labels):
    return x[:N_TRAIN], labels[:N_TRAIN], x[N_TRAIN:], labels[N_TRAIN:]


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("compressed", [False, True])
def test_logistic_predicts_what_scikit_learn_does_on_dense_copies(n_classes, compressed):
    x, labels = features(n_classes)
    train_X, train_y, test_X, test_y = split(x, labels)
    scaler = MaxAbsScaler() if compressed else StandardScaler()
    oracle = make_pipeline(scaler, LogisticRegression(C=1.0, tol=1e-8, max_iter=10_000))
    expected = oracle.fit(train_X.astype(float), train_y).predict(test_X.astype(float))
    rows = [sparse.csr_array(part) if compressed else part for part in (train_X, test_X)]
    found = fit_and_score(rows[0], train_y, rows[1], test_y, "logistic", 0)
    assert (found.predictions == expected).mean() >= 0.99
    assert found.accuracy == accuracy_score(test_y, found.predictions)
    assert found.macro_f1 == f1_score(test_y, found.predictions, average="macro")
    assert found.accuracy > 1 / n_classes + 0.15
    assert found.converged
    norm = np.linalg.norm(oracle[-1].coef_)
    assert found.coefficient_norm == pytest.approx(norm, rel=0.01)


def test_what_was_fitted_is_counted():
    x, labels = features()
    parts = split(sparse.csr_array(x), labels)
    found = fit_and_score(*parts, "logistic", 0)
    assert (found.n_features, found.n_varying) == (30, 29)
    assert found.n_iterations > 0


def test_a_fit_that_is_cut_short_says_so(monkeypatch):
    monkeypatch.setattr(logistic, "MAX_ITERATIONS", 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = fit_and_score(*split(*features()), "logistic", 0)
    assert found.converged is False


def test_scaling_learns_from_training_rows_alone():
    x, _ = features()
    far = x[N_TRAIN:] * 100
    fitted, other, _ = standardised(x[:N_TRAIN], far)
    scaler = StandardScaler().fit(x[:N_TRAIN].astype(float))
    np.testing.assert_allclose(fitted, scaler.transform(x[:N_TRAIN].astype(float)), atol=1e-9)
    np.testing.assert_allclose(other, scaler.transform(far.astype(float)), atol=1e-7)
    rows = sparse.csr_array(x[:N_TRAIN]), sparse.csr_array(far)
    fitted, other, n_varying = scaled_sparse(*rows)
    oracle = MaxAbsScaler().fit(x[:N_TRAIN, :-1])
    np.testing.assert_allclose(fitted.toarray(), oracle.transform(x[:N_TRAIN, :-1]), rtol=1e-6)
    np.testing.assert_allclose(other.toarray(), oracle.transform(far[:, :-1]), rtol=1e-5)
    assert n_varying == 29
    assert fitted.nnz == rows[0].nnz  # sparse it stays


def test_rounding_of_a_constant_feature_is_not_blown_up():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(50, 2)).astype(np.float32)
    x[:, 1] = np.float32(3.3) * (1 + generator.choice([0, 1.2e-7], 50))
    fitted, other, n_varying = standardised(x, x + 1)
    assert n_varying == 1
    assert not fitted[:, 1].any()
    assert not other[:, 1].any()


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("classifier", ["logistic", "one_epoch"])
def test_shuffled_training_labels_give_chance(classifier, compressed):
    x, labels = features(2, n=2500, d=12)
    x = sparse.csr_array(x) if compressed else x
    parts = x[:1500], x[1500:], labels[1500:]

    def accuracy(train_y, seed=0):
        return fit_and_score(parts[0], train_y, parts[1], parts[2], classifier, seed).accuracy

    generator = np.random.default_rng(5)
    shuffled = [accuracy(generator.permutation(labels[:1500]), seed) for seed in range(6)]
    assert np.mean(shuffled) == pytest.approx(0.5, abs=0.06)
    assert accuracy(labels[:1500]) > 0.65


def test_features_that_say_nothing_leave_the_commonest_class():
    labels = np.array([1, 1, 1, 0] * 20)
    x = np.full((80, 3), 2.5, dtype=np.float32)
    for rows in (x, sparse.csr_array((80, 3), dtype=np.float32)):
        found = fit_and_score(rows, labels, rows[:4], labels[:4], "logistic", 0)
        assert found.predictions.tolist() == [1, 1, 1, 1]
        assert found.n_varying == 0


def plain_layer(x: np.ndarray, labels: np.ndarray, seed: int) -> torch.nn.Linear:
    """The oracle: a linear layer, dense batches, and nothing else."""
    weight, bias = one_epoch.initial(x.shape[1], labels.max() + 1, seed)
    layer = torch.nn.Linear(x.shape[1], labels.max() + 1)
    layer.load_state_dict({"weight": weight.T, "bias": bias})
    optimiser = torch.optim.Adam(layer.parameters(), lr=1e-3)
    rows = one_epoch.order(len(x), seed)
    for start in range(0, len(x), 4):
        batch = rows[start : start + 4]
        optimiser.zero_grad()
        logits = layer(torch.from_numpy(x)[batch])
        torch.nn.CrossEntropyLoss()(logits, torch.from_numpy(labels)[batch]).backward()
        optimiser.step()
    return layer


@pytest.mark.parametrize("compressed", [False, True])
def test_one_epoch_learns_what_a_plain_dense_layer_does(compressed):
    x, labels = features()
    x, labels = x[:-1], labels[:-1]  # the last batch is of three
    x[7] = 0  # a text in which nothing fires
    layer = plain_layer(x, labels, seed=3)
    rows = sparse.csr_array(x) if compressed else x
    weight, bias = one_epoch.train_layer(rows, labels, seed=3)
    np.testing.assert_allclose(weight.numpy(), layer.weight.detach().T, atol=1e-5)
    np.testing.assert_allclose(bias.numpy(), layer.bias.detach(), atol=1e-5)
    found = fit_and_score(rows, labels, rows, labels, "one_epoch", 3)
    expected = layer(torch.from_numpy(x)).argmax(1)
    assert (found.predictions == expected.numpy()).mean() > 0.99
    assert found.converged is None
    assert found.n_iterations == 100
    assert found.n_varying == 29


def test_one_epoch_starts_like_a_layer_of_pytorch():
    weight, bias = one_epoch.initial(400, 50, 0)
    layer = torch.nn.Linear(400, 50)
    assert float(weight.std()) == pytest.approx(float(layer.weight.detach().std()), rel=0.05)
    assert weight.abs().max() <= 1 / 20
    assert bias.abs().max() <= 1 / 20


def test_one_epoch_follows_its_seed():
    parts = split(*features())
    norms = [fit_and_score(*parts, "one_epoch", seed).coefficient_norm for seed in (0, 0, 1)]
    assert norms[0] == norms[1] != norms[2]


def test_one_epoch_is_not_bothered_by_inference_mode():
    with torch.inference_mode():
        found = fit_and_score(*split(*features()), "one_epoch", 0)
    expected = fit_and_score(*split(*features()), "one_epoch", 0)
    assert found.coefficient_norm == expected.coefficient_norm


@pytest.mark.parametrize("classifier", ["logistic", "one_epoch"])
def test_predictions_are_in_the_labels_of_the_training(classifier):
    x, labels = features()
    found = fit_and_score(*split(x, 10 * labels + 5), classifier, 0)
    assert set(found.predictions) <= {5, 15, 25}
    plain = fit_and_score(*split(x, labels), classifier, 0)
    assert found.accuracy == plain.accuracy


def test_labels_that_are_all_the_same_are_refused():
    x, labels = features()
    with pytest.raises(DataError, match="all 300 training labels are 4"):
        fit_and_score(x[:300], np.full(300, 4), x[300:], labels[300:], "logistic", 0)


@pytest.mark.parametrize("compressed", [False, True])
def test_a_fit_that_has_converged_is_settled(compressed):
    """At scikit-learn's own tolerance of 1e-4, some of these predictions are not those of the optimum."""
    generator = np.random.default_rng(0)
    n, d = 300, 400
    y = generator.integers(0, 4, n)
    x = generator.normal(size=(n, d)) * generator.lognormal(size=d)
    x[:, :4] += np.eye(4)[y]
    other = generator.normal(size=(4000, d))
    if compressed:
        x, other = (np.abs(rows) * (generator.random(rows.shape) < 0.1) for rows in (x, other))
        rows = [sparse.csr_array(part) for part in (x, other)]
        fitted, far, _ = scaled_sparse(*rows)
    else:
        rows = [x, other]
        fitted, far, _ = standardised(x, other)
    oracle = LogisticRegression(solver="newton-cg", tol=1e-11, max_iter=1000).fit(fitted, y)
    found = logistic.fit(rows[0], y, rows[1], 0)
    assert found.converged
    assert (found.predictions != oracle.predict(far)).sum() == 0
    norm = np.linalg.norm(oracle.coef_)
    assert found.coefficient_norm == pytest.approx(norm, rel=1e-4)
