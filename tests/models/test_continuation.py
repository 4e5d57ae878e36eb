"""Stopping a forward pass at a site and going on from it, on every architecture that must work.

The oracle is the model's own full forward, watched and changed by plain hooks on named modules.
"""

from contextlib import contextmanager

import pytest
import torch

from saebench.sites import KINDS, Site
from tests.plain_hooks import MODULES, full_logits, plain_hook, port_of, spliced_logits
from tests.tiny_models import TINY_MODELS, TOKENS, close, shared_model, some_ids, tiny_model

KINDS_OF = {
    name: tuple(
        kind
        for kind in KINDS
        if not (kind == "resid_mid" and name == "gpt_neox")
        and not (kind == "mlp_normalized" and not name.startswith("gpt"))
    )
    for name in TINY_MODELS
}
EVERY_KIND = [(name, kind) for name in TINY_MODELS for kind in KINDS_OF[name]]
each_model = pytest.mark.parametrize("name", TINY_MODELS)
SOME = ("gpt2", "gpt_neox", "gemma3", "gemma4_per_layer_inputs")
each_kind_of_some = pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name, kind in EVERY_KIND if name in SOME]
)
each_kind = pytest.mark.parametrize(("name", "kind"), EVERY_KIND)


def resumed_logits(name, prefix, site, replacement, **options):
    model = shared_model(name)
    hidden = model.resume(prefix, site, replacement, **options)
    return model.unembed(hidden.flatten(0, 1)).unflatten(0, hidden.shape[:2])


@contextmanager
def leaf_calls(name):
    """Counts the calls of the modules that compute something, by block; those after all are 'end'."""
    model = shared_model(name)
    blocks = MODULES[name]["blocks"]
    calls = {}
    handles = []

    def note(path):
        def hook(module, args, output):
            where = path.removeprefix(f"{blocks}.") if path.startswith(blocks) else "end"
            calls.setdefault(where.partition(".")[0], []).append(where.partition(".")[2])

        return hook

    for path, module in model.model.named_modules():
        in_block = path.startswith(f"{blocks}.")
        is_last = path.rpartition(".")[2] in ("norm", "ln_f", "final_layer_norm", "lm_head")
        if not list(module.children()) and (in_block or is_last):
            handles.append(module.register_forward_hook(note(path)))
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


# --- capture ---------------------------------------------------------------------------------------


@each_model
def test_hidden_states_are_the_residual_stream_with_the_last_one_after_the_norm(name):
    model, ids = shared_model(name), some_ids()
    with torch.no_grad():
        states = model.model(input_ids=ids, output_hidden_states=True).hidden_states
    assert len(states) == model.n_layers + 1
    names = [f"hidden_states[{i}]" for i in range(model.n_layers)]
    prefix = model.prefix(ids, None, names)
    for layer in range(model.n_layers):
        assert torch.equal(prefix.at(f"hidden_states[{layer}]"), states[layer])
        assert torch.equal(prefix.at(Site(layer, "resid_pre")), states[layer])
        if layer:
            assert torch.equal(prefix.at(Site(layer - 1, "resid_post")), states[layer])
    last = Site(model.n_layers - 1, "resid_post")
    prefix = model.prefix(ids, None, [last])
    assert not torch.allclose(prefix.at(last), states[-1], atol=1e-2)
    close(model.resume(prefix, last, prefix.at(last)), states[-1])


@each_kind
def test_a_capture_equals_what_a_plain_hook_sees(name, kind):
    model, ids = shared_model(name), some_ids()
    for layer in range(model.n_layers):
        site = Site(layer, kind)
        with plain_hook(*port_of(name, site)) as seen:
            full_logits(name, ids)
        got = model.prefix(ids, None, [site]).at(site)
        assert torch.equal(got, seen[0])
        assert got.shape == (*ids.shape, model.width_at(site))


@each_model
def test_norms_and_gains_make_every_kind_of_activation_a_different_one(name):
    """Without this the other tests could not tell a site from its neighbour."""
    model, ids = shared_model(name), some_ids()
    sites = {model.site(Site(1, kind)) for kind in KINDS_OF[name]}
    prefix = model.prefix(ids, None, sites)
    values = [prefix.at(site) for site in sorted(sites)]
    for i, one in enumerate(values):
        for other in values[i + 1 :]:
            assert one.shape != other.shape or not torch.allclose(one, other, atol=1e-2)


