"""What a run would do, said before it does it: checkpoints, forward passes, a rough estimate of time."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from saebench.config import Config, SAESpec, configured_gates
from saebench.measure.cases import Case, identified
from saebench.measure.crosscoder import why_not
from saebench.measure.difference.job import text_of
from saebench.measure.fake_features_texts import Plan
from saebench.measure.main_pass import PREDICTIONS, level
from saebench.measure.measuring import case_parts, missing_cases, missing_targets, parts
from saebench.measure.run import Run, Target, prepare
from saebench.passes import Subject
from saebench.sae import SAEConfig

TRIAL = 1024  # side of the matrix product that the machine's speed is read from


def plan(
    config: Config,
    entries: Sequence[tuple[str, str, SAESpec]],
    groups: Mapping[str, Sequence[str]] | None = None,
) -> str:
    """The plan as text. Opens checkpoints, model and data, and runs no batch.

    ``groups`` are names of checkpoints by the name of their group.
    """
    run = prepare(config, entries)
    lacking = missing_targets(run, {part.name: part.keys(run) for part in parts(config)})
    missing = lacking.get("", [])
    stream, batch_size = run.stream, config.batch_size
    n_sequences, n_tokens = stream.n_sequences or 0, stream.n_tokens or 0
    lines = [
        *(f"model        {item.id}, {item.digest[:12]}" for item in run.located),
        f"data         {n_sequences:,} sequences of up to {stream.context_size}: {n_tokens:,} tokens",
        f"checkpoints  {len(run.targets)}, of which {len(run.targets) - len(missing)} are already measured",
    ]
    specs = {name: spec for name, _, spec in entries}
    for target in run.targets:
        cfg = target.checkpoint.sae.cfg
        gates = configured_gates(config, target.name, specs[target.name])
        done = "to measure" if target in missing else "already measured"
        lines.append(
            f"  {target.name}: {cfg.architecture} {cfg.d_in} → {cfg.d_sae} at {where(cfg)}, "
            f"{len(gates)} gates, {done}"
        )
        if target in missing and (pending := target.checkpoint.sae.pending):
            lines.append(
                f"    its files hold no {' and no '.join(pending)}: estimated on the run's first sequences"
            )
    for name, members in (groups or {}).items():
        n_pairs = len(members) * (len(members) - 1) // 2
        lines.append(f"group        {name}: {len(members)} checkpoints, {n_pairs} pairs")
    lines += further(run, lacking)
    every = {part.suite: (part.cases(run), part.keys(run)) for part in case_parts(config)}
    missing_of = missing_cases(run, every)
    lines += in_cases(run, missing_of)
    if not missing:
        others = (
            "only those on other texts" if lacking or missing_of else "none: every record is there"
        )
        return "\n".join([*lines, f"passes       {others}"])
    subjects = [run.subject(target) for target in missing]
    written = {reading for subject in subjects for reading in subject.writes}
    splices = sum(len(subject.writes) for subject in subjects)
    predictions = level(run) == PREDICTIONS
    n_batches = -(-n_sequences // batch_size)
    n_models = len({reading.model for reading in written})
    suffixes = (n_models + 2 * len(written) + splices) * n_batches if predictions else 0
    prefixes = n_batches * len(run.models)
    lines.append(
        f"passes       {prefixes} prefixes (one a batch and model, for all checkpoints), "
        f"{suffixes} suffixes"
    )
    parameters = sum(weight.numel() for m in run.models for weight in m.model.parameters())
    device = run.models[0].device
    seconds = work(subjects, parameters, n_tokens, predictions) / machine_speed(device)
    alone = not missing_of and not set(lacking) - {""}
    of_it = "" if alone else " of the pass over the run's own text alone"
    return "\n".join(
        [*lines, f"estimate     about {shown(seconds)} for the matrix products{of_it}"]
    )


def further(run: Run, lacking: Mapping[str, Sequence[Target]]) -> list[str]:
    """What is read beside the run's own text, and compared."""
    lines = []
    if targets := lacking.get("fake_features"):
        asked = Plan.of(run)
        lines.append(
            f"random text  for {len(targets)} checkpoints: {asked.protocol.n_sequences:,} sequences of "
            f"{asked.length}, drawn uniformly, by frequency, and shuffled"
        )
    if targets := lacking.get("probing"):
        texts = sum(len(part.labels) for split in run.tasks.values() for part in split)
        lines.append(
            f"probes       for {len(targets)} checkpoints: {len(run.tasks)} tasks, {texts:,} texts"
        )
    lines += [f"difference   {_differences(run, t)}" for t in [lacking.get("difference")] if t]
    lines += [f"crosscoder   {_crosscoders(t)}" for t in [lacking.get("crosscoder")] if t]
    lines += [f"causal       {_ablations(run, t)}" for t in [lacking.get("causal")] if t]
    return lines


def _differences(run: Run, targets: Sequence[Target]) -> str:
    """Where differences of two models are measured."""
    n = sum(target.checkpoint.sae.cfg.difference is not None for target in targets)
    if not n:
        return f"none of {len(targets)} checkpoints reads the difference of two models"
    text = text_of(run)  # which the identity of the records has read
    if text is None:
        return (
            f"for {_of(n, targets)}: on the run's own text, which labels no tokens; no further pass"
        )
    prompts = f"{len(text.rows):,} labelled prompts of {run.config.difference.text}"
    return f"for {_of(n, targets)}: {prompts}, one more pass of each model"


