"""Divergences of logits against float64 sums over the vocabulary."""

import numpy as np
import pytest
import torch

from saebench.causal import divergences
from saebench.causal.divergences import changes, cosine

VOCAB = 500


def logits(n, seed, scale=2.0):
    return scale * torch.randn(n, VOCAB, generator=torch.Generator().manual_seed(seed))


def exact(clean, other):
    p, q = clean.double().log_softmax(1), other.double().log_softmax(1)
    return (p.exp() * (p - q)).sum(1), (q.exp() * (q - p)).sum(1)


@pytest.mark.parametrize("size", [1e-3, 0.1, 1.0, 5.0, 40.0, 300.0])
@pytest.mark.parametrize("offset", [0.0, 7.0, -90.0])
def test_divergences_are_the_sums_over_the_vocabulary(size, offset):
    clean = logits(3, 0)
    of = torch.tensor([0, 2, 1, 1, 0])
    other = clean[of] + size * logits(5, 1, 1.0) + offset
    expected = exact(clean[of], other)
    found = changes(clean, clean.softmax(1), of, other.clone())
    # the offset itself rounds the logits, and the sums see what is left of them
    bound = {"rtol": 2e-4, "atol": 1e-9 if offset == 0 else 1e-7}
    np.testing.assert_allclose(found.kl, expected[0], **bound)
    np.testing.assert_allclose(found.kl_reverse, expected[1], **bound)


def test_equal_logits_are_exactly_zero():
    clean = logits(4, 0)
    found = changes(clean, clean.softmax(1), torch.arange(4), clean.clone())
    assert (found.kl == 0).all()
    assert (found.kl_reverse == 0).all()


def test_a_tiny_change_keeps_its_digits():
    clean = torch.zeros(1, VOCAB)
    other = clean.clone()
    other[0, 0] = 1e-5  # KL = p (1 − p) Δ² / 2, far below the rounding of a loss in float32
    found = changes(clean, clean.softmax(1), torch.tensor([0]), other)
    p = 1 / VOCAB
    assert float(found.kl) == pytest.approx(p * (1 - p) * 1e-10 / 2, rel=1e-3)


def test_sixteen_bit_logits_are_taken_as_they_are():
    clean, other = logits(3, 0).bfloat16(), logits(3, 1).bfloat16()
    found = changes(clean.float(), clean.float().softmax(1), torch.arange(3), other)
    np.testing.assert_allclose(found.kl, exact(clean, other)[0], rtol=1e-4)


def test_blocks_of_rows_give_the_same(monkeypatch):
    clean, other, of = logits(3, 0), logits(11, 1), torch.arange(11) % 3
    whole = changes(clean, clean.softmax(1), of, other.clone())
    angle = cosine(other, clean[of])
    monkeypatch.setattr(
        divergences, "row_chunks", lambda n, *rest: [slice(i, i + 2) for i in range(0, n, 2)]
    )
    parts = changes(clean, clean.softmax(1), of, other.clone())
    for one, two in zip(whole, parts, strict=True):
        torch.testing.assert_close(one, two)
    torch.testing.assert_close(cosine(other, clean[of]), angle)


def test_cosine_is_of_centred_changes():
    first, second = logits(6, 0), logits(6, 1) + 3
    second[2] = 5.0  # nothing is left once it is centred
    expected = [np.corrcoef(a, b)[0, 1] for a, b in zip(first, second, strict=True)]
    found = cosine(first, second).numpy()
    assert np.isnan(found[2])
    keep = np.arange(6) != 2
    np.testing.assert_allclose(found[keep], np.array(expected)[keep], atol=1e-5)
