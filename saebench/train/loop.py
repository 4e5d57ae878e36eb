"""The training loop: activations through a shuffling buffer into one or more trainers."""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from saebench.data import TokenStream, open_stream
from saebench.errors import ModelError
from saebench.models import LanguageModel
from saebench.sae import SAE
from saebench.sites import parse_site
from saebench.train.activity import Reading
from saebench.train.buffer import ShuffleBuffer
from saebench.train.heldout import HeldOut
from saebench.train.outcome import check_saved, fault, may_save
from saebench.train.provenance import provenance_of
from saebench.train.recipe import Recipe, check_shared, load_recipes
from saebench.train.save import check_folder, save_checkpoint
from saebench.train.step import Trainer

Row = Mapping[str, Any]
OnLog = Callable[[int, Row], None]


@dataclass(frozen=True)
class TrainResult:
    """A trained SAE, its ``history`` (a row per held-out measurement) and where it came from.

    ``tokens_per_second`` counts activations through the whole loop, the language model included;
    ``folder`` is where the checkpoint was saved ("" if nowhere).
    """

    sae: SAE
    history: tuple[Row, ...]
    provenance: Mapping[str, Any]
    tokens_per_second: float
    folder: str = ""


@dataclass(frozen=True)
class Run:
    """What the loop leaves: trainers, a history each, and the time it took in seconds."""

    trainers: tuple[Trainer, ...]
    histories: tuple[tuple[Row, ...], ...]
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """Activations trained on per second; every trainer sees each of them."""
        return self.trainers[0].tokens / max(self.seconds, 1e-9)


def train(
    recipe: Recipe, *, model: LanguageModel | None = None, progress: bool | None = None
) -> TrainResult:
    """Train the SAE of a recipe, and save it where the recipe says so.

    ``model`` saves loading it again. ``progress`` shows a bar on stderr, by default where that is a
    terminal. Raises a :class:`SaebenchError` before training when model, data, site or output folder
    cannot be used.
    """
    return train_many([recipe], model=model, progress=progress)[0]


def train_many(
    recipes: Sequence[Recipe],
    *,
    model: LanguageModel | None = None,
    progress: bool | None = None,
) -> list[TrainResult]:
    """Train several SAEs from one stream: the model runs once for all of them. See :func:`train`.

    Raises :class:`ConfigError` when the recipes differ in what the stream is, and after training,
    with the other SAEs saved, when one that is not usable would replace an earlier checkpoint.
    """
    check_shared(tuple(recipes))
    for recipe in recipes:
        if recipe.out:
            check_folder(recipe.out, overwrite=recipe.overwrite)
    shared = recipes[0]
    if model is None:
        model = LanguageModel.load(
            shared.model,
            revision=shared.revision,
            precision=shared.model_precision,
            device=shared.device,
        )
    hook_name = parse_site(shared.site, n_layers=model.n_layers).hook_name
    recipes = [replace(recipe, site=hook_name) for recipe in recipes]
    site = model.site(hook_name)
    _check_space(recipes, model.width_at(site))
    reading = Reading(shared, model, site, _stream(shared, shared.data, model))
    apart = _stream(shared, shared.held_out, model) if shared.held_out else reading.stream
    heldout_reading = Reading(shared, model, site, apart)
    heldout, n_sequences = heldout_reading.first(shared.heldout_tokens)
    skip = 0 if shared.held_out else n_sequences
    run = train_on(
        reading.forever(skip), recipes, heldout=heldout, device=heldout.device, progress=progress
    )
    results, refused = [], []
    for recipe, trainer, history in zip(recipes, run.trainers, run.histories, strict=True):
        provenance = provenance_of(
            recipe,
            trainer,
            history,
            model=model.identity(),
            data={**reading.describe(), "first_sequence": skip},
            heldout={**heldout_reading.describe(), "tokens": len(heldout)},
            tokens_per_second=run.tokens_per_second,
        )
        sae = trainer.sae()
        if recipe.out and not may_save(recipe, history[-1]):
            refused.append((recipe, history[-1], trainer.schedule.peak))
            continue
        if recipe.out:
            save_checkpoint(
                sae, recipe.out, provenance=provenance, history=history, overwrite=recipe.overwrite
            )
        results.append(TrainResult(sae, history, provenance, run.tokens_per_second, recipe.out))
    check_saved(refused, n_saved=sum(bool(result.folder) for result in results))
    return results


def train_recipes(
    paths: Sequence[str | Path], *, overwrite: bool = False, progress: bool | None = None
) -> Iterator[str]:
    """Train the SAEs of one or more recipe files from one stream; yields a line about each.

    Raises :class:`ConfigError` when a recipe names no folder to save in.
    """
    recipes = [recipe for path in paths for recipe in load_recipes(path, needs_out=True)]
    if overwrite:
        recipes = [replace(recipe, overwrite=True) for recipe in recipes]
    for recipe, result in zip(recipes, train_many(recipes, progress=progress), strict=True):
        final = result.provenance["final"]
        fve = "not evaluable" if final["fve"] is None else f"{final['fve']:.4f}"
        broken = fault(result.history[-1])
        warning = f" ({broken}: not usable)" if broken else ""
        samples = result.provenance["training_samples"]
        if samples < result.sae.cfg.d_sae:
            warning += f" (only {samples:,} different activations: figures on them say nothing)"
        yield (
            f"{result.folder}: {recipe.architecture}, k {recipe.k}, {result.sae.cfg.d_sae} latents, "
            f"held-out FVE {fve}, L0 {final['l0']:.1f}{warning}, {result.tokens_per_second:,.0f} tokens/s"
        )


