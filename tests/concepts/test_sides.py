"""One split of a concept: who takes part in maxima, and which latents are listed."""

import numpy as np
import pytest
from scipy import sparse
from sklearn.metrics import roc_auc_score

from saebench.concepts import Exchange
from saebench.errors import DataError
from saebench.measure.concepts.sides import Labels, Side
from saebench.protocols import ConceptsProtocol
from tests.concepts.matrices import labels_of, naive_d, sparse_rows

ASKED = ConceptsProtocol(n_permutations=99, min_firings=10)


@pytest.fixture
def texts():
    x, positive = sparse_rows(60, 40, 0.15), labels_of(60, 30)
    x[:, 5] = 0
    x[positive, 5] = np.where(np.arange(30) < 8, 5, 0)  # far apart, and fires too rarely
    return x, Labels(positive, Exchange.of(positive))


def test_rare_latents_take_no_part_in_any_maximum_or_null(texts):
    x, labels = texts
    side = Side.of(sparse.csr_array(x), labels, ASKED, 0)
    often = (x != 0).sum(0) >= 10
    assert 0 < often.sum() < 39
    np.testing.assert_array_equal(side.eligible, often)
    alone = Side.of(sparse.csr_array(x[:, often]), labels, ASKED, 0)
    for name in ("d_max", "auroc_max", "n_over_1"):
        one, other = getattr(side.nulls, name), getattr(alone.nulls, name)
        assert one.observed == other.observed
        np.testing.assert_allclose(one.samples, other.samples, rtol=1e-9)
        assert name == "n_over_1" or one.samples.min() > 0
    away = [abs(roc_auc_score(labels.positive, column) - 0.5) for column in x[:, often].T]
    assert side.nulls.auroc_max.observed == pytest.approx(max(away))
    assert side.to_json()["n_eligible"] == often.sum()


def test_listed_latents_are_the_largest_that_take_part_in_order(texts):
    x, labels = texts
    side = Side.of(x, labels, ASKED, 0)
    d = np.where(side.eligible, np.abs(naive_d(x, labels.positive)), 0)
    assert side.top(6).tolist() == np.argsort(-d, kind="stable")[:6].tolist()
    assert side.best == side.top(1)[0]
    assert 5 not in side.top(100)
    assert len(side.top(100)) <= side.eligible.sum()


def test_p_of_a_latent_by_itself_is_that_of_its_number(texts):
    x, labels = texts
    x[:, 30] += 2 * labels.positive
    side = Side.of(x, labels, ASKED, 0)
    assert side.p_alone(30) == 1 / 100


def test_silent_latents_alone_give_a_reason():
    positive = labels_of(10, 5)
    with pytest.raises(DataError, match=r"fires on 10 of 10 texts.*none: 0 of 3 fire on any"):
        Side.of(sparse.csr_array((10, 3)), Labels(positive, Exchange.of(positive)), ASKED, 0)