@each_model
def test_one_prefix_holds_many_sites_and_each_can_be_resumed(name):
    model, ids = shared_model(name), some_ids()
    sites = [Site(layer, kind) for layer in range(model.n_layers) for kind in KINDS_OF[name]]
    model.calls.clear()
    prefix = model.prefix(ids, None, sites)
    assert model.calls == {"prefix": 1}
    expected = full_logits(name, ids)
    for site in sites:
        close(resumed_logits(name, prefix, site, prefix.at(site)), expected)
    zeros = torch.zeros_like(prefix.at(sites[0]))
    close(resumed_logits(name, prefix, sites[0], zeros), spliced_logits(name, sites[0], zeros, ids))


# --- resume ----------------------------------------------------------------------------------------


@each_kind
def test_resuming_with_the_unchanged_activation_gives_the_models_own_logits(name, kind):
    model, ids = shared_model(name), some_ids()
    expected = full_logits(name, ids)
    for layer in range(model.n_layers):
        site = Site(layer, kind)
        prefix = model.prefix(ids, None, [site])
        close(resumed_logits(name, prefix, site, prefix.at(site)), expected)


@each_kind
def test_resuming_with_zeros_equals_hooking_zeros_into_a_full_forward(name, kind):
    model, ids = shared_model(name), some_ids()
    for layer in range(model.n_layers):
        site = Site(layer, kind)
        prefix = model.prefix(ids, None, [site])
        zeros = torch.zeros_like(prefix.at(site))
        close(resumed_logits(name, prefix, site, zeros), spliced_logits(name, site, zeros, ids))


@each_kind
def test_resuming_with_any_activation_equals_hooking_it_in_and_leaves_both_alone(name, kind):
    model, ids = shared_model(name), some_ids()
    site = Site(1, kind)
    prefix = model.prefix(ids, None, [site])
    clean = prefix.at(site).clone()
    replacement = clean + torch.randn(clean.shape, generator=torch.Generator().manual_seed(1))
    given = replacement.clone()
    got = resumed_logits(name, prefix, site, replacement)
    close(got, spliced_logits(name, site, given, ids))
    assert not torch.allclose(got, full_logits(name, ids), atol=1e-2)
    assert torch.equal(replacement, given)
    assert torch.equal(prefix.at(site), clean)


@each_kind_of_some
def test_rows_resume_a_part_of_the_batch(name, kind):
    model, ids = shared_model(name), some_ids(rows=4)
    site = Site(1, kind)
    prefix = model.prefix(ids, None, [site])
    zeros = torch.zeros_like(prefix.at(site))
    whole = resumed_logits(name, prefix, site, zeros)
    for rows in (slice(1, 3), slice(0, 1), torch.tensor([3, 0])):
        got = resumed_logits(name, prefix, site, zeros[rows], rows=rows)
        close(got, whole[rows])
        close(resumed_logits(name, prefix.rows(rows), site, zeros[rows]), whole[rows])


@each_kind_of_some
def test_sequences_of_different_lengths_are_resumed_as_if_each_were_alone(name, kind):
    model, site = shared_model(name), Site(1, kind)
    ids, short = some_ids(rows=2), TOKENS - 4
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[1, short:] = False
    prefix = model.prefix(ids, mask, [site])
    alone = model.prefix(ids[1:, :short], None, [site])
    assert (prefix.is_unpadded, alone.is_unpadded) == (False, True)
    close(prefix.at(site)[1:, :short], alone.at(site))
    got = resumed_logits(name, prefix, site, -prefix.at(site))
    close(got[1:, :short], resumed_logits(name, alone, site, -alone.at(site)))


@each_kind_of_some
def test_padding_before_the_tokens_is_masked_before_and_after_the_site(name, kind):
    model, site = shared_model(name), Site(1, kind)
    ids = some_ids(rows=2)
    mask = torch.ones_like(ids, dtype=torch.bool)
    mask[1, :4] = False
    prefix = model.prefix(ids, mask, [site])
    flipped = -prefix.at(site)
    expected = spliced_logits(name, site, flipped, ids, mask.long())
    got = resumed_logits(name, prefix, site, flipped)
    close(got[mask], expected[mask])
    alone = resumed_logits(name, prefix, site, flipped[1:], rows=slice(1, 2))
    close(alone[0, 4:], expected[1, 4:])
    unmasked = resumed_logits(name, model.prefix(ids, None, [site]), site, flipped)
    assert not torch.allclose(unmasked[mask], expected[mask], atol=1e-2)


