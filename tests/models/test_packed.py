"""Changing one token each, packed beside the clean tokens, against a whole forward for every one of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from saebench.errors import ModelError, SiteError
from saebench.models import LanguageModel, copies, packed
from saebench.models.copies import Copies, hidden_states, way
from saebench.models.steered import at_positions, steered
from tests.tiny_models import (
    CONTEXT,
    TINY_MODELS,
    WINDOW,
    close,
    shared_model,
    some_ids,
    tiny_model,
)

SITE = "blocks.1.hook_resid_post"
SITES = (
    SITE,
    "blocks.1.hook_resid_pre",
    "blocks.1.hook_resid_mid",
    "blocks.1.hook_attn_out",
    "blocks.1.attn.hook_z",
    "blocks.1.mlp.hook_in",
    "blocks.1.hook_mlp_out",
    "blocks.0.hook_resid_pre",
    "blocks.2.hook_resid_post",
)
IN_ROWS = "gemma4_per_layer_inputs"
ROW = np.array([0, 2, 0, 1, 1, 0, 2, 0])
POSITION = np.array([7, 3, 0, 5, 5, 7, 8, 2])  # two of one token, the first, the last


def read(model, site=SITE, lengths=None):
    """A prefix of three sequences, padded to the right after ``lengths``, and random vectors to put in."""
    ids = some_ids()
    mask = None
    if lengths is not None:
        mask = torch.arange(ids.shape[1]) < torch.tensor(lengths)[:, None]
        ids = ids.where(mask, 0)
    prefix = model.prefix(ids, mask, [site])
    generator = torch.Generator().manual_seed(1)
    vectors = torch.randn(len(ROW), prefix.at(site).shape[-1], generator=generator)
    return prefix, Copies(ROW, POSITION, vectors.to(model.dtype))


def naive(model, site, prefix, some):
    """One whole forward for each copy, with a hook that puts its vector in, cut after nothing."""
    found = []
    for row, position, vector in zip(some.row, some.position, some.vectors, strict=True):
        ids = prefix.ids[row][None]
        where = torch.zeros_like(ids, dtype=torch.bool)
        where[0, position] = True
        mask = None if prefix.attention_mask is None else prefix.attention_mask[row][None]

        def put_in(activation, vector=vector):
            return vector.expand_as(activation)

        with torch.no_grad(), steered(model, site, at_positions(put_in, where)):
            found.append(model._decode(ids, mask)[0, position])
    return torch.stack(found)


def untouched(model, prefix, some):
    with torch.no_grad():
        whole = model._decode(prefix.ids, prefix.attention_mask)
    return whole[some.row, some.position]


@pytest.mark.parametrize("name", TINY_MODELS)
@pytest.mark.parametrize("site", SITES)
def test_packed_copies_have_the_hidden_states_of_whole_forwards(name, site):
    model = shared_model(name)
    if site.endswith("resid_mid") and name == "gpt_neox":
        with pytest.raises(SiteError):  # its MLP stands beside its attention
            read(model, site)
        return
    prefix, some = read(model, site)
    assert (way(model, site, 9) == "packed") is (name != IN_ROWS)
    changed, same = hidden_states(model, prefix, site, some)
    close(changed, naive(model, site, prefix, some))
    close(same, untouched(model, prefix, some))


@pytest.mark.parametrize(
    ("name", "how"),
    [
        (n, how)
        for n in TINY_MODELS
        for how in ("packed", "rows")
        if (n, how) != (IN_ROWS, "packed")
    ],
)
def test_padding_changes_nothing(name, how):
    model = shared_model(name)
    prefix, some = read(model, lengths=[8, 6, 9])
    changed, same = hidden_states(model, prefix, SITE, some, how=how)
    close(changed, naive(model, SITE, prefix, some))
    close(same, untouched(model, prefix, some))


@pytest.mark.parametrize("how", ["packed", "rows"])
def test_padding_on_the_left_is_not_attended_to(how):
    model = shared_model("gpt_neox")
    mask = torch.arange(9) >= torch.tensor([2, 0, 3])[:, None]
    prefix = model.prefix(some_ids(), mask, [SITE])
    vectors = torch.randn(4, 16, generator=torch.Generator().manual_seed(1))
    some = Copies(np.array([0, 2, 1, 0]), np.array([7, 8, 5, 3]), vectors)
    close(hidden_states(model, prefix, SITE, some, how=how)[0], naive(model, SITE, prefix, some))


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama", "mistral", "gemma2"])
def test_both_ways_agree_beyond_the_sliding_window(name):
    model = shared_model(name)
    ids = some_ids(2, 3 * WINDOW)
    prefix = model.prefix(ids, None, [SITE])
    every = np.arange(ids.shape[1])
    row, position = np.repeat([0, 1], len(every)), np.tile(every, 2)
    vectors = torch.randn(len(row), 16, generator=torch.Generator().manual_seed(0))
    some = Copies(row, position, vectors)
    for one, other in zip(
        hidden_states(model, prefix, SITE, some, how="packed"),
        hidden_states(model, prefix, SITE, some, how="rows"),
        strict=True,
    ):
        close(one, other)


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "llama", "gemma2"])
def test_sixteen_bits_agree_up_to_their_rounding(name):
    model = LanguageModel(tiny_model(name).model.to(torch.bfloat16))
    prefix, some = read(model)
    assert way(model, SITE, 9) == "packed"
    changed, same = hidden_states(model, prefix, SITE, some)
    for got, expected in (
        (changed, naive(model, SITE, prefix, some)),
        (same, untouched(model, prefix, some)),
    ):
        assert got.dtype == torch.bfloat16
        gap = (got.float() - expected.float()).abs().max()
        assert gap <= 0.03 * expected.float().abs().max()


@pytest.mark.parametrize("how", ["packed", "rows"])
def test_small_passes_give_the_same(how, monkeypatch):
    model = shared_model("llama")
    prefix, some = read(model)
    expected = hidden_states(model, prefix, SITE, some, how=how)
    monkeypatch.setitem(packed.PASS_TOKENS, "cpu", 1)
    monkeypatch.setattr(packed, "_MAX_COPIES", 2)
    before = model.calls["suffix"]
    for got, whole in zip(hidden_states(model, prefix, SITE, some, how=how), expected, strict=True):
        close(got, whole)
    assert model.calls["suffix"] - before >= len(some) // 2


def run_out_above(monkeypatch, model, tokens):
    """Let every forward of more tokens run out of memory."""
    forward = model._decoder.forward

    def limited(*args, **kwargs):
        if kwargs["input_ids"].numel() > tokens:
            raise torch.OutOfMemoryError("too much")
        return forward(*args, **kwargs)

    monkeypatch.setattr(model._decoder, "forward", limited)


@pytest.mark.parametrize(("how", "tokens"), [("packed", 12), ("rows", 30)])
def test_passes_are_halved_where_memory_runs_out(how, tokens, monkeypatch):
    model = tiny_model("llama")
    prefix, some = read(model)
    expected = naive(model, SITE, prefix, some)
    run_out_above(monkeypatch, model, tokens)
    close(hidden_states(model, prefix, SITE, some, how=how)[0], expected)


@pytest.mark.parametrize("how", ["packed", "rows"])
def test_one_copy_that_does_not_fit_is_an_error(how, monkeypatch):
    model = tiny_model("llama")
    prefix, some = read(model)
    run_out_above(monkeypatch, model, 5)
    with pytest.raises(ModelError, match="does not fit into memory"):
        hidden_states(model, prefix, SITE, some, how=how)


def test_a_wrong_mask_is_found_by_the_trial(monkeypatch):
    model = tiny_model("mistral")
    monkeypatch.setattr(packed, "windows", lambda model: {"full_attention": None})
    assert way(model, SITE, WINDOW) == "packed"  # so short that the window does not matter
    assert way(model, SITE, 3 * WINDOW).startswith("rows: copies beside the tokens differ by")


def test_wrong_positions_are_found_by_the_trial(monkeypatch):
    model = tiny_model("gpt_neox")
    forward = model._decoder.forward

    def no_positions(*args, position_ids=None, **kwargs):
        return forward(*args, **kwargs)

    monkeypatch.setattr(model._decoder, "forward", no_positions)
    assert way(model, SITE, 9).startswith("rows: copies beside the tokens differ by")


def test_a_model_that_refuses_masks_or_positions_goes_by_rows(monkeypatch):
    model = tiny_model("gpt_neox")
    forward = model._decoder.forward

    def strict(input_ids, attention_mask, use_cache):
        return forward(input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache)

    monkeypatch.setattr(model._decoder, "forward", strict)
    assert way(model, SITE, 9) == "rows: TypeError with copies beside the tokens"
    prefix, some = read(model)
    close(hidden_states(model, prefix, SITE, some)[0], naive(model, SITE, prefix, some))


def test_unknown_types_of_layers_go_by_rows(monkeypatch):
    model = tiny_model("gemma2")
    kinds = ["chunked_attention", *model.model.config.layer_types[1:]]
    monkeypatch.setattr(model.model.config, "layer_types", kinds)
    assert way(model, SITE, 9) == "rows: layers of type chunked_attention"


def test_one_trial_serves_shorter_texts_and_counts_no_calls(monkeypatch):
    model = tiny_model("gpt2")
    lengths = []
    trial = copies._trial
    monkeypatch.setattr(copies, "_trial", lambda m, s, n: lengths.append(n) or trial(m, s, n))
    for length in (9, 5, 9, CONTEXT):
        way(model, SITE, length)
    way(model, "blocks.1.hook_resid_pre", 9)
    assert lengths == [9, CONTEXT, 9]
    assert not model.calls


def test_the_model_is_left_as_it_was():
    model = shared_model("gemma2")
    prefix, some = read(model)
    before = untouched(model, prefix, some)
    hidden_states(model, prefix, SITE, some)
    assert torch.equal(untouched(model, prefix, some), before)


def test_no_copies_give_nothing():
    model = shared_model("gpt2")
    prefix, some = read(model)
    none = replace(some, row=ROW[:0], position=POSITION[:0], vectors=some.vectors[:0])
    for how in ("packed", "rows"):
        assert [x.shape for x in hidden_states(model, prefix, SITE, none, how=how)] == [
            (0, 16),
            (0, 16),
        ]
