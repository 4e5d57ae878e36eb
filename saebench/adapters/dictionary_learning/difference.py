"""Whether a dictionary reads one model's activation or the difference of two models', and where.

A folder for the hub holds neither layer nor models nor direction. What lies beside the weights may:
the trainer's config, the run's own ``training_config.yaml`` or ``training_metrics.json``; else the path.
Model 0 is the base, model 1 the fine-tuned one; ``difference_ftb`` is fine-tuned minus base.
"""

from __future__ import annotations

import re

from saebench.adapters.dictionary_learning.files import CONFIG_FILE, TRAINER_FILE, place_of
from saebench.adapters.dictionary_learning.trainer import hinted_site, hook_point
from saebench.adapters.reading.choices import Choices
from saebench.adapters.reading.fields import Fields
from saebench.adapters.reading.ours import written_reads
from saebench.adapters.reading.places import DIRECTIONS
from saebench.files import CheckpointFiles
from saebench.sae import Fact

RUN_FILES = ("training_config.yaml", "training_config.json", "training_metrics.json")
TARGETS = ("target", "training.target", "diffing.method.training.target")
_DIRECTED = re.compile(r"(?:SAEdiff|difference)_(ftb|bft)(?![a-z])", re.IGNORECASE)
_DIFFERENCE = re.compile(r"sae[-_]?diff(?![a-z])|sae_difference|diff(?:erence)?[-_]sae")
_SKIPPED = re.compile(r"-s(\d{1,3})(?=-|$)")


def run_files(files: CheckpointFiles) -> tuple[str, ...]:
    """The files beside the weights, or above their folder, that say how the run was made."""
    places = (place_of(files.names, name) for name in (TRAINER_FILE, *RUN_FILES))
    return tuple(path for path in places if path is not None)


def run_fields(files: CheckpointFiles) -> list[Fields]:
    """What those files say, the trainer's config first."""
    return [
        Fields(name, files.yaml(name) if name.endswith(".yaml") else files.json(name))
        for name in run_files(files)
    ]


def run_facts(
    files: CheckpointFiles, fields: list[Fields], choices: Choices
) -> tuple[dict[str, Fact], list[str]]:
    """The hook point, the model and the direction of a difference, as far as they are known."""
    difference = _difference(files.hint, fields, choices)
    site = _site(fields) or hinted_site(files.hint)
    name = next((fact for f in fields if (fact := f.text("trainer.lm_name"))), None)
    notes = []
    if site is None:
        notes.append("neither files nor path say which layer it was trained on: give --set site=…")
    facts = {} if site is None else {"site": site}
    if difference is None:
        if name is not None:
            facts["model"] = name
        if any(run.value(*TARGETS) is not None for run in fields):
            return facts, notes  # the run names the one model that it read
        notes.append(
            f"{CONFIG_FILE} does not say whether it reads one model's activation or a difference of "
            "two models'; taken to read one. --set direction=difference_ftb (fine-tuned minus base) "
            "or difference_bft declares a difference"
        )
        return facts, notes
    facts["difference"] = difference
    if models := _models(fields):
        return {**facts, "models": models}, notes + _skipped(fields)
    if name is not None:
        facts["lm_name"] = name  # both ids joined by a hyphen, which ids contain as well
    notes.append("model 0 is the base and model 1 the fine-tuned one: --set models=BASE,FINETUNED")
    return facts, notes + _skipped(fields)


def _difference(hint: str, fields: list[Fields], choices: Choices) -> Fact | None:
    said = choices.text("direction", tuple(DIRECTIONS))
    if said is not None:
        return Fact(DIRECTIONS[said.value], said.source, "user")
    for run in fields:
        target = run.one_of(("base", "ft", *DIRECTIONS), *TARGETS)
        if target is not None:
            value = DIRECTIONS.get(target.value)
            return None if value is None else Fact(value, target.source)
    for run in fields:
        name = run.text("trainer.wandb_name", "run_name", "wandb_name")
        if name is not None and (match := _DIRECTED.search(name.value)):
            return Fact(_by_name(match), f"{name.source} {match[0]!r}", "assumed")
    if match := _DIRECTED.search(hint):
        return Fact(_by_name(match), f"the path …{match[0]}", "assumed")
    if match := _DIFFERENCE.search(hint.lower()):
        source = f"the path …{match[0]}; fine-tuned minus base, the direction trained by default"
        return Fact(DIRECTIONS["difference_ftb"], source, "assumed")
    return None


def _models(fields: list[Fields]) -> Fact | None:
    """Both models, base first, where saebench wrote them; the trainers' own configs do not list them."""
    return next((ours["models"] for f in fields if "models" in (ours := written_reads(f))), None)


def _by_name(match: re.Match[str]) -> str:
    return DIRECTIONS[f"difference_{match[1].lower()}"]


def _site(fields: list[Fields]) -> Fact | None:
    for run in fields:
        for key in ("trainer.layer", "layer"):
            site = hook_point(run.value(key), run.value("trainer.submodule_name"))
            if site is not None:
                source = f"{run.file}: {key}, of which the output is read"
                return Fact(site, source, "assumed")
    return None


def _skipped(fields: list[Fields]) -> list[str]:
    """A note on the first tokens of each sequence, where the run's name says that they were left out."""
    for run in fields:
        name = run.value("trainer.wandb_name", "run_name", "wandb_name")
        if isinstance(name, str) and (match := _SKIPPED.search(name)):
            return [f"trained without the first {match[1]} tokens of each sequence ({run.file})"]
    return []
