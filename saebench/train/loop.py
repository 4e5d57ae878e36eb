"""The training loop: activations through a shuffling buffer into one or more trainers."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from saebench.data import TokenStream, open_stream
from saebench.errors import ConfigError, ModelError
from saebench.models import LanguageModel
from saebench.sae import SAE
from saebench.train.activity import Reading
from saebench.train.buffer import ShuffleBuffer
from saebench.train.columns import Columns
from saebench.train.finished import finished
from saebench.train.history import Log, OnLog, Row, heldout_of
from saebench.train.inputs import Inputs
from saebench.train.outcome import check_saved, may_save
from saebench.train.progress import Progress, announce, shown
from saebench.train.provenance import provenance_of
from saebench.train.recipe import Recipe
from saebench.train.recipe_files import check_shared, load_recipes
from saebench.train.save import check_folder, check_layout, save_checkpoint
from saebench.train.start import Weights
from saebench.train.step import Trainer
from saebench.train.streams import named, open_models, rows_of
from saebench.train.summary import summary


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
    recipe: Recipe,
    *,
    model: LanguageModel | None = None,
    others: Sequence[LanguageModel] | None = None,
    progress: Progress = None,
) -> TrainResult:
    """Train the SAE of a recipe, and save it where the recipe says so.

    ``model`` and ``others`` (those of the recipe, in its order) save loading them again. ``progress``
    shows a bar on stderr, by default where that is a terminal; a function gets a line now and then
    instead. Raises a :class:`SaebenchError` before
    training when models, data, sites or output folder cannot be used.
    """
    return train_many([recipe], model=model, others=others, progress=progress)[0]


def train_many(
    recipes: Sequence[Recipe],
    *,
    model: LanguageModel | None = None,
    others: Sequence[LanguageModel] | None = None,
    progress: Progress = None,
) -> list[TrainResult]:
    """Train several SAEs from one stream: each model runs once for all of them. See :func:`train`.

    Raises :class:`ConfigError` when the recipes differ in what the stream is, and after training,
    with the other SAEs saved, when one that is not usable would replace an earlier checkpoint.
    """
    check_shared(tuple(recipes))
    for recipe in recipes:
        if recipe.out:
            check_folder(recipe.out, overwrite=recipe.overwrite, layout=recipe.layout)
    shared = recipes[0]
    if model is None:
        announce(progress, f"loading {' and '.join((shared.model, *shared.others))}")
    models = open_models(shared, model, others)
    recipes = named(recipes, models)
    rows = rows_of(recipes, models)
    _check_layouts(recipes, rows.widths)
    _check_space(recipes, rows.widths)
    reading = Reading(shared, models, rows.wanted, _stream(shared, shared.data, models[0]))
    apart = _stream(shared, shared.held_out, models[0]) if shared.held_out else reading.stream
    heldout_reading = Reading(shared, models, rows.wanted, apart)
    announce(progress, f"reading {shared.heldout_tokens:,} held-out tokens")
    heldout, n_sequences = heldout_reading.first(shared.heldout_tokens)
    skip = 0 if shared.held_out else n_sequences
    run = train_on(
        reading.forever(skip),
        recipes,
        columns=rows.columns,
        heldout=heldout,
        device=heldout.device,
        progress=progress,
    )
    identities = [one.identity() for one in models]
    results, refused = [], []
    for recipe, trainer, history in zip(recipes, run.trainers, run.histories, strict=True):
        provenance = provenance_of(
            recipe,
            trainer,
            history,
            models=identities,
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
                sae,
                recipe.out,
                provenance=provenance,
                history=history,
                overwrite=recipe.overwrite,
                layout=recipe.layout,
            )
        results.append(TrainResult(sae, history, provenance, run.tokens_per_second, recipe.out))
    check_saved(refused, n_saved=sum(bool(result.folder) for result in results))
    return results


def train_recipes(
    paths: Sequence[str | Path], *, overwrite: bool = False, progress: Progress = None
) -> Iterator[str]:
    """Train the SAEs of one or more recipe files from one stream; yields a line about each.

    Raises :class:`ConfigError` when a recipe names no folder to save in.
    """
    recipes = [recipe for path in paths for recipe in load_recipes(path, needs_out=True)]
    if overwrite:
        recipes = [replace(recipe, overwrite=True) for recipe in recipes]
    for recipe, result in zip(recipes, train_many(recipes, progress=progress), strict=True):
        yield summary(
            recipe,
            result.provenance,
            result.history[-1],
            folder=result.folder,
            d_sae=result.sae.cfg.d_sae,
            tokens_per_second=result.tokens_per_second,
        )


def train_on(
    chunks: Iterable[Tensor],
    recipes: Sequence[Recipe],
    *,
    columns: Sequence[Columns] | None = None,
    heldout: Tensor | None = None,
    device: torch.device | str = "cpu",
    progress: Progress = None,
    on_log: OnLog | None = None,
) -> Run:
    """Train SAEs on activations given as ``chunks`` of ``[n, W]``; needs no model and no text.

    Each SAE takes its ``columns``, by default all: ``d_in``, or the width of its sources side by side.
    Reads ``tokens`` rows, fewer where the chunks end before. ``heldout[m, W]`` is measured every
    ``log_every`` steps and at the end; ``on_log(which SAE, row)`` sees each row of history.
    Raises :class:`DataError` when there is no row, and :class:`ConfigError` when the columns are not
    as many activations as a recipe reads.
    """
    check_shared(tuple(recipes))
    shared = recipes[0]
    buffer = ShuffleBuffer(
        _first_rows(chunks, shared.tokens),
        capacity=min(shared.buffer_size, shared.tokens),
        batch_size=shared.batch_size,
        seed=shared.shuffle_seed,
    )
    announce(progress, f"reading the first {buffer.capacity:,} of {shared.tokens:,} tokens")
    started = time.perf_counter()
    first = buffer.fill()
    columns = [Columns.whole(first.shape[1])] * len(recipes) if columns is None else columns
    trainers = tuple(
        Trainer(recipe, _width(recipe, taken), device=device)
        for recipe, taken in zip(recipes, columns, strict=True)
    )
    for trainer, taken in zip(trainers, columns, strict=True):
        trainer.start(taken.of(first))
    log = Log(trainers, heldout_of(trainers, columns, heldout, device), on_log)
    stats: list[Row] = []
    with shown(shared.tokens, progress, n_saes=len(recipes), started=started) as bar:
        for step, x in enumerate(buffer, start=1):
            inputs = {taken: taken.of(x) for taken in dict.fromkeys(columns)}
            stats = [
                vars(trainer.step(inputs[taken]))
                for trainer, taken in zip(trainers, columns, strict=True)
            ]
            bar.update(x.shape[0])
            if step % shared.log_every == 0:
                bar.set_postfix(log.write(stats))
        if log.last_step < trainers[0].steps:
            bar.set_postfix(log.write(stats))
    return Run(trainers, tuple(map(tuple, log.histories)), time.perf_counter() - started)


def _width(recipe: Recipe, columns: Columns) -> int:
    """The width of one of the activations that a recipe reads side by side."""
    n_sources = len(recipe.sources)
    if columns.width % n_sources:
        raise ConfigError(
            f'{n_sources} activations side by side for reads = "{recipe.reads}"',
            f"rows of width {columns.width}",
            "Give activations of one width.",
        )
    return columns.width // n_sources


def _check_layouts(recipes: Sequence[Recipe], widths: Sequence[int]) -> None:
    """Raise :class:`OutputError` where a layout has no place for what would be trained."""
    for recipe, d_in in zip(recipes, widths, strict=True):
        if recipe.out:
            one_latent = Weights(d_in, 1, recipe.seed, len(recipe.sources))
            inputs = Inputs(recipe, d_in, torch.device("cpu"))
            check_layout(finished(recipe, one_latent, inputs, 0.0), recipe.layout)


def _check_space(recipes: Sequence[Recipe], widths: Sequence[int]) -> None:
    """Raise :class:`OutputError` unless the matrices of all SAEs fit where they are to be saved.

    New checkpoints beside each other add up; those that replace others need space one at a time.
    """
    new: dict[Path, int] = defaultdict(int)
    largest: dict[Path, int] = defaultdict(int)
    for recipe, d_in in zip(recipes, widths, strict=True):
        n_bytes = (
            2
            * len(recipe.sources)
            * d_in
            * recipe.width(d_in)
            * getattr(torch, recipe.dtype).itemsize
        )
        if not recipe.out:
            continue
        folder = Path(recipe.out)
        new[folder.parent] += 0 if folder.exists() else n_bytes
        largest[folder.parent] = max(n_bytes, largest[folder.parent])
    last = {Path(recipe.out).parent: recipe for recipe in recipes if recipe.out}
    for parent, recipe in last.items():
        n_bytes = max(new[parent], largest[parent])
        check_folder(recipe.out, overwrite=recipe.overwrite, n_bytes=n_bytes, layout=recipe.layout)


def _first_rows(chunks: Iterable[Tensor], n: int) -> Iterator[Tensor]:
    for chunk in chunks:
        yield chunk[:n]
        n -= len(chunk)
        if n <= 0:
            return


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
