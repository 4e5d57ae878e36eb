"""Divergence, the next token and coherence on given texts, against plain full forwards."""

import numpy as np
import pytest
import torch

from saebench.models.steered import at_positions, steered
from saebench.steering import teacher_forced
from saebench.steering.interventions import Add, Clamp
from saebench.steering.outcomes import ClassTokens
from saebench.steering.teacher_forced import Text, compare, cross_entropy, mean_norm
from tests.small_runs import random_sae
from tests.tiny_models import TINY_MODELS, VOCAB, WIDTH, shared_model, tiny_model

SITE = "blocks.1.hook_resid_post"
TOKENS = ClassTokens((5, 9), (7,))
DIRECTION = torch.arange(WIDTH).cos()
CHANGES = {"up": Add(DIRECTION, 2.0), "none": Add(DIRECTION, 0.0), "down": Add(DIRECTION, -3.0)}


def texts(lengths=((4, 5), (2, 0), (6, 1), (3, 7), (1, 3)), seed=0):
    rng = np.random.default_rng(seed)
    return [Text(*(rng.integers(2, VOCAB, n).tolist() for n in pair)) for pair in lengths]


def plain_logits(model, text, change=None, positions="all"):
    """Logits of one text alone in a full forward with the change hooked in."""
    ids = torch.tensor([[*text.prompt, *text.completion]])
    in_prompt = torch.arange(ids.shape[1])[None] < len(text.prompt)
    where = {"all": torch.ones_like(in_prompt), "prompt": in_prompt, "completion": ~in_prompt}
    change = at_positions(change or (lambda h: h), where[positions])
    with torch.no_grad(), steered(model, SITE, change):
        return model.model(input_ids=ids).logits[0].double()


@pytest.mark.parametrize("name", TINY_MODELS)
@pytest.mark.parametrize("positions", ["all", "prompt", "completion"])
def test_effects_are_those_of_full_forwards_of_each_text_alone(name, positions):
    model, some = shared_model(name), texts()
    clean, found = compare(
        model, SITE, some, CHANGES, tokens=TOKENS, positions=positions, batch_size=3
    )
    for i, text in enumerate(some):
        p, n = len(text.prompt), len(text.completion)
        plain = plain_logits(model, text).log_softmax(-1)
        expected = plain[p - 1, [5, 9]].logsumexp(-1) - plain[p - 1, 7]
        assert clean[i] == pytest.approx(float(expected), abs=1e-4)
        for key, change in CHANGES.items():
            other = plain_logits(model, text, change, positions).log_softmax(-1)
            expected = other[p - 1, [5, 9]].logsumexp(-1) - other[p - 1, 7]
            assert found[key].logit_difference[i] == pytest.approx(float(expected), abs=1e-4)
            rows = slice(p - 1, p + n - 1)
            kl = (plain[rows].exp() * (plain[rows] - other[rows])).sum(-1)
            if n:
                assert found[key].kl[i] == pytest.approx(float(kl.mean()), abs=1e-5)
            else:
                assert np.isnan(found[key].kl[i])


def test_adding_nothing_is_the_clean_run_to_the_bit():
    model = shared_model("gpt2")
    clean, found = compare(model, SITE, texts(), CHANGES, tokens=TOKENS, batch_size=2)
    assert np.array_equal(found["none"].logit_difference, clean)
    assert np.nanmax(np.abs(found["none"].kl)) == 0
    assert found["none"].same.all()
    assert not found["up"].same.any()


def test_the_mean_norm_is_over_tokens_but_the_first_of_each_text():
    model, some = shared_model("gemma2"), texts()
    norms = []
    for text in some:
        ids = torch.tensor([[*text.prompt, *text.completion]])
        norms += model.prefix(ids, None, [SITE]).at(SITE)[0, 1:].norm(dim=-1).tolist()
    for batch_size in (1, 3):
        found = mean_norm(model, SITE, some, batch_size=batch_size)
        assert found == pytest.approx(np.mean(norms), rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 2, 5, 100])
