"""A run in which it is known which latents are fake: rare tokens, a dense latent, and text without either.

Token ids from ``RARE`` on are a quarter of the vocabulary and never in the text. The model hands its
embeddings on: dimension 0 is 1 for every token, 1 for rare ones, 2 for even ones, and 3 for the four ids
from ``SELDOM`` on, which are few in the vocabulary and half of the text.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from saebench.activations import ReLU
from saebench.config import load_config
from saebench.measure import Run, prepare
from saebench.protocols import FakeProtocol
from saebench.sae import SAE, SAEConfig
from saebench.train import save_checkpoint
from tests.small_world import SITE, World, counting_model, make_world
from tests.tiny_models import VOCAB, WIDTH

RARE, SELDOM = 48, 4
LATENTS = ("dense", "noise", "even", "seldom", "weak", "dead")
DENSE, NOISE, EVEN, SELDOM_LATENT, WEAK, DEAD = range(len(LATENTS))


def embeddings() -> torch.Tensor:
    """``[VOCAB, WIDTH]``, the planted dimensions and nothing else."""
    ids = torch.arange(VOCAB)
    found = torch.zeros(VOCAB, WIDTH)
    found[:, 0] = 1
    found[:, 1] = (ids >= RARE).float()
    found[:, 2] = (ids % 2 == 0).float()
    found[:, 3] = ((ids >= SELDOM) & (ids < SELDOM + 4)).float()
    return found


def planted_sae(*, dead: bool = False) -> SAE:
    """A latent for each planted dimension; ``weak`` fires with .5 on rare tokens."""
    W_enc = torch.zeros(WIDTH, len(LATENTS))
    for latent, (dimension, gain) in enumerate([(0, 3), (1, 3), (2, 3), (3, 3), (1, 0.55)]):
        W_enc[dimension, latent] = gain
    b_enc = torch.full((len(LATENTS),), -0.05)  # blocks add next to nothing, but not nothing
    b_enc[DEAD] = -100.0
    cfg = SAEConfig("standard", WIDTH, len(LATENTS), WIDTH, site=SITE, model="planted")
    return SAE(
        cfg,
        ReLU(),
        W_enc=0 * W_enc if dead else W_enc,
        W_dec=torch.eye(len(LATENTS), WIDTH),
        b_dec=torch.zeros(WIDTH),
        b_enc=b_enc - 100 * dead,
    )


def make_fake_world(folder: Path) -> World:
    """The model, text with ids below ``RARE`` of which half are seldom ones, and two checkpoints."""
    world = make_world(folder)
    model = counting_model().model
    with torch.no_grad():
        model.model.embed_tokens.weight.copy_(embeddings())
    model.save_pretrained(world.model)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(2, RARE, (60, 15), generator=generator)
    few = SELDOM + torch.randint(4, (60, 15), generator=generator)
    ids = torch.where(torch.rand(60, 15, generator=generator) < 0.5, few, ids)
    lines = (json.dumps({"text": " ".join(f"w{i}" for i in row)}) for row in ids.tolist())
    world.data.write_text("\n".join(lines) + "\n")
    save_checkpoint(planted_sae(), folder / "saes" / "planted")
    save_checkpoint(planted_sae(dead=True), folder / "saes" / "dead")
    return world


def opened(world: World, out: Path, *names: str, batch_size: int = 8, **protocol: object) -> Run:
    """A run over checkpoints of the world under a protocol."""
    path = world.folder / "saebench.toml"
    path.write_text(world.config(saes=names))
    settings: Mapping[str, object] = {"n_sequences": 50, **protocol}
    config = replace(
        load_config(path),
        out=out,
        batch_size=batch_size,
        fake_features=FakeProtocol(**settings),  # type: ignore[arg-type]
    )
    specs = zip(names, config.saes, strict=True)
    return prepare(config, [(name, spec.ref, spec) for name, spec in specs])
