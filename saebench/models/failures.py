"""How reading a language model fails: one error, with the first line of what caused it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from saebench.errors import ModelError


def first_line(error: Exception) -> str:
    """The kind of an error and the first line of its message, shortened."""
    lines = [line.strip() for line in str(error).split("\n") if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200] if lines else 'no message'}".rstrip(".")


def fail(asked: str, found: str, next_step: str, cause: Exception | None = None) -> NoReturn:
    """Raise :class:`ModelError`."""
    raise ModelError(asked, found, next_step) from cause


@contextmanager
def naming(model: str) -> Iterator[None]:
    """Within it, a :class:`ModelError` says which model it is about, where it does not yet."""
    try:
        yield
    except ModelError as error:
        if model in str(error):
            raise
        raise ModelError(f"{error.asked} ({model})", error.found, error.next_step) from error
