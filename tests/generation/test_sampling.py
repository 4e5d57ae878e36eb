"""Sampling against the distribution it is meant to have, with and without a cache, on every architecture."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformers import GenerationConfig

from saebench.errors import ModelError
from saebench.generation.sampling import Sampler, cut_at, draw, start_and_end, uniforms
from saebench.generation.settings import GenerationSettings
from saebench.models import LanguageModel
from tests.tiny_models import CONTEXT, TINY_MODELS, VOCAB, tiny_model

TINY_TOKENIZER = SimpleNamespace(bos_token_id=2, eos_token_id=1)
LOOSE = 1e-4  # a test with a fixed seed fails by chance this often, once and for all


@pytest.fixture(scope="module")
def model():
    return LanguageModel.load("fixtures/model", device="cpu")


def tiny_with_tokens(name):
    """A tiny model with a tokenizer that names a start and an end."""
    model = tiny_model(name)
    model.tokenizer = TINY_TOKENIZER
    return model


def first_tokens(model, n_batches=8, **settings):
    """The first tokens of many sequences."""
    sampler = Sampler(model, GenerationSettings(length=2, batch_size=1000, **settings))
    return np.array([row[1] for index in range(n_batches) for row in sampler.batch(index)])


def first_logits(model):
    start = torch.tensor([[model.tokenizer.bos_token_id]])
    with torch.no_grad():
        return model.model(input_ids=start).logits[0, -1].double()


def fits(tokens, probabilities):
    """The p-value of the tokens under a distribution, rare ones taken together."""
    expected = probabilities * len(tokens)
    found = np.bincount(tokens, minlength=len(probabilities)).astype(float)
    rare = expected < 10
    if rare.any():
        expected = np.append(expected[~rare], expected[rare].sum())
        found = np.append(found[~rare], found[rare].sum())
    return chisquare(found[expected > 0], expected[expected > 0]).pvalue


def nucleus(probabilities, top_p):
    """The most probable tokens, one by one, until they hold ``top_p``: a plain loop."""
    kept, held = np.zeros_like(probabilities), 0.0
    for token in np.argsort(-probabilities, kind="stable"):
        if held >= top_p:
            break
        kept[token] = probabilities[token]
        held += probabilities[token]
    return kept / kept.sum()


def test_first_tokens_follow_the_whole_softmax(model):
    probabilities = torch.softmax(first_logits(model), -1).numpy()
    tokens = first_tokens(model)
    assert fits(tokens, probabilities) > LOOSE
    # no top-k: tokens beyond the 50 most probable have their share
    common = np.argsort(-probabilities)[:50]
    share = probabilities[common].sum()
    assert abs(np.isin(tokens, common).mean() - share) < 4 * np.sqrt(share * (1 - share) / 8000)
    assert share < 0.9


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature_divides_the_logits(model, temperature):
    logits = first_logits(model)
    tokens = first_tokens(model, temperature=temperature)
    assert fits(tokens, torch.softmax(logits / temperature, -1).numpy()) > LOOSE
    assert fits(tokens, torch.softmax(logits, -1).numpy()) < LOOSE


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_top_p_keeps_exactly_the_nucleus(model, temperature):
    expected = nucleus(torch.softmax(first_logits(model) / temperature, -1).numpy(), 0.5)
    tokens = first_tokens(model, n_batches=8, top_p=0.5, temperature=temperature)
    assert expected[tokens].min() > 0
    assert fits(tokens, expected) > LOOSE
    # the least probable token of the nucleus is in it
    assert set(np.flatnonzero(expected * len(tokens) > 12)) <= set(tokens)


def test_draw_inverts_the_distribution_function():
    logits = torch.log(torch.tensor([[0.1, 0.0, 0.6, 0.3]])).expand(6, -1)
    uniform = torch.tensor([0.0, 0.0999, 0.1001, 0.6999, 0.7001, 1 - 2**-53], dtype=torch.float64)
    assert draw(logits, uniform, 1.0, 1.0).tolist() == [0, 0, 2, 2, 3, 3]
    # nucleus of 0.9: tokens 2 and 3, in this order, two thirds and a third
    uniform = torch.tensor([0.0, 0.66, 0.67, 0.9, 0.99, 1 - 2**-53], dtype=torch.float64)
    assert draw(logits, uniform, 1.0, 0.85).tolist() == [2, 2, 3, 3, 3, 3]
    assert draw(logits, uniform, 1.0, 0.6).tolist() == [2] * 6


def test_a_token_without_probability_is_never_drawn_at_the_very_end():
    logits = torch.tensor([[0.0, -torch.inf], [-torch.inf, 0.0]])
    for last in (1.0, 1 - 2**-53, 0.0):  # 1.0: what rounding to 32 bits may make of it
        assert draw(logits, torch.full((2,), last, dtype=torch.float64), 1.0, 1.0).tolist() == [
            0,
            1,
        ]


@pytest.mark.parametrize("name", TINY_MODELS)
def test_a_cache_changes_no_token_on_any_architecture(name):
    model = tiny_with_tokens(name)
    settings = GenerationSettings(length=CONTEXT, batch_size=3, seed=5)
    rows = Sampler(model, settings).batch(1)
    uniform = torch.from_numpy(uniforms(5, range(3, 6), CONTEXT - 1))
    for row, numbers in zip(rows, uniform, strict=True):
        with torch.no_grad():
            ids = torch.from_numpy(row).long()
            logits = model.model(input_ids=ids[None], use_cache=False).logits[0, :-1]
        again = draw(logits, numbers[: len(row) - 1], 1.0, 1.0)
        assert again.tolist() == row[1:].tolist()


def test_sequences_end_with_their_first_eos_and_otherwise_at_the_length():
    model = tiny_with_tokens("gpt2")
    settings = GenerationSettings(length=CONTEXT, batch_size=40)
    rows = Sampler(model, settings).batch(0)
    ended = [row for row in rows if row[-1] == 1]
    assert ended
    assert len(ended) < len(rows)
    assert all(row[0] == 2 and 1 not in row[1:-1] for row in rows)
    assert all(len(row) == CONTEXT for row in rows if row[-1] != 1)
    model.tokenizer = SimpleNamespace(bos_token_id=2, eos_token_id=None)
    for row, whole in zip(rows, Sampler(model, settings).batch(0), strict=True):
        assert len(whole) == CONTEXT
        assert whole[: len(row)].tolist() == row.tolist()


def test_a_batch_depends_on_its_number_alone_and_a_sequence_on_its_own():
    model = tiny_with_tokens("llama")
    settings = GenerationSettings(length=16, batch_size=4, seed=2)
    sampler = Sampler(model, settings)
    torch.manual_seed(0)
    earlier = [row.tolist() for index in (2, 0, 1) for row in sampler.batch(index)]
    torch.manual_seed(1)
    later = [row.tolist() for index in (0, 1, 2) for row in Sampler(model, settings).batch(index)]
    assert later == earlier[4:] + earlier[:4]
    assert len({tuple(row) for row in later}) == 12
    wide = Sampler(model, GenerationSettings(length=16, batch_size=12, seed=2)).batch(0)
    assert [row.tolist() for row in wide] == later
    other = Sampler(model, GenerationSettings(length=16, batch_size=4, seed=3)).batch(0)
    assert [row.tolist() for row in other] != later[:4]


def test_sampling_leaves_the_global_random_state_alone():
    model = tiny_with_tokens("gpt2")
    before = torch.get_rng_state()
    Sampler(model, GenerationSettings(length=8, batch_size=2)).batch(0)
    assert torch.equal(before, torch.get_rng_state())


def test_generation_defaults_of_the_model_do_not_leak_in():
    model = tiny_with_tokens("gpt2")
    settings = GenerationSettings(length=16, batch_size=8)
    free = Sampler(model, settings).batch(0)
    before = model.model.generation_config
    model.model.generation_config = GenerationConfig(
        top_k=1, repetition_penalty=9.0, suppress_tokens=list(range(3, VOCAB)), max_length=5
    )
    try:
        bound = Sampler(model, settings).batch(0)
    finally:
        model.model.generation_config = before
    assert [row.tolist() for row in bound] == [row.tolist() for row in free]


@pytest.mark.parametrize(
    ("bos", "eos", "expected"), [(0, 1, (0, 1)), (None, 5, (5, 5)), (3, None, (3, None))]
)
def test_the_start_token_is_bos_or_else_eos(bos, eos, expected):
    tokenizer = SimpleNamespace(bos_token_id=bos, eos_token_id=eos)
    assert start_and_end(tokenizer, 64, "m") == expected


@pytest.mark.parametrize(
    ("tokenizer", "said"),
    [
        (None, "without a tokenizer"),
        (SimpleNamespace(bos_token_id=None, eos_token_id=None), "Set bos_token"),
        (SimpleNamespace(bos_token_id=64, eos_token_id=1), "beyond the model's vocabulary"),
        (SimpleNamespace(bos_token_id=1, eos_token_id=64), "beyond the model's vocabulary"),
    ],
)
def test_a_tokenizer_that_cannot_start_is_refused(tokenizer, said):
    with pytest.raises(ModelError, match=said):
        start_and_end(tokenizer, 64, "m")


def test_a_model_in_another_precision_and_a_long_length_are_refused():
    model = tiny_with_tokens("gpt2")
    with pytest.raises(ModelError, match="in memory in float32"):
        Sampler(model, GenerationSettings(precision="bfloat16"))
    with pytest.raises(ModelError, match="context"):
        Sampler(model, GenerationSettings(length=CONTEXT + 1))


def test_logits_that_are_not_finite_are_refused(monkeypatch):
    model = tiny_with_tokens("gpt2")
    sampler = Sampler(model, GenerationSettings(length=8, batch_size=2))
    weight = model.model.transformer.ln_f.weight
    before = weight.detach().clone()
    try:
        weight.data[0] = float("nan")
        with pytest.raises(ModelError, match="not finite"):
            sampler.batch(0)
    finally:
        weight.data.copy_(before)


def test_a_cache_that_changes_logits_is_refused(monkeypatch):
    model = tiny_with_tokens("gpt2")
    plain = model.model.forward

    def forgetful(*args, past_key_values=None, **kwargs):
        return plain(*args, past_key_values=None, **kwargs)

    monkeypatch.setattr(model.model, "forward", forgetful)
    with pytest.raises(ModelError, match="key-value cache"):
        Sampler(model, GenerationSettings(length=8, batch_size=2))


def test_cutting_keeps_the_first_eos():
    ids = np.array([5, 1, 7, 1])
    assert cut_at(ids, 1).tolist() == [5, 1]
    assert cut_at(ids, 2).tolist() == [5, 1, 7, 1]
    assert cut_at(ids, None).tolist() == [5, 1, 7, 1]
