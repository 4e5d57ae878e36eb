"""What is settled about a checkpoint of no known format, and what the user is asked for, all at once."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from saebench.errors import CheckpointError, UnknownFormatError

MAX_NAME = 80
MAX_QUESTIONS = 20


def shown(name: str, shape: Sequence[int] | None = None) -> str:
    """A tensor's name and shape, harmless and short enough to print."""
    text = repr(name) if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]!r}…"
    return text if shape is None else f"{text} {list(shape)}"


def option(kind: str, name: str, value: object) -> str:
    """``--set k=10``, quoted for a shell; a name that no shell should see becomes NAME."""
    text = str(value)
    plain = text.isprintable() and len(text) <= MAX_NAME and text.isascii()
    return f"{kind} {name}={shlex.quote(text) if plain else 'NAME'}"


def contradiction(asked: str, found: str) -> CheckpointError:
    """The error for tensors, configs and settings that cannot all be true."""
    return CheckpointError(
        asked, found, "Check that the config and the settings belong to these weights."
    )


class Sheet:
    """Roles and facts that are settled, and questions with the options that answer them."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.settled: list[str] = []
        self.questions: list[tuple[str, tuple[str, ...]]] = []
        self.advice: list[str] = []

    def settle(self, text: str) -> None:
        """Add something that is known."""
        self.settled.append(text)

    def ask(self, text: str, *answers: str) -> None:
        """Add something that nobody but the user knows; the first answer goes into the example."""
        self.questions.append((text, answers))

    def check(self, configs: str) -> None:
        """Raise :class:`UnknownFormatError` with everything that is open, if anything is."""
        if not self.questions:
            return
        raise UnknownFormatError(
            f"{self.file}, a file of no known format, read by names and shapes",
            f"{_count(len(self.questions))} to be said first",
            f"Add what is true of it, for example: {' '.join(self._example())}\n"
            + "\n".join(self._lines(configs))
            + '\n  In Python: settings={"k": "10"}, tensors={"encoder": "NAME"}.',
        )

    def _lines(self, configs: str) -> list[str]:
        lines = ["  settled:", *(f"    {text}" for text in self.settled or ["nothing"])]
        lines += [f"  config: {configs}", "  not settled:"]
        for number, (text, answers) in enumerate(self.questions[:MAX_QUESTIONS], 1):
            lines.append(f"    {number}. {text}")
            lines += [f"       {'or ' if i else '   '}{answer}" for i, answer in enumerate(answers)]
        if len(self.questions) > MAX_QUESTIONS:
            lines.append(f"    and {len(self.questions) - MAX_QUESTIONS} more")
        return lines + [f"  {text}" for text in self.advice]

    def _example(self) -> list[str]:
        """The first answer to each question, every option once."""
        chosen: dict[str, str] = {}
        for _, answers in self.questions:
            if answers:
                chosen.setdefault(answers[0].split("=")[0], answers[0])
        return list(chosen.values())


def _count(n: int) -> str:
    return "one thing has" if n == 1 else f"{n} things have"
