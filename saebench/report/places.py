"""Paths as others can use them: what lies outside of a report's reach becomes ``path/to/<name>``."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable

from saebench.data_specs import parse_spec, relocate
from saebench.errors import DataError
from saebench.record import Record

HUB = re.compile(r"hf:(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^:]+))?(?::(?P<path>.+))?")
_ABSOLUTE = re.compile(r"(?:/|~|[A-Za-z]:[\\/]|\\\\)")
_OUTSIDE = re.compile(rf"{_ABSOLUTE.pattern}|\.\.(?:[\\/]|$)")
_WORD = re.compile(r"(?:unigram|shuffled|faithful):")
_OPTION = re.compile(r"(?P<key>[\w.-]+=)?(?P<value>.*)", re.DOTALL)


def reference(record: Record) -> str:
    """The checkpoint's reference as others can use it: pinned to its commit, or without our folders."""
    text = str(record.checkpoint.get("reference") or record.name)
    commit = record.checkpoint.get("commit")
    found = HUB.fullmatch(text)
    if found is not None:
        path = f":{found['path']}" if found["path"] else ""
        return f"hf:{found['repo']}@{commit or found['revision'] or 'main'}{path}"
    # a bare name would be read as the name of something published
    bare = not re.search(r"[\\/]", text)
    if not bare and not _OUTSIDE.match(text):
        return text
    last = _last(text)
    return f"path/to/{record.name if last in ('', '.', '..') else last}"


def portable(value: object) -> str:
    """Text with an absolute path cut to its last name: other machines have other folders.

    So are the paths inside a data spec such as ``shuffled:/data/heldout.jsonl``.
    """
    text = str(value)
    if _ABSOLUTE.match(text):
        return _last(text) or text
    return _inside(text, lambda path: portable(path)) if _WORD.match(text) else text


def portable_words(text: str) -> str:
    """A sentence, such as ``blocks.1 of /data/model``, with each absolute path in it cut to its last name."""
    return " ".join(portable(word) for word in text.split(" "))


def _inside(spec: str, path: Callable[[str], str]) -> str:
    """A data spec with ``path`` applied to the files and models that it names."""
    try:
        return str(relocate(parse_spec(spec), path, path))
    except DataError:
        return spec


def portable_command(command: str) -> tuple[str, bool]:
    """A command line whose paths outside of the working folder are ``path/to/<name>``, and whether any was.

    Without such paths the command stays as it was typed.
    """
    lines, replaced = [], False
    for line in command.splitlines():
        words = _words(line)
        shorter = [_placeholder(word) for word in words]
        replaced = replaced or shorter != words
        lines.append(line if shorter == words else shlex.join(shorter))
    return "\n".join(lines), replaced


def _words(line: str) -> list[str]:
    try:
        return shlex.split(line)
    except ValueError:  # a quote that is not closed: none of them means anything
        return re.sub("['\"]", " ", line).split()


def _placeholder(word: str) -> str:
    found = _OPTION.fullmatch(word)
    if found is not None and _WORD.match(found["value"]):
        return f"{found['key'] or ''}{_inside(found['value'], _placeholder)}"
    if found is None or not _OUTSIDE.match(found["value"]):
        return word
    last = _last(found["value"])
    return f"{found['key'] or ''}path/to/{'folder' if last in ('', '~', '..') else last}"


def _last(text: str) -> str:
    return re.split(r"[\\/]", text.rstrip("\\/"))[-1]
