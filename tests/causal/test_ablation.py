"""Shifts of ablations: closed form, whole forwards with hooks, exactness, invariance, bad input."""

import numpy as np
import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from saebench.causal import Arm, Probes, ablation, compared, shifts, texts
from saebench.data import stream_from_ids
from saebench.errors import ConfigError, DataError, ModelError, SiteError
from saebench.models import LanguageModel
from saebench.models.steered import at_positions, steered
from tests.tiny_models import VOCAB, WIDTH, tiny_model

SITE = "blocks.1.hook_resid_post"
LAST = "blocks.2.hook_resid_post"
N, LENGTH, D_SAE = 6, 12, 7
LENGTHS = (12, 5, 9, 12, 3, 7)


def a_stream():
    generator = torch.Generator().manual_seed(3)
    return stream_from_ids([torch.randint(2, VOCAB, (n,), generator=generator) for n in LENGTHS])


def some_probes(n=40, seed=0):
    generator = np.random.default_rng(seed)
    sequence = generator.integers(0, N, n)
    position = (generator.random(n) * np.array(LENGTHS)[sequence]).astype(int)
    return Probes.of(generator.integers(0, D_SAE, n), sequence, position, 0.5 + generator.random(n))


def rows(seed, scale=1.0):
    return scale * torch.randn(D_SAE, WIDTH, generator=torch.Generator().manual_seed(seed))


def arm(probes, name="real", models=(0, 1), scale=1.0, **more):
    directions = {number: rows(number, scale) for number in models}
    return Arm(name, directions, probes.latent, probes.code, **more)


def other_model(name="gpt_neox", noise=0.1):
    model = tiny_model(name)
    generator = torch.Generator().manual_seed(9)
    with torch.no_grad():
        for parameter in model.model.parameters():
            parameter.add_(noise * torch.randn(parameter.shape, generator=generator))
    return model


def both(site=SITE):
    return {0: site, 1: site}


def kl(p, q):
    """KL of two log-distributions, float64."""
    return float((p.exp() * (p - q)).sum())


def naive(model, ids, position, vector, site=SITE):
    """Clean and ablated logits of one probe, from two whole forwards, float64."""
    where = torch.zeros_like(ids, dtype=torch.bool)
    where[0, position] = True
    with torch.no_grad():
        clean = model.model(ids, use_cache=False).logits[0, position].double()
        with steered(model, site, at_positions(lambda h: (h - vector).to(h.dtype), where)):
            ablated = model.model(ids, use_cache=False).logits[0, position].double()
    return clean, ablated


def ids_of(sequence):
    return torch.from_numpy(list(a_stream().sequences())[sequence].ids)[None]


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox", "gemma2", "gemma4_per_layer_inputs"])
def test_shifts_are_those_of_whole_forwards_with_a_hook(name):
    models = [tiny_model(name), other_model(name)]
    probes = some_probes()
    found = shifts(models, a_stream().batches(4), both(), probes, [arm(probes)])
    assert found.how[0].startswith("rows" if "per_layer" in name else "packed")
    for i in range(len(probes)):
        moved = []
        for number, model in enumerate(models):
            vector = probes.code[i] * rows(number)[probes.latent[i]]
            clean, ablated = naive(model, ids_of(probes.sequence[i]), probes.position[i], vector)
            p, q = clean.log_softmax(0), ablated.log_softmax(0)
            assert found.kl["real"][number][i] == pytest.approx(kl(p, q), rel=1e-3, abs=1e-8)
            assert found.kl_reverse["real"][number][i] == pytest.approx(
                kl(q, p), rel=1e-3, abs=1e-8
            )
            moved.append((ablated - clean) - (ablated - clean).mean())
        cosine = float(torch.nn.functional.cosine_similarity(*moved, dim=0))
        assert found.logit_cosine["real"][i] == pytest.approx(cosine, abs=1e-3)


def linear_model(seed):
    """A model whose logits at its last site are ``U h``: no block follows, and no norm."""
    model = tiny_model("gpt2").model
    model.transformer.ln_f = nn.Identity()
    with torch.no_grad():
        model.lm_head.weight = nn.Parameter(
            0.3 * torch.randn(VOCAB, WIDTH, generator=torch.Generator().manual_seed(seed))
        )
    return LanguageModel(model)


def test_a_linear_read_out_has_the_shift_of_its_closed_form():
    models = [linear_model(0), linear_model(1)]
    probes = some_probes()
    found = shifts(models, a_stream().batches(2), both(LAST), probes, [arm(probes)])
    moved = []
    for number, model in enumerate(models):
        u = model.model.lm_head.weight.double()
        change = -torch.from_numpy(probes.code)[:, None] * rows(number)[probes.latent].double()
        moved.append((change @ u.T - (change @ u.T).mean(1, keepdim=True)).detach())
        for i in range(len(probes)):
            prefix = model.prefix(ids_of(probes.sequence[i]), None, [LAST])
            logits = prefix.at(LAST)[0, probes.position[i]].double() @ u.T
            p, q = (x.log_softmax(0).detach() for x in (logits, logits + change[i] @ u.T))
            assert found.kl["real"][number][i] == pytest.approx(kl(p, q), rel=1e-4)
    expected = torch.nn.functional.cosine_similarity(*moved, dim=1).numpy()
    np.testing.assert_allclose(found.logit_cosine["real"], expected, atol=1e-5)


