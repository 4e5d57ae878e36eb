"""Short names of language models, as TransformerLens and checkpoints' configs have them, as hub ids.

Source: the official model names and aliases of TransformerLens; most are the last part of the id.
"""

from __future__ import annotations

from pathlib import Path

SHORT = {
    "gpt2-small": "openai-community/gpt2",
    "gpt2": "openai-community/gpt2",
    "gpt2-medium": "openai-community/gpt2-medium",
    "gpt2-large": "openai-community/gpt2-large",
    "gpt2-xl": "openai-community/gpt2-xl",
    "distillgpt2": "distilbert/distilgpt2",
    "distilgpt2": "distilbert/distilgpt2",
    "mistral-7b": "mistralai/Mistral-7B-v0.1",
    "tiny-stories-33M": "roneneldan/TinyStories-33M",
}
OWNERS = {
    "pythia-": "EleutherAI",
    "gpt-neo-": "EleutherAI",
    "gpt-j-": "EleutherAI",
    "gemma-": "google",
    "Llama-": "meta-llama",
    "Meta-Llama-": "meta-llama",
    "Mistral-": "mistralai",
    "Qwen": "Qwen",
    "phi-": "microsoft",
    "opt-": "facebook",
    "TinyStories-": "roneneldan",
    "DeepSeek-": "deepseek-ai",
}


def hub_id(name: str) -> str:
    """The hub id that a short name stands for; any other name, and a path that exists, is itself."""
    if "/" in name or Path(name).exists():
        return name
    if name in SHORT:
        return SHORT[name]
    owner = next((owner for start, owner in OWNERS.items() if name.startswith(start)), None)
    return f"{owner}/{name}" if owner else name
