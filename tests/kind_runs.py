"""Runs of the command line on a checkpoint of every kind and the shipped model, each made once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from saebench import cli
from tests import kinds
from tests.kinds import KINDS

SHIPPED = Path(__file__).parents[1] / "fixtures"
DATA = SHIPPED / "text" / "heldout.jsonl"
SEQUENCES, CONTEXT = 8, 32
GATES = """\
[gates]
fve = ">= -1000"
l0 = "0.01..200"
ce_recovered = false
dead_fraction = false
"""
SEVERAL = [name for name, kind in KINDS.items() if kind.writes > 1]
OK, FAILED, USAGE = 0, 1, 4


@dataclass
class Runs:
    """The models, the checkpoints and what runs of them left, each run made once."""

    root: Path
    done: dict[str, tuple[int, Path]] = field(default_factory=dict)

    @property
    def models(self) -> tuple[Path, Path]:
        """The shipped model, and one with slightly other weights."""
        return SHIPPED / "model", self.root / "tuned"

    def path(self, name: str) -> Path:
        """The folder of a kind, written on first use."""
        path = self.root / name / KINDS[name].folder
        return path if path.exists() else kinds.write(name, self.root)

    def options(self, name: str, out: Path) -> list[str]:
        """Everything that a run of a kind needs."""
        kind = KINDS[name]
        models = [f"--model={path}" for path in self.models[: kind.n_models]]
        sizes = [f"--sequences={SEQUENCES}", f"--context-size={CONTEXT}", "--device=cpu"]
        config = [f"--config={self.root / 'gates.toml'}", f"--out={out}", f"--data={DATA}"]
        return [*models, *sizes, *config, *kind.options]

    def command(self, name: str, *more: str, verb: str = "run", out: str | None = None) -> int:
        """The exit code of a command on a kind."""
        options = self.options(name, self.root / "out" / (out or name))
        return cli.main([verb, str(self.path(name)), *options, *more])

    def run(self, name: str) -> tuple[int, Path]:
        """The exit code and the report folder of the one run of a kind."""
        if name not in self.done:
            gate = ["--gate=fve_lowest_reading >= -1000"] if name in SEVERAL else []
            self.done[name] = self.command(name, *gate), self.root / "out" / name
        return self.done[name]

    def record(self, name: str) -> dict[str, Any]:
        """The one record of that run, as strict JSON."""
        (path,) = (self.run(name)[1] / "records").glob("*.json")
        return strict_json(path)

    def card(self, name: str) -> str:
        """The card that the run wrote."""
        return (self.run(name)[1] / "README.md").read_text("utf-8")


def strict_json(path: Path) -> Any:
    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} in {path}")

    return json.loads(path.read_text("utf-8"), parse_constant=refuse)


@contextmanager
def opened(root: Path) -> Iterator[Runs]:
    """Runs below a folder, where they find their models and nothing of the network."""
    found = Runs(root)
    (found.root / "gates.toml").write_text(GATES)
    shutil.copytree(SHIPPED / "model", found.models[1])
    model = AutoModelForCausalLM.from_pretrained(SHIPPED / "model", dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data.add_(0.05 * parameter.data.std() * noise)
    model.save_pretrained(found.models[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(found.root)
        patch.delenv("GITHUB_STEP_SUMMARY", raising=False)
        patch.setattr("saebench.report.has_matplotlib", lambda: False)
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        yield found


def refuse_models(patch: pytest.MonkeyPatch) -> None:
    """Make loading a language model an error."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("a language model was loaded")

    patch.setattr("saebench.measure.run.LanguageModel.open", refuse)