def train_on(
    chunks: Iterable[Tensor],
    recipes: Sequence[Recipe],
    *,
    heldout: Tensor | None = None,
    device: torch.device | str = "cpu",
    progress: bool | None = None,
    on_log: OnLog | None = None,
) -> Run:
    """Train SAEs on activations given as ``chunks`` of ``[n, d_in]``; needs no model and no text.

    Reads ``tokens`` rows, fewer where the chunks end before. ``heldout[m, d_in]`` is measured every
    ``log_every`` steps and at the end; ``on_log(which SAE, row)`` sees each row of history.
    Raises :class:`DataError` when there is no row.
    """
    check_shared(tuple(recipes))
    shared = recipes[0]
    buffer = ShuffleBuffer(
        _first_rows(chunks, shared.tokens),
        capacity=min(shared.buffer_size, shared.tokens),
        batch_size=shared.batch_size,
        seed=shared.shuffle_seed,
    )
    started = time.perf_counter()
    first = buffer.fill()
    trainers = tuple(Trainer(recipe, first.shape[1], device=device) for recipe in recipes)
    for trainer in trainers:
        trainer.start(first)
    log = _Log(trainers, None if heldout is None else HeldOut(heldout.to(device)), on_log)
    stats: list[Row] = []
    with _bar(shared.tokens, progress) as bar:
        for step, x in enumerate(buffer, start=1):
            stats = [vars(trainer.step(x)) for trainer in trainers]
            bar.update(x.shape[0])
            if step % shared.log_every == 0:
                bar.set_postfix(log.write(stats))
        if log.last_step < trainers[0].steps:
            bar.set_postfix(log.write(stats))
    return Run(trainers, tuple(map(tuple, log.histories)), time.perf_counter() - started)


class _Log:
    """A history per trainer, with the held-out figures of every row."""

    def __init__(
        self, trainers: Sequence[Trainer], heldout: HeldOut | None, on_log: OnLog | None
    ) -> None:
        self.trainers = trainers
        self.heldout = heldout
        self.on_log = on_log
        self.histories: list[list[Row]] = [[] for _ in trainers]
        self.last_step = 0
        self._started = time.perf_counter()

    def write(self, stats: Sequence[Row]) -> dict[str, str]:
        """Add a row to each history; returns the first trainer's figures for the progress bar."""
        for which, trainer in enumerate(self.trainers):
            measured = {} if self.heldout is None else self.heldout.measure(trainer.sae())
            row = {
                "step": trainer.steps,
                "tokens": trainer.tokens,
                **stats[which],
                **measured,
                "dead_share": trainer.dead_share,
                "seconds": round(time.perf_counter() - self._started, 3),
            }
            self.histories[which].append(row)
            if self.on_log is not None:
                self.on_log(which, row)
        self.last_step = self.trainers[0].steps
        newest = self.histories[0][-1]
        shown = {name: newest.get(name) for name in ("loss", "fve", "l0")}
        return {name: f"{value:.4g}" for name, value in shown.items() if value is not None}


def _check_space(recipes: Sequence[Recipe], d_in: int) -> None:
    """Raise :class:`OutputError` unless the matrices of all SAEs fit where they are to be saved.

    New checkpoints beside each other add up; those that replace others need space one at a time.
    """
    new: dict[Path, int] = defaultdict(int)
    largest: dict[Path, int] = defaultdict(int)
    for recipe in recipes:
        n_bytes = 2 * d_in * recipe.width(d_in) * getattr(torch, recipe.dtype).itemsize
        if not recipe.out:
            continue
        folder = Path(recipe.out)
        new[folder.parent] += 0 if folder.exists() else n_bytes
        largest[folder.parent] = max(n_bytes, largest[folder.parent])
    last = {Path(recipe.out).parent: recipe for recipe in recipes if recipe.out}
    for parent, recipe in last.items():
        n_bytes = max(new[parent], largest[parent])
        check_folder(recipe.out, overwrite=recipe.overwrite, n_bytes=n_bytes)


def _first_rows(chunks: Iterable[Tensor], n: int) -> Iterator[Tensor]:
    for chunk in chunks:
        yield chunk[:n]
        n -= len(chunk)
        if n <= 0:
            return


def _bar(tokens: int, progress: bool | None) -> tqdm[Any]:
    shown = sys.stderr.isatty() if progress is None else progress
    return tqdm(total=tokens, disable=not shown, unit="tok", unit_scale=True, desc="training")


def _stream(recipe: Recipe, spec: str, model: LanguageModel) -> TokenStream:
    if model.tokenizer is None:
        raise ModelError(
            f"text for model {model.id!r}",
            "the model has no tokenizer",
            "Load it with its tokenizer.",
        )
    return open_stream(
        spec,
        model.tokenizer,
        context_size=recipe.context_size,
        mask=recipe.mask,
        vocab_size=model.vocab_size,
        prepend_bos=recipe.prepend_bos,
        model=model.id,
        device=recipe.device,
    )