# --- what is not computed ---------------------------------------------------------------------------


@each_kind
def test_a_prefix_stops_at_its_last_site(name, kind):
    model, ids = shared_model(name), some_ids()
    with leaf_calls(name) as calls:
        model.prefix(ids, None, [Site(1, kind), Site(0, "resid_pre")])
    assert "end" not in calls
    assert "2" not in calls
    if kind == "resid_pre":
        assert "1" not in calls
    elif kind in ("attn_z", "attn_module_out", "attn_out", "resid_mid", "mlp_in", "mlp_normalized"):
        assert not [path for path in calls["1"] if path.startswith("mlp.")]
    if kind == "attn_z":
        assert MODULES[name]["projection"] not in calls["1"]


@each_kind
def test_a_resumption_computes_nothing_that_came_before_the_site(name, kind):
    model, ids = shared_model(name), some_ids()
    site = Site(1, kind)
    prefix = model.prefix(ids, None, [site])
    with leaf_calls(name) as calls:
        model.resume(prefix, site, prefix.at(site))
    assert "0" not in calls
    assert len(calls["2"]) == len(set(calls["2"])) > 5
    if kind == "resid_post":
        assert "1" not in calls
    if kind not in ("resid_pre", "resid_post"):
        attention = MODULES[name]["attention"]
        again = [path for path in calls["1"] if path.startswith(f"{attention}.")]
        assert again in ([], [MODULES[name]["projection"]])
    if kind in ("mlp_module_out", "mlp_out"):
        assert not [path for path in calls["1"] if path.startswith("mlp.")]


def test_calls_count_prefixes_suffixes_and_unembedded_tokens():
    model, ids = tiny_model("llama"), some_ids()
    site = Site(1, "mlp_out")
    assert not model.calls
    prefix = model.prefix(ids, None, [site])
    hidden = model.resume(prefix, site, prefix.at(site))
    model.resume(prefix, site, prefix.at(site))
    model.unembed(hidden.flatten(0, 1)[:5])
    assert model.calls == {"prefix": 1, "suffix": 2, "unembed_tokens": 5}


# --- the model is left as it was --------------------------------------------------------------------


def hooks_and_forwards(model):
    return [
        (
            path,
            len(module._forward_hooks),
            len(module._forward_pre_hooks),
            "forward" in vars(module),
        )
        for path, module in model.model.named_modules()
    ]


@each_model
def test_hooks_and_forwards_are_put_back_even_when_the_forward_fails(name):
    model, ids = shared_model(name), some_ids()
    sites = [Site(1, kind) for kind in KINDS_OF[name]]
    prefix = model.prefix(ids, None, sites)
    before = hooks_and_forwards(model)
    for site in sites:
        blocks = model.model.get_submodule(MODULES[name]["blocks"])

        def fail(module, args, output):
            raise RuntimeError("out of memory")

        handle = blocks[-1].register_forward_hook(fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            model.resume(prefix, site, prefix.at(site))
        with pytest.raises(RuntimeError, match="out of memory"):
            model.prefix(ids, None, [Site(model.n_layers - 1, "resid_post")])
        handle.remove()
    assert hooks_and_forwards(model) == before
    close(resumed_logits(name, prefix, sites[0], prefix.at(sites[0])), full_logits(name, ids))


def test_a_forward_that_another_library_put_on_the_instance_is_used_and_kept():
    model, ids = tiny_model("llama"), some_ids()
    site = Site(1, "resid_pre")
    block = model.model.model.layers[1]
    own, used = block.forward, []

    def theirs(*args, **kwargs):
        used.append(1)
        return own(*args, **kwargs)

    block.forward = theirs
    prefix = model.prefix(ids, None, [Site(0, "mlp_out")])
    assert not used
    model.resume(prefix, Site(0, "mlp_out"), prefix.at(Site(0, "mlp_out")))
    assert used == [1]
    prefix = model.prefix(ids, None, [Site(1, "mlp_in"), Site(2, "resid_pre")])
    model.resume(prefix, Site(1, "mlp_in"), prefix.at(Site(1, "mlp_in")))
    assert used == [1, 1, 1]
    model.resume(prefix, Site(2, "resid_pre"), prefix.at(Site(2, "resid_pre")))
    assert used == [1, 1, 1]
    assert block.forward is theirs
    assert site.canonical in model.prefix(ids, None, [site]).activations
