"""A folder of text that a model wrote: sampled batch by batch, kept shard by shard, resumed after a kill."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from saebench.environment import environment
from saebench.errors import OutputError
from saebench.generation.card import write_card
from saebench.generation.manifest import (
    FINISHED,
    Manifest,
    check_same,
    keep_whole_shards,
    read_manifest,
    vocabulary,
)
from saebench.generation.sampling import Sampler
from saebench.generation.settings import GenerationSettings
from saebench.generation.shards import DATA_FOLDER, read_sequences, write_shard
from saebench.generation.statistics import describe_ids
from saebench.models import LanguageModel
from saebench.whole_files import locked

MIN_SHARD_TOKENS = 2**15  # what a kill may cost: seconds of a small model, minutes of a large one
MAX_SHARD_TOKENS = 2**23
USUAL_SHARDS = 32

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Generated:
    """A finished folder of generated text; ``data`` in it holds nothing but the shards.

    ``vocab_size`` is the model's, not one that the folder says.
    """

    folder: Path
    manifest: Manifest
    vocab_size: int

    @property
    def data(self) -> Path:
        """The folder of the parquet files, with columns ``input_ids``, ``text`` and ``n_tokens``."""
        return self.folder / DATA_FOLDER

    @property
    def settings(self) -> GenerationSettings:
        """The settings, with the length resolved."""
        return GenerationSettings(**self.manifest.settings)

    def sequences(self) -> Iterator[np.ndarray]:
        """The sampled ids ``[t]`` int32 of one sequence after another, without the start token."""
        for shard in self.manifest.shards:
            for row in read_sequences(self.folder / shard["file"]):
                yield row[1:]


def generate(
    model: LanguageModel,
    settings: GenerationSettings,
    out: str | Path,
    *,
    progress: Progress | None = None,
) -> Generated:
    """Have the model write exactly ``settings.tokens`` tokens into the folder ``out``.

    Each sequence starts from BOS (EOS where the tokenizer has no BOS) and ends with EOS or at the
    length; the last is cut. What an earlier call left unfinished is gone on with, and what is finished
    is left alone; at most one shard's work is lost to a kill. ``progress`` is called with the tokens
    done and wanted.

    Raises
    ------
    ModelError : no tokenizer, no start token, a length beyond the context, another precision.
    OutputError : the folder cannot be written to, is damaged, or holds other text.
    """
    folder = Path(out)
    sampler = Sampler(model, settings)
    with writer(folder):
        return write(sampler, folder, progress)


def writer(folder: Path) -> AbstractContextManager[None]:
    """The right to write to a folder, which is made; says on stderr that another process has it."""
    return locked(folder, waiting=partial(_say_waiting, folder))


def write(sampler: Sampler, folder: Path, progress: Progress | None = None) -> Generated:
    """Do what :func:`generate` does, in a folder that the caller holds with :func:`writer`."""
    model = sampler.model
    wanted = Manifest(
        settings=sampler.settings.to_json(),
        model=model.identity(),
        vocabulary=vocabulary(model.tokenizer, sampler.start_id, sampler.eos_id),
    )
    manifest = read_manifest(folder)
    if manifest is None:
        _check_free(folder)
        manifest = wanted
    check_same(folder, manifest, wanted)
    keep_whole_shards(folder, manifest)
    if not manifest.finished:
        _go_on(sampler, folder, manifest, progress)
    return Generated(folder, manifest, model.vocab_size)


def _check_free(folder: Path) -> None:
    """Raise :class:`OutputError` where a new data set would lie among other things."""
    others = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    if others:
        raise OutputError(
            f"an empty folder for generated text, {folder}",
            f"it holds {', '.join(others[:5])}{' …' if others[5:] else ''}",
            "Choose another folder, or move these files.",
        )


def _say_waiting(folder: Path) -> None:
    with suppress(OutputError):  # what is wrong with it shows when it is our turn
        found = read_manifest(folder)
        done = f", which has {found.counts['tokens']:,} tokens" if found is not None else ""
        print(
            f"saebench: another process is writing to {folder}{done}: waiting for it",
            file=sys.stderr,
            flush=True,
        )


def _go_on(sampler: Sampler, folder: Path, manifest: Manifest, progress: Progress | None) -> None:
    """Write the shards that are missing, then the statistics and the card."""
    now = environment()
    if now not in manifest.versions:
        manifest.versions.append(now)
    try:
        (folder / DATA_FOLDER).mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"writing to {folder}", error.strerror or str(error), "Choose another folder"
        ) from error
    manifest.write(folder)  # before any shard, so that a folder with shards is known as ours
    wanted = sampler.settings.tokens
    while (done := sum(shard["n_tokens"] for shard in manifest.shards)) < wanted:
        if progress is not None:
            progress(done, wanted)
        number = len(manifest.shards)
        sequences = _shard_sequences(sampler, number, done, progress)
        manifest.shards.append(write_shard(folder, number, sequences, sampler.model.tokenizer))
        manifest.write(folder)
    if progress is not None:
        progress(wanted, wanted)
    vocab_size = sampler.model.vocab_size
    text = Generated(folder, manifest, vocab_size).sequences()
    manifest.statistics = describe_ids(text, vocab_size=vocab_size, eos_id=sampler.eos_id).to_json()
    manifest.status = FINISHED
    write_card(folder, manifest)
    manifest.write(folder)


def _shard_sequences(
    sampler: Sampler, number: int, done: int, progress: Progress | None
) -> list[np.ndarray]:
    """The sequences of a shard after ``done`` tokens, cut where the wanted number is reached."""
    wanted = sampler.settings.tokens
    per_shard = batches_per_shard(sampler.settings)
    sequences: list[np.ndarray] = []
    for index in range(number * per_shard, (number + 1) * per_shard):
        for row in sampler.batch(index):
            sequences.append(row[: 1 + wanted - done])
            done += len(sequences[-1]) - 1
            if done == wanted:
                return sequences
        if progress is not None:
            progress(done, wanted)
    return sequences


def batches_per_shard(settings: GenerationSettings) -> int:
    """How many batches make a shard: a function of the settings, so that resuming finds the same."""
    tokens = min(max(settings.tokens // USUAL_SHARDS, MIN_SHARD_TOKENS), MAX_SHARD_TOKENS)
    largest = settings.batch_size * ((settings.length or 2) - 1)
    return max(1, round(tokens / largest))