def test_equal_models_have_equal_shifts_to_the_bit():
    probes = some_probes()
    same = {0: rows(0), 1: rows(0)}
    arms = [Arm("real", same, probes.latent, probes.code), arm(probes, "half", scale=0.5)]
    found = shifts(
        [tiny_model("llama"), tiny_model("llama")], a_stream().batches(3), both(), probes, arms
    )
    assert np.array_equal(found.kl["real"][0], found.kl["real"][1])
    assert np.array_equal(found.kl_reverse["real"][0], found.kl_reverse["real"][1])
    np.testing.assert_allclose(found.logit_cosine["real"], 1, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("how", ["packed", "rows"])
def test_nothing_subtracted_is_exactly_zero(dtype, how, monkeypatch):
    monkeypatch.setattr(ablation, "way", lambda *args: how)
    models = [LanguageModel(tiny_model("gpt_neox").model.to(dtype)) for _ in range(2)]
    probes = some_probes()
    no_code = Arm("code", {0: rows(0), 1: rows(1)}, probes.latent, 0 * probes.code)
    one_side = Arm("one side", {0: rows(0), 1: 0 * rows(1)}, probes.latent, probes.code)
    arms = [arm(probes, "direction", scale=0.0), no_code, one_side]
    found = shifts(models, a_stream().batches(3), both(), probes, arms)
    for name in ("direction", "code"):
        for number in (0, 1):
            assert (found.kl[name][number] == 0).all()
            assert (found.kl_reverse[name][number] == 0).all()
        assert np.isnan(found.logit_cosine[name]).all()
    assert (found.kl["one side"][1] == 0).all()
    assert (found.kl["one side"][0] > 0).all()
    assert np.isnan(found.logit_cosine["one side"]).all()


def test_small_shifts_grow_with_the_square_of_what_is_subtracted():
    probes = some_probes()
    models = [tiny_model("gpt_neox")]
    tiny, small = (arm(probes, f"{s}", models=(0,), scale=s) for s in (1e-4, 1e-3))
    found = shifts(models, a_stream().batches(6), both(), probes, [tiny, small])
    ratio = found.kl["0.001"][0] / found.kl["0.0001"][0]
    assert np.median(ratio) == pytest.approx(100, rel=0.05)
    np.testing.assert_allclose(found.kl["0.001"][0], found.kl_reverse["0.001"][0], rtol=0.02)


def same_shifts(one, other, **close):
    for name in one.kl:
        for number in one.kl[name]:
            np.testing.assert_allclose(one.kl[name][number], other.kl[name][number], **close)
            np.testing.assert_allclose(
                one.kl_reverse[name][number], other.kl_reverse[name][number], **close
            )
        np.testing.assert_allclose(one.logit_cosine[name], other.logit_cosine[name], atol=1e-4)


CLOSE = {"rtol": 1e-3, "atol": 1e-9}


def in_another_order(batch_size):
    """The batches of the stream from the last to the first."""
    return list(a_stream().batches(batch_size))[::-1]


@pytest.mark.parametrize("name", ["gpt_neox", "gemma2"])
def test_neither_batches_nor_order_nor_packing_matter(name, monkeypatch):
    models = [tiny_model(name), other_model(name)]
    probes = some_probes()
    arms = [arm(probes), arm(probes, "half", scale=0.5, at=probes.latent < 3)]
    expected = shifts(models, a_stream().batches(N), both(), probes, arms)
    assert np.isnan(expected.kl["half"][0]).sum() == (probes.latent >= 3).sum() > 0
    same_shifts(shifts(models, in_another_order(1), both(), probes, arms), expected, **CLOSE)
    monkeypatch.setattr(compared, "MIN_ROWS", 1)
    monkeypatch.setitem(compared.LOGIT_BYTES, "cpu", 3 * 4 * VOCAB)
    monkeypatch.setitem(ablation.VECTOR_BYTES, "cpu", 5 * ablation.ROW_BYTES * WIDTH * 4)
    monkeypatch.setitem(texts.TEXT_TOKENS, "cpu", 13)
    same_shifts(shifts(models, a_stream().batches(4), both(), probes, arms), expected, **CLOSE)
    monkeypatch.setattr(ablation, "way", lambda *args: "rows: asked for")
    found = shifts(models, a_stream().batches(4), both(), probes, arms)
    assert found.how == {0: "rows: asked for", 1: "rows: asked for"}
    same_shifts(found, expected, **CLOSE)


def test_arms_in_different_models_stand_side_by_side():
    models = [tiny_model("gpt_neox"), other_model("gpt_neox")]
    probes = some_probes()
    arms = [arm(probes), arm(probes, "one", models=(1,))]
    found = shifts(dict(enumerate(models)), a_stream().batches(4), both(), probes, arms)
    assert set(found.kl["one"]) == {1}
    assert found.logit_cosine["one"] is None
    np.testing.assert_allclose(found.kl["one"][1], found.kl["real"][1], **CLOSE)


def test_one_model_alone_and_models_of_other_vocabularies_have_no_cosine():
    probes = some_probes()
    alone = shifts(
        [tiny_model("gpt2")], a_stream().batches(4), both(), probes, [arm(probes, models=(0,))]
    )
    assert alone.logit_cosine == {"real": None}
    sizes = {"n_embd": WIDTH, "n_layer": 3, "n_head": 2, "n_positions": 32}
    wider = LanguageModel(GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB + 3, **sizes)))
    found = shifts(
        [tiny_model("gpt2"), wider], a_stream().batches(4), both(), probes, [arm(probes)]
    )
    assert found.logit_cosine == {"real": None}


