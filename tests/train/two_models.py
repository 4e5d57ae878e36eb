"""Two language models that read the same tokens: the small world's, and the same one fine-tuned a little."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from saebench.models import LanguageModel
from saebench.train import Recipe
from tests.small_world import World, make_world

SITES = ("blocks.0.hook_resid_post", "blocks.1.hook_resid_post")


@dataclass(frozen=True)
class Pair:
    """A world with a second model in ``ft``, and both models loaded."""

    world: World
    base: LanguageModel
    ft: LanguageModel

    @property
    def ft_path(self) -> Path:
        """The folder of the fine-tuned model."""
        return self.world.folder / "ft"

    def recipe(self, **changes: Any) -> Recipe:
        """A short recipe over both models."""
        settings: dict[str, Any] = {
            "model": str(self.world.model),
            "others": [str(self.ft_path)],
            "data": str(self.world.data),
            "site": SITES[1],
            "architecture": "batchtopk",
            "d_sae": 32,
            "k": 4,
            "tokens": 640,
            "batch_size": 64,
            "lr": 5e-3,
            "heldout_tokens": 100,
            "context_size": 16,
            "model_batch_size": 4,
            "buffer_size": 256,
            "log_every": 5,
            "device": "cpu",
        }
        return Recipe(**{**settings, **changes})


def make_pair(folder: Path) -> Pair:
    """Write the world and the second model, whose weights all differ, into ``folder``."""
    world = make_world(folder)
    base = LanguageModel.load(world.model, device="cpu")
    ft = LanguageModel.load(world.model, device="cpu")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in ft.model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    ft.model.save_pretrained(folder / "ft")
    ft.tokenizer.save_pretrained(folder / "ft")
    return Pair(world, base, LanguageModel.load(folder / "ft", device="cpu"))
