"""Data specs to token streams: the one door for text, token ids, drawn tokens and generated text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from saebench.data.documents import (
    GENERATED_IDS,
    Beginning,
    Documents,
    LocalDocuments,
    open_documents,
)
from saebench.data.packing import Layout
from saebench.data.random_ids import random_stream, unigram_probabilities
from saebench.data.shuffled import shuffled_stream
from saebench.data.stream import Counting, MaskPolicy, Row, TokenStream
from saebench.data.vocabulary import check_generated, check_vocabulary
from saebench.data_specs import (
    DataSource,
    Faithful,
    Shuffled,
    Text,
    Uniform,
    Unigram,
    parse_spec,
)
from saebench.errors import DataError


def open_stream(
    spec: str,
    tokenizer: Any,
    *,
    context_size: int,
    n_sequences: int | None = None,
    n_tokens: int | None = None,
    mask: MaskPolicy = "special",
    pack: bool = True,
    vocab_size: int | None = None,
    prepend_bos: bool = True,
    model: str = "",
    device: str | None = None,
) -> TokenStream:
    """The token stream of a data spec: see :mod:`saebench.data_specs` for what it may be.

    ``pack=True`` joins documents with EOS between them and cuts the result into sequences of
    ``context_size`` that each start with BOS (where the tokenizer has one and ``prepend_bos``); the
    incomplete rest is dropped unless it is all there is. ``pack=False`` makes one sequence of each
    document, truncated. Token ids that a model generated are never joined: each of its sequences is one,
    or several where it is longer. ``mask`` says which positions count: ``special`` all but the
    tokenizer's special tokens, ``bos`` all but BOS, ``none`` all; of ids drawn at random all count but
    BOS at position 0. Those are drawn from ``range(vocab_size)``, else from the tokenizer's ids.
    ``device`` is where a model generates text that is not in the cache; None is a GPU if there is one.

    Raises :class:`DataError` (:class:`HubError` for an unreachable hub) on data that cannot be read,
    random ids without a limit, and a tokenizer that is not the model's.
    """
    check_vocabulary(tokenizer, vocab_size, model)
    reader = Reader(tokenizer, context_size, mask, pack, vocab_size, prepend_bos, model, device)
    stream = reader.open(parse_spec(spec), Limits(n_sequences, n_tokens))
    stream.check()
    return stream


@dataclass(frozen=True)
class Limits:
    """How much to read of a stream; None is no limit."""

    n_sequences: int | None = None
    n_tokens: int | None = None

    def within(self, other: Uniform | Unigram) -> Limits:
        """The smaller ones of these limits and those that a spec carries."""
        return Limits(
            _least(self.n_sequences, other.n_sequences), _least(self.n_tokens, other.n_tokens)
        )


@dataclass(frozen=True)
class Reader:
    """How text becomes tokens: see :func:`open_stream` for the fields."""

    tokenizer: Any
    context_size: int
    mask: MaskPolicy = "special"
    pack: bool = True
    vocab_size: int | None = None
    prepend_bos: bool = True
    model: str = ""
    device: str | None = None

    def open(self, source: DataSource, limits: Limits) -> TokenStream:
        """The stream of a parsed spec; raises :class:`DataError` as :func:`open_stream` does."""
        if isinstance(source, Text):
            return self._text(open_documents(str(source)), limits)
        if isinstance(source, Faithful):
            return self._generated(source, limits)
        if isinstance(source, Shuffled):
            of = self.open(source.of, limits)
            stream = shuffled_stream(
                of,
                seed=source.random_seed,
                within=source.within,  # type: ignore[arg-type]
            )
            return stream.named(str(source))
        return self._random(source, limits.within(source))

    def each(self, documents: Documents) -> Iterator[Row]:
        """One truncated sequence for each document, without any token where it is empty."""
        layout = self.layout()
        return self.counting().rows(layout.one_per_document(layout.tokenize(documents)))

    def stream(
        self,
        read: Callable[[], Iterator[Row]],
        source: Mapping[str, Any],
        limits: Limits | None = None,
        documents: Callable[[], int | None] | None = None,
    ) -> TokenStream:
        """A stream of sequences that were made by this reader."""
        limits = limits or Limits()
        tokenizer = self.tokenizer
        pad_ids = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
        return TokenStream(
            read,
            self.counting().policy,
            context_size=self.context_size,
            source={
                **source,
                "tokenizer": str(getattr(tokenizer, "name_or_path", "")),
                "model": self.model,
                "bos": bool(self.layout().prefix.size),
                "limits": vars(limits),
            },
            pad_id=next(id for id in pad_ids if id is not None),
            n_sequences=limits.n_sequences,
            n_tokens=limits.n_tokens,
            vocab_size=self.vocab_size,
            documents=documents,
        )

    def _text(self, documents: Documents, limits: Limits) -> TokenStream:
        """Documents joined and cut, or one sequence each."""
        layout = self.layout()
        counting = self.counting()
        manifest = documents.manifest if isinstance(documents, LocalDocuments | Beginning) else None
        whole = manifest is not None and documents.describe()["column"] == GENERATED_IDS
        if manifest is not None and whole:
            check_generated(manifest, self.tokenizer)
        joins = self.pack and not whole
        cut = layout.packed if joins else layout.cut if self.pack else layout.one_per_document
        source = {
            **documents.describe(),
            "pack": joins,
            "eos_between_documents": joins and layout.eos_id is not None,
        }
        return self.stream(
            lambda: counting.rows(cut(layout.tokenize(documents))),
            source,
            limits,
            lambda: layout.n_documents,
        )

    def _generated(self, source: Faithful, limits: Limits) -> TokenStream:
        """Text that a model generates now, or did before with the same settings.

        Without ``tokens`` as many as the limits need, read from a longer text where there is one: all
        streams of a run that differ in their limits alone are of one text.
        """
        from saebench.generation import GenerationSettings, ensure_generated

        length = source.length or self.context_size
        asked = [source.tokens, limits.n_tokens, limits.n_sequences and limits.n_sequences * length]
        given = {
            "tokens": next((n for n in asked if n), None),
            "length": length,
            "temperature": source.temperature,
            "top_p": source.top_p,
            "seed": source.seed,
        }
        settings = GenerationSettings(**{k: v for k, v in given.items() if v is not None})
        by_sequences = source.tokens is None and limits.n_tokens is None
        folder = ensure_generated(
            source.model,
            settings,
            device=self.device,
            or_more=source.tokens is None,
            n_sequences=limits.n_sequences if by_sequences else None,
        )
        whole = LocalDocuments.open(str(folder))
        stream = self._text(Beginning(whole, settings.tokens), limits)
        full = {name: getattr(settings, name) for name in given}
        return stream.named(str(source), {"generated_by": source.model, "settings": full})

    def _random(self, source: Uniform | Unigram, limits: Limits) -> TokenStream:
        """Ids drawn from the whole vocabulary, uniformly or by the frequencies of a text."""
        vocab_size = self.vocab_size or len(self.tokenizer)
        drawn = {
            "vocab_size": vocab_size,
            "length": self.context_size,
            "special": source.special,
            "bos": self.prepend_bos,
            **vars(limits),
        }
        if limits == Limits():
            raise DataError(
                f"random token ids of {str(source)!r}",
                "no end: neither n_sequences nor n_tokens is given",
                f"Set one of the two, or write it into the spec: {_with_limit(source)}.",
            )
        extra: dict[str, Any] = {"model": self.model}
        if isinstance(source, Uniform):
            stream = random_stream(self.tokenizer, seed=source.seed, **drawn)
        else:
            text = self.open(source.of, Limits(n_tokens=source.text_tokens))
            probabilities = unigram_probabilities(text, vocab_size)
            extra["of"] = text.describe()
            stream = random_stream(
                self.tokenizer, seed=source.random_seed, probabilities=probabilities, **drawn
            )
        return stream.named(str(source), extra)

    def layout(self) -> Layout:
        """What cuts documents into sequences."""
        return Layout(self.tokenizer, self.context_size, self.prepend_bos)

    def counting(self) -> Counting:
        """The rule by which positions count."""
        tokenizer = self.tokenizer
        special_ids = tuple(sorted(tokenizer.all_special_ids))
        return Counting(self.mask, tokenizer.bos_token_id, tokenizer.eos_token_id, special_ids)


def _with_limit(source: Uniform | Unigram) -> str:
    return str(replace(source, n_tokens=100_000))


def _least(*values: int | None) -> int | None:
    return min((value for value in values if value is not None), default=None)