def test_each_model_runs_once_over_each_text_and_no_text_without_probes():
    models = [tiny_model("gpt_neox"), other_model("gpt_neox")]
    keep = some_probes()
    probes = keep.where(keep.sequence < 3)
    seen = []

    def batches():
        for batch in a_stream().batches(1):
            seen.append(int(batch.sequence_ids[0]))
            yield batch

    shifts(models, batches(), both(), probes, [arm(probes)])
    assert seen == [0, 1, 2]
    assert all(model.calls["prefix"] == 1 for model in models)
    assert all(model.calls["suffix"] == 1 for model in models)


def test_codes_are_checked_against_the_activations():
    model = tiny_model("gpt_neox")
    encoder = rows(5)
    probes = some_probes()
    at = []
    for sequence, position in zip(probes.sequence, probes.position, strict=True):
        activation = model.prefix(ids_of(sequence), None, [SITE]).at(SITE)
        at.append(activation[0, position])
    codes = (torch.stack(at) * encoder[probes.latent]).sum(1).numpy()
    right = Probes.of(probes.latent, probes.sequence, probes.position, codes)

    def encode(activations, latents):
        return (activations[0] * encoder[latents]).sum(1)

    arms = [arm(right, models=(0,))]
    shifts([model], a_stream().batches(4), both(), right, arms, encode=encode)
    with pytest.raises(DataError, match="codes differ"):
        shifts(
            [model],
            a_stream().batches(4),
            both("blocks.0.hook_resid_post"),
            right,
            arms,
            encode=encode,
        )


def test_no_probes_and_no_arms_give_nothing():
    none = Probes.of([], [], [], [])
    found = shifts(
        [tiny_model("gpt2")], a_stream().batches(4), both(), none, [arm(none, models=(0,))]
    )
    assert found.kl["real"][0].shape == (0,)
    assert shifts([tiny_model("gpt2")], a_stream().batches(4), both(), some_probes(), []).kl == {}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"sites": {0: SITE}}, ConfigError, "ablations in model 1"),
        ({"models": 1}, ConfigError, "ablations in model 1"),
        ({"sites": {0: SITE, 1: "blocks.9.hook_resid_post"}}, SiteError, "has 3 layers"),
        ({"twice": True}, ConfigError, "two of one name"),
        ({"width": 5}, ModelError, "d_in 5"),
        ({"row": D_SAE}, ConfigError, f"rows . to {D_SAE} of {D_SAE}"),
        ({"short": True}, ConfigError, "of shapes"),
        ({"none": True}, ConfigError, "in no model"),
        ({"sequence": N}, DataError, "stream ends without it"),
        ({"position": 40}, DataError, "at position 40"),
    ],
)
def test_what_does_not_fit_is_refused(change, error, message):
    models = [tiny_model("gpt_neox"), other_model("gpt_neox")][: change.get("models", 2)]
    probes = some_probes()
    if "sequence" in change:
        probes = Probes.of([0], [change["sequence"]], [0], [1.0])
    if "position" in change:
        probes = Probes.of([0], [1], [change["position"]], [1.0])
    directions = {n: rows(n)[:, : change.get("width", WIDTH)] for n in (0, 1)}
    which = probes.latent.copy()
    if "row" in change:
        which[0] = change["row"]
    codes = probes.code[:-1] if "short" in change else probes.code
    one = Arm("real", {} if "none" in change else directions, which, codes)
    arms = [one, one] if "twice" in change else [one]
    with pytest.raises(error, match=message):
        shifts(models, a_stream().batches(4), change.get("sites", both()), probes, arms)
