"""The data set's card: front matter that hubs and ``datasets`` read, how it was made, and its statistics.

What stands outside the two markers is written once and then left to its reader.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from saebench.errors import OutputError
from saebench.generation.manifest import Manifest
from saebench.generation.shards import DATA_FOLDER, PATTERN
from saebench.whole_files import put_text

NAME = "README.md"
BEGIN = "<!-- saebench:statistics -->"
END = "<!-- /saebench:statistics -->"
_SIZES = ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M"))


def write_card(folder: Path, manifest: Manifest) -> bool:
    """Write ``README.md``, or of an existing one the part between the markers; raises :class:`OutputError`.

    Returns false where there is a card without markers, which is left as it is.
    """
    path = folder / NAME
    block = "\n".join([BEGIN, *statistics_table(manifest), END])
    if not path.exists():
        put_text(path, _whole_card(manifest, block))
        return True
    text = _text(path)
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        return False
    if "\r\n" in text:
        block = block.replace("\n", "\r\n")
    put_text(path, before + block + after)
    return True


def _text(path: Path) -> str:
    """A card with its line ends as they are; raises :class:`OutputError` for one that is not UTF-8."""
    try:
        return path.read_bytes().decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise OutputError(
            f"the card {path}",
            f"it cannot be read as UTF-8 ({error})",
            "Convert it to UTF-8 or move it away, and run the same again: the text is kept",
        ) from error


def statistics_table(manifest: Manifest) -> list[str]:
    """The statistics in lines of markdown, the reference's beside them where there is one."""
    own = manifest.statistics or {}
    other = (manifest.reference or {}).get("statistics")
    head = ["", "generated", *(["reference"] if other else [])]
    lines = [_row(head), _row([":--", *["--:"] * (len(head) - 1)])]
    for label, key, show in _rows(own):
        cells = [show(table.get(key)) for table in (own, *([other] if other else []))]
        lines.append(_row([label, *cells]))
    lines.append("")
    if manifest.reference:
        lines += _distances(manifest.reference)
    shares = [
        table.get(key, 1) for table in (own, other or {}) for key in ("hashed_share", _WINDOWED)
    ]
    if min(shares) < 1:
        lines += [f"Repetition is estimated from {min(shares):.3g} of the distinct items.", ""]
    return lines


_WINDOWED = "window_hashed_share"


def _rows(own: Mapping[str, Any]) -> list[tuple[str, str, Any]]:
    window = own.get("window")
    return [
        ("sequences", "n_sequences", _count),
        ("tokens", "n_tokens", _count),
        ("tokens per sequence, mean", "mean_length", _number),
        ("sequences that end with EOS", "eos_share", _percent),
        ("distinct sequences / sequences", "unique_share", _percent),
        ("sequences that occur more than once", "duplicate_share", _percent),
        (f"{window}-token windows that repeat another", "window_duplicate_share", _percent),
        ("distinct tokens", "n_distinct", _count),
        ("share of the vocabulary", "vocabulary_share", _percent),
        ("unigram entropy, bits", "entropy", _number),
        ("first-token entropy, bits", "first_entropy", _number),
        ("distinct first tokens / sequences", "first_distinct_share", _percent),
    ]


def _distances(reference: Mapping[str, Any]) -> list[str]:
    found = reference["distances"]
    return [
        f"Reference: {_code(reference['spec'])}, {reference['cut']}.",
        "",
        _row(["unigram distance, generated to reference", ""]),
        _row([":--", "--:"]),
        _row(["total variation", _number(found["total_variation"])]),
        _row(["Jensen–Shannon, bits", _number(found["jensen_shannon"])]),
        _row(["KL(generated ‖ reference), bits, add-one smoothing", _number(found["kl"])]),
        "",
    ]


def _whole_card(manifest: Manifest, block: str) -> str:
    name = manifest.model.get("id") or manifest.model.get("class", "")
    n = manifest.counts["sequences"]
    front = {
        "pretty_name": f"Text written by {name}",
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": "train", "path": f"{DATA_FOLDER}/{PATTERN}"}],
            }
        ],
        "tags": ["synthetic", "self-generated", "sparse-autoencoder", "saebench"],
        "task_categories": ["text-generation"],
        "size_categories": [next((text for size, text in _SIZES if n < size), "n>1M")],
        "source_model": name,
    }
    settings = [_row([key, _code(value)]) for key, value in manifest.settings.items()]
    revision, digest = manifest.model.get("revision"), manifest.model.get("digest", "")
    versions = ", ".join(
        f"{package} {number}"
        for package, number in manifest.versions[-1].items()
        if package in ("saebench", "torch", "transformers")
    )
    return "\n".join(
        [
            "---",
            "# license: yours to state; the model's own licence may say something about its output",
            yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=4096).rstrip("\n"),
            "---",
            "",
            f"# Text written by {_code(name)}",
            "",
            f"{manifest.counts['tokens']:,} tokens in {n:,} sequences, sampled from the model itself. "
            "Each sequence starts from the start token "
            f"({manifest.vocabulary['start_id']}, not counted) and ends with EOS or at the length; "
            "the last is cut so that the number of tokens is exact. Nothing was filtered.",
            "",
            "Columns: `input_ids` (with the start token), `text` (decoded, special tokens left out), "
            "`n_tokens` (sampled tokens). Train on `input_ids`: text that is decoded and tokenised "
            "again may become other ids.",
            "",
            "```python",
            "from datasets import load_dataset",
            "",
            'rows = load_dataset("PATH", split="train")',
            "```",
            "",
            "## How it was made",
            "",
            _row(["setting", "value"]),
            _row([":--", ":--"]),
            *settings,
            "",
            f"Model {_code(name)}{f' at {_code(revision)}' if revision else ''}, SHA-256 "
            f"{_code(digest[:16] + '…')}; {versions}. No top-k, no penalty, no forced or suppressed "
            "token: ids are drawn from the softmax of the logits. `generation.json` has the whole "
            "record, with the digest of every shard.",
            "",
            "## Statistics",
            "",
            "Start tokens are not counted.",
            "",
            block,
            "",
        ]
    )


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _code(value: object) -> str:
    """A value as a code span on one line that no character of it can end."""
    text = re.sub(r"[^\x20-\x7e\u00a1-\uffef]+", " ", str(value)).replace("`", "'")
    return f"`{text.replace('|', '¦').replace('<!--', '< !--')[:240]}`"


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.4g} %"
