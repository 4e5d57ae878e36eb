"""The command line: ``saebench run``, ``demo``, ``train``, ``complete`` and the others that it lists.

``parser`` declares the commands, ``commands`` does what they say.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence

from saebench.cli.parser import USAGE_ERROR, make_parser
from saebench.errors import SaebenchError

__all__ = ["USAGE_ERROR", "main"]

MAX_LINE = 10_000  # characters of a line of an error


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; errors are one message on stderr (a traceback with ``--debug``)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    ours, pytest_arguments = _split(arguments)
    parser = make_parser()
    values = parser.parse_args(ours)
    values.pytest_arguments = pytest_arguments
    values.command_line = shlex.join(["saebench", *arguments])
    try:
        return values.handler(values)
    except SaebenchError as error:
        if values.debug:
            raise
        print(f"saebench: {_shown(error)}", file=sys.stderr)
        return USAGE_ERROR
    except KeyboardInterrupt:
        print(
            "saebench: interrupted; what was finished before is kept: run it again to go on",
            file=sys.stderr,
        )
        return 2
    except BrokenPipeError:
        sys.stderr.close()
        return 0


def _shown(error: SaebenchError) -> str:
    """The message without the control characters that names in files may bring to a terminal."""
    from saebench.inspection import printable

    return "\n".join(printable(line, MAX_LINE) for line in str(error).split("\n"))


def _split(arguments: list[str]) -> tuple[list[str], list[str]]:
    """The arguments before and after ``--``."""
    if "--" not in arguments:
        return arguments, []
    at = arguments.index("--")
    return arguments[:at], arguments[at + 1 :]
