"""Small runs of steering: a model in which one direction favours the upper half of the vocabulary.

``planted`` has a latent that reads and writes that direction; ``noise`` is random. The concept is whether a
completion is of words of the upper half.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from saebench.activations import ReLU
from saebench.config import Config
from saebench.config.schema import DataSpec, ModelSpec, SAESpec
from saebench.measure import Run, prepare
from saebench.measure.cases import Case
from saebench.measure.jobs import run_jobs
from saebench.measure.steering.job import SteeringJob
from saebench.models import LanguageModel
from saebench.protocols import Concept, ConceptsProtocol, SteeringProtocol
from saebench.record import Record
from saebench.sae import SAE, SAEConfig
from saebench.train import save_checkpoint
from tests.small_runs import random_sae
from tests.small_world import LENGTH, SITE, World, counting_model, make_world
from tests.tiny_models import VOCAB, WIDTH

HALF = VOCAB // 2
N_TEXTS = 80
PLANTED = 2  # the latent of ``planted`` that reads and writes the direction
QUICK = {"n_prompts": 16, "max_new_tokens": 3, "n_random": 20, "n_latents": 3}
QUICK |= {"n_permutations": 500}


def planted_direction() -> torch.Tensor:
    """A unit vector ``[width]``."""
    direction = torch.randn(WIDTH, generator=torch.Generator().manual_seed(11))
    return direction / direction.norm()


def steering_model() -> LanguageModel:
    """A model that counts, and whose words of either half lie apart along the planted direction.

    Words of one half follow each other, so that the direction is read and writes.
    """
    model = counting_model()
    with torch.no_grad():
        side = torch.where(torch.arange(VOCAB) < HALF, -1.0, 1.0)
        apart = side[:, None] * planted_direction()
        model.model.model.embed_tokens.weight += 2 * apart
        model.model.lm_head.weight += apart
    return model


def planted_sae() -> SAE:
    """A ReLU SAE with the planted latent among random ones."""
    sae = random_sae(seed=3, k=None)
    cfg = SAEConfig("standard", WIDTH, sae.cfg.d_sae, WIDTH, site=SITE, model="counting")
    W_enc, W_dec = sae.W_enc.clone(), sae.W_dec.clone()
    W_enc[:, PLANTED] = W_dec[PLANTED] = planted_direction()
    parts = {"W_enc": W_enc, "W_dec": W_dec, "b_dec": 0 * sae.b_dec, "b_enc": 0 * sae.b_enc}
    return SAE(cfg, ReLU(), **parts)


def make_steering_world(folder: Path) -> World:
    """A small world with the two checkpoints and the concept's texts and rules."""
    world = make_world(folder)
    steering_model().model.save_pretrained(world.model)
    save_checkpoint(planted_sae(), folder / "saes" / "planted")
    noise = random_sae(seed=5)
    noise.cfg = replace(noise.cfg, site=SITE, model="counting")
    save_checkpoint(noise, folder / "saes" / "noise")
    generator = np.random.default_rng(0)
    rows = []
    for number in range(N_TEXTS):
        upper = number % 2
        words = generator.integers(HALF if upper else 2, VOCAB if upper else HALF, 6)
        prompt = generator.integers(2, VOCAB, 2 + number % 3)
        row = {"prompt": words_of(prompt), "completion": words_of(words)}
        rows.append(json.dumps(row | {"label": ["low", "high"][upper]}))
    (folder / "texts.jsonl").write_text("\n".join(rows) + "\n")
    halves = {"low": range(2, HALF), "high": range(HALF, VOCAB)}
    tables = [f'[[class]]\nname = "{name}"\nany = {named(ids)}' for name, ids in halves.items()]
    (folder / "rules.toml").write_text("\n".join(tables) + "\n")
    return world


def words_of(ids) -> str:
    return " ".join(f"w{i}" for i in ids)


def named(ids) -> str:
    return json.dumps([f"w{i}" for i in ids])


def concept(world: World, *, rules: bool = True, **parts) -> Concept:
    known = {
        "name": "upper",
        "data": str(world.folder / "texts.jsonl"),
        "text": "completion",
        "prompt": "prompt",
        "positive": "high",
        "rules": str(world.folder / "rules.toml") if rules else "",
    }
    return Concept(**{**known, **parts})


def prepared(world: World, *concepts: Concept, saes=("planted",), batch_size=8, **options) -> Run:
    config = Config(
        model=ModelSpec(str(world.model)),
        data=DataSpec(str(world.data), context_size=LENGTH),
        out=world.folder / "out",
        device="cpu",
        batch_size=batch_size,
        suites=("steering",),
        concepts=concepts or (concept(world),),
        concept_statistics=ConceptsProtocol(min_firings=3),
        steering=SteeringProtocol(**{**QUICK, **options}),
    )
    places = {name: str(world.folder / "saes" / name) for name in saes}
    return prepare(config, [(name, ref, SAESpec(ref)) for name, ref in places.items()])


def measured(run: Run) -> dict[str, Record]:
    cases = [
        Case(target, item.name, "concepts")
        for target in run.targets
        for item in run.config.concepts
    ]
    return {record.name: record for record in run_jobs(run, [SteeringJob(run, cases)])}
