"""Where the sites of a block are, found from what its modules read and write."""

import pytest
import torch
import transformers
from torch import nn

from saebench.errors import ModelError, SiteError
from saebench.models import LanguageModel
from saebench.models.blocks import Returns, find_blocks
from saebench.sites import Site
from tests.tiny_models import close, shared_model, some_ids, tiny_model

SIZES = {
    "vocab_size": 64,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
WINDOWS = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4}
LINEAR = {f"linear_{part}": 2 for part in ("num_key_heads", "num_value_heads")} | {
    f"linear_{part}_head_dim": 8 for part in ("key", "value")
}
EXPERTS = {"num_experts_per_tok": 2, "num_local_experts": 4, "head_dim": 8}
GPT = {"vocab_size": 64, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
FALCON = {k: SIZES[k] for k in ("vocab_size", "hidden_size", "num_attention_heads")}

# architectures beside the ones in tiny_models, each with something that they have not
OTHERS = {
    "norms after the modules only": ("Olmo2", SIZES),
    "one norm for attention and MLP": ("GPTJ", GPT | {"rotary_dim": 4}),
    "MLP that returns a tuple": ("GptOss", SIZES | EXPERTS),
    "attention without softmax": (
        "Qwen3_5",
        SIZES | LINEAR | {"head_dim": 8, "layer_types": ["linear_attention", "full_attention"]},
    ),
    "attention wrapped once more": (
        "GPTNeo",
        {"vocab_size": 64, "hidden_size": 16, "num_layers": 2, "num_heads": 2}
        | {"attention_types": [[["global", "local"], 1]], "max_position_embeddings": 32},
    ),
}


def causal_lm(family, sizes):
    torch.manual_seed(0)
    config_class = getattr(transformers, f"{family}Config", None)
    config = (config_class if family != "Qwen3_5" else transformers.Qwen3_5TextConfig)(**sizes)
    model = getattr(transformers, f"{family}ForCausalLM")(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def check_every_site(model):
    """Resuming with the unchanged activation gives the model's own logits, wherever it starts."""
    ids = some_ids()
    with torch.no_grad():
        expected = model.model(input_ids=ids).logits
    for layer, block in enumerate(model.blocks):
        for kind in block.ports:
            site = Site(layer, kind)
            prefix = model.prefix(ids, None, [site])
            hidden = model.resume(prefix, site, prefix.at(site))
            close(model.unembed(hidden.flatten(0, 1)).view_as(expected), expected)


@pytest.mark.parametrize("what", OTHERS)
def test_other_architectures_capture_and_resume_too(what):
    model = LanguageModel(causal_lm(*OTHERS[what]))
    check_every_site(model)
    assert {"attn_z", "attn_out", "mlp_in", "mlp_out"} <= set(model.blocks[1].ports)


@pytest.mark.parametrize("family", ["Gemma3", "Gemma4"])
def test_the_text_model_inside_a_multimodal_one_is_found(family):
    torch.manual_seed(0)
    gemma4 = {"hidden_size_per_layer_input": 6, "vocab_size_per_layer_input": 64}
    sizes = SIZES | WINDOWS | {"head_dim": 8} | (gemma4 if family == "Gemma4" else {})
    text = getattr(transformers, f"{family}TextConfig")(**sizes)
    vision = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    vision |= {"num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    config = getattr(transformers, f"{family}Config")(
        text_config=text.to_dict(), vision_config=vision if family == "Gemma3" else None
    )
    model = LanguageModel(getattr(transformers, f"{family}ForConditionalGeneration")(config))
    assert [block.path for block in model.blocks] == [
        "model.language_model.layers.0",
        "model.language_model.layers.1",
    ]
    assert model.token_dependent_suffix == (family == "Gemma4")
    check_every_site(model)


def test_what_an_mlp_with_experts_beside_it_adds_is_the_output_of_their_common_norm():
    experts = {"enable_moe_block": True, "num_experts": 4, "top_k_experts": 2}
    config = transformers.Gemma4TextConfig(
        **SIZES,
        **WINDOWS,
        **experts,
        head_dim=8,
        moe_intermediate_size=8,
        hidden_size_per_layer_input=0,
    )
    model = LanguageModel(transformers.Gemma4ForCausalLM(config))
    check_every_site(model)
    norm = model.model.model.layers[1].post_feedforward_layernorm
    assert model.blocks[1].ports["mlp_out"].module is norm


def test_an_activation_that_the_block_overwrites_is_refused():
    model = LanguageModel(causal_lm("Falcon", FALCON | {"num_hidden_layers": 2}))
    check_every_site(model)
    with pytest.raises(SiteError, match="overwrites it before it returns"):
        model.site("blocks.0.hook_mlp_out")


def test_modules_that_add_the_residual_themselves_are_no_sites():
    model = LanguageModel(causal_lm("Bloom", FALCON | {"num_hidden_layers": 2}))
    check_every_site(model)
    for name in ("blocks.0.hook_attn_out", "blocks.0.hook_mlp_out"):
        with pytest.raises(SiteError, match="only reads and writes its own activation"):
            model.site(name)


def test_a_model_without_attention_has_its_residual_stream():
    sizes = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_heads": 4}
    sizes |= {"head_dim": 8, "expand": 2, "n_groups": 1, "state_size": 4}
    model = LanguageModel(causal_lm("Mamba2", sizes))
    check_every_site(model)
    assert set(model.blocks[0].ports) == {"resid_pre", "resid_post"}


def test_several_residual_streams_are_refused():
    config = transformers.Gemma3nTextConfig(
        **SIZES,
        **WINDOWS,
        head_dim=8,
        hidden_size_per_layer_input=6,
        vocab_size_per_layer_input=64,
        num_kv_shared_layers=0,
        laurel_rank=2,
    )
    with pytest.raises(ModelError, match=r"shape \[4, 2, 4, 16\].*one residual stream"):
        LanguageModel(transformers.Gemma3nForCausalLM(config))


def test_a_model_whose_blocks_cannot_be_found_is_refused_with_what_was_searched():
    decoder = nn.Module()
    decoder.stack = nn.ModuleList([nn.Linear(2, 2)])
    decoder.heads = nn.ModuleList([nn.Linear(2, 2) for _ in range(3)])
    with pytest.raises(ModelError, match=r"12 layers .*stack \(1\), heads \(3\)"):
        find_blocks(decoder, 12)
    with pytest.raises(ModelError, match="there are none"):
        find_blocks(nn.Linear(2, 2), 12)


def test_of_several_lists_the_outermost_holds_the_blocks():
    decoder = nn.Module()
    decoder.tower = nn.Module()
    decoder.tower.layers = nn.ModuleList([nn.Linear(2, 2) for _ in range(3)])
    decoder.layers = nn.ModuleList([nn.Linear(2, 2) for _ in range(3)])
    assert list(find_blocks(decoder, 3)) == ["layers.0", "layers.1", "layers.2"]
    assert find_blocks(decoder, 3)["layers.1"] is decoder.layers[1]


def test_a_module_gets_back_what_it_returns():
    tensor = torch.ones(2)
    assert Returns().wrap(tensor) is tensor
    assert Returns(3).wrap(tensor) == (tensor, None, None)


def test_blocks_are_told_apart_by_their_path():
    assert [block.path for block in shared_model("gpt2").blocks] == [
        "transformer.h.0",
        "transformer.h.1",
        "transformer.h.2",
    ]


def test_damaged_weights_are_not_taken_for_an_unsupported_architecture():
    model = tiny_model("gpt_neox").model
    with torch.no_grad():
        next(p for name, p in model.named_parameters() if "dense_h_to_4h.weight" in name)[0, 0] = (
            float("nan")
        )
    with pytest.raises(ModelError, match="holds NaN or infinity"):
        LanguageModel(model)
