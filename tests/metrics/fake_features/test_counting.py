"""Firings under a protocol: against a loop over latents and sequences, and however the text is cut."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from saebench.errors import ConfigError
from saebench.metrics.fake_features import counting as fake_features
from saebench.metrics.fake_features.counting import (
    RESAMPLING_GROUPS,
    SEQUENCE,
    TOKEN,
    FiringSums,
    check_protocol,
    same_rule,
)
from saebench.protocols import FakeProtocol
from tests.codes_by_hand import random_codes, sparse

PROTOCOLS = {
    "token": TOKEN,
    "sum": SEQUENCE,
    "max": replace(SEQUENCE, aggregate="max", threshold=2.5),
    "any": replace(SEQUENCE, aggregate="any", threshold=2.5),
}


def firings(f, ids, protocols=PROTOCOLS, **options):
    sums = FiringSums(protocols, f.shape[1], **options)
    sums.update(sparse(f), ids)
    return sums


def totals(sums):
    return {name: counts.of_groups().total.tolist() for name, counts in sums.counts.items()}


def by_hand(f, ids, protocol):
    """``(firing units of each latent, number of units)`` by a loop over sequences and latents."""
    counts, units = [0] * f.shape[1], 0
    for sequence in ids.unique():
        rows = f[ids == sequence].double()
        units += len(rows) if protocol.unit == "token" else 1
        for latent in range(f.shape[1]):
            codes = rows[:, latent]
            over = codes > protocol.threshold
            if protocol.unit == "token":
                counts[latent] += int(over.sum())
            elif protocol.aggregate == "any":
                counts[latent] += bool(over.any())
            else:
                value = codes.sum() if protocol.aggregate == "sum" else codes.max()
                counts[latent] += bool(value > protocol.threshold)
    return counts, units


@pytest.mark.parametrize("name", PROTOCOLS)
def test_firings_are_those_of_a_loop_over_sequences_and_latents(name):
    f, ids = random_codes()
    counts = firings(f, ids).counts[name].of_groups()
    assert (counts.total.tolist(), counts.n) == by_hand(f, ids, PROTOCOLS[name])


def test_a_sum_and_a_largest_code_tell_sequences_apart():
    """Two sequences of two tokens: codes .6 and .6 sum to 1.2 and none is above 1; 1.1 alone is both."""
    f = torch.tensor([[0.6, 1.1], [0.6, 0.0], [0.5, 0.0], [0.5, 0.0]])
    ids = torch.tensor([0, 0, 1, 1])
    largest = replace(SEQUENCE, aggregate="max")
    found = totals(firings(f, ids, {"token": TOKEN, "sum": SEQUENCE, "max": largest}))
    assert found == {"token": [0, 1], "sum": [1, 1], "max": [0, 1]}


def test_a_code_or_a_sum_of_exactly_the_threshold_does_not_fire():
    f, ids = torch.tensor([[0.5, 1.0], [0.5, 0.0]]), torch.tensor([0, 0])
    assert totals(firings(f, ids, {"token": TOKEN, "sum": SEQUENCE})) == {
        "token": [0, 0],
        "sum": [0, 0],
    }


def test_a_negative_code_lowers_a_sum_and_counts_as_fired():
    f, ids = torch.tensor([[1.5], [-0.6]]), torch.tensor([3, 3])
    sums = firings(f, ids)
    assert totals(sums)["sum"] == [0]
    assert totals(sums)["token"] == [1]
    assert sums.fired.tolist() == [2]


def test_the_share_of_a_sum_grows_with_the_length_and_that_of_tokens_does_not():
    f = torch.full((24, 1), 0.3)
    short, long = torch.arange(12).repeat_interleave(2), torch.arange(3).repeat_interleave(8)
    shares = [firings(f, ids).counts["sum"].of_groups().shares.item() for ids in (short, long)]
    assert shares == [0.0, 1.0]
    tokens = [firings(f, ids).counts["token"].of_groups().shares.item() for ids in (short, long)]
    assert tokens == [0.0, 0.0]


def test_each_latent_is_held_to_its_own_relative_threshold():
    relative = FakeProtocol(relative=True, threshold=0.5, unit="sequence", aggregate="any")
    own = torch.tensor([0.2, 2.0, torch.inf])
    f, ids = torch.tensor([[1.0, 1.0, 9.0], [0.1, 3.0, 0.0]]), torch.tensor([0, 1])
    protocols = {
        "any": relative,
        "sum": replace(relative, aggregate="sum"),
        "token": replace(relative, unit="token"),
    }
    found = totals(firings(f, ids, protocols, thresholds=own))
    assert found == {name: [1, 1, 0] for name in protocols}


@pytest.mark.parametrize("batch", [1, 3, 40])
def test_nothing_depends_on_how_sequences_are_batched_or_ordered(batch):
    f, ids = random_codes()
    whole = firings(f, ids)
    order = np.random.default_rng(batch).permutation(40)
    parts = FiringSums(PROTOCOLS, f.shape[1])
    for start in range(0, 40, batch):
        rows = np.isin(ids.numpy(), order[start : start + batch])
        parts.update(sparse(f[rows]), ids[rows])
    for name, counts in whole.counts.items():
        assert torch.equal(counts.counts, parts.counts[name].counts), name
        assert torch.equal(counts.units, parts.counts[name].units), name
    assert torch.equal(whole.fired, parts.fired)
    assert (whole.n_tokens, whole.n_sequences) == (parts.n_tokens, parts.n_sequences)


def test_shards_merge_into_the_whole():
    f, ids = random_codes(300)
    whole, first, second = firings(f, ids), *(firings(f[p], ids[p]) for p in (ids < 90, ids >= 90))
    first.merge(second)
    for name, counts in whole.counts.items():
        assert torch.equal(counts.counts, first.counts[name].counts), name
        assert torch.equal(counts.units, first.counts[name].units), name
    assert torch.equal(whole.fired, first.fired)
    assert (whole.n_tokens, whole.n_sequences) == (first.n_tokens, first.n_sequences)


def test_shards_of_different_protocols_do_not_merge():
    f, ids = random_codes()
    other = firings(f, ids, {**PROTOCOLS, "token": replace(TOKEN, threshold=2.0)})
    with pytest.raises(ConfigError, match="same protocol"):
        firings(f, ids).merge(other)


def test_sequences_that_do_not_fit_one_table_are_counted_piece_by_piece(monkeypatch):
    f, ids = random_codes()
    whole = firings(f, ids)
    monkeypatch.setattr(fake_features, "TABLE_ENTRIES", 7 * f.shape[1])
    assert totals(firings(f, ids)) == totals(whole)


def test_groups_hold_whole_sequences_and_what_is_not_resampled_has_one_group():
    f, ids = random_codes(RESAMPLING_GROUPS + 2)
    sums = firings(f, ids, grouped=["sum"])
    units = sums.counts["sum"].units
    assert units[:3].tolist() == [2, 2, 1]
    assert sums.counts["token"].counts.shape[0] == 1
    assert totals(sums) == totals(firings(f, ids))


def test_tokens_in_no_batch_and_sequences_without_counted_tokens_are_no_units():
    sums = FiringSums(PROTOCOLS, 3)
    sums.update(sparse(torch.zeros(0, 3)), torch.zeros(0, dtype=torch.int64))
    assert sums.counts["sum"].of_groups().n == 0
    assert sums.counts["sum"].of_groups().shares.tolist() == [0, 0, 0]
    sums.update(sparse(torch.zeros(2, 3)), torch.tensor([4, 4]))
    assert (sums.counts["sum"].of_groups().n, sums.counts["token"].of_groups().n) == (1, 2)


def test_any_and_max_are_one_rule_and_the_aggregate_is_nothing_to_tokens():
    assert same_rule(PROTOCOLS["any"], PROTOCOLS["max"])
    assert same_rule(TOKEN, replace(TOKEN, aggregate="max", seed=3, length=9))
    assert not same_rule(SEQUENCE, replace(SEQUENCE, aggregate="max"))
    assert not same_rule(TOKEN, replace(TOKEN, share=0.05))


@pytest.mark.parametrize(
    ("protocol", "named"),
    [
        (FakeProtocol(threshold=-0.1), "threshold = -0.1"),
        (FakeProtocol(threshold=float("inf")), "threshold = inf"),
        (FakeProtocol(threshold=float("nan")), "threshold = nan"),
        (FakeProtocol(threshold=1.0, relative=True), "threshold = 1.0"),
        (FakeProtocol(threshold=0.0, relative=True), "threshold = 0.0"),
        (FakeProtocol(share=1.0), "share = 1.0"),
        (FakeProtocol(share=-0.1), "share = -0.1"),
    ],
)
def test_a_protocol_that_counts_nothing_or_everything_is_refused(protocol, named):
    with pytest.raises(ConfigError, match=named):
        check_protocol(protocol)


def test_the_standard_protocols_are_accepted():
    for protocol in (TOKEN, SEQUENCE, FakeProtocol(threshold=0.9, relative=True)):
        check_protocol(protocol)
