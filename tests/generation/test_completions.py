"""Completions against sampling token by token without a cache; what they depend on, and what not."""

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from saebench.errors import ConfigError, ModelError
from saebench.generation import completions
from saebench.generation.completions import complete
from saebench.generation.sampling import draw
from saebench.models import LanguageModel
from tests.tiny_models import CONTEXT, TINY_MODELS, VOCAB, tiny_model

LOOSE = 1e-4  # a test with a fixed seed fails by chance this often, once and for all
PROMPTS = [[2, 9, 30], [2, 5], [2, 40, 41], [2, 7, 8, 9, 10], [2, 5]]


class Decoder(SimpleNamespace):
    """Names special tokens and writes ids as words."""

    def decode(self, ids, **_):
        return "".join(f" w{id}" for id in ids if id > 2)


def tiny(name, eos=1):
    model = tiny_model(name)
    model.tokenizer = Decoder(bos_token_id=2, eos_token_id=eos)
    return model


@pytest.fixture(scope="module")
def model():
    return LanguageModel.load("fixtures/model", device="cpu")


@pytest.fixture(scope="module")
def llama():
    return tiny("llama")


def run(model, prompts=PROMPTS, **more):
    return complete(model, prompts, **{"seeds": (0, 1), "max_new_tokens": 6, **more})


def by_hand(model, prompt, uniform, temperature=1.0, top_p=1.0):
    """Token after token, each from a forward over all before it."""
    ids = list(prompt)
    for number in uniform:
        with torch.no_grad():
            logits = model.model(input_ids=torch.tensor([ids]), use_cache=False).logits[:, -1]
        if temperature == 0:
            ids.append(int(logits.argmax()))
        else:
            wanted = torch.tensor([number], dtype=torch.float64)
            ids.append(int(draw(logits, wanted, temperature, top_p)))
        if ids[-1] == model.tokenizer.eos_token_id:
            break
    return tuple(ids[len(prompt) :])


@pytest.mark.parametrize("name", TINY_MODELS)
def test_each_is_sampled_token_by_token_on_any_architecture(name):
    model = tiny(name)
    for item in run(model):
        uniform = np.random.default_rng([item.seed, item.prompt]).random(6)
        assert item.ids == by_hand(model, PROMPTS[item.prompt], uniform)
        assert item.n_new == len(item.ids)


@pytest.mark.parametrize(("temperature", "top_p"), [(0.5, 1.0), (2.0, 0.6), (0, 1.0)])
def test_temperature_and_top_p_are_those_of_sampling(llama, temperature, top_p):
    for item in run(llama, temperature=temperature, top_p=top_p):
        uniform = np.random.default_rng([item.seed, item.prompt]).random(6)
        prompt = PROMPTS[item.prompt]
        assert item.ids == by_hand(llama, prompt, uniform, temperature, top_p)


def test_they_come_by_prompt_and_then_by_seed(llama):
    found = run(llama, seeds=(3, 1))
    assert [(item.prompt, item.seed) for item in found] == [
        (p, s) for p in range(5) for s in (3, 1)
    ]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 100])
def test_batches_change_nothing(llama, batch_size):
    assert run(llama, batch_size=batch_size) == run(llama, batch_size=4)


def test_a_completion_depends_on_its_prompt_number_and_seed_alone(llama):
    whole = {(item.prompt, item.seed): item for item in run(llama, seeds=(0, 1, 2))}
    # other seeds, other prompts around it, another length of the rest
    for item in run(llama, [*PROMPTS[:2], [2, 3, 4, 5, 6, 7]], seeds=(1,)):
        if item.prompt < 2:
            assert item == whole[item.prompt, 1]
    # equal prompts under other numbers are drawn apart
    assert whole[1, 0].ids != whole[4, 0].ids
    assert whole[1, 0].ids != whole[1, 1].ids


def test_more_tokens_go_on_where_fewer_stopped(llama):
    short, long = run(llama, max_new_tokens=3), run(llama, max_new_tokens=8)
    for a, b in zip(short, long, strict=True):
        assert b.ids[: len(a.ids)] == a.ids


