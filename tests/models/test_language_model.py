"""A language model: its sites, what it refuses, its precision and its logits."""

import pytest
import torch
from torch import nn
from transformers import (
    BertConfig,
    BertLMHeadModel,
    CohereConfig,
    CohereForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
)

from saebench.errors import ModelError, SiteError
from saebench.models import LanguageModel
from saebench.sites import Site
from tests.tiny_models import (
    CONTEXT,
    TINY_MODELS,
    TOKENS,
    VOCAB,
    WIDTH,
    close,
    shared_model,
    some_ids,
    tiny_model,
)

each_model = pytest.mark.parametrize("name", TINY_MODELS)


# --- sites of a model -------------------------------------------------------------------------------


def test_names_of_one_activation_share_one_capture():
    model, ids = shared_model("llama"), some_ids()
    names = ["blocks.0.hook_resid_post", "model.layers.1:in", "hidden_states[1]", "layers.0"]
    prefix = model.prefix(ids, None, names)
    assert prefix.sites == (Site(0, "resid_post"),)
    assert model.site("layers.1.mlp") == model.site("blocks.1.hook_mlp_out")


def test_the_output_of_a_module_and_what_is_added_differ_where_a_norm_stands_between():
    model, ids = shared_model("gemma2"), some_ids()
    assert model.site("model.layers.1.mlp") != model.site("blocks.1.hook_mlp_out")
    assert model.site("model.layers.1.post_feedforward_layernorm") == Site(1, "mlp_out")
    prefix = model.prefix(ids, None, ["model.layers.1.mlp", "blocks.1.hook_mlp_out"])
    norm = model.model.model.layers[1].post_feedforward_layernorm
    with torch.no_grad():
        close(norm(prefix.at("layers.1.mlp")), prefix.at("blocks.1.hook_mlp_out"))


@pytest.mark.parametrize("name", ["gpt2", "gpt_neox"])
def test_ln2_normalized_is_the_mlps_input_under_layer_norm(name):
    assert shared_model(name).site("blocks.1.ln2.hook_normalized") == Site(1, "mlp_in")


@pytest.mark.parametrize("name", ["llama", "gemma2"])
def test_ln2_normalized_is_refused_under_rms_norm_where_it_lacks_the_gain(name):
    with pytest.raises(SiteError, match=r"gain.*mlp\.hook_in"):
        shared_model(name).site("blocks.1.ln2.hook_normalized")


def test_a_parallel_block_has_no_middle():
    with pytest.raises(SiteError, match="beside the attention") as error:
        shared_model("gpt_neox").site("blocks.1.hook_resid_mid")
    assert "blocks.1.hook_mlp_out" in error.value.next_step


@pytest.mark.parametrize("site", ["blocks.3.hook_mlp_out", Site(3, "mlp_out")])
def test_a_layer_beyond_the_model_is_refused(site):
    with pytest.raises(SiteError, match="3 layers, 0 to 2"):
        shared_model("llama").width_at(site)


def test_widths_are_those_of_the_activation():
    assert shared_model("llama").width_at("blocks.1.hook_resid_post") == WIDTH
    assert shared_model("qwen3").width_at("blocks.1.attn.hook_z") == 2 * 12
    gemma4 = shared_model("gemma4")  # its layers with full attention have wider heads
    assert [gemma4.width_at(Site(layer, "attn_z")) for layer in range(3)] == [16, 16, 24]


def test_a_checkpoint_of_another_width_is_refused_with_where_it_would_fit():
    model = shared_model("qwen3")
    model.check_width("blocks.1.hook_mlp_out", WIDTH, "sae")
    with pytest.raises(ModelError, match=r"d_in 24 .*tiny-qwen3 has width 16.*attn\.hook_z"):
        model.check_width("blocks.1.hook_mlp_out", 24, "sae")
    with pytest.raises(ModelError, match=r"d_in 768 .*width 16.*No site of this layer"):
        model.check_width("hidden_states[1]", 768, "sae")


def test_a_prefix_gives_only_what_it_was_asked_for():
    model, ids = shared_model("llama"), some_ids()
    with pytest.raises(SiteError, match="no site was named"):
        model.prefix(ids, None, [])
    prefix = model.prefix(ids, None, [Site(1, "mlp_in")])
    with pytest.raises(SiteError, match=r"this prefix holds blocks\.1\.mlp\.hook_in"):
        prefix.at(Site(1, "attn_out"))


def test_a_replacement_of_another_shape_is_refused():
    model, ids = shared_model("llama"), some_ids()
    site = Site(1, "mlp_in")
    prefix = model.prefix(ids, None, [site])
    for wrong in (torch.zeros(3, TOKENS, WIDTH + 1), torch.zeros(2, TOKENS, WIDTH)):
        with pytest.raises(SiteError, match=r"activation there has shape \[3, 9, 16\]"):
            model.resume(prefix, site, wrong)
    with pytest.raises(SiteError, match=r"activation there has shape \[1, 9, 16\]"):
        model.resume(prefix, site, prefix.at(site), rows=slice(0, 1))


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.full((1, 4), VOCAB), "vocabulary is 0 to 63"),
        (torch.full((1, 4), -1), "vocabulary is 0 to 63"),
        (torch.ones(1, CONTEXT + 1, dtype=torch.int64), "at most 32"),
        (torch.ones(0, 4, dtype=torch.int64), "at least one sequence"),
        (torch.ones(4, dtype=torch.int64), "at least one sequence"),
    ],
)
def test_ids_that_the_model_cannot_read_are_refused(ids, message):
    with pytest.raises(ModelError, match=message):
        shared_model("llama").prefix(ids, None, [Site(0, "resid_pre")])


