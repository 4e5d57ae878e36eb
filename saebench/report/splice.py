"""Our part of a card between two markers, so that what people wrote around it survives regeneration.

<!-- saebench:begin -->
…
<!-- saebench:end -->
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from saebench.errors import OutputError
from saebench.report.yaml_front import merge_front, read_front

BEGIN = "<!-- saebench:begin -->"
END = "<!-- saebench:end -->"
_MARKER = re.compile(r"<!--\s*saebench:(begin|end)\s*-->", re.IGNORECASE)


def splice(existing: str | None, front: Mapping[str, Any], body: str, *, title: str = "") -> str:
    """The card's text: ``existing`` with our ``body`` and our ``front`` matter keys put in.

    Everything outside the markers and every other front-matter key stays as it was, byte for byte.
    Without markers the body goes to the end; a new card starts with ``title`` (markdown), which is
    then the author's to change. Doing it twice changes nothing.
    Raises :class:`OutputError` when the markers or the front matter are damaged.
    """
    text = existing or ""
    newline = "\r\n" if "\r\n" in text else "\n"
    head, matter, rest = _split_front(text)
    merged = merge_front(matter.replace("\r\n", "\n"), front).replace("\n", newline)
    block = f"{BEGIN}\n{body.strip()}\n{END}".replace("\n", newline)
    if not rest.strip():
        opening = f"# {title}{newline}{newline}" if title and existing is None else ""
        rest = f"{newline}{opening}{block}{newline}"
    else:
        rest = _put(rest, block, newline)
    return f"{head}---{newline}{merged}---{newline}{rest}"


def existing_front(text: str | None) -> dict[str, Any]:
    """The front matter of a card as a mapping; raises :class:`OutputError` when it is damaged."""
    return read_front(_split_front(text or "")[1])


def _put(rest: str, block: str, newline: str) -> str:
    span = _find(rest)
    if span is None:
        return f"{rest.rstrip()}{newline}{newline}{block}{newline}"
    return rest[: span[0]] + block + rest[span[1] :]


def _find(text: str) -> tuple[int, int] | None:
    """Where the block with its markers is, None when there is none."""
    found: list[tuple[str, int, int, int]] = []
    position = 0
    for line_number, line in enumerate(text.splitlines(keepends=True), 1):
        for marker in _MARKER.finditer(line):
            if line.strip() == marker[0]:
                start = position + marker.start()
                found.append((marker[1].lower(), start, position + marker.end(), line_number))
            elif "`" not in line:  # between backticks it is only being talked about
                raise _damaged(f"{marker[0]} shares line {line_number} with other text")
        position += len(line)
    kinds = [kind for kind, *_ in found]
    if not kinds:
        return None
    if kinds == ["begin", "end"]:
        return found[0][1], found[1][2]
    raise _damaged(_explain(kinds, [number for *_, number in found]))


def _explain(kinds: list[str], lines: list[int]) -> str:
    where = ", ".join(f"{kind} in line {line}" for kind, line in zip(kinds, lines, strict=True))
    if kinds == ["begin"]:
        return f"there is no {END} ({where} after the front matter)"
    if kinds == ["end"]:
        return f"there is no {BEGIN} ({where} after the front matter)"
    if kinds == ["end", "begin"]:
        return f"the end comes before the begin ({where} after the front matter)"
    if kinds[:2] == ["begin", "begin"]:
        return f"a begin inside another block ({where} after the front matter)"
    return f"more than one block ({where} after the front matter)"


def _damaged(found: str) -> OutputError:
    return OutputError(
        "the markers of the generated part in the existing card",
        found,
        f"Leave exactly one {BEGIN} and, below it, one {END}, each alone on its line, "
        "or remove them all to have a new part added at the end. The file was not changed.",
    )


def _split_front(text: str) -> tuple[str, str, str]:
    """``(blank lines before, YAML between the fences, the rest)``."""
    opening = re.match(r"(\s*?)---[ \t]*\r?\n", text)
    if opening is None:
        return "", "", text
    closing = re.compile(r"^---[ \t]*(?:\r?\n|\Z)", re.MULTILINE).search(text, opening.end())
    if closing is None:
        raise OutputError(
            "the front matter of the existing card",
            "it is opened with --- in the first line and never closed",
            "Close it with a line of three dashes. The file was not changed.",
        )
    return opening[1], text[opening.end() : closing.start()], text[closing.end() :]