def test_batches_change_nothing(batch_size):
    model, some = shared_model("gemma2"), texts()
    expected = compare(model, SITE, some, CHANGES, tokens=TOKENS, batch_size=3)
    found = compare(model, SITE, some, CHANGES, tokens=TOKENS, batch_size=batch_size)
    np.testing.assert_allclose(found[0], expected[0], atol=1e-5)
    for key in CHANGES:
        np.testing.assert_allclose(found[1][key].kl, expected[1][key].kl, atol=1e-6)
    losses = cross_entropy(model, some, batch_size=batch_size)
    np.testing.assert_allclose(losses, cross_entropy(model, some, batch_size=3), atol=1e-5)


def test_one_prefix_serves_all_changes_of_a_batch(monkeypatch):
    monkeypatch.setattr(teacher_forced, "AT_ONCE", 2)
    monkeypatch.setattr(teacher_forced, "LOGIT_BYTES", 12 * VOCAB)
    model = tiny_model("llama")
    many = {str(i): Add(DIRECTION, float(i)) for i in range(5)}
    model.calls.clear()
    _, found = compare(model, SITE, texts(), many, batch_size=5)
    assert model.calls["prefix"] == 1
    assert model.calls["suffix"] == 1 + len(many)
    monkeypatch.undo()
    _, expected = compare(model, SITE, texts(), many, batch_size=5)
    for key in many:
        np.testing.assert_allclose(found[key].kl, expected[key].kl, rtol=1e-5)


def test_coherence_is_the_loss_on_the_completion_alone():
    model, some = shared_model("llama"), texts()
    found = cross_entropy(model, some, batch_size=2)
    for i, text in enumerate(some):
        p, n = len(text.prompt), len(text.completion)
        if not n:
            assert np.isnan(found[i])
            continue
        logits = plain_logits(model, text)[p - 1 : p + n - 1]
        expected = torch.nn.functional.cross_entropy(logits, torch.tensor(text.completion))
        assert found[i] == pytest.approx(float(expected), abs=1e-5)


def test_without_tokens_of_the_classes_there_is_no_difference():
    clean, found = compare(shared_model("llama"), SITE, texts(), CHANGES, batch_size=2)
    assert np.isnan(clean).all()
    assert np.isnan(found["up"].logit_difference).all()


def test_texts_without_any_completion_have_no_divergence():
    some = texts([(3, 0), (2, 0)])
    clean, found = compare(shared_model("llama"), SITE, some, CHANGES, tokens=TOKENS, batch_size=2)
    assert np.isfinite(clean).all()
    assert np.isnan(found["up"].kl).all()
    assert np.isnan(cross_entropy(shared_model("llama"), some, batch_size=2)).all()


def test_keeping_every_code_keeps_the_predictions():
    """Ablating a silent latent adds exactly nothing: the error of the SAE is not mixed in."""
    sae = random_sae(k=None)
    sae.W_enc[:, 3], sae.b_enc[3] = 0, -1
    _, found = compare(
        shared_model("llama"),
        SITE,
        texts(),
        {"ablated": Clamp(sae, 3, 0.0), "set": Clamp(sae, 3, 4.0)},
        batch_size=5,
    )
    assert np.nanmax(np.abs(found["ablated"].kl)) == 0
    assert np.nanmin(found["set"].kl) > 1e-4


def test_along_the_unembedding_difference_the_logit_difference_rises_with_the_strength():
    """The model's last norm is an RMSNorm with unit gain: more along w₅ − w₇ favours token 5."""
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.model.norm.weight.fill_(1.0)
    planted = model.model.lm_head.weight[5] - model.model.lm_head.weight[7]
    last = "blocks.2.hook_resid_post"
    alphas = (-4.0, -2.0, -1.0, 0.0, 1.0, 2.0, 4.0)
    changes = {str(a): Add(planted.detach(), a) for a in alphas}
    tokens = ClassTokens((5,), (7,))
    _, found = compare(model, last, texts(), changes, tokens=tokens, batch_size=5)
    curves = np.stack([found[str(a)].logit_difference for a in alphas], axis=1)
    assert (np.diff(curves, axis=1) > 0).all()
    assert found["0.0"].kl[0] == 0
    assert found["4.0"].kl[0] > found["1.0"].kl[0] > 0
