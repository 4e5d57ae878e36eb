"""A folder with everything a run needs: a model that counts, its tokenizer, text, and two checkpoints.

The model knows that each word is followed by the next one, so that taking its residual stream away
hurts. ``good`` returns what it reads; ``bad`` is random and reconstructs worse than the mean.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from saebench.models import LanguageModel
from saebench.sae import SAE
from saebench.train import save_checkpoint
from tests.small_runs import identity_sae, random_sae, tokens
from tests.tiny_models import VOCAB, WIDTH, tiny_model

SITE = "blocks.1.hook_resid_post"
LENGTH = 16


@dataclass(frozen=True)
class World:
    """Where things are; all paths are absolute."""

    folder: Path

    @property
    def model(self) -> Path:
        """The language model and its tokenizer."""
        return self.folder / "model"

    @property
    def data(self) -> Path:
        """The text, one document a line."""
        return self.folder / "text.jsonl"

    @property
    def good(self) -> Path:
        """A checkpoint with FVE 1 that states no k."""
        return self.folder / "saes" / "good"

    @property
    def bad(self) -> Path:
        """A checkpoint with FVE below 0 and k = 4."""
        return self.folder / "saes" / "bad"

    def config(self, *lines: str, saes: tuple[str, ...] = ("good", "bad"), out: str = "out") -> str:
        """A configuration: ``lines`` first (top keys, then tables), then the checkpoints."""
        entries = [f"[[sae]]\nref = '{self.folder / 'saes' / name}'" for name in saes]
        data = f"data = {{ spec = '{self.data}', context_size = {LENGTH} }}"
        top = [f"model = '{self.model}'", data, f"out = '{out}'", "device = 'cpu'"]
        return "\n".join([*top, *lines, *entries]) + "\n"

    def options(self, prefix: str = "--") -> list[str]:
        """Options that name the model and the data."""
        found = {"model": self.model, "data": self.data, "context-size": LENGTH, "device": "cpu"}
        return [f"{prefix}{name}={value}" for name, value in found.items()]


def counting_model() -> LanguageModel:
    """A model that predicts, with some confidence, the token after the present one.

    Its blocks add next to nothing to random embeddings, and its unembedding is those shifted by one.
    """
    model = tiny_model("llama").model
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1e-3)
        directions = torch.randn(VOCAB, WIDTH, generator=torch.Generator().manual_seed(0))
        model.model.embed_tokens.weight.copy_(directions)
        model.lm_head.weight.copy_(0.5 * directions.roll(1, 0))
        model.model.norm.weight.fill_(1.0)
    return LanguageModel(model, id="counting")


def counting(n_sequences: int = 12, length: int = 9) -> torch.Tensor:
    """Sequences ``[n_sequences, length]`` in which each token is one more than the last."""
    return tokens(n_sequences, 1, vocab=VOCAB - length) + torch.arange(length)


def make_world(folder: Path) -> World:
    """Write the model, the text and the checkpoints into ``folder``."""
    world = World(folder)
    counting_model().model.save_pretrained(world.model)
    words = {"<pad>": 0, "<s>": 1} | {f"w{i}": i for i in range(2, VOCAB)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="<s>"
    )
    fast.save_pretrained(world.model)
    rows = counting(40, 12).tolist()
    lines = (json.dumps({"text": " ".join(f"w{i}" for i in row)}) for row in rows)
    world.data.write_text("\n".join(lines) + "\n")
    for place, sae in ((world.good, identity_sae()), (world.bad, random_sae())):
        save_checkpoint(_placed(sae), place)
    return world


def _placed(sae: SAE) -> SAE:
    """The SAE with the site and the model that it is for."""
    sae.cfg = replace(sae.cfg, site=SITE, model="counting")
    return sae
