"""Clean, spliced and ablated predictions, against full forwards with plain hooks and torch's losses."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saebench import predictions
from saebench.data import stream_from_ids
from saebench.predictions import Continuation, Scored, continue_from, score, spliced
from saebench.sites import parse_site
from tests.naive_pass import losses
from tests.small_runs import assert_same, measured, ragged, random_sae, tokens
from tests.tiny_models import VOCAB, shared_model, tiny_model

MODELS = ("gpt2", "gpt_neox", "llama", "gemma2")
HOOKS = ("hook_resid_post", "hook_mlp_out", "hook_attn_out")
BOS = 1


def with_bos(ids):
    """Sequences that start with a special token, which does not count."""
    return [[BOS, *row] for row in (ids if isinstance(ids, list) else ids.tolist())]


def whole(ids, **options):
    """Everything as one batch."""
    return next(stream_from_ids(ids, **options).batches(len(ids)))


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("name", MODELS)
def test_every_loss_equals_that_of_full_forwards_with_hooks(name, hook):
    site, sae = parse_site(f"blocks.1.{hook}"), random_sae()
    ids, policy = with_bos(tokens()), {"mask": "special", "special_ids": (BOS,)}
    oracle = losses(name, site, whole(ids, **policy), sae)
    run = measured(shared_model(name), ids, {"a": sae}, str(site), batch_size=3, **policy)
    found = run.values("a")
    for metric, expected in oracle.items():
        assert found[metric] == pytest.approx(float(expected.mean()), rel=2e-5, abs=1e-6), metric
    n_scored = len(next(iter(oracle.values())))
    assert {run.measurements("a")[metric].n_tokens for metric in oracle} == {n_scored}


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("name", MODELS)
def test_every_loss_equals_that_of_full_forwards_under_padding(name, hook):
    site, sae = parse_site(f"blocks.1.{hook}"), random_sae(1)
    ids = ragged([9, 4, 7, 2, 6])
    oracle = losses(name, site, whole(ids), sae)
    found = measured(shared_model(name), ids, {"a": sae}, str(site), batch_size=3).values("a")
    for metric, expected in oracle.items():
        assert found[metric] == pytest.approx(float(expected.mean()), rel=2e-5, abs=1e-6), metric


# --- which positions are scored ---------------------------------------------------------------------


def test_the_last_position_and_padding_are_never_scored():
    batch = whole([[5, 6, 7, 8], [9, 10]])
    scored = Scored.of(batch)
    assert list(zip(scored.rows.tolist(), scored.columns.tolist(), strict=True)) == [
        (0, 0),
        (0, 1),
        (0, 2),
        (1, 0),
    ]
    assert scored.targets.tolist() == [6, 7, 8, 10]


def test_a_pad_token_that_is_also_a_real_token_drops_no_targets():
    ids = [[5, 0, 0, 7], [0, 0]]  # 0 pads the second sequence and is an ordinary token of both
    scored = Scored.of(whole(ids))
    assert scored.targets.tolist() == [0, 0, 7, 0]
    run = measured(shared_model("gpt2"), ids, {"a": random_sae()})
    assert run.measurements("a")["ce_clean"].n_tokens == 4
    assert run.measurements("a")["fve"].n_tokens == 6


def test_a_token_that_does_not_count_predicts_nothing_but_is_predicted():
    batch = whole([[BOS, 5, BOS, 6]], mask="special", special_ids=(BOS,))
    scored = Scored.of(batch)
    assert scored.columns.tolist() == [1]
    assert scored.targets.tolist() == [BOS]


@given(lengths=st.lists(st.integers(2, 8), min_size=1, max_size=5))
def test_a_sequence_of_n_counted_tokens_has_n_minus_one_scored(lengths):
    scored = Scored.of(whole(ragged(lengths)))
    assert torch.bincount(scored.rows, minlength=len(lengths)).tolist() == [
        length - 1 for length in lengths
    ]
    assert bool((scored.columns < torch.tensor(lengths)[scored.rows] - 1).all())


# --- what is put in ---------------------------------------------------------------------------------


def test_positions_that_do_not_count_keep_their_clean_activation():
    clean, counted = torch.randn(2, 3, 4), torch.tensor([[0, 1, 1], [1, 0, 0]]).bool()
    replacement = torch.randn(3, 4)
    out = spliced(clean, counted, replacement)
    assert torch.equal(out[~counted], clean[~counted])
    assert torch.equal(out[counted], replacement)
    assert not torch.equal(clean[counted], replacement)  # the clean activation is left alone


def test_every_continuation_of_a_pass_keeps_special_positions_clean(monkeypatch):
    model = tiny_model("gpt_neox")
    site = model.site("blocks.1.hook_mlp_out")
    seen = []
    resume = model.resume

    def watched(prefix, at, replacement, **options):
        seen.append((prefix.at(site), replacement))
        return resume(prefix, at, replacement, **options)

    monkeypatch.setattr(model, "resume", watched)
    policy = {"mask": "special", "special_ids": (BOS,)}
    measured(model, with_bos(tokens(4)), {"a": random_sae()}, str(site), **policy)
    assert len(seen) == 4
    for clean, replacement in seen:
        assert torch.equal(replacement[:, 0], clean[:, 0])


def test_a_spliced_activation_has_the_precision_of_the_model():
    clean = torch.zeros(1, 2, 4, dtype=torch.bfloat16)
    assert spliced(clean, torch.ones(1, 2).bool(), torch.randn(2, 4)).dtype == torch.bfloat16


# --- one row for all ---------------------------------------------------------------------------------


def ablated(model, hook, ids=None, mask=None):
    """A prefix at a site of the second block, the site, and its activation put to zero."""
    ids = tokens() if ids is None else ids
    site = model.site(f"blocks.1.{hook}")
    prefix = model.prefix(ids, mask, [site])
    return prefix, site, torch.zeros_like(prefix.at(site))


@pytest.mark.parametrize("hook", ["hook_resid_pre", "hook_resid_mid", "hook_resid_post"])
@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma2", "gemma3"])
def test_one_row_continued_for_all_is_what_each_row_gives(name, hook):
    model = shared_model(name)
    prefix, site, zero = ablated(model, hook)
    one = continue_from(model, prefix, site, zero)
    every = model.resume(prefix, site, zero)
    assert one.shape == (1, *every.shape[1:])
    torch.testing.assert_close(one.expand_as(every), every, rtol=1e-5, atol=1e-5)


def test_losses_are_the_same_with_and_without_the_one_row(monkeypatch):
    model, sae = shared_model("gpt_neox"), random_sae()
    short = measured(model, tokens(), {"a": sae}).values("a")

    def all_rows(model, prefix, site, replacement):
        return model.resume(prefix, site, replacement)

    monkeypatch.setattr("saebench.passes.engine.continue_from", all_rows)
    long = measured(model, tokens(), {"a": sae}).values("a")
    assert_same(short, long)


@pytest.mark.parametrize("hook", ["hook_mlp_out", "hook_attn_out", "mlp.hook_in", "attn.hook_z"])
def test_inside_a_block_every_row_is_continued(hook):
    model = shared_model("gpt2")
    prefix, site, zero = ablated(model, hook)
    assert continue_from(model, prefix, site, zero).shape[0] == len(tokens())


def test_under_padding_every_row_is_continued():
    model = shared_model("gpt2")
    mask = torch.ones(8, 9).bool()
    mask[3, 5:] = False
    prefix, site, zero = ablated(model, "hook_resid_post", mask=mask)
    assert continue_from(model, prefix, site, zero).shape[0] == 8


def test_where_late_blocks_read_the_tokens_every_row_is_continued():
    model = tiny_model("gemma4_per_layer_inputs")
    prefix, site, zero = ablated(model, "hook_resid_post")
    assert model.token_dependent_suffix
    assert continue_from(model, prefix, site, zero).shape[0] == 8


def test_rows_that_differ_are_all_continued():
    model = shared_model("gpt2")
    prefix, site, zero = ablated(model, "hook_resid_post")
    zero[2, 4, 0] = 1.0
    assert continue_from(model, prefix, site, zero).shape[0] == 8


# --- chunks of logits ---------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(rows=st.integers(1, 40), lengths=st.lists(st.integers(2, 9), min_size=1, max_size=5))
def test_losses_do_not_depend_on_the_chunks_of_logits(rows, lengths):
    model = shared_model("gpt2")
    batch = whole(ragged(lengths))
    scored = Scored.of(batch)
    generator = torch.Generator().manual_seed(0)
    shape = (*batch.ids.shape, model.d_model)
    clean, other = (torch.randn(shape, generator=generator) for _ in range(2))
    others = {"all": Continuation(other, reverse=True), "one": Continuation(other[:1])}
    whole_ce, whole_losses = score(model, scored, clean, others)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(predictions, "MIN_LOGIT_ROWS", rows)
        patch.setattr(predictions, "LOGIT_CHUNK_BYTES", 0)
        ce, parts = score(model, scored, clean, others)
    torch.testing.assert_close(ce, whole_ce, rtol=1e-5, atol=1e-6)
    for name, expected in whole_losses.items():
        torch.testing.assert_close(parts[name], expected, rtol=1e-5, atol=1e-6)


def test_logits_are_made_for_one_chunk_at_a_time(monkeypatch):
    model = tiny_model("gpt2")
    monkeypatch.setattr(predictions, "MIN_LOGIT_ROWS", 10)
    monkeypatch.setattr(predictions, "LOGIT_CHUNK_BYTES", 0)
    sizes, unembed = [], model.unembed

    def watched(hidden, out=None):
        sizes.append(hidden.shape[0])
        return unembed(hidden, out)

    monkeypatch.setattr(model, "unembed", watched)
    measured(model, tokens(), {"a": random_sae()}, "blocks.1.hook_mlp_out", batch_size=8)
    assert max(sizes) == 10
    assert sum(sizes) == 4 * 8 * 8  # clean, spliced, zero, mean; 8 sequences of 8 scored positions


def test_a_row_that_serves_all_is_unembedded_by_chunk_where_it_is_large(monkeypatch):
    model, sae = tiny_model("gpt2"), random_sae()
    small = measured(model, tokens(), {"a": sae}, batch_size=8)
    assert model.calls["unembed_tokens"] == 2 * 64 + 2 * 9
    monkeypatch.setattr(predictions, "SHARED_LOGIT_BYTES", 9 * VOCAB * 4 - 1)
    model.calls.clear()
    large = measured(model, tokens(), {"a": sae}, batch_size=8)
    assert model.calls["unembed_tokens"] == 4 * 64
    assert_same(large.values("a"), small.values("a"))


def test_kl_backwards_is_only_computed_where_it_is_asked_for():
    model = shared_model("gpt2")
    batch = whole(tokens(2))
    hidden = torch.randn(2, 9, model.d_model)
    others = {"a": Continuation(hidden), "b": Continuation(hidden, reverse=True)}
    found = score(model, Scored.of(batch), torch.randn(2, 9, model.d_model), others)[1]
    assert found["a"].kl_reverse is None
    assert found["b"].kl_reverse is not None
    assert found["b"].kl_reverse.shape == (16,)


def test_a_batch_without_scored_positions_has_no_losses():
    model = shared_model("gpt2")
    batch = whole([[5, 6]], mask="special", special_ids=(5,))
    hidden = torch.randn(1, 2, model.d_model)
    ce, found = score(model, Scored.of(batch), hidden, {"a": Continuation(hidden)})
    assert ce.shape == (0,)
    assert found == {}


def test_the_vocabulary_of_the_tests_is_that_of_the_models():
    assert shared_model("gpt2").vocab_size == VOCAB
