"""Labelled text: the examples of a classification task as token streams with a class for each sequence."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from saebench.data.documents import BLOCK_CHARS, HubDocuments, Piece, open_documents
from saebench.data.opening import Reader
from saebench.data.stream import MaskPolicy, TokenStream
from saebench.data.tables import TABLES, shown, wanted
from saebench.data.vocabulary import check_vocabulary
from saebench.errors import DataError
from saebench.protocols import Task

MAX_CLASSES = 300  # a probe has a row of weights for each class
Example = tuple[str, str, str | None]  # text, label, and the document where one is named

KNOWN_TASKS: Mapping[str, Task] = {
    task.name: task
    for task in (
        Task("sst2", "hf:stanfordnlp/sst2#train", "hf:stanfordnlp/sst2#validation", "sentence"),
        Task("cola", "hf:nyu-mll/glue/cola#train", "hf:nyu-mll/glue/cola#validation", "sentence"),
        Task("ag_news", "hf:fancyzhx/ag_news#train", "hf:fancyzhx/ag_news#test"),
        Task("yelp_polarity", "hf:fancyzhx/yelp_polarity#train", "hf:fancyzhx/yelp_polarity#test"),
    )
}
"""Tasks on the hub by name. CoLA and SST-2 are tested on their validation split: their test split has no
labels."""


@dataclass(frozen=True)
class LabelledText:
    """Examples of a task: sequence i of ``stream`` has the class ``classes[labels[i]]``.

    ``labels[n]`` int64; one sequence per text, truncated, BOS in front where the tokenizer has one.
    ``n_dropped`` counts texts that were drawn and have no token to read; ``digest`` is SHA-256 (hex)
    over tokens, classes, labels and documents. ``documents[n]`` int64 numbers the document of each text,
    None where the data name none; a text without one is a document of its own.
    """

    name: str
    stream: TokenStream
    labels: np.ndarray
    classes: tuple[str, ...]
    n_dropped: int
    digest: str
    documents: np.ndarray | None = None

    def describe(self) -> dict[str, Any]:
        """What the examples are and how many each class has, as plain JSON values."""
        counts = np.bincount(self.labels, minlength=len(self.classes))
        return {
            "name": self.name,
            "classes": dict(zip(self.classes, counts.tolist(), strict=True)),
            "n_documents": None if self.documents is None else len(np.unique(self.documents)),
            "n_dropped": self.n_dropped,
            "digest": self.digest,
            "data": self.stream.describe(),
        }


def find_task(ref: str) -> Task:
    """The task that ``ref`` means: a name of :data:`KNOWN_TASKS`, or a folder with train.* and test.*.

    Write ``./sst2`` for a folder that is called like a known task. Raises :class:`DataError`.
    """
    if ref in KNOWN_TASKS:
        return KNOWN_TASKS[ref]
    folder = Path(ref).expanduser()
    if not folder.is_dir():
        raise DataError(
            f"the task {ref!r}",
            "a file" if folder.exists() else "no folder and no known task of that name",
            f"Give {', '.join(KNOWN_TASKS)}, or a folder with train and test files "
            f"({', '.join(TABLES)}) that hold the columns text and label.",
        )
    files = {}
    for split in ("train", "test"):
        found = [
            path for path in sorted(folder.glob(f"{split}.*")) if path.suffix.lower() in TABLES
        ]
        if len(found) != 1:
            raise DataError(
                f"one {split} file in {ref!r}",
                f"found {', '.join(path.name for path in found) or 'none'}",
                f"Put one file {split}{TABLES[0]} (or {', '.join(TABLES[1:])}) there.",
            )
        files[split] = str(found[0])
    return Task(folder.resolve().name, files["train"], files["test"])


def open_task(
    task: Task,
    tokenizer: Any,
    *,
    length: int,
    max_train: int,
    max_test: int,
    seed: int = 42,
    vocab_size: int | None = None,
    model: str = "",
    mask: MaskPolicy = "special",
) -> tuple[LabelledText, LabelledText]:
    """The train and test examples of a task, at most so many of each, drawn without regard to class.

    A task without ``test`` is found by its ``train`` (see :func:`find_task`). Labels are texts or whole
    numbers; classes are sorted, and those of the train examples count for both. The order is that of
    numpy's ``default_rng(seed).permutation``, as in ``datasets.Dataset.shuffle``, and is applied even
    where nothing is cut off. Texts with fewer than two tokens, BOS included, or none that counts are
    dropped with their labels. Raises :class:`DataError` (:class:`HubError` for an unreachable hub) on a
    missing column, no example, a constant label, and a class that the train examples lack.
    """
    if not task.test:
        found = find_task(task.train)
        task = Task(
            task.name or found.name,
            found.train,
            found.test,
            found.text,
            found.label,
            found.document,
        )
    check_vocabulary(tokenizer, vocab_size, model)
    reader = Reader(tokenizer, length, mask=mask, vocab_size=vocab_size, model=model)
    train = _read(task, task.train, reader, max_train, seed)
    test = _read(task, task.test, reader, max_test, seed)
    classes = sorted_classes(set(train.labels))
    for part in (train, test):
        if len(set(part.labels)) < 2:
            raise DataError(
                f"two classes or more in column {task.label!r} of {part.spec!r}",
                f"all of {len(part.labels)} examples have the label {shown(part.labels[0])}",
                "Name the column of the classes (label =), and data that are labelled: on the hub a "
                "test split often is not. If the examples are few, raise max_train or max_test.",
            )
    if extra := sorted_classes(set(test.labels) - set(classes)):
        raise DataError(
            f"the classes of {task.test!r} among those of {task.train!r}",
            f"{', '.join(map(shown, extra[:8]))} only in the test examples; "
            f"train has {', '.join(map(shown, classes[:8]))}",
            "Raise max_train, or leave examples of these classes out of the test data.",
        )
    return train.labelled(task.name, classes), test.labelled(task.name, classes)


@dataclass(frozen=True)
class Examples:
    """Examples as read: sequence i of ``stream`` has ``labels[i]``."""

    spec: str
    stream: TokenStream
    labels: Sequence[str]
    n_dropped: int
    documents: Sequence[str | None]

    def labelled(self, name: str, classes: Sequence[str]) -> LabelledText:
        """The text with its labels as places in ``classes``."""
        number = {label: i for i, label in enumerate(classes)}
        labels = np.array([number[label] for label in self.labels], dtype=np.int64)
        digest = hashlib.sha256("\0".join([self.stream.digest, *classes]).encode())
        digest.update(labels.astype("<i8").tobytes())
        if (documents := numbered(self.documents)) is not None:
            digest.update(documents.astype("<i8").tobytes())
        return LabelledText(
            name, self.stream, labels, tuple(classes), self.n_dropped, digest.hexdigest(), documents
        )


@dataclass(frozen=True)
class Texts:
    """Texts in memory, one document each."""

    texts: Sequence[str]
    source: Mapping[str, Any]

    def read(self) -> Iterator[Piece]:
        """Every text, cut where no context reaches."""
        # what follows the first block is past any context
        return (Piece(text[:BLOCK_CHARS]) for text in self.texts)

    def describe(self) -> dict[str, Any]:
        """The source, as given."""
        return dict(self.source)


def _read(task: Task, spec: str, reader: Reader, limit: int, seed: int) -> Examples:
    """The drawn examples of one spec, without those that have nothing to read."""
    source = open_documents(spec)
    examples, n_rows = _drawn(source, task, spec, limit, seed)
    _check_classes({example[1] for example in examples}, task, spec)
    drawn = {"text": task.text, "label": task.label, "n_rows": n_rows, "limit": limit, "seed": seed}
    texts = Texts([example[0] for example in examples], {**source.describe(), **drawn})
    rows = [
        (row, label, document)
        for row, (_, label, document) in zip(reader.each(texts), examples, strict=True)
        if len(row.ids) > 1 and row.counted.any()
    ]
    if not rows:
        raise DataError(
            f"texts of two tokens or more in column {task.text!r} of {spec!r}",
            f"none among {len(examples)} examples",
            "Name the column that holds the text: text = of the task.",
        )
    kept, labels, documents = zip(*rows, strict=True)
    stream = reader.stream(lambda: iter(kept), texts.describe(), documents=lambda: len(kept))
    return Examples(spec, stream, labels, len(examples) - len(rows), documents)


def _drawn(source: Any, task: Task, spec: str, limit: int, seed: int) -> tuple[list[Example], int]:
    """At most ``limit`` examples in the order that the seed gives, and how many there are.

    Local files are read twice, so that only drawn texts are held.
    """
    names: tuple[str, ...] = (task.text, task.label)
    document: tuple[str, ...] = () if task.document in names else (task.document,)
    if document and task.document != Task.document:  # asked for: it has to be there
        names, document = (*names, task.document), ()
    if isinstance(source, HubDocuments):
        table = source.whole()
        found_names = wanted(table.column_names, names=names, where=spec, optional=document)
        n_rows = len(table)
        chosen = _order(n_rows, seed, spec)[:limit]
        rows = (tuple(row[name] for name in found_names) for row in table.select(chosen))
        return [_example(row, i, spec) for i, row in zip(chosen, rows, strict=True)], n_rows
    n_rows = sum(1 for _ in source.rows(names))
    place = {int(row): i for i, row in enumerate(_order(n_rows, seed, spec)[:limit])}
    found: dict[int, Example] = {}
    for number, row in enumerate(source.rows(names, document)):
        if number in place:
            found[place[number]] = _example(row, number, spec)
    return [found[i] for i in range(len(place))], n_rows


def _check_classes(classes: set[str], task: Task, spec: str) -> None:
    if len(classes) > MAX_CLASSES:
        raise DataError(
            f"at most {MAX_CLASSES} classes in column {task.label!r} of {spec!r}",
            f"{len(classes):,} different labels, as {shown(min(classes))} and {shown(max(classes))}",
            "Name the column that holds the classes: label = of the task.",
        )


def _order(n_rows: int, seed: int, spec: str) -> np.ndarray:
    if not n_rows:
        raise DataError(f"examples in {spec!r}", "no row at all", "Check the file.")
    return np.random.default_rng(seed).permutation(n_rows)


def _example(row: tuple[Any, ...], number: int, spec: str) -> Example:
    """A text, its label as text, and its document; an empty cell is an empty text, or no document."""
    where = f"row {number + 1} of {spec!r}"
    if len(row) not in (2, 3):
        raise DataError(
            f"text and label in {where}", "a row without columns", "Write one object per row."
        )
    text, label, document = row if len(row) == 3 else (*row, None)
    if text is not None and not isinstance(text, str):
        raise DataError(
            f"a text in {where}",
            f"a {type(text).__name__}",
            "Name the column that holds the text: text = of the task.",
        )
    if isinstance(label, float) and label.is_integer():  # tables with empty cells hold such numbers
        label = int(label)
    if not isinstance(label, int | str) or label == "":
        raise DataError(
            f"a label in {where}",
            "none" if label is None or label == "" else kind_of(label),
            "Label every row with a text or a whole number, or name another column: label =.",
        )
    return text or "", str(label), None if document is None or document == "" else str(document)


def numbered(documents: Sequence[str | None]) -> np.ndarray | None:
    """The number ``[n]`` int64 of each document, None where none is named; no name is one of its own."""
    named = {name for name in documents if name is not None}
    if not named:
        return None
    number = {name: i for i, name in enumerate(sorted(named))}
    return np.array(
        [len(number) + i if name is None else number[name] for i, name in enumerate(documents)],
        dtype=np.int64,
    )


def kind_of(label: Any) -> str:
    """What a label is that is none: the value of a number, and its type."""
    kind = f"a {type(label).__name__}"
    return f"{shown(label)}, {kind}" if isinstance(label, float) else kind


def sorted_classes(labels: set[str]) -> list[str]:
    """Labels by value where all are whole numbers, else by their text."""
    try:
        return sorted(labels, key=lambda label: (int(label), label))
    except ValueError:
        return sorted(labels)