# --- suffixes, precision ----------------------------------------------------------------------------


@each_model
def test_only_per_layer_inputs_and_shared_keys_reach_past_the_residual_stream(name):
    model = shared_model(name)
    assert model.token_dependent_suffix == (name == "gemma4_per_layer_inputs")


@each_model
def test_a_residual_site_decides_what_follows_unless_the_suffix_depends_on_tokens(name):
    model = shared_model(name)
    site = Site(1, "resid_post")
    prefix = model.prefix(some_ids(rows=2), None, [site])
    same = prefix.at(site)[:1].expand(2, -1, -1)
    one, other = model.resume(prefix, site, same)
    assert torch.allclose(one, other, atol=1e-5) != model.token_dependent_suffix


def test_asking_about_the_suffix_counts_no_calls():
    model = tiny_model("gpt2")
    assert not model.token_dependent_suffix
    assert not model.calls


@pytest.mark.parametrize("name", ["gpt2", "gemma3"])
def test_activations_have_the_models_precision_and_replacements_take_it(name):
    wide = tiny_model(name)
    model = LanguageModel(wide.model.to(torch.bfloat16))
    site, ids = Site(1, "mlp_out"), some_ids()
    prefix = model.prefix(ids, None, [site])
    assert prefix.at(site).dtype == model.dtype == torch.bfloat16
    hidden = model.resume(prefix, site, prefix.at(site).float())
    logits = model.unembed(hidden.flatten(0, 1).float())
    with torch.no_grad():
        expected = model.model(input_ids=ids).logits.flatten(0, 1)
    assert torch.equal(logits, expected)


def test_activations_can_enter_a_gradient():
    model = shared_model("gpt2")
    x = model.prefix(some_ids(), None, ["layers.1"]).at("layers.1")
    weight = torch.zeros(WIDTH, requires_grad=True)
    (x @ weight).sum().backward()
    close(weight.grad, x.sum((0, 1)))


# --- logits -----------------------------------------------------------------------------------------


@each_model
def test_unembedding_in_chunks_equals_the_models_own_logits(name):
    model, ids = shared_model(name), some_ids()
    site = Site(0, "resid_pre")
    prefix = model.prefix(ids, None, [site])
    hidden = model.resume(prefix, site, prefix.at(site)).flatten(0, 1)
    with torch.no_grad():
        expected = model.model(input_ids=ids).logits.flatten(0, 1)
    buffer = torch.empty(10, model.vocab_size)
    for start in range(0, len(hidden), 10):
        piece = hidden[start : start + 10]
        out = buffer[: len(piece)]
        got = model.unembed(piece, out=out)
        assert got.data_ptr() == buffer.data_ptr()
        close(out, expected[start : start + 10])
    close(model.unembed(hidden), expected)
    wide = torch.empty(len(hidden), model.vocab_size, dtype=torch.float64)
    close(model.unembed(hidden, out=wide), expected.double())


@pytest.mark.parametrize(
    "build",
    [
        lambda sizes: CohereForCausalLM(CohereConfig(**sizes, logit_scale=0.25)),
        lambda sizes: GraniteForCausalLM(GraniteConfig(**sizes, logits_scaling=4.0)),
    ],
    ids=["logit_scale", "logits_scaling"],
)
def test_logits_are_scaled_as_the_config_says(build):
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "vocab_size": 64}
    hf = build(sizes | {"num_attention_heads": 2, "num_key_value_heads": 1, "pad_token_id": 0})
    model, ids = LanguageModel(hf), some_ids()
    prefix = model.prefix(ids, None, ["layers.0"])
    hidden = model.resume(prefix, "layers.0", prefix.at("layers.0"))
    with torch.no_grad():
        expected = hf(input_ids=ids).logits.flatten(0, 1)
    out = torch.empty(expected.shape)
    close(model.unembed(hidden.flatten(0, 1), out=out), expected)


def test_a_bias_of_the_unembedding_reaches_the_buffer():
    hf = tiny_model("gpt2").model
    hf.lm_head.bias = nn.Parameter(torch.randn(VOCAB))
    model = LanguageModel(hf)
    hidden = torch.randn(4, WIDTH)
    with torch.no_grad():
        close(model.unembed(hidden, out=torch.empty(4, VOCAB)), hf.lm_head(hidden))


def test_a_model_that_changes_its_logits_in_an_unknown_way_is_refused():
    hf = tiny_model("llama").model
    forward = hf.forward

    def twice(*args, **kwargs):
        output = forward(*args, **kwargs)
        output.logits = 2 * output.logits
        return output

    hf.forward = twice
    with pytest.raises(ModelError, match="away from the model's own"):
        LanguageModel(hf)


def test_a_model_that_looks_ahead_is_refused():
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "vocab_size": 64}
    bert = BertLMHeadModel(BertConfig(num_attention_heads=2, initializer_range=0.5, **sizes))
    with pytest.raises(ModelError, match="not a causal language model"):
        LanguageModel(bert)


def test_a_model_without_an_unembedding_is_refused():
    with pytest.raises(ModelError, match="no unembedding"):
        LanguageModel(tiny_model("llama").model.model)