def test_no_padding_ever_reaches_the_model(llama, monkeypatch):
    seen = []
    plain = llama.model.forward

    def watching(*args, **kwargs):
        seen.append(kwargs)
        return plain(*args, **kwargs)

    monkeypatch.setattr(llama.model, "forward", watching)
    run(llama)
    prompts = [call["input_ids"] for call in seen if call["past_key_values"] is None]
    assert sorted(len(ids) for ids in prompts) == [2, 4, 4]
    assert sorted({ids.shape[1] for ids in prompts}) == [2, 3, 5]
    assert all(call.get("attention_mask") is None for call in seen)
    later = [call["input_ids"] for call in seen if call["past_key_values"] is not None]
    assert {ids.shape[1] for ids in later} == {1}


def test_tokens_follow_the_models_distribution(model):
    prompt = model.tokenizer("Return the")["input_ids"]
    prompt = [model.tokenizer.bos_token_id, *prompt]
    found = complete(
        model, [prompt], seeds=range(4000), max_new_tokens=1, batch_size=500, temperature=0.7
    )
    with torch.no_grad():
        logits = model.model(input_ids=torch.tensor([prompt])).logits[0, -1].double()
    expected = torch.softmax(logits / 0.7, -1).numpy() * 4000
    counts = np.bincount([item.ids[0] for item in found], minlength=len(expected)).astype(float)
    rare = expected < 10
    expected = np.append(expected[~rare], expected[rare].sum())
    counts = np.append(counts[~rare], counts[rare].sum())
    assert chisquare(counts, expected).pvalue > LOOSE


def test_texts_are_read_with_one_bos_and_written_without_special_tokens(model):
    tokenizer = model.tokenizer
    ids = tokenizer("Return the", add_special_tokens=False)["input_ids"]
    bos = tokenizer.bos_token_id
    texts = complete(
        model, ["Return the", f"{tokenizer.bos_token}Return the"], max_new_tokens=8, temperature=0
    )
    assert texts[0].ids == texts[1].ids
    (given,) = complete(model, [[bos, *ids]], max_new_tokens=8, temperature=0)
    assert given.ids == texts[0].ids
    assert "Return the" + given.text == tokenizer.decode([*ids, *given.ids])
    assert given.text.startswith(" ") or given.text[0] in "\n.,:;()'\""


def test_a_space_that_a_decoder_drops_at_the_start_is_kept(llama):
    llama_like = tiny("llama")
    llama_like.tokenizer.decode = lambda ids, **_: " ".join(f"w{id}" for id in ids)
    for item in run(llama_like):
        assert item.text.startswith(" w")


def test_they_end_with_eos_and_say_so():
    model = tiny("gpt2")
    found = run(model, seeds=range(20), max_new_tokens=CONTEXT - 6)
    ended = [item for item in found if item.ended]
    assert 0 < len(ended) < len(found)
    for item in found:
        assert item.ended == (item.ids[-1] == 1)
        assert 1 not in item.ids[:-1]
        assert item.n_new == len(item.ids)
        assert "w1 " not in item.text
    endless = run(tiny("gpt2", eos=None), seeds=range(20), max_new_tokens=CONTEXT - 6)
    for item, whole in zip(found, endless, strict=True):
        assert whole.ids[: item.n_new] == item.ids
        assert len(whole.ids) == CONTEXT - 6


def test_temperature_0_is_one_completion_whatever_the_seed(llama, monkeypatch):
    found = run(llama, temperature=0, seeds=(0, 1, 2))
    assert len(found) == 15
    for item in found:
        assert item.ids == found[3 * item.prompt].ids


def test_an_intervention_is_entered_around_each_loop(llama):
    calls = []

    @contextmanager
    def null():
        seen = []
        handle = llama.blocks[1].module.register_forward_pre_hook(
            lambda module, args: seen.append(args[0].shape[1])
        )
        try:
            yield
        finally:
            handle.remove()
            calls.append(seen)

    assert run(llama, intervene=null) == run(llama)  # to the bit: equal ids of every draw
    assert sorted(seen[0] for seen in calls) == [2, 3, 5]
    assert all(seen[1:] == [1] * 5 for seen in calls)


