"""Results as tables: aligned text for a terminal, and markdown for cards and summaries."""

from __future__ import annotations

import textwrap
import unicodedata
from collections.abc import Sequence

from saebench.gates import Status, Verdict
from saebench.record import Record
from saebench.report import escape
from saebench.report.base_model import other_model
from saebench.report.digits import count
from saebench.report.places import portable_words
from saebench.report.results import WORDS, Row, headline_rows, of, tally, tokens_counted, told

COLUMNS = ("metric", "value", "95 % interval", "limit", "verdict", "baseline")
UNGATED = (0, 1, 2, 5)  # the columns where nothing has a limit
RIGHT = frozenset({"value"})
CELL = 90  # characters of one cell in a terminal
LINE = 159  # columns of a terminal that a table takes
NARROWEST = 40  # columns that the baselines get at least
COLOURS = {
    Status.PASS: "\x1b[32m",
    Status.FAIL: "\x1b[1;31m",
    Status.NOT_EVALUABLE: "\x1b[1;31m",
    Status.WAIVED: "\x1b[33m",
}
RESET = "\x1b[0m"


def terminal_table(
    records: Sequence[Record], verdicts: Sequence[Verdict], *, colour: bool = False
) -> str:
    """A block per checkpoint: what it is, its results, and how many limits hold.

    ``colour`` paints the verdicts with ANSI codes; all values have theirs taken out.
    """
    blocks = [_block(record, of(record, verdicts), colour) for record in records]
    return "\n\n".join(blocks)


def markdown_table(rows: Sequence[Row]) -> str:
    """The rows as a markdown table; the verdict columns are left out when nothing is gated."""
    places = _places(any(row.status is not None for row in rows))
    body = [[cells[place] for place in places] for cells in map(_markdown_cells, rows)]
    return markdown_grid([COLUMNS[place].capitalize() for place in places], body, right=(1,))


def markdown_grid(
    header: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()
) -> str:
    """A markdown table of cells that are already safe; ``right`` lists right-aligned columns."""
    rule = ["---:" if index in right else "---" for index in range(len(header))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [list(header), rule, *rows])


def describe_checkpoint(record: Record) -> str:
    """``topk, 128 → 2,048 latents, k 32, blocks.2.hook_resid_post``, or a group's members; raw text."""
    if members := record.checkpoint.get("members"):
        return f"{count(len(members))} checkpoints: {_listed(members)}"
    cfg = record.checkpoint.get("cfg", {})
    parts = [str(cfg.get("architecture") or "unknown architecture")]
    if isinstance(cfg.get("d_in"), int) and isinstance(cfg.get("d_sae"), int):
        parts.append(f"{count(cfg['d_in'])} → {count(cfg['d_sae'])} latents")
    if cfg.get("k") is not None:
        parts.append(f"k {cfg['k']}")
    if place := reads_and_writes(record):
        parts.append(place)
    return ", ".join(parts)


def reads_and_writes(record: Record) -> str:
    """What a checkpoint reads and, if that is another activation, what it writes; raw text."""
    cfg = record.checkpoint.get("cfg", {})
    reads = record.checkpoint.get("reads") or [item for item in [cfg.get("site")] if item]
    writes = record.checkpoint.get("writes") or [cfg.get("site_out") or cfg.get("site")]
    if not reads:
        return ""
    return _listed(reads) if writes == reads else f"{_listed(reads)} → {_listed(writes)}"


def _listed(names: Sequence[object]) -> str:
    """Some names in one line: all of a few, the ends of many."""
    texts = [portable_words(str(name)) for name in names]
    return " + ".join(texts) if len(texts) < 4 else f"{texts[0]} … {texts[-1]} ({len(texts)})"


def _block(record: Record, verdicts: Sequence[Verdict], colour: bool) -> str:
    rows = headline_rows(record, verdicts)
    if record.checkpoint.get("of"):
        rows = told(record, rows) or rows
    places = _places(bool(verdicts))
    columns = [COLUMNS[place] for place in places]
    table = []
    for row in rows:
        cells = [escape.terminal(cell, CELL) for cell in _cells(row)[:-1]]
        # the last column may take several lines
        cells.append(escape.terminal(_beside(row), 2 * CELL))
        table.append([cells[place] for place in places])
    widths = [max(map(_width, column)) for column in zip(columns, *table, strict=True)]
    before_last = 2 + sum(widths[:-1]) + 2 * len(widths[:-1])
    folded = [_fold(cells[-1], max(LINE - before_last, NARROWEST)) for cells in table]
    widths[-1] = max(
        _width(text) for text in [columns[-1], *(t for texts in folded for t in texts)]
    )
    title = f"{escape.terminal(record.name)}  ({escape.terminal(describe_checkpoint(record))})"
    lines = [title, _line(columns, widths), _line(["─" * width for width in widths], widths)]
    for cells, row, texts in zip(table, rows, folded, strict=True):
        line = _line([*cells[:-1], texts[0]], widths)
        if colour and row.status is not None:
            # the limit, which is ours to print, holds none of the words
            word = WORDS[row.status]
            before, _, after = line.partition(f"  {word}")
            line = f"{before}  {COLOURS[row.status]}{word}{RESET}{after}"
        lines += [line, *(" " * before_last + text for text in texts[1:])]
    lines.append(f"  {_footer(record, verdicts)}")
    if other := other_model(record):
        lines += textwrap.wrap(other, LINE, initial_indent="  ", subsequent_indent="    ")
    return "\n".join(lines)


def _footer(record: Record, verdicts: Sequence[Verdict]) -> str:
    sequences = count(record.data.get("n_sequences") or 0)
    size = f"{count(tokens_counted(record))} tokens of {sequences} sequences"
    return f"{size}; {tally(verdicts)}"


def _fold(cell: str, room: int) -> list[str]:
    """The cell as lines of at most ``room`` columns, between its parts where possible; one at least."""
    lines = [""]
    for part in cell.split(" · "):
        longer = f"{lines[-1]} · {part}" if lines[-1] else part
        if lines[-1] and _width(longer) > room:
            lines.append(part)
        else:
            lines[-1] = longer
    return [text for line in lines for text in textwrap.wrap(line, room) or [""]]


def _places(gated: bool) -> Sequence[int]:
    return range(len(COLUMNS)) if gated else UNGATED


def _cells(row: Row) -> list[str]:
    return [row.label, row.value, row.interval, row.limit, _word(row.status), _beside(row)]


def _markdown_cells(row: Row) -> list[str]:
    name, value, interval, limit, word, beside = _cells(row)
    return [
        escape.markdown_cell(name),
        value,
        interval,
        escape.code_span(limit, cell=True) if limit else "",
        f"**{word}**" if row.status in (Status.FAIL, Status.NOT_EVALUABLE) else word,
        escape.markdown_text(beside, escape.CELL_LENGTH),
    ]


def _beside(row: Row) -> str:
    parts = [f"{words} {value}" for words, value in row.beside]
    return " · ".join([*parts, row.reason] if row.reason else parts)


def _word(status: Status | None) -> str:
    return "" if status is None else WORDS[status]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = []
    for column, cell, width in zip(COLUMNS, cells, widths, strict=False):
        space = " " * (width - _width(cell))
        padded.append(space + cell if column in RIGHT else cell + space)
    return ("  " + "  ".join(padded)).rstrip()


def _width(text: str) -> int:
    """Terminal columns: wide East Asian characters take two, combining marks none."""
    wide = sum(unicodedata.east_asian_width(char) in "WF" for char in text)
    return len(text) + wide - sum(unicodedata.combining(char) > 0 for char in text)
