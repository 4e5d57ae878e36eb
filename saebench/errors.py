"""What can go wrong, as a tree. Every message says what was asked, what was found, and what to do.

SaebenchError
├── BadReferenceError       a reference is malformed, or names nothing
│   └── HubError            the hub refused, or could not be reached
├── CheckpointError         the files are there and are not a usable checkpoint
│   ├── UnsafeFileError     loading would run code, or the file lies about itself
│   └── UnknownFormatError  no adapter, or more than one, claims the files
├── SiteError               a hook point is malformed, or the model does not have it
├── ModelError              a language model cannot be loaded or used
├── DataError               a data set is missing, empty, or too short
├── ConfigError             a configuration or recipe is wrong
├── OutputError             results cannot be written, or a stored result is damaged
└── MissingExtraError       an optional dependency is needed and not installed
"""

from __future__ import annotations


class SaebenchError(Exception):
    """The root of the tree; ``asked``, ``found`` and ``next_step`` make up the message."""

    def __init__(self, asked: str, found: str, next_step: str) -> None:
        self.asked = asked
        self.found = found
        self.next_step = next_step
        stop = "" if next_step.endswith((".", "?", "!")) else "."
        super().__init__(f"{asked}: {found.rstrip('.')}. {next_step}{stop}")

    def __reduce__(self) -> tuple[type[SaebenchError], tuple[str, str, str]]:
        """Pickle by the three parts, so that the error survives a process boundary."""
        return type(self), (self.asked, self.found, self.next_step)


class BadReferenceError(SaebenchError):
    """A reference is malformed, or names nothing that exists."""


class HubError(BadReferenceError):
    """The hub refused a request, or could not be reached."""


class CheckpointError(SaebenchError):
    """The files exist and do not make up a usable checkpoint."""


class UnsafeFileError(CheckpointError):
    """Loading the file would run code, or the file's declared sizes are not true."""


class UnknownFormatError(CheckpointError):
    """No adapter claims the files, more than one does, or nobody said what they leave open."""


class SiteError(SaebenchError):
    """A hook point is malformed, or the model does not have it."""


class ModelError(SaebenchError):
    """A language model cannot be loaded, or cannot be used as asked."""


class DataError(SaebenchError):
    """A data set is missing, empty, or its sequences are too short."""


class ConfigError(SaebenchError):
    """A configuration file, a recipe or an option is wrong."""


class OutputError(SaebenchError):
    """Results cannot be written, or a stored result is damaged."""


class MissingExtraError(SaebenchError):
    """An optional dependency is needed for what was asked and is not installed."""