def test_an_intervention_changes_what_is_written_and_is_undone(llama):
    before = run(llama)

    @contextmanager
    def loud():
        handle = llama.blocks[1].module.register_forward_pre_hook(
            lambda module, args: (args[0] + 5 * torch.arange(args[0].shape[-1]), *args[1:])
        )
        try:
            yield
        finally:
            handle.remove()

    assert run(llama, intervene=loud) != before
    assert run(llama) == before


def test_an_intervention_ends_where_the_model_fails(llama, monkeypatch):
    left = []

    @contextmanager
    def noted():
        try:
            yield
        finally:
            left.append(True)

    weight = llama.model.model.norm.weight
    monkeypatch.setattr(weight, "data", weight.data * float("nan"))
    with pytest.raises(ModelError, match="not finite"):
        run(llama, intervene=noted)
    assert left


def test_logits_that_are_not_finite_name_the_precision():
    model = tiny("gpt2")
    run(model)
    model.model.transformer.ln_f.weight.data[0] = float("nan")
    with pytest.raises(ModelError, match=r"in float32.*not finite.*bfloat16"):
        run(model)


def test_a_cache_that_changes_logits_is_refused(monkeypatch):
    model = tiny("gpt2")
    plain = model.model.forward

    def forgetful(*args, past_key_values=None, **kwargs):
        return plain(*args, past_key_values=None, **kwargs)

    monkeypatch.setattr(model.model, "forward", forgetful)
    with pytest.raises(ModelError, match="key-value cache"):
        run(model)


def test_models_that_read_all_tokens_at_once_to_round_them_run_one_by_one():
    model = LanguageModel.load("fixtures/model", device="cpu", precision="int8+reference")
    sizes = []
    model.model.register_forward_pre_hook(
        lambda module, args, kwargs: sizes.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    prompts = ["Return the", "If the value"]
    assert run(model, prompts, batch_size=8) == run(model, prompts, batch_size=1)
    completions._checked.discard(model)
    sizes.clear()
    completions._checked.add(model)
    run(model, prompts, batch_size=8)
    assert set(sizes) == {1}


@pytest.mark.parametrize("precision", ["nf4+reference", "bfloat16", "rtn4"])
def test_every_precision_writes(precision):
    model = LanguageModel.load("fixtures/model", device="cpu", precision=precision)
    found = run(model, ["Return the"])
    assert all(item.n_new == 6 and item.text for item in found)
    assert run(model, ["Return the"]) == found


def test_the_global_random_state_and_generation_defaults_take_no_part(llama):
    before = torch.get_rng_state()
    first = run(llama)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(5)
    assert run(llama) == first


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seeds": ()}, "one seed or more"),
        ({"seeds": (1, 1)}, "each once"),
        ({"seeds": (-1,)}, "seeds = -1"),
        ({"max_new_tokens": 0}, "max_new_tokens = 0"),
        ({"temperature": -1}, "temperature = -1"),
        ({"temperature": float("inf")}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": 0}, "top_p = 0"),
        ({"batch_size": 0}, "batch_size = 0"),
    ],
)
def test_settings_that_mean_nothing_are_refused(llama, change, said):
    with pytest.raises(ConfigError, match=said):
        run(llama, **change)


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        ([[2], []], "prompt 1: no token"),
        ([[2] * CONTEXT], f"{CONTEXT} \\+ 6 tokens, and the context"),
        ([[2, VOCAB]], f"vocabulary of .* is 0 to {VOCAB - 1}"),
        ([[2, -1]], "vocabulary"),
    ],
)
def test_prompts_that_cannot_be_completed_are_refused_first(llama, prompts, said):
    with pytest.raises(ModelError, match=said):
        run(llama, prompts)
    assert run(llama, []) == []


def test_a_model_without_a_tokenizer_is_refused():
    with pytest.raises(ModelError, match="without a tokenizer"):
        run(tiny_model("gpt2"))
