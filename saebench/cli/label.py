"""``saebench label``: its arguments, and what it does with them."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from saebench.errors import ConfigError, DataError

TEXTS = ("completion", "text")  # columns, where none is named
DOCUMENTS = ("document", "prompt")
EPILOG = """\
examples:
  saebench label completions.jsonl --rules rules.toml --out labelled.jsonl
  saebench label completions.jsonl --rules rules.toml --judge human --judge gpt --out labelled.jsonl
                                                   also how far the rules and these columns agree, and
                                                   precision and recall of the rules against each
  saebench label votes.csv --judge a --judge b --judge c --consensus all --out labelled.jsonl
                                                   without rules: the label on which the judges agree

Adds a column (--column, default label): a class, or null where the text is ambiguous. A file of rules:

  n_chars = 200                # how much of the text is looked at
  # default = "other"          # the class of a text that no class matches; without it ambiguous
  # first = true               # where several classes match, the earliest match decides
  [[class]]
  name = "refusal"
  any = ["sorry", "cannot"]    # whole words
  phrases = ["I am not able"]  # words in a row
  regex = ['as an? AI']        # regular expressions
  [[class]]
  name = "compliance"
  phrases = ["of course", "here is"]
"""


def declare(places: Any, command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add ``label`` to the commands; ``command`` is what makes a parser for one."""
    parser = command(places, "label", label, "label texts by keyword rules or judges", EPILOG)
    add = parser.add_argument
    add("data", metavar="DATA", help="a table: file[#column], or hf:org/name#split[:column]")
    add("--rules", metavar="FILE", help="TOML file of keyword rules")
    add(
        "--judge",
        action="append",
        default=[],
        metavar="COLUMN",
        help="a column of labels by another judge; may be given several times",
    )
    add(
        "--consensus",
        choices=("all", "majority"),
        help="without --rules: all judges agree, or more than half of those that say something (default)",
    )
    add("--text", metavar="COLUMN", help="default: completion, or text")
    add("--column", default="label", metavar="NAME", help="the column to add; default: label")
    add("--out", required=True, metavar="FILE", help="JSON lines to write")


def label(values: argparse.Namespace) -> int:
    """Label, write, and print the counts and how far judges agree."""
    from saebench.labelling import load_rules
    from saebench.labelling.consensus import consensus
    from saebench.labelling.summary import summary

    judges = list(dict.fromkeys(values.judge))
    if not values.rules and len(judges) < 2:
        raise ConfigError(
            "what to label by",
            "neither --rules nor two columns of judges",
            "Give --rules FILE, or --judge twice or more.",
        )
    if values.rules and values.consensus:
        raise ConfigError("--consensus", "--rules give the labels", "Leave one of the two out.")
    if Path(values.out).suffix.lower() != ".jsonl":
        raise ConfigError(f"--out {values.out}", "not JSON lines", "Write NAME.jsonl.")
    rules = load_rules(values.rules) if values.rules else None
    texts, votes, groups = _read(values, judges)
    labels = rules.label_all(texts) if rules else consensus(votes, values.consensus or "majority")
    _write(values, labels, rules)
    name = "rules" if rules else "consensus"
    print("\n".join(summary(labels, votes, groups, name=name, consensus=rules is None)))
    print(f"{len(labels):,} rows with a column {values.column}: {values.out}")
    return 0


def _read(
    values: argparse.Namespace, judges: Sequence[str]
) -> tuple[list[str], dict[str, list[str | None]], list[Any] | None]:
    """Texts, labels by judge, and the document of each text where several are of one."""
    from saebench.data.concept_examples import label_of
    from saebench.data.records import read_table

    texts: list[str] = []
    votes: dict[str, list[str | None]] = {name: [] for name in judges}
    groups: list[Any] = []
    rows, column, _ = read_table(values.data)
    for number, row in enumerate(rows, start=1):
        where = f"row {number} of {values.data!r}"
        name = values.text or column or next((name for name in TEXTS if name in row), TEXTS[0])
        for wanted in [*([name] if values.rules else []), *judges]:
            if wanted not in row:
                raise DataError(
                    f"column {wanted!r} in {where}",
                    f"columns {', '.join(map(repr, list(row)[:20]))}",
                    "Name the column of the text with --text, those of judges with --judge.",
                )
        if values.column in row:
            raise ConfigError(
                f"--column {values.column}",
                f"{values.data} has a column of that name",
                f"Give another; to compare with it, give --judge {values.column} too.",
            )
        text = row.get(name)
        if values.rules and text is not None and not isinstance(text, str):
            raise DataError(
                f"a text in column {name!r}, {where}", f"a {type(text).__name__}", "Give --text."
            )
        texts.append(text if isinstance(text, str) else "")
        for judge in judges:
            votes[judge].append(label_of(row[judge], judge, where))
        groups.append(_document(row, number))
    if not texts:
        raise DataError(f"rows in {values.data!r}", "none at all", "Check the file.")
    return texts, votes, groups if len(set(groups)) < len(groups) else None


def _document(row: Mapping[str, Any], number: int) -> Any:
    """What a row is resampled with: its document, else its prompt, else nothing else."""
    for name in DOCUMENTS:
        if row.get(name) not in (None, ""):
            return name, str(row[name])
    return "row", str(number)


def _plain(value: Any) -> Any:
    """A value as JSON has it: what is no number is nothing."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _write(values: argparse.Namespace, labels: Sequence[str | None], rules: Any) -> None:
    """The rows again, each with its label, and where they come from."""
    from saebench.data.records import read_table
    from saebench.generation.completions_file import carry_provenance, read_provenance
    from saebench.whole_files import put

    how = {"rules": rules.describe()} if rules else {"judges": values.judge}
    known = read_provenance(
        values.data.partition("#")[0]
    )  # before the file may be replaced by what is made of it

    def write(place: Path) -> None:
        with place.open("x", encoding="utf-8", newline="") as handle:
            for row, name in zip(read_table(values.data)[0], labels, strict=True):
                plain = {key: _plain(value) for key, value in row.items()}
                line = json.dumps({**plain, values.column: name}, ensure_ascii=False, default=str)
                handle.write(line + "\n")

    put(Path(values.out), write)
    if known:
        carry_provenance(known, values.out, {"labels": {"column": values.column, **how}})
