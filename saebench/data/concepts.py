"""Texts of a concept with two classes: labels, a held-out share, and texts whose inputs vary as controls.

With a prompt column a sequence is BOS, prompt and completion, and tokens of the completion alone count;
the two are tokenised separately (see :mod:`saebench.data.prompted`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from saebench.data.concept_examples import draw
from saebench.data.concept_labels import LabelSource
from saebench.data.concept_parts import Part, clusters, group_of, read_part
from saebench.data.labelled import LabelledText, sorted_classes
from saebench.data.opening import Reader
from saebench.data.splitting import held_out_share
from saebench.data.stream import MaskPolicy
from saebench.data.tables import shown
from saebench.data.vocabulary import check_vocabulary
from saebench.errors import ConfigError, DataError
from saebench.protocols import Concept


@dataclass(frozen=True)
class OpenConcept:
    """The labelled texts of a concept by split; a split that it does not have is None.

    ``classes`` are the other class and the ``positive`` one, so that the label 1 is positive in every
    split. (Controls may have two classes of their own.) ``facts`` are plain JSON values: where labels
    come from, how many texts each split has of each class and what was left out, how far judges agree,
    precision and recall of rules. ``digest`` is SHA-256 (hex) over the digests of the splits and the facts,
    names of files aside.
    """

    name: str
    train: LabelledText
    held_out: LabelledText | None
    control: LabelledText | None
    positive: str
    classes: tuple[str, ...]
    facts: Mapping[str, Any]
    digest: str


def open_concept(
    concept: Concept,
    tokenizer: Any,
    *,
    length: int,
    seed: int = 0,
    held_out: float = 0.5,
    max_texts: int = 10_000,
    vocab_size: int | None = None,
    model: str = "",
    mask: MaskPolicy = "special",
) -> OpenConcept:
    """The texts of a concept, labelled and split.

    At most ``max_texts`` rows are drawn from each spec by a hash of ``seed`` and what they hold, so that
    the order of rows changes nothing. Texts that the label source leaves ambiguous, and those without a
    token that counts, are dropped and counted. Without held-out texts of its own, the share ``held_out``
    of the documents is: by the document column, else by prompt, as completions of a prompt resemble each
    other, else by text. ``length`` cuts sequences, BOS included.

    Raises
    ------
    ConfigError : rules, judges, the share or the positive class do not serve.
    DataError : a file or column is missing, or a split has not two classes.
    """
    if not 0 <= held_out < 1:
        raise ConfigError(
            f"held_out = {held_out}", "not a share of the documents", "Give 0 to 0.95, as 0.5."
        )
    check_vocabulary(tokenizer, vocab_size, model)
    source = LabelSource.of(concept)
    reader = Reader(tokenizer, length, mask=mask, vocab_size=vocab_size, model=model)

    def read(spec: str, *, control: bool = False) -> Part:
        columns = source.columns_of_control if control else source.columns
        label = source.label_control if control else source.label
        return read_part(
            draw(spec, columns, max_texts, seed), label, columns, reader, max_texts, seed
        )

    data = read(concept.data)
    classes = _two_classes(data, concept)
    train, kept, how = _split(data, concept, held_out, seed, read)
    parts = {"train": train, "held_out": kept}
    texts = {
        name: part.labelled(f"{concept.name} ({name})", _classes_of(name, part, classes))
        for name, part in parts.items()
        if part is not None
    }
    no_control = ""
    if concept.control:
        try:  # what controls would say is one answer of several
            part = read(concept.control, control=True)
            own = _classes_of("control", part, classes)
            texts["control"] = part.labelled(f"{concept.name} (control)", own)
            parts["control"] = part
        except DataError as error:
            no_control = str(error)
    facts = {
        "labels": source.describe(),
        "classes": list(classes),
        "positive": classes[1],
        "splits": {name: text.describe()["classes"] for name, text in texts.items()},
        "held_out": how,
        "data": {
            "data" if name == "train" else name: part.facts
            for name, part in parts.items()
            if part is not None and (name != "held_out" or concept.held_out)
        },
        **({"no_control": no_control} if no_control else {}),
        **source.quality(data.drawn.examples, clusters(data.drawn.examples)),
    }
    digest = hashlib.sha256("\0".join([*classes]).encode())
    for name, text in sorted(texts.items()):
        digest.update(f"\0{name}\0{text.digest}".encode())
    digest.update(b"\0" + json.dumps(_content(facts), sort_keys=True).encode())
    return OpenConcept(
        concept.name,
        texts["train"],
        texts.get("held_out"),
        texts.get("control"),
        classes[1],
        classes,
        facts,
        digest.hexdigest(),
    )


def _content(fact: Any) -> Any:
    """Facts without the names of files, to six digits: sums in another order give the same."""
    if isinstance(fact, Mapping):
        return {key: _content(item) for key, item in fact.items() if key not in ("spec", "file")}
    if isinstance(fact, list | tuple):
        return [_content(item) for item in fact]
    return float(f"{fact:.6g}") if isinstance(fact, float) else fact


def _split(
    data: Part, concept: Concept, share: float, seed: int, read: Callable[[str], Part]
) -> tuple[Part, Part | None, dict[str, Any]]:
    """Train and held-out texts, and how they were told apart."""
    if concept.held_out:
        kept = read(concept.held_out)
        seen = {(example.prompt, example.text) for example in data.examples}
        shared = sum((example.prompt, example.text) in seen for example in kept.examples)
        if shared == len(kept.examples):
            raise DataError(
                f"held-out texts of concept {concept.name!r} that are not in its data",
                f"all {shared} of {concept.held_out!r} are in {concept.data!r} too",
                "Name other texts, or leave held_out out: a share of the documents is held out then.",
            )
        return data, kept, {"how": "texts of its own", "n_in_train": shared}
    if not share:
        return data, None, {"how": "none"}
    number = {name: i for i, name in enumerate(sorted(set(data.labels)))}
    labels = np.array([number[label] for label in data.labels], dtype=np.int64)
    groups = [group_of(example) for example in data.examples]
    held = held_out_share(groups, labels, share, seed)
    by = " or ".join(sorted({group.partition("\0")[0] for group in groups}))
    how = {"how": "share", "share": share, "by": by, "n_groups": len(set(groups)), "seed": seed}
    for side, where in (("train", ~held), ("held-out", held)):
        if missing := [name for name, i in number.items() if not (labels[where] == i).any()]:
            raise DataError(
                f"both classes of concept {concept.name!r} in its {side} texts",
                f"no {side} text of class {shown(missing[0])}: {len(set(groups))} groups by {by}, "
                f"{share:g} of which are held out",
                "Give more documents of each class, another share held_out, or held-out texts of "
                "their own.",
            )
    return data.where(~held, n_dropped=data.n_dropped), data.where(held, n_dropped=0), how


def _two_classes(data: Part, concept: Concept) -> tuple[str, str]:
    """The other class and the positive one of the texts."""
    names = sorted_classes(set(data.labels))
    _check_two(names, data.drawn.spec, concept.label)
    positive = concept.positive or names[-1]
    if positive not in names:
        raise ConfigError(
            f"positive = {positive!r} of concept {concept.name!r}",
            f"its texts have the classes {', '.join(map(shown, names))}",
            "Name the one that is to count as 1.",
        )
    return next(name for name in names if name != positive), positive


def _classes_of(split: str, part: Part, classes: tuple[str, str]) -> tuple[str, str]:
    """The classes of a split: those of the concept, but controls may have two of their own."""
    names = sorted_classes(set(part.labels))
    own = split == "control" and not set(names) <= set(classes)
    if not own and set(names) - set(classes):
        raise DataError(
            f"the classes {', '.join(map(shown, classes))} in {part.drawn.spec!r}",
            f"{', '.join(map(shown, names[:8]))}",
            "Label the held-out texts as the others, or leave those of other classes out.",
        )
    _check_two(names, part.drawn.spec, "label")
    return (names[0], names[1]) if own else classes


def _check_two(names: Sequence[str], spec: str, column: str) -> None:
    if len(names) == 1:
        raise DataError(
            f"two classes in {spec!r}",
            f"every labelled text is of class {shown(names[0])}",
            f"Name the column of the classes (label =, now {column!r}), or give texts of both; a "
            "class that only rules leave ambiguous is dropped.",
        )
    if len(names) > 2:
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        raise DataError(
            f"two classes in {spec!r}",
            f"{len(names)}: {', '.join(map(shown, names[:8]))}{more}",
            "Keep the rows of two of them, or give the others one name or none (none is dropped as "
            "ambiguous); positive = says which of the two counts as 1.",
        )
