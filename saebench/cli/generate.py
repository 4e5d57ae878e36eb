"""``saebench generate``: its arguments, and what it does with them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from typing import Any

from saebench.generation.settings import GenerationSettings

EPILOG = """\
examples:
  saebench generate gpt2 --out data/faithful --tokens 1_000_000
  saebench generate ./model --out data/own --tokens 500_000 --temperature 0.7 --seed 1
  saebench generate ./model --out data/own --tokens 500_000 --reference heldout.jsonl
                                                       with distances to a text of any data spec
  saebench run saes/a --model ./model --data data/own  what was generated, as data

Run again to go on after an interruption; what is finished is not generated again. OUT is a data set
that datasets.load_dataset(OUT) reads, with a card. Sequences start from BOS (EOS where there is no BOS).
"""


def declare(places: Any, command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add ``generate`` to the commands; ``command`` is what makes a parser for one."""
    usual = GenerationSettings()
    parser = command(
        places, "generate", generate, "have a model write text, as training data", EPILOG
    )
    add = parser.add_argument
    add("model", metavar="MODEL", help="folder or hub id")
    add("--out", required=True, metavar="DIR", help="folder of the data set")
    add("--tokens", required=True, type=int, metavar="N", help="sampled tokens, exactly")
    add("--length", type=int, metavar="L", help="with the start token; default: context, or 128")
    add("--temperature", type=float, default=usual.temperature, metavar="T", help="default: 1")
    add("--top-p", type=float, default=usual.top_p, metavar="P", help="default: 1, every token")
    add("--seed", type=int, default=usual.seed, metavar="S", help="default: 0")
    add("--batch-size", type=int, default=usual.batch_size, metavar="B", help="default: 64")
    add("--precision", default=usual.precision, metavar="REGIME", help="default: float32")
    add("--device", help="default: the GPU where there is one")
    add("--revision", help="commit, tag or branch of a hub model")
    add("--reference", metavar="SPEC", help="data to describe beside it: a data spec as of --data")
    add(
        "--reference-documents",
        action="store_true",
        help="one sequence per document of the reference, cut; default: joined with EOS, all of it",
    )


def generate(values: argparse.Namespace) -> int:
    """Generate, or go on, and print the statistics."""
    from saebench.generation import generate as generated
    from saebench.generation.card import statistics_table
    from saebench.models import LanguageModel

    settings = GenerationSettings(
        tokens=values.tokens,
        length=values.length,
        temperature=values.temperature,
        top_p=values.top_p,
        seed=values.seed,
        batch_size=values.batch_size,
        precision=values.precision,
    )
    model = LanguageModel.load(
        values.model, revision=values.revision, precision=values.precision, device=values.device
    )
    resolved = settings.resolved(model.context_size)
    reference = _open_reference(values, model, resolved) if values.reference else None
    with _bar(settings.tokens) as bar:

        def progress(done: int, wanted: int) -> None:
            bar.update(done - bar.n)

        result = generated(model, settings, values.out, progress=progress)
    if reference is not None and not _describe_reference(values, result, reference):
        print(f"saebench: {values.out}/README.md has no markers and is left alone", file=sys.stderr)
    counts = result.manifest.counts
    print("\n".join(statistics_table(result.manifest)))
    print(f"{counts['tokens']:,} tokens in {counts['sequences']:,} sequences: {values.out}")
    return 0


def _bar(total: int) -> Any:
    """A progress bar on stderr, where that is a terminal."""
    from tqdm import tqdm

    return tqdm(
        total=total,
        desc="generating",
        unit="tok",
        unit_scale=True,
        file=sys.stderr,
        disable=not sys.stderr.isatty(),
    )


def _open_reference(values: argparse.Namespace, model: Any, settings: GenerationSettings) -> Any:
    """The reference's stream; before anything is generated, so that what is wrong with it shows now."""
    from saebench.data import open_stream

    return open_stream(
        values.reference,
        model.tokenizer,
        context_size=int(settings.length or 0),
        n_tokens=settings.tokens,
        mask="bos",
        pack=not values.reference_documents,
        vocab_size=model.vocab_size,
        model=model.id,
    )


def _describe_reference(values: argparse.Namespace, result: Any, stream: Any) -> bool:
    from saebench.generation.comparing import add_reference
    from saebench.report.places import portable

    packed = bool(stream.describe().get("pack"))
    cut = "documents joined with EOS and cut" if packed else "one sequence per document, cut"
    length = result.settings.length
    return add_reference(
        result,
        _sequences(stream, result.settings.batch_size),
        spec=portable(values.reference),  # a data set is published: no folders of ours
        cut=f"{cut} at {length} tokens with the start token",
        packed=packed,
    )


def _sequences(stream: Any, batch_size: int) -> Iterator[Any]:
    """The ids of each sequence of a stream that count: all but BOS."""
    for batch in stream.batches(batch_size):
        for ids, counted in zip(batch.ids, batch.counted, strict=True):
            yield ids[counted].numpy()
