"""``saebench complete``: its arguments, and what it does with them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from saebench.errors import ConfigError, DataError
from saebench.generation.completion_settings import CompletionSettings

COLUMNS = ("prompt", "text")  # of prompts, where the spec names none
SUFFIX = ".jsonl"
EPILOG = """\
examples:
  saebench complete ./model --prompts prompts.jsonl --seeds 0,1,2 --out completions.jsonl
  saebench complete org/name --prompts questions.csv#question --precision nf4 --out drift.jsonl
  saebench complete ./model --prompts prompts.jsonl --rules rules.toml --out labelled.jsonl
                                                  with a column label, and how many have which

Writes one line per completion: prompt, completion, seed, prompt_id (the row of the prompt, from 0), n_new,
ended, and the other columns of the prompts; NAME.completions.json beside it says by which model, in which
precision and how. A completion depends on its prompt, the row and the seed, not on the others.
"""


def declare(places: Any, command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add ``complete`` to the commands; ``command`` is what makes a parser for one."""
    usual = CompletionSettings()
    parser = command(places, "complete", complete, "have a model complete prompts", EPILOG)
    add = parser.add_argument
    add("model", metavar="MODEL", help="folder or hub id")
    add("--prompts", required=True, metavar="SPEC", help="table[#column]; default: prompt, or text")
    add("--out", required=True, metavar="FILE", help="JSON lines to write")
    add(
        "--seeds",
        default="0",
        metavar="S,S",
        help="one completion of each prompt per seed; default: 0",
    )
    add("--max-new-tokens", type=int, default=usual.max_new_tokens, metavar="N", help="default: 24")
    add(
        "--temperature",
        type=float,
        default=usual.temperature,
        metavar="T",
        help="default: 1; 0 takes the most probable token",
    )
    add("--top-p", type=float, default=usual.top_p, metavar="P", help="default: 1, every token")
    add("--batch-size", type=int, default=usual.batch_size, metavar="B", help="default: 32")
    add("--limit", type=int, metavar="N", help="complete the first N prompts only")
    add(
        "--precision",
        default="float32",
        metavar="P",
        help="bfloat16, nf4, int8, …; default: float32",
    )
    add("--device", help="default: the GPU where there is one")
    add("--revision", help="commit, tag or branch of a hub model")
    add("--rules", metavar="FILE", help="label completions by keyword rules (see saebench label)")


def complete(values: argparse.Namespace) -> int:
    """Complete, write, and print the counts of labels."""
    from saebench.generation.completions import complete as completed
    from saebench.generation.completions_file import write_completions
    from saebench.labelling import load_rules
    from saebench.labelling.summary import class_counts
    from saebench.models import LanguageModel
    from saebench.report.places import portable

    settings = CompletionSettings(
        _seeds(values.seeds),
        values.max_new_tokens,
        values.temperature,
        values.top_p,
        values.batch_size,
    )
    if settings.temperature == 0 and len(settings.seeds) > 1:
        raise ConfigError(
            f"{len(settings.seeds)} seeds at temperature 0",
            "all would give the same completion",
            "Give one seed, or a temperature above 0.",
        )
    _check_out(values.out)
    rules = load_rules(values.rules) if values.rules else None
    prompts, others, source = _prompts(values.prompts, values.limit, labelled=rules is not None)
    model = LanguageModel.load(
        values.model, revision=values.revision, precision=values.precision, device=values.device
    )
    with _bar(len(prompts) * len(settings.seeds)) as bar:
        found = completed(
            model,
            prompts,
            **{**settings.to_json(), "seeds": settings.seeds},
            progress=lambda done, wanted: bar.update(done - bar.n),
        )
    rows: list[dict[str, Any]] = []
    for item in found:
        row = {
            "prompt": prompts[item.prompt],
            "completion": item.text,
            "seed": item.seed,
            "prompt_id": item.prompt,
            "n_new": item.n_new,
            "ended": item.ended,
        }
        label = {"label": rules.label(item.text)} if rules else {}
        rows.append({**row, **label, **others[item.prompt]})
    write_completions(
        values.out,
        rows,
        model=model.identity(),
        settings=settings.to_json(),
        prompts={**source, "spec": portable(values.prompts), "n_prompts": len(prompts)},
        more={"rules": rules.describe()} if rules else None,
    )
    if rules:
        print("\n".join(class_counts([row["label"] for row in rows])))
    tokens = sum(item.n_new for item in found)
    print(
        f"{len(found):,} completions of {len(prompts):,} prompts, {tokens:,} tokens: {values.out}"
    )
    return 0


def _seeds(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(f"--seeds {text!r}", "not whole numbers", "Write 0,1,2.") from None


def _check_out(out: str) -> None:
    """Before anything is generated: the name of a file that can be read again as data."""
    path = Path(out)
    if path.suffix.lower() != SUFFIX or path.is_dir():
        raise ConfigError(
            f"--out {out}",
            "a folder" if path.is_dir() else "not the name of a file of JSON lines",
            f"Write NAME{SUFFIX}.",
        )


def _prompts(
    spec: str, limit: int | None, *, labelled: bool
) -> tuple[list[str], list[dict[str, Any]], dict[str, Any]]:
    """Prompts, the other columns of each, and what the source is."""
    from saebench.data.records import read_table
    from saebench.generation.completions_file import OWN_COLUMNS

    if limit is not None and limit < 1:
        raise ConfigError(f"--limit {limit}", "no prompt at all", "Give 1 or more.")
    rows, column, source = read_table(spec)
    own = {*OWN_COLUMNS, *(["label"] if labelled else [])}
    prompts: list[str] = []
    others: list[dict[str, Any]] = []
    for number, row in enumerate(_first(rows, limit), start=1):
        name = column or next((name for name in COLUMNS if name in row), None)
        value = row.get(name) if name is not None else None
        if name is None or not isinstance(value, str) or not value:
            raise DataError(
                f"a prompt in column {name or COLUMNS[0]!r} of row {number} of {spec!r}",
                f"columns {', '.join(map(repr, list(row)[:20]))}"
                if name not in row
                else "an empty cell"
                if value in (None, "")
                else f"a {type(value).__name__}",
                "Name the column that holds the prompts with '#column', and leave empty rows out.",
            )
        rest = {key: item for key, item in row.items() if key != name}
        if taken := sorted(own & set(rest)):
            raise DataError(
                f"the prompts of {spec!r} without a column {taken[0]!r}",
                "they have one, and completions are written with another of that name",
                "Rename or remove it.",
            )
        prompts.append(value)
        others.append(_plain(rest, number, spec))
    if not prompts:
        raise DataError(f"prompts in {spec!r}", "no row at all", "Check the file.")
    return prompts, others, source


def _first(rows: Iterable[dict[str, Any]], limit: int | None) -> Iterable[dict[str, Any]]:
    from itertools import islice

    return islice(rows, limit)


def _plain(row: Mapping[str, Any], number: int, spec: str) -> dict[str, Any]:
    """The row, if it can be written as JSON."""
    import json

    try:
        json.dumps(row, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(
            f"row {number} of {spec!r} as JSON", str(error), "Remove the column from the prompts."
        ) from None
    return dict(row)


def _bar(total: int) -> Any:
    """A progress bar on stderr, where that is a terminal."""
    from tqdm import tqdm

    return tqdm(total=total, desc="completing", file=sys.stderr, disable=not sys.stderr.isatty())
