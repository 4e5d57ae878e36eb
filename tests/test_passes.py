"""One stream through the model for everything: what runs how often, and that cuts change no number."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saebench.data import stream_from_ids
from saebench.errors import DataError, SaebenchError
from saebench.passes import (
    CALIBRATION_SEQUENCES,
    PassRequest,
    Reading,
    Subject,
    as_stack,
    run_pass,
)
from tests.small_runs import Run, assert_same, measured, ragged, random_sae, tokens
from tests.tiny_models import shared_model, tiny_model

RESID, MLP_OUT, MLP_IN = "blocks.1.hook_resid_post", "blocks.1.hook_mlp_out", "blocks.1.mlp.hook_in"
SITES = [RESID, MLP_OUT]


def four_saes():
    return {name: random_sae(seed) for seed, name in enumerate("abcd")}


def counted(model, function):
    """What the model did while ``function`` ran."""
    before = Counter(model.calls)
    function()
    return Counter(model.calls) - before


class Kept:
    """An observer that keeps every view."""

    def __init__(self, *, needs_predictions=False, needs_reconstruction=True):
        self.needs_predictions = needs_predictions
        self.needs_reconstruction = needs_reconstruction
        self.views = []
        self.calibration = None

    def begin(self, calibration):
        self.calibration = calibration

    def update(self, view):
        self.views.append(view)


# --- how often the model runs -----------------------------------------------------------------------


@pytest.mark.parametrize("site", SITES)
def test_four_saes_share_one_prefix_one_clean_run_and_two_ablations(site):
    model = shared_model("gpt_neox")
    calls = counted(model, lambda: measured(model, tokens(8), four_saes(), site, batch_size=4))
    assert calls["prefix"] == 2
    assert calls["suffix"] == 2 * (1 + 2 + 4)


def test_every_scored_token_is_unembedded_once_per_run_and_the_ablated_row_once_for_all():
    model = shared_model("gpt_neox")
    calls = counted(model, lambda: measured(model, tokens(8), four_saes(), RESID, batch_size=4))
    scored, positions = 8 * 8, 9
    assert calls["unembed_tokens"] == (1 + 4) * scored + 2 * 2 * positions


def test_saes_at_two_sites_share_the_prefix_and_the_clean_run():
    model = shared_model("gpt2")
    early, late = model.site("blocks.0.hook_resid_post"), model.site(RESID)
    observers = {name: [Kept(needs_predictions=True)] for name in "ab"}
    subjects = [
        Subject.at("a", random_sae(), early, early),
        Subject.at("b", random_sae(1), late, late),
    ]
    request = PassRequest(subjects, {}, observers)
    batches = stream_from_ids(tokens(4)).batches(4)
    calls = counted(model, lambda: run_pass(model, batches, request))
    assert (calls["prefix"], calls["suffix"]) == (1, 1 + 2 * 2 + 2)
    assert observers["a"][0].views[0].spliced


def test_without_logits_nothing_after_the_last_site_runs():
    model = tiny_model("llama")
    reached = Counter()
    for number, block in enumerate(model.model.model.layers):
        block.register_forward_hook(lambda *_, number=number: reached.update([number]))
    model.model.lm_head.register_forward_hook(lambda *_: reached.update(["unembedding"]))
    calls = counted(
        model, lambda: measured(model, tokens(8), four_saes(), RESID, predictions=False)
    )
    assert calls == {"prefix": 2}
    assert reached[2] == reached["unembedding"] == 0


def test_an_sae_that_needs_no_logits_is_not_continued():
    model = shared_model("gpt2")
    site = model.site(RESID)
    subjects = [Subject.at(name, random_sae(), site, site) for name in "ab"]
    kept = {"a": [Kept()], "b": [Kept(needs_predictions=True)]}
    batches = stream_from_ids(tokens(4)).batches(4)
    calls = counted(model, lambda: run_pass(model, batches, PassRequest(subjects, {}, kept)))
    assert calls["suffix"] == 1 + 2 + 1
    assert kept["a"][0].views[0].spliced == ()
    assert kept["b"][0].views[0].spliced


def test_codes_that_nobody_needs_decoded_are_not_and_are_the_same_codes(monkeypatch):
    model = shared_model("gpt2")
    site = model.site(RESID)
    subjects = [Subject.at(name, random_sae(), site, site) for name in "ab"]
    kept = {"a": [Kept(needs_reconstruction=False)], "b": [Kept()]}
    decoded = []
    whole = type(subjects[0].sae).reconstruct
    monkeypatch.setattr(
        type(subjects[0].sae), "reconstruct", lambda sae, x: decoded.append(sae) or whole(sae, x)
    )
    run_pass(model, stream_from_ids(tokens(4)).batches(4), PassRequest(subjects, {}, kept))
    alone, other = kept["a"][0].views[0], kept["b"][0].views[0]
    assert len(decoded) == 1
    assert decoded[0] is subjects[1].sae
    assert alone.x_hat is None
    assert other.x_hat is not None
    assert torch.equal(alone.codes.indices, other.codes.indices)
    assert torch.equal(alone.codes.values, other.codes.values)


# --- what observers are shown -----------------------------------------------------------------------


def test_an_observer_sees_counted_activations_with_their_sequences():
    model = shared_model("gpt2")
    site, ids = model.site(RESID), ragged([4, 6])
    watcher = Kept()
    request = PassRequest([], {as_stack(site): [watcher]}, {})
    run_pass(
        model, stream_from_ids(ids, mask="special", special_ids=(ids[0][2],)).batches(2), request
    )
    (view,) = watcher.views
    kept = [[token != ids[0][2] for token in row] for row in ids]
    full = [model.prefix(torch.tensor([row]), None, [site]).at(site)[0] for row in ids]
    expected = torch.cat([x[torch.tensor(keep)] for x, keep in zip(full, kept, strict=True)])
    torch.testing.assert_close(view.x, expected, rtol=1e-5, atol=1e-5)
    assert view.sequence_ids.tolist() == [0] * sum(kept[0]) + [1] * sum(kept[1])


def test_a_transcoder_reads_one_site_and_is_judged_and_spliced_at_another():
    model = shared_model("llama")
    read, written = model.site(MLP_IN), model.site(MLP_OUT)
    transcoder, ids = random_sae(d_out=16), tokens(4)
    kept = Kept(needs_predictions=True)
    request = PassRequest([Subject.at("t", transcoder, read, written)], {}, {"t": [kept]})
    run_pass(model, stream_from_ids(ids).batches(4), request)
    prefix = model.prefix(ids, None, [read, written])
    (view,) = kept.views
    torch.testing.assert_close(view.x, prefix.at(read).flatten(0, 1))
    torch.testing.assert_close(view.target, prefix.at(written).flatten(0, 1))
    torch.testing.assert_close(view.x_hat, transcoder(view.x))
    found = measured(model, ids, {"t": transcoder}, MLP_IN, MLP_OUT).values("t")
    error = (view.target - view.x_hat).double().square().sum()
    total = (view.target - view.target.mean(0)).double().square().sum()
    assert found["fve"] == pytest.approx(float(1 - error / total), rel=1e-5)
    hidden = model.resume(prefix, written, view.x_hat.view_as(prefix.at(written)))
    logits = model.unembed(hidden[:, :-1].flatten(0, 1))
    ce = torch.nn.functional.cross_entropy(logits.double(), ids[:, 1:].flatten())
    assert found["ce_spliced"] == pytest.approx(float(ce), rel=1e-5)


def test_a_batch_in_which_nothing_counts_is_no_obstacle():
    model = shared_model("gpt2")
    ids = [[5, 5, 5], [6, 7, 8], [5, 5, 5], [9, 5, 9]]
    policy = {"mask": "special", "special_ids": (5,)}
    found = measured(model, ids, four_saes(), batch_size=1, **policy)
    assert found.measurements("a")["fve"].n_tokens == 5
    assert found.measurements("a")["ce_clean"].n_tokens == 3
    whole = measured(model, ids, four_saes(), batch_size=4, **policy)
    assert_same(found.values("a"), whole.values("a"))


def test_a_stream_in_which_nothing_counts_is_an_error():
    with pytest.raises(DataError, match="no position"):
        measured(shared_model("gpt2"), [[5, 5]], four_saes(), mask="special", special_ids=(5,))


# --- cuts change no number --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gpt2", "gemma2"])
@pytest.mark.parametrize("site", SITES)
def test_the_batch_size_changes_no_metric(name, site):
    model, saes = shared_model(name), {"topk": random_sae(), "relu": random_sae(1, k=None)}
    ids = ragged([9, 5, 7, 2, 8, 8, 3, 9])
    runs = [measured(model, ids, saes, site, batch_size=size) for size in (1, 3, 8)]
    for run in runs[1:]:
        for sae in saes:
            assert_same(run.values(sae), runs[0].values(sae))
            assert run.firing[sae].curves() == runs[0].firing[sae].curves()


def test_the_batch_size_changes_nothing_when_the_calibration_is_only_a_part_of_the_stream():
    model, ids = shared_model("gpt2"), tokens(CALIBRATION_SEQUENCES + 9, 4)
    runs = [measured(model, ids, four_saes(), batch_size=size) for size in (7, 41)]
    assert runs[0].calibration.n_sequences == CALIBRATION_SEQUENCES
    assert runs[0].calibration.n_tokens == 4 * CALIBRATION_SEQUENCES
    first = runs[0].values("a")
    assert_same(runs[1].values("a"), first)
    assert first["ce_mean"] is not None
    assert first["fve_legacy"] is not None
    site = model.site(RESID)
    x = model.prefix(ids[:CALIBRATION_SEQUENCES], None, [site]).at(site).double()
    torch.testing.assert_close(runs[0].calibration.means[Reading(site)], x.mean((0, 1)))


@settings(max_examples=15, deadline=None)
@given(
    lengths=st.lists(st.integers(2, 8), min_size=2, max_size=7),
    cut=st.integers(0, 6),
    batch_size=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_permuted_batches_and_merged_shards_give_the_sums_of_the_whole(
    lengths, cut, batch_size, seed
):
    model, saes, ids = shared_model("gpt2"), {"a": random_sae()}, ragged(lengths)
    whole = measured(model, ids, saes, batch_size=len(ids))
    batches = list(stream_from_ids(ids).batches(batch_size))
    random.Random(seed).shuffle(batches)
    shards = [
        Run.of(model, saes, RESID).over(part, whole.calibration)
        for part in (batches[:cut], batches[cut:])
    ]
    merged = shards[1].merge(shards[0])
    assert_same(merged.values("a"), whole.values("a"))
    assert merged.firing["a"].curves() == whole.firing["a"].curves()


def test_permuted_batches_without_a_calibration_give_the_same_one():
    model, saes = shared_model("gpt2"), {"a": random_sae()}
    batches = list(stream_from_ids(tokens(8)).batches(2))
    runs = [Run.of(model, saes, RESID).over(part) for part in (batches, batches[::-1])]
    assert_same(runs[1].values("a"), runs[0].values("a"))


# --- out of memory ----------------------------------------------------------------------------------


@pytest.mark.parametrize("site", SITES)
@pytest.mark.parametrize("broken", [("prefix",), ("resume",), ("prefix", "resume")])
@pytest.mark.parametrize("limit", [1, 3])
def test_running_out_of_memory_halves_the_batch_and_changes_no_number(
    monkeypatch, broken, limit, site
):
    saes, ids = four_saes(), ragged([9, 5, 7, 2, 8, 8, 3])
    undisturbed = measured(shared_model("gpt2"), ids, saes, site, batch_size=7)
    model = tiny_model("gpt2")
    run_out_of_memory(monkeypatch, model, broken, limit)
    found = measured(model, ids, saes, site, batch_size=7)
    assert_same(found.values("c"), undisturbed.values("c"))
    assert found.firing["c"].curves() == undisturbed.firing["c"].curves()


def test_no_prefix_is_run_twice_when_only_the_continuations_are_too_large(monkeypatch):
    model = tiny_model("gpt2")
    run_out_of_memory(monkeypatch, model, ("resume",), 2)
    calls = counted(model, lambda: measured(model, tokens(8), four_saes(), batch_size=8))
    assert calls["prefix"] == 1


def test_one_sequence_that_does_not_fit_into_memory_is_an_error_that_says_so(monkeypatch):
    model = tiny_model("gpt2")
    run_out_of_memory(monkeypatch, model, ("prefix",), 0)
    with pytest.raises(SaebenchError, match="context_size"):
        measured(model, tokens(4), four_saes())


def run_out_of_memory(monkeypatch, model, names, limit):
    """Batches of more than ``limit`` sequences do not fit."""
    prefix, resume = model.prefix, model.resume

    def small_prefix(ids, *rest):
        check(ids.shape[0])
        return prefix(ids, *rest)

    def small_resume(start, site, replacement, **options):
        check(replacement.shape[0])
        return resume(start, site, replacement, **options)

    def check(n):
        if n > limit:
            raise torch.OutOfMemoryError(f"{n} sequences")

    if "prefix" in names:
        monkeypatch.setattr(model, "prefix", small_prefix)
    if "resume" in names:
        monkeypatch.setattr(model, "resume", small_resume)
