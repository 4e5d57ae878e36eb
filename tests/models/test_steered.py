"""A model goes on from a changed activation, in whole texts and token by token."""

import pytest
import torch

from saebench.errors import SiteError
from saebench.models.steered import at_positions, steered
from saebench.sites import KINDS, Site
from tests.plain_hooks import plain_hook, port_of, spliced_logits
from tests.tiny_models import TINY_MODELS, close, shared_model, some_ids, tiny_model

each_model = pytest.mark.parametrize("name", TINY_MODELS)


def shifted(activation):
    """Not the same in all dimensions, which a LayerNorm would take out again."""
    return activation + 3 * torch.arange(activation.shape[-1]).cos()


def kinds_of(name):
    return [kind for kind in KINDS if kind in shared_model(name).blocks[1].ports]


def logits_of(name, ids, **options):
    with torch.no_grad():
        return shared_model(name).model(input_ids=ids, **options).logits


def generate(model, ids, steps):
    """The likeliest ids after ``ids``, one by one with a cache, and the logits that they are from."""
    cache, found, logits = None, [], []
    with torch.no_grad():
        for _ in range(steps):
            output = model.model(input_ids=ids, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            logits.append(output.logits[:, -1])
            ids = logits[-1].argmax(-1)[:, None]
            found.append(ids)
    return torch.cat(found, 1), torch.stack(logits, 1)


@each_model
def test_a_steered_forward_is_one_with_the_changed_activation_hooked_in(name):
    model, ids = shared_model(name), some_ids()
    for kind in kinds_of(name):
        site = model.site(Site(1, kind))
        activation = model.prefix(ids, None, [site]).at(site)
        with steered(model, site, shifted):
            got = logits_of(name, ids)
        close(got, spliced_logits(name, site, shifted(activation), ids))
        assert not torch.allclose(got, logits_of(name, ids), atol=1e-3)


@each_model
def test_a_steered_forward_is_a_resumed_prefix(name):
    model, ids = shared_model(name), some_ids()
    for kind in kinds_of(name):
        site = model.site(Site(1, kind))
        prefix = model.prefix(ids, None, [site])
        hidden = model.resume(prefix, site, shifted(prefix.at(site)))
        with steered(model, site, shifted):
            close(logits_of(name, ids), model.unembed(hidden.flatten(0, 1)).view(*ids.shape, -1))


@each_model
def test_returning_what_was_given_changes_nothing_to_the_bit(name):
    model, ids = shared_model(name), some_ids()
    for kind in kinds_of(name):
        with steered(model, Site(1, kind), lambda activation: activation):
            got = logits_of(name, ids)
        assert torch.equal(got, logits_of(name, ids))


@each_model
def test_with_a_cache_the_logits_are_those_of_the_whole_text(name):
    model, prompt = tiny_model(name), some_ids(rows=2, tokens=4)
    site = Site(1, "resid_post")
    with steered(model, site, shifted):
        ids, logits = generate(model, prompt, 4)
        whole = torch.cat([prompt, ids[:, :-1]], 1)
        with torch.no_grad():
            expected = model.model(input_ids=whole).logits[:, 3:]
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("positions", ["prompt", "completion"])
def test_prompt_and_completion_are_told_apart_in_generation(positions):
    model, prompt = shared_model("llama"), some_ids(rows=2, tokens=4)
    site = Site(1, "resid_post")
    with steered(model, site, shifted, positions=positions):
        ids, logits = generate(model, prompt, 4)
    whole = torch.cat([prompt, ids[:, :-1]], 1)
    in_prompt = (torch.arange(whole.shape[1]) < 4).expand_as(whole)
    where = in_prompt if positions == "prompt" else ~in_prompt
    with steered(model, site, at_positions(shifted, where)):
        expected = logits_of("llama", whole)[:, 3:]
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=1e-4)
    if positions == "completion":  # the first token is drawn before anything is steered
        assert torch.equal(logits[:, 0], logits_of("llama", prompt)[:, -1])


def test_a_change_at_no_position_keeps_the_activation_to_the_bit():
    activation = torch.tensor([[[-0.0, 1.0]]])
    nowhere = at_positions(shifted, torch.zeros(1, 1, dtype=torch.bool))
    assert torch.equal(nowhere(activation).signbit(), activation.signbit())
    untouched = at_positions(lambda h: h, torch.ones(1, 1, dtype=torch.bool))
    assert untouched(activation) is activation


def test_nothing_is_left_behind_also_after_an_error():
    model, ids = shared_model("gpt2"), some_ids()
    before = logits_of("gpt2", ids)

    def fail(activation):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError), steered(model, Site(1, "resid_mid"), fail):
        logits_of("gpt2", ids)
    assert torch.equal(logits_of("gpt2", ids), before)


def test_a_site_that_the_model_lacks_is_refused_before_anything_runs():
    with (
        pytest.raises(SiteError),
        steered(shared_model("gpt2"), "blocks.9.hook_resid_post", shifted),
    ):
        pass


def test_hooks_of_others_keep_working():
    model, ids = shared_model("gpt2"), some_ids()
    site = Site(1, "resid_post")
    with plain_hook(*port_of("gpt2", site)) as seen, steered(model, site, shifted):
        logits_of("gpt2", ids)
    assert len(seen) == 1
