"""Small runs of probes: tasks of made-up words, and what the job makes of them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from saebench.config import Config
from saebench.config.schema import DataSpec, ModelSpec, SAESpec
from saebench.measure import Run, prepare
from saebench.measure.jobs import run_jobs
from saebench.measure.probing import ProbingJob
from saebench.protocols import ProbingProtocol, Task
from saebench.record import Record
from tests.small_world import LENGTH, World
from tests.tiny_models import VOCAB

N_TRAIN, N_TEST = 60, 40


def write_task(folder: Path, name: str, seed: int = 0, documents: int = 0) -> Task:
    """Texts whose words come from the lower or, mostly, the upper half of the vocabulary.

    Where there are ``documents``, neighbouring texts are of the same one.
    """
    generator = np.random.default_rng(seed)
    (folder / name).mkdir(exist_ok=True)
    for part, n in (("train", N_TRAIN), ("test", N_TEST)):
        rows = []
        for label in generator.integers(0, 2, n):
            words = generator.integers(2, VOCAB // 2 + 6, generator.integers(1, 20))
            words = words + label * (VOCAB // 2 - 6)
            text = " ".join(f"w{word}" for word in words)
            of = {"document": f"d{len(rows) * documents // n}"} if documents else {}
            rows.append(json.dumps({"text": text, "label": int(label), **of}))
        (folder / name / f"{part}.jsonl").write_text("\n".join(rows) + "\n")
    return Task(name, *(str(folder / name / f"{part}.jsonl") for part in ("train", "test")))


def prepared(world: World, *tasks: Task, saes=("good", "bad"), batch_size=8, **options) -> Run:
    config = Config(
        model=ModelSpec(str(world.model)),
        data=DataSpec(str(world.data), context_size=LENGTH),
        out=world.folder / "out",
        device="cpu",
        batch_size=batch_size,
        probing=ProbingProtocol(tasks=tasks, **options),
    )
    places = {name: str(world.folder / "saes" / name) for name in saes}
    return prepare(config, [(name, ref, SAESpec(ref)) for name, ref in places.items()])


def measured(run: Run) -> dict[str, Record]:
    return {record.name: record for record in run_jobs(run, [ProbingJob(run, run.targets)])}
