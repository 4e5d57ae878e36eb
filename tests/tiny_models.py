"""Randomly initialised models of a few kilobytes, one for each architecture that must work."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    Gemma4ForCausalLM,
    Gemma4TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from saebench.models import LanguageModel

VOCAB, WIDTH, LAYERS, CONTEXT = 64, 16, 3, 32
TOKENS = 9  # of a test's sequence
WINDOW = 4  # of sliding attention: shorter than the sequences that tests use

_SIZES: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "max_position_embeddings": CONTEXT,
    "intermediate_size": 24,
    "bos_token_id": 1,
    "eos_token_id": 1,
}
_GROUPED: dict[str, Any] = {**_SIZES, "num_key_value_heads": 1, "pad_token_id": 0}
_MIXED_WINDOWS: dict[str, Any] = {
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
    "sliding_window": WINDOW,
}
_GEMMA4: dict[str, Any] = {
    **_GROUPED,
    **_MIXED_WINDOWS,
    "head_dim": 8,
    "global_head_dim": 12,
    "final_logit_softcapping": 5.0,
    "hidden_size_per_layer_input": 0,
    "vocab_size_per_layer_input": VOCAB,
}


def _gpt2() -> PreTrainedModel:
    sizes = {"n_embd": WIDTH, "n_layer": LAYERS, "n_head": 2, "n_positions": CONTEXT}
    return GPT2LMHeadModel(GPT2Config(vocab_size=VOCAB, bos_token_id=1, eos_token_id=1, **sizes))


def _gpt_neox(parallel: bool) -> PreTrainedModel:
    return GPTNeoXForCausalLM(GPTNeoXConfig(use_parallel_residual=parallel, **_SIZES))


def _gemma4_per_layer_inputs() -> PreTrainedModel:
    types = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
    config = _GEMMA4 | {
        "num_hidden_layers": 4,
        "layer_types": types,
        "num_kv_shared_layers": 2,
        "hidden_size_per_layer_input": 6,
    }
    return Gemma4ForCausalLM(Gemma4TextConfig(**config))


_BUILDERS = {
    "gpt2": _gpt2,
    "gpt_neox": lambda: _gpt_neox(parallel=True),
    "gpt_neox_sequential": lambda: _gpt_neox(parallel=False),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**_GROUPED)),
    "mistral": lambda: MistralForCausalLM(MistralConfig(sliding_window=WINDOW, **_GROUPED)),
    "qwen3": lambda: Qwen3ForCausalLM(Qwen3Config(head_dim=12, **_GROUPED)),
    "gemma2": lambda: Gemma2ForCausalLM(
        Gemma2Config(
            **_GROUPED,
            **_MIXED_WINDOWS,
            head_dim=12,
            attn_logit_softcapping=5.0,
            final_logit_softcapping=3.0,
        )
    ),
    "gemma3": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**_GROUPED, **_MIXED_WINDOWS, head_dim=8)),
    "gemma4": lambda: Gemma4ForCausalLM(Gemma4TextConfig(**_GEMMA4)),
    "gemma4_per_layer_inputs": _gemma4_per_layer_inputs,
}
TINY_MODELS: tuple[str, ...] = tuple(_BUILDERS)


def tiny_model(name: str) -> LanguageModel:
    """A fresh model of the architecture, always with the same weights, and with no tokenizer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = _BUILDERS[name]()
        with torch.no_grad():
            # Fresh norms have gain 1 and fresh biases are 0: an activation taken on the wrong side
            # of one would go unnoticed. Fresh weights are so small that nothing matters much.
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
            for buffer_name, buffer in model.named_buffers():
                if buffer_name.endswith("layer_scalar"):
                    buffer.fill_(0.7)
    return LanguageModel(model, id=f"tiny-{name}")


@cache
def shared_model(name: str) -> LanguageModel:
    """The same, built once for all tests that leave it as it is."""
    return tiny_model(name)


def some_ids(rows: int = 3, tokens: int = TOKENS) -> torch.Tensor:
    """Token ids ``[rows, tokens]``, always the same."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(2, VOCAB, (rows, tokens), generator=generator)


def close(got: torch.Tensor, expected: torch.Tensor) -> None:
    """Assert that two computations of the same float32 values agree."""
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)
