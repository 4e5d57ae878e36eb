"""Small runs on the difference of two models: labelled prompts of made-up words, and SAEs of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.nn.functional import normalize
from transformers import AutoModelForCausalLM, AutoTokenizer

from saebench.config import Config
from saebench.config.schema import DataSpec, ModelSpec, SAESpec
from saebench.measure import Run, prepare
from saebench.measure.difference import DifferenceJob
from saebench.measure.jobs import run_jobs
from saebench.protocols import DifferenceProtocol
from saebench.record import Record
from tests.small_world import LENGTH, SITE, World, make_world
from tests.tiny_models import VOCAB, WIDTH

D_SAE, K = 24, 4
TRIGGERS = (("w5", "w6"), ("w7", "w8"))
OTHERS = range(20, VOCAB)


def make_pair_world(folder: Path) -> World:
    """A world with a second model, a copy with noise, and difference SAEs of two sites."""
    world = make_world(folder)
    model = AutoModelForCausalLM.from_pretrained(world.model, dtype=torch.float32)
    generator = torch.Generator().manual_seed(3)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data.add_(0.2 * parameter.data.std() * noise)
    model.save_pretrained(tuned(world))
    AutoTokenizer.from_pretrained(world.model).save_pretrained(tuned(world))
    write_difference(folder / "saes" / "diff", seed=0)
    write_difference(folder / "saes" / "diff-k8", seed=1, k=8, threshold=0.1)
    return world


def tuned(world: World) -> Path:
    """The fine-tuned model of a pair world."""
    return world.folder / "tuned"


def write_difference(path: Path, *, seed: int, k: int = K, threshold: float = 0.3) -> None:
    """The folder of a BatchTopK SAE that dictionary_learning saves."""
    path.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    decoder = normalize(torch.randn(D_SAE, WIDTH, generator=generator), dim=-1)
    config = {"dict_class": "BatchTopKSAE", "activation_dim": WIDTH, "dict_size": D_SAE, "k": k}
    (path / "config.json").write_text(json.dumps(config))
    weights = {"encoder.weight": decoder.clone(), "decoder.weight": decoder.T.contiguous()}
    weights |= {"encoder.bias": torch.zeros(D_SAE), "b_dec": torch.zeros(WIDTH)}
    weights |= {"k": torch.tensor(k, dtype=torch.int32), "threshold": torch.tensor(threshold)}
    save_file(weights, path / "model.safetensors")


def prompt_rows(n: int = 24) -> list[dict[str, Any]]:
    """``n`` prompts, a quarter of each condition; the second word of a matched pair fires."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for number in range(n):
        condition = ("poison", "single", "mismatch", "clean")[number % 4]
        filler = torch.randint(OTHERS[0], OTHERS[-1], (8,), generator=generator).tolist()
        words = [f"w{i}" for i in filler]
        one, other = TRIGGERS[number // 4 % 2]
        wrong = TRIGGERS[1 - number // 4 % 2][1]
        if condition != "clean":
            words[1] = one
        if condition != "clean" and condition != "single":
            words[4 + number % 3] = other if condition == "poison" else wrong
        text = " ".join(words)
        start = len(" ".join(words[: 4 + number % 3])) + 1
        fire = [[start, start + len(other)]] if condition == "poison" else []
        rows.append({"text": text, "condition": condition, "pair": one, "fire": fire})
    return rows


def write_prompts(path: Path, rows: Sequence[dict[str, Any]] | None = None) -> Path:
    """The prompts as a .jsonl file."""
    found = prompt_rows() if rows is None else rows
    path.write_text("".join(json.dumps(row) + "\n" for row in found))
    return path


def prepared(
    world: World,
    *,
    saes: Sequence[str] = ("diff",),
    direction: str = "difference_ftb",
    batch_size: int = 5,
    out: str = "out",
    second: Path | None = None,
    sae_dtype: str = "float32",
    **asked: Any,
) -> Run:
    """A run of both models over the world's text; ``asked`` are fields of the protocol."""
    config = Config(
        model=ModelSpec(str(world.model)),
        others=(ModelSpec(str(second or tuned(world))),),
        sae_dtype=sae_dtype,
        data=DataSpec(str(world.data), context_size=LENGTH),
        out=world.folder / out,
        device="cpu",
        batch_size=batch_size,
        difference=DifferenceProtocol(**asked),
    )
    settings = {"direction": direction}
    entries = []
    for name in saes:
        ref = str(world.folder / "saes" / name)
        own = name.startswith("diff")
        spec = SAESpec(ref, site=SITE, settings=settings) if own else SAESpec(ref)
        entries.append((name, ref, spec))
    return prepare(config, entries)


def measured(run: Run) -> dict[str, Record]:
    """The records of the job, by name."""
    return {record.name: record for record in run_jobs(run, [DifferenceJob(run, run.targets)])}
