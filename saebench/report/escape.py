"""Values from checkpoints, cards and configs made harmless in markdown, code and terminals.

Everything that a record holds may have been written by somebody else. A value must not break out of
its table cell, add HTML, links or images, steer a terminal, or hide characters from the reader.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from urllib.parse import quote

CELL_LENGTH = 160  # characters: a longer value would push the other columns off the page
TEXT_LENGTH = 600
CODE_LENGTH = 240
CODE_LINE = 4000

_ANSI = re.compile(
    r"(?:\x1b\]|\x9d).*?(?:\x07|\x1b\\|\x9c|$)"  # operating-system commands: titles, hyperlinks
    r"|(?:\x1b[PX^_]|[\x90\x98\x9e\x9f]).*?(?:\x1b\\|\x9c|$)"  # device, privacy and application strings
    r"|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"  # colours, cursor movement, erasing
    r"|\x1b[ -/]*[0-~]?",  # the two-character commands
    re.DOTALL,
)
_INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})
_SEPARATORS = frozenset({"Zl", "Zp", "Zs"})
_BLANKS = frozenset("\u115f\u1160\u3164\uffa0\u2800")  # letters and symbols that draw nothing
_MARKS_IN_A_ROW = 3  # real scripts stack no more; more is meant to cover the lines around
_MARKDOWN = re.compile(r"([\\`*_\[\]<>|!~$&#{}@])")
_AUTOLINK = re.compile(r"(://|(?i:www)\.)")
_LINE_START = re.compile(r"^(?:(\d{1,9})([.)])(?=\s|$)|()([-+=:]))")


def terminal(text: object, limit: int = TEXT_LENGTH) -> str:
    """``text`` on one line with nothing in it that a terminal obeys or a reader cannot see.

    ANSI sequences go whole, then control, bidirectional, zero-width, unassigned and private
    characters; every kind of line break or space becomes one space; over ``limit`` characters the
    rest is replaced by an ellipsis.
    """
    line = " ".join(_visible(str(text)[: 8 * limit]).split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def markdown_text(text: object, limit: int = TEXT_LENGTH) -> str:
    """``text`` as one line of markdown that renders as exactly itself: no markup, link or HTML."""
    line = _MARKDOWN.sub(r"\\\1", terminal(text, limit))
    line = _AUTOLINK.sub(lambda found: found[0][:-1] + "\\." if "." in found[0] else "\\://", line)
    return _LINE_START.sub(lambda found: f"{found[1] or ''}\\{found[2] or found[4]}", line)


def markdown_cell(text: object, limit: int = CELL_LENGTH) -> str:
    """``text`` as the content of one table cell; an empty value becomes a dash."""
    return markdown_text(text, limit) or "–"


def code_span(text: object, limit: int = CODE_LENGTH, *, cell: bool = False) -> str:
    """``text`` as an inline code span; ``cell`` also keeps ``|`` from ending a table cell.

    The fence is longer than any run of backticks inside, so that none can close it.
    """
    line = _no_comment(terminal(text, limit))
    if not line:
        return "–"
    if cell:
        # inside a table a backslash before the pipe is taken away again before the span is read,
        # and a pipe that follows a backslash of the value's own cannot be written: show a lookalike
        line = re.sub(r"(?<!\\)\|", r"\\|", line.replace("\\|", "\\¦"))
    fence = "`" * (_longest_run(line) + 1)
    pad = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{fence}{pad}{line}{pad}{fence}"


def code_cell(text: object) -> str:
    """``text`` as a code span that fills a table cell, no longer than other cells."""
    return code_span(text, CELL_LENGTH, cell=True)


def pictures(images: Mapping[str, str]) -> list[str]:
    """Markdown images of ``{words: path}``."""
    return [f"![{markdown_text(words)}]({quote(path)})" for words, path in images.items()]


def code_block(lines: list[str], language: str = "") -> str:
    """A fenced block of ``lines``, each made harmless; the fence is longer than any run inside."""
    safe = [_no_comment(_visible(line[:CODE_LINE]).rstrip()) for line in lines]
    fence = "`" * max(3, _longest_run("\n".join(safe)) + 1)
    return "\n".join([f"{fence}{language}", *safe, fence])


def _visible(text: str) -> str:
    shown: list[str] = []
    marks = 0
    for char in _ANSI.sub("", text):
        kind = unicodedata.category(char)
        marks = marks + 1 if kind in ("Mn", "Me") else 0
        if char in "\t\n\r\v\f\x85" or kind in _SEPARATORS or char in _BLANKS:
            shown.append(" ")
        elif kind not in _INVISIBLE and marks <= _MARKS_IN_A_ROW:
            shown.append(char)
    return "".join(shown)


def _longest_run(text: str) -> int:
    return max((len(run) for run in re.findall("`+", text)), default=0)


def _no_comment(line: str) -> str:
    """Code is copied as it is, so it alone could spell out the markers that splicing looks for."""
    return line.replace("<!--", "< !--").replace("-->", "-- >")
