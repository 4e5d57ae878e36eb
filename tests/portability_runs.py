"""Small runs of portability: models that differ in a known way from the one of a small world."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from saebench.config import Config
from saebench.config.schema import DataSpec, ModelSpec, SAESpec
from saebench.measure.cases import Case
from saebench.measure.jobs import run_jobs
from saebench.measure.portability.job import PortabilityJob
from saebench.measure.run import Run, prepare
from saebench.protocols import PortabilityProtocol, Variant
from saebench.record import Measurement, Record
from saebench.sae import SAE
from saebench.train import save_checkpoint
from tests.small_runs import identity_sae
from tests.small_world import LENGTH, SITE, World
from tests.tiny_models import VOCAB

SAME = Variant("same", precision="float32")
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")


def copy_of(
    world: World, name: str, change: Callable[[torch.nn.Module], None], *, tokenizer: bool = True
) -> Path:
    """The world's model after ``change``, as a folder of its own."""
    model = AutoModelForCausalLM.from_pretrained(world.model)
    with torch.no_grad():
        change(model)
    return written(world, name, model, tokenizer=tokenizer)


def other_model(world: World, name: str, **sizes: int) -> Path:
    """A random model with the world's tokenizer and other sizes."""
    config = {"vocab_size": VOCAB, "hidden_size": 16, "num_hidden_layers": 3}
    config |= {"num_attention_heads": 2, "num_key_value_heads": 1, "intermediate_size": 24}
    config |= {"max_position_embeddings": 32, "bos_token_id": 1, "eos_token_id": 1, **sizes}
    torch.manual_seed(0)
    return written(world, name, LlamaForCausalLM(LlamaConfig(**config)))


def written(world: World, name: str, model: torch.nn.Module, *, tokenizer: bool = True) -> Path:
    """The folder of a model, with the world's tokenizer."""
    folder = world.folder / name
    model.save_pretrained(folder)
    for file in TOKENIZER_FILES if tokenizer else ():
        if (world.model / file).exists():
            shutil.copy(world.model / file, folder / file)
    return folder


def prepared(
    world: World,
    *variants: Variant,
    saes: tuple[str, ...] = ("good", "bad"),
    batch_size: int = 8,
    n_sequences: int | None = None,
    concepts: tuple = (),
    **protocol: object,
) -> Run:
    """A run of the world's model with these variants."""
    config = Config(
        model=ModelSpec(str(world.model)),
        data=DataSpec(str(world.data), context_size=LENGTH, n_sequences=n_sequences),
        out=world.folder / "out",
        device="cpu",
        batch_size=batch_size,
        variants=variants,
        portability=PortabilityProtocol(**protocol),  # type: ignore[arg-type]
        concepts=concepts,
    )
    places = {name: str(world.folder / "saes" / name) for name in saes}
    return prepare(config, [(name, ref, SAESpec(ref)) for name, ref in places.items()])


def measured(run: Run) -> dict[str, Record]:
    """The record of every case by its name."""
    cases = [
        Case(target, variant.name, "variants")
        for target in run.targets
        for variant in run.config.variants
    ]
    return {record.name: record for record in run_jobs(run, [PortabilityJob(run, cases)])}


def numbers(record: Record) -> dict[str, Measurement]:
    """The measurements by name, without the prefix."""
    return {one.name.removeprefix("port_"): one for one in record.measurements.values()}


def values(record: Record) -> dict[str, float]:
    """The numbers that there are, by name."""
    return {name: one.value for name, one in numbers(record).items() if one.value is not None}


def nudge(model: torch.nn.Module) -> None:
    """A fine-tune of a few steps: embedding and unembedding move a little."""
    for seed, (layer, size) in enumerate(((model.model.embed_tokens, 0.1), (model.lm_head, 0.02))):
        noise = torch.randn(layer.weight.shape, generator=torch.Generator().manual_seed(7 + seed))
        layer.weight += size * noise


def saved(sae: SAE, folder: Path) -> Path:
    """A checkpoint of the world's site and model."""
    sae.cfg = replace(sae.cfg, site=SITE, model="counting")
    save_checkpoint(sae, folder)
    return folder


def nine_tenths() -> SAE:
    """An SAE that returns nine tenths of what it reads."""
    sae = identity_sae()
    sae.W_dec.mul_(0.9)
    return sae