def _crosscoders(targets: Sequence[Target]) -> str:
    """Which latents are told apart."""
    n = sum(not why_not(target.checkpoint.sae) for target in targets)
    if not n:
        return f"none of {len(targets)} checkpoints is a crosscoder over two models"
    return f"for {_of(n, targets)}: classes and scaling of latents; no further pass"


def _ablations(run: Run, targets: Sequence[Target]) -> str:
    """How many ablations there may be of each checkpoint that reads one activation of each model."""
    asked = run.config.causal
    sizes = [cfg for cfg in (target.checkpoint.sae.cfg for target in targets) if _ablated(cfg)]
    if not sizes:
        return f"none of {len(targets)} checkpoints reads one activation of one model or of two"
    parts = []
    for n_models, also in ((1, ""), (2, f" (and {asked.n_controls:,} of each other class)")):
        wide = [cfg.d_sae for cfg in sizes if cfg.n_sources == n_models]
        if wide:
            noun = "model" if n_models == 1 else "models"
            parts.append(
                f"for {_of(len(wide), targets)}: up to {min(asked.max_latents, max(wide)):,} latents{also} × "
                f"{asked.n_probes} probes × {n_models} {noun}, {1 + n_models} directions each"
            )
    return "; ".join(parts)


def _ablated(cfg: SAEConfig) -> bool:
    """Whether it writes what it reads: one activation of each of at most two models."""
    models = {source.model for source in cfg.reads}
    return cfg.n_sources == len(models) <= 2 and not cfg.is_transcoder


def _of(n: int, targets: Sequence[Target]) -> str:
    """``2 checkpoints``, ``1 of 3 checkpoints``."""
    noun = "checkpoint" if len(targets) == 1 else "checkpoints"
    return f"{n} {noun}" if n == len(targets) else f"{n} of {len(targets)} {noun}"


def in_cases(run: Run, missing: Mapping[str, Sequence[Case]]) -> list[str]:
    """The cases of each suite, what is read for those to measure, and what stands in the way of others."""
    lines = []
    for part in case_parts(run.config):
        cases, left = part.cases(run), missing.get(part.suite, ())
        names = ", ".join(dict.fromkeys(case.case for case in cases))
        lines.append(f"{part.suite:<12} {len(cases)} cases ({names}), {len(left)} to measure")
        found = {case.case: identified(run, case, part.suite, part.identity) for case in left}
        bad = {name: why for name, said in found.items() if (why := _failed(said))}
        lines += [f"             {name} cannot be measured: {why}" for name, why in bad.items()]
        good = [name for name in found if name not in bad]
        if good:
            lines.append(f"             {_reading(run, part.suite, good)}")
    return lines


def _failed(said: Mapping[str, Any]) -> str:
    """Why a case cannot be identified, wherever its identity says so; empty where it can."""
    inner = (_failed(value) for value in said.values() if isinstance(value, Mapping))
    return str(said.get("failed") or next((why for why in inner if why), ""))


def _reading(run: Run, suite: str, names: Sequence[str]) -> str:
    """What the cases of a suite take beside the pass over the run's own text, in words."""
    if suite == "portability":
        return (
            f"the text again through the model and {len(names)} variants, with their continuations"
        )
    texts = sum(_texts(run, name) for name in names)
    if suite == "steering":
        asked = run.config.steering
        swept, ends = len(asked.alphas) + 1, 2 * (asked.n_random + asked.n_latents)
        return (
            f"for each checkpoint {swept + ends} completions of up to {asked.max_new_tokens} tokens of "
            f"up to {asked.n_prompts} prompts"
        )
    how = ""
    if suite == "cv_probing":
        asked_cv = run.config.cross_validation
        how = (
            f"; for each checkpoint {asked_cv.folds} × {asked_cv.repeats} fits and up to "
            f"{asked_cv.n_permutations:,} shuffles of 5 arms"
        )
    return f"{texts:,} texts{how}"


def _texts(run: Run, concept: str) -> int:
    """How many texts all splits of a concept have."""
    opened = run.concept(concept)
    splits = (opened.train, opened.held_out, opened.control)
    return sum(len(split.labels) for split in splits if split is not None)


def where(cfg: SAEConfig) -> str:
    """What a checkpoint reads, in few words."""
    names = cfg.describe(cfg.reads)
    return ", ".join(names) if len(names) < 4 else f"{names[0]} … {names[-1]}"


def work(subjects: Sequence[Subject], parameters: int, n_tokens: int, predictions: bool) -> float:
    """Floating-point operations of the pass: two per parameter and token for each forward.

    A continuation counts as half a forward, which it is on average over sites; ablations of a residual
    stream cost next to nothing.
    """
    forwards = 1 + 0.5 * sum(len(s.writes) for s in subjects) if predictions else 0.5
    encoders = sum(s.sae.cfg.width_in * s.sae.cfg.d_sae for s in subjects)
    return 2.0 * n_tokens * (forwards * parameters + encoders)


def machine_speed(device: torch.device) -> float:
    """Operations per second of a float32 matrix product here, from one short trial."""
    a = torch.randn(TRIAL, TRIAL, device=device)
    (a @ a).sum().item()
    started = time.perf_counter()
    (a @ a).sum().item()
    return 2.0 * TRIAL**3 / (time.perf_counter() - started)


def shown(seconds: float) -> str:
    """``40 s``, ``7 min``, ``3.2 h``."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
