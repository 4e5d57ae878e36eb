"""Hook-point names: three ways of writing one place, and what is said to those who miss it."""

import subprocess
import sys

import pytest

from saebench.errors import SiteError
from saebench.sites import KINDS, Site, parse_site


@pytest.mark.parametrize("kind", KINDS)
def test_the_canonical_name_of_a_site_parses_to_it(kind):
    site = Site(7, kind)
    assert parse_site(site.hook_name) == site
    assert str(site) == site.hook_name


@pytest.mark.parametrize(
    ("text", "site"),
    [
        # TransformerLens
        ("blocks.0.hook_resid_pre", Site(0, "resid_pre")),
        ("blocks.11.hook_resid_mid", Site(11, "resid_mid")),
        ("blocks.11.hook_resid_post", Site(11, "resid_post")),
        ("blocks.3.attn.hook_z", Site(3, "attn_z")),
        ("blocks.3.hook_attn_out", Site(3, "attn_out")),
        ("blocks.3.hook_mlp_out", Site(3, "mlp_out")),
        ("blocks.3.mlp.hook_in", Site(3, "mlp_in")),
        ("blocks.3.ln2.hook_normalized", Site(3, "mlp_normalized")),
        ("blocks.3.hook_in", Site(3, "resid_pre")),
        ("blocks.3.hook_out", Site(3, "resid_post")),
        # module paths of GPT-2
        ("transformer.h.2", Site(2, "resid_post")),
        ("h.2", Site(2, "resid_post")),
        ("transformer.h.2:in", Site(2, "resid_pre")),
        ("transformer.h.2.attn.c_proj:in", Site(2, "attn_z")),
        ("transformer.h.2.ln_2:in", Site(2, "resid_mid")),
        ("transformer.h.2.ln_2", Site(2, "mlp_in")),
        ("transformer.h.2.mlp.c_proj", Site(2, "mlp_module_out")),
        # of GPT-NeoX
        ("gpt_neox.layers.2", Site(2, "resid_post")),
        ("gpt_neox.layers.2.attention", Site(2, "attn_module_out")),
        ("gpt_neox.layers.2.attention.dense:in", Site(2, "attn_z")),
        ("layers.2.mlp", Site(2, "mlp_module_out")),
        # of Llama and Gemma, one of them inside a multimodal model
        ("model.layers.2", Site(2, "resid_post")),
        ("model.language_model.layers.2:out", Site(2, "resid_post")),
        ("model.layers.2.input_layernorm:in", Site(2, "resid_pre")),
        ("model.layers.2.self_attn.o_proj:in", Site(2, "attn_z")),
        ("model.layers.2.self_attn.o_proj:out", Site(2, "attn_module_out")),
        ("model.layers.2.mlp:in", Site(2, "mlp_in")),
        ("model.layers.2.mlp:out", Site(2, "mlp_module_out")),
        ("model.layers.2.pre_feedforward_layernorm:out", Site(2, "mlp_in")),
        ("model.layers.2.post_feedforward_layernorm", Site(2, "mlp_out")),
        ("layers.10", Site(10, "resid_post")),
        ("  layers.10.mlp:in ", Site(10, "mlp_in")),
        # of MPT, which has its blocks in a list of that name
        ("transformer.blocks.3", Site(3, "resid_post")),
        # of GPT-Neo, whose attention is wrapped
        ("transformer.h.2.attn.attention.out_proj:in", Site(2, "attn_z")),
        # hidden states: the i-th is what block i reads
        ("hidden_states[0]", Site(0, "resid_pre")),
        ("hidden_states[4]", Site(4, "resid_pre")),
    ],
)
def test_a_name_means_its_site(text, site):
    assert parse_site(text) == site


def test_the_output_of_a_block_is_the_input_of_the_next():
    assert parse_site("hidden_states[4]").canonical == parse_site("layers.3").canonical
    assert Site(4, "resid_pre").canonical == Site(3, "resid_post")
    assert Site(0, "resid_pre").canonical == Site(0, "resid_pre")
    assert Site(3, "resid_post").canonical == Site(3, "resid_post")
    assert Site(4, "mlp_in").canonical == Site(4, "mlp_in")


def test_sites_sort_in_the_order_in_which_a_forward_reaches_them():
    reached = [Site(layer, kind) for layer in (0, 2, 10) for kind in KINDS]
    shuffled = [reached[i * 7 % len(reached)] for i in range(len(reached))]
    assert shuffled != reached
    assert sorted(shuffled) == reached


def test_only_the_residual_stream_is_residual():
    assert [kind for kind in KINDS if Site(0, kind).is_residual] == [
        "resid_pre",
        "resid_mid",
        "resid_post",
    ]


@pytest.mark.parametrize(("index", "layer"), [(-2, 11), (-13, 0), (11, 11), (0, 0)])
def test_hidden_states_can_be_counted_from_the_end(index, layer):
    assert parse_site(f"hidden_states[{index}]", n_layers=12) == Site(layer, "resid_pre")


@pytest.mark.parametrize("index", [12, -1])
def test_the_last_hidden_state_is_refused_because_it_is_after_the_final_norm(index):
    with pytest.raises(SiteError, match=r"final norm") as error:
        parse_site(f"hidden_states[{index}]", n_layers=12)
    assert "blocks.11.hook_resid_post" in error.value.next_step


@pytest.mark.parametrize(
    ("text", "n_layers", "found", "next_step"),
    [
        ("hidden_states[13]", 12, "hidden_states[12]", "hidden_states[11]"),
        ("hidden_states[-14]", 12, "hidden_states[12]", "hidden_states[11]"),
        ("hidden_states[-2]", None, "number of layers", "hook_resid_post"),
        ("blocks.12.hook_resid_post", 12, "12 layers", "blocks.11.hook_resid_post"),
        ("layers.12.mlp:in", 12, "12 layers", "blocks.11.mlp.hook_in"),
        ("blocks.3.hook_resid_psot", None, "no site has this name", "blocks.3.hook_resid_post"),
        ("blocks.3.hook_mlp_in", None, "before the norm", "blocks.3.mlp.hook_in"),
        ("blocks.3.mlp.hook_post", None, "neurons", "blocks.3.mlp.hook"),
        ("blocks.3.ln1.hook_normalized", None, "input of the attention", "blocks.3"),
        ("model.layers.3.post_attention_layernorm", None, "Gemma 2", "blocks.3.hook_attn_out"),
        ("model.layers.3.self_attn", 3, "3 layers", "blocks.2.attn.hook_out"),
        (
            "model.layers.3.self_attn:in",
            None,
            "input of attention is not a site",
            "layers.3.self_attn:out",
        ),
        ("model.layers.3.mlp.down_proj:in", None, "not a site", "layers.3.mlp:out"),
        ("model.layers.3.rotary", None, "not a site", "layers.3"),
        ("model.layers.3:middle", None, ":middle", "layers.3"),
        ("model.vision_tower.layers.3", None, "not a hook-point name", "layers.3"),
        ("hidden_states[x]", None, "not a hook-point name", "hidden_states[0]"),
        ("residual stream", None, "not a hook-point name", "blocks.0"),
        ("", None, "not a hook-point name", "blocks.0"),
    ],
)
def test_what_is_no_site_is_refused_with_the_nearest_that_is(text, n_layers, found, next_step):
    with pytest.raises(SiteError) as error:
        parse_site(text, n_layers=n_layers)
    assert repr(text) in error.value.asked
    assert found in error.value.found
    assert next_step in error.value.next_step


def test_names_are_understood_without_torch():
    code = "import sys, saebench.sites; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
