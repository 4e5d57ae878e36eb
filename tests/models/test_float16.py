"""float16 on a CPU: real where it can be, rounded at module boundaries where not."""

import pytest
import torch
from torch import nn
from transformers import GptOssConfig, GptOssForCausalLM
from transformers.pytorch_utils import Conv1D

from saebench.models import LanguageModel, float16
from tests.tiny_models import some_ids, tiny_model

SIZES = {
    **{"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2},
    **{"num_key_value_heads": 1, "intermediate_size": 24, "max_position_embeddings": 32},
    **{"pad_token_id": 0, "num_experts_per_tok": 2, "num_local_experts": 4, "head_dim": 8},
}


@pytest.fixture
def experts(tmp_path):
    """A saved model whose experts lie side by side in one tensor."""
    torch.manual_seed(0)
    model = GptOssForCausalLM(GptOssConfig(**SIZES))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(tmp_path)
    return tmp_path


@torch.no_grad()
def test_a_transposed_layer_becomes_a_linear_one_with_the_same_outputs():
    layer = Conv1D(6, 4)
    layer.bias.copy_(torch.arange(6.0))
    x = torch.randn(2, 3, 4)
    made = float16.as_linear(layer)
    assert made.weight.is_contiguous()
    torch.testing.assert_close(made(x), layer(x))


@torch.no_grad()
def test_a_model_of_linear_layers_runs_in_float16_for_real():
    model = tiny_model("gpt2").model.half()
    assert float16.make_fast(model) is None
    kinds = {type(module) for module in model.modules()}
    assert nn.Linear in kinds
    assert Conv1D not in kinds
    assert {p.dtype for p in model.parameters()} == {torch.float16}
    exact = tiny_model("gpt2").model(some_ids()).logits
    got = model(some_ids()).logits
    assert got.dtype == torch.float16
    assert 0 < float((got.float() - exact).abs().max()) < 2e-2 * float(exact.abs().max())


@torch.no_grad()
def test_stacked_experts_are_emulated_and_every_block_gives_float16_values(experts):
    model = LanguageModel.load(experts, precision="fp16", device="cpu")
    said = model.identity()["precision"]
    assert said["emulated"]
    assert "rounded to float16" in said["why"]
    assert said["regime"] == "float16"
    ids = some_ids()
    exact = LanguageModel.load(experts, device="cpu")
    for name in ("layers.0", "layers.0.mlp", "layers.1"):
        value = model.prefix(ids, None, [name]).at(name)
        assert torch.equal(value, value.half().float())
        assert not torch.equal(value, exact.prefix(ids, None, [name]).at(name))
    for path, parameter in model.model.named_parameters():
        kept = "norm" in path  # which transformers keeps in float32 in this architecture
        assert kept or torch.equal(parameter, parameter.half().float())
    got, expected = (m.model(ids).logits for m in (model, exact))
    assert 0 < float((got - expected).abs().max()) < 2e-2 * float(expected.abs().max())


@torch.no_grad()
def test_emulated_values_beyond_float16_become_infinite():
    module = nn.Linear(2, 2)
    module.weight.fill_(1e4)
    module.register_forward_hook(float16._round_output)
    assert module(torch.full((1, 2), 100.0)).isinf().all()


def test_modules_that_return_several_values_are_rounded_in_all_that_are_floats():
    value = torch.tensor([1.0 + 2.0**-20])
    rounded = float16._round_output(nn.Identity(), (), (value, None, torch.tensor([3])))
    assert rounded[0].item() == 1.0
    assert rounded[1] is None
    assert rounded[2].dtype == torch.int64
