"""Cross-entropy and divergence: against PyTorch, SciPy, hand-computed values and closed forms."""

import math

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, rel_entr, softmax
from torch.nn import functional as F

from saebench.errors import ConfigError
from saebench.metrics import prediction
from saebench.metrics.prediction import against_clean, clean_part, continuation_losses


def logits_pair(n=20, vocab=50, apart=0.5, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    clean = 3 * torch.randn(n, vocab, generator=generator, dtype=torch.float64)
    other = clean + apart * torch.randn(n, vocab, generator=generator, dtype=torch.float64)
    return clean.to(dtype), other.to(dtype), torch.randint(0, vocab, (n,), generator=generator)


def test_three_words_by_hand():
    p, q = torch.tensor([[0.5, 0.3, 0.2]]), torch.tensor([[0.4, 0.4, 0.2]])
    found = continuation_losses(p.log(), q.log(), torch.tensor([1]))
    ce_clean, ce_other, kl, kl_reverse = (float(one) for one in found)
    assert ce_clean == pytest.approx(-math.log(0.3), abs=1e-6)
    assert ce_other == pytest.approx(-math.log(0.4), abs=1e-6)
    assert kl == pytest.approx(0.025267, abs=1e-6)
    assert kl_reverse == pytest.approx(0.025815, abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_losses_are_those_of_pytorch_and_scipy(dtype):
    clean, other, targets = logits_pair(dtype=dtype)
    ce_clean, ce_other, kl, kl_reverse = continuation_losses(clean, other, targets)
    a, b = clean.double(), other.double()
    tolerance = {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(ce_clean, F.cross_entropy(a, targets, reduction="none"), **tolerance)
    torch.testing.assert_close(ce_other, F.cross_entropy(b, targets, reduction="none"), **tolerance)
    p, q = softmax(a.numpy(), 1), softmax(b.numpy(), 1)
    torch.testing.assert_close(kl, torch.from_numpy(rel_entr(p, q).sum(1)), **tolerance)
    torch.testing.assert_close(kl_reverse, torch.from_numpy(rel_entr(q, p).sum(1)), **tolerance)
    theirs = F.kl_div(b.log_softmax(1), a.log_softmax(1), reduction="none", log_target=True).sum(1)
    torch.testing.assert_close(kl, theirs, **tolerance)


def test_equal_logits_cost_exactly_nothing():
    clean, _, targets = logits_pair(vocab=5000)
    ce_clean, ce_other, kl, kl_reverse = continuation_losses(clean, clean.clone(), targets)
    assert torch.equal(ce_clean, ce_other)
    assert kl.abs().max() == kl_reverse.abs().max() == 0


def test_a_tiny_divergence_is_resolved_in_float32():
    clean, other, targets = logits_pair(n=64, vocab=4096, apart=3e-3)
    _, _, kl, kl_reverse = continuation_losses(clean, other, targets)
    p, q = (log_softmax(one.double().numpy(), 1) for one in (clean, other))
    exact = (np.exp(p) * (p - q)).sum(1)
    assert exact.mean() < 1e-5
    assert kl.numpy() == pytest.approx(exact, abs=1e-6)
    assert float(kl.mean()) == pytest.approx(exact.mean(), rel=0.02)
    assert float(kl_reverse.mean()) == pytest.approx((np.exp(q) * (q - p)).sum(1).mean(), rel=0.02)


def test_extreme_logits_stay_finite_and_right():
    clean = torch.tensor([[1e4, 0.0, -1e4], [0.0, 200.0, 0.0]])
    other = torch.tensor([[0.0, 1e4, 0.0], [0.0, 0.0, 0.0]])
    ce_clean, ce_other, kl, kl_reverse = continuation_losses(clean, other, torch.tensor([0, 1]))
    assert ce_clean.tolist() == pytest.approx([0, 0], abs=1e-6)
    assert ce_other.tolist() == pytest.approx([1e4, math.log(3)], rel=1e-6)
    assert kl.tolist() == pytest.approx([1e4, math.log(3)], rel=1e-6)
    assert kl_reverse[0] == pytest.approx(1e4, rel=1e-6)
    assert torch.isfinite(kl_reverse).all()


def test_blocks_of_rows_give_what_the_whole_gives():
    clean, other, targets = logits_pair(n=40, vocab=30_000)
    whole = continuation_losses(clean, other, targets)
    for i in range(40):
        row = slice(i, i + 1)
        one = continuation_losses(clean[row], other[row], targets[row])
        for a, b in zip(whole, one, strict=True):
            torch.testing.assert_close(a[row], b, rtol=1e-6, atol=1e-7)


def test_the_callers_logits_are_left_alone():
    clean, other, targets = logits_pair()
    before = clean.clone(), other.clone()
    continuation_losses(clean, other, targets)
    assert torch.equal(clean, before[0])
    assert torch.equal(other, before[1])


def test_the_clean_part_is_shared_and_can_reuse_a_buffer():
    clean, other, targets = logits_pair()
    buffer = torch.empty(32, 50)
    shared = clean_part(clean, targets, out=buffer)
    assert shared.probabilities.data_ptr() == buffer.data_ptr()
    losses = against_clean(shared, other)
    expected = continuation_losses(clean, other, targets)
    for ours, theirs in zip((shared.ce, *losses), expected, strict=True):
        assert torch.equal(ours, theirs)


def test_the_reverse_divergence_can_be_left_out():
    clean, other, targets = logits_pair()
    shared = clean_part(clean, targets)
    short, full = against_clean(shared, other, reverse=False), against_clean(shared, other)
    assert short.kl_reverse is None
    assert torch.equal(short.kl, full.kl)


def test_no_rows_give_no_losses():
    losses = continuation_losses(
        torch.zeros(0, 5), torch.zeros(0, 5), torch.zeros(0, dtype=torch.int64)
    )
    assert [len(one) for one in losses] == [0, 0, 0, 0]


def sums_from(clean, spliced, zero, mean=None, groups=None, kl=0.1, kl_zero=1.0):
    """Sums of given per-token cross-entropies, one group a token unless said otherwise."""
    columns = [torch.as_tensor(one, dtype=torch.float64) for one in (clean, spliced, zero)]
    clean, spliced, zero = columns
    groups = torch.arange(len(clean)) if groups is None else groups
    floor = prediction.floor_sums(("zero",) if mean is None else ("zero", "mean"))
    floor.count(groups)
    floor.add("ce_clean", clean, groups)
    flat = torch.ones_like(clean)
    prediction.add_floor(floor, "zero", prediction.Losses(zero, kl_zero * flat, None), groups)
    if mean is not None:
        losses = prediction.Losses(torch.as_tensor(mean, dtype=torch.float64), flat, None)
        prediction.add_floor(floor, "mean", losses, groups)
    sums = prediction.spliced_sums()
    prediction.add_spliced(sums, prediction.Losses(spliced, kl * flat, kl * flat), groups)
    return floor, sums


def test_recovered_scores_are_ratios_of_means_and_not_means_of_ratios():
    floor, spliced = sums_from([1, 3], [2, 3], [5, 11], mean=[3, 6])
    found = prediction.measurements(floor, spliced, n_sequences=2)
    assert found["ce_clean@1"].value == 2
    assert found["ce_delta@1"].value == pytest.approx(0.5)
    assert found["ce_recovered@1"].value == pytest.approx((8 - 2.5) / (8 - 2))
    assert found["ce_recovered_mean@1"].value == pytest.approx((4.5 - 2.5) / (4.5 - 2))
    assert found["kl_recovered@1"].value == pytest.approx(0.9)
    assert found["ce_recovered@1"].detail["gap"] == 6


def test_no_damage_recovers_everything_and_ablation_nothing():
    clean, zero = [1.0, 2.0, 1.5], [6.0, 7.0, 9.0]
    for spliced, expected in ((clean, 1.0), (zero, 0.0)):
        found = prediction.measurements(*sums_from(clean, spliced, zero), n_sequences=3)
        assert found["ce_recovered@1"].value == pytest.approx(expected)


def test_recovery_means_nothing_where_ablation_does_not_hurt():
    # a random model: ablation even helps, and the raw ratio would read .97
    rng = np.random.default_rng(0)
    clean = 8.36 + 0.1 * rng.normal(size=50)
    floor, spliced = sums_from(clean, clean - 0.0009, clean - 0.03, kl_zero=0.02)
    found = prediction.measurements(floor, spliced, n_sequences=50)
    for name in ("ce_recovered@1", "kl_recovered@1"):
        assert found[name].value is None
        assert found[name].low is None
        assert "ablation does not hurt this model" in found[name].reason
    assert found["ce_delta@1"].value == pytest.approx(-0.0009)


def test_recovery_needs_the_whole_interval_of_the_gap_above_the_limit():
    rng = np.random.default_rng(0)
    clean = np.full(20, 2.0)
    zero = clean + 0.5 + 2 * rng.normal(size=20)
    assert (zero - clean).mean() > prediction.MIN_ABLATION_GAP
    found = prediction.measurements(*sums_from(clean, clean, zero), n_sequences=20)
    assert found["ce_recovered@1"].value is None
    assert found["ce_recovered@1"].detail["gap_low"] < prediction.MIN_ABLATION_GAP


def test_one_sequence_cannot_tell_whether_ablation_hurts():
    groups = torch.zeros(3, dtype=torch.int64)
    floor, spliced = sums_from([1, 2, 3], [1, 2, 3], [9, 9, 9], groups=groups)
    found = prediction.measurements(floor, spliced, n_sequences=1)
    assert found["ce_recovered@1"].value is None
    assert "cannot be told" in found["ce_recovered@1"].reason
    assert found["ce_delta@1"].value == 0


def test_the_interval_of_a_difference_is_paired():
    # losses vary a lot between sequences and the damage little: only a paired interval is narrow
    rng = np.random.default_rng(0)
    clean = 4 + rng.normal(size=200)
    damage = 0.05 + 0.01 * rng.normal(size=200)
    found = prediction.measurements(*sums_from(clean, clean + damage, clean + 5), n_sequences=200)
    delta, spliced = found["ce_delta@1"], found["ce_spliced@1"]
    se = damage.std() / math.sqrt(200)
    assert (delta.high - delta.low) / 2 == pytest.approx(1.96 * se, rel=0.1)
    assert spliced.high - spliced.low > 50 * (delta.high - delta.low)


def test_without_a_floor_there_is_no_score_against_it():
    floor = prediction.floor_sums(())
    floor.count(torch.arange(2))
    floor.add("ce_clean", torch.ones(2), torch.arange(2))
    _, spliced = sums_from([1, 1], [2, 2], [3, 3])
    found = prediction.measurements(floor, spliced, n_sequences=2)
    assert set(found) == {"ce_clean@1", "ce_spliced@1", "ce_delta@1", "kl@1", "kl_reverse@1"}


def test_losses_of_different_tokens_are_refused():
    floor, _ = sums_from([1, 1, 1], [2, 2, 2], [3, 3, 3])
    _, spliced = sums_from([1, 1], [2, 2], [3, 3])
    with pytest.raises(ConfigError, match="tokens in each group"):
        prediction.measurements(floor, spliced, n_sequences=3)


def test_no_scored_position_gives_reasons():
    found = prediction.measurements(
        prediction.floor_sums(), prediction.spliced_sums(), n_sequences=0
    )
    assert {one.value for one in found.values()} == {None}
    assert {one.reason for one in found.values()} == {"no token was counted"}


def test_a_clean_chunk_is_counted_with_its_losses():
    clean, other, targets = logits_pair()
    part, groups = clean_part(clean, targets), torch.zeros(20, dtype=torch.int64)
    floor = prediction.floor_sums(("zero",))
    prediction.add_clean(floor, part, groups)
    prediction.add_floor(floor, "zero", against_clean(part, other, reverse=False), groups)
    assert floor.n_tokens == 20
    assert float(floor.mean("ce_clean")) == pytest.approx(float(part.ce.mean()))
