"""What an adapter says about files before it reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from saebench.adapters.reading.choices import Choices
from saebench.files import CheckpointFiles
from saebench.sae import Dictionary


@dataclass(frozen=True)
class Claim:
    """An adapter's claim on some files: which format, on what evidence, which files.

    ``weights`` are the weight files that make up the checkpoint (several where each layer has its
    own), ``configs`` the files read beside them.
    """

    format: str
    evidence: tuple[str, ...]
    weights: tuple[str, ...]
    configs: tuple[str, ...] = ()

    @property
    def config(self) -> str:
        """The config of a format that has exactly one."""
        return self.configs[0]

    @property
    def weight(self) -> str:
        """The weight file of a format that has exactly one."""
        return self.weights[0]

    @property
    def files(self) -> tuple[str, ...]:
        """The files that make up the checkpoint."""
        return (*self.configs, *self.weights)


class Adapter(Protocol):
    """One family of formats: recognised by content, read into the canonical model."""

    FORMAT: str

    def sniff(self, files: CheckpointFiles) -> Claim | None:
        """A claim when configs and tensor headers are of this format, else None."""

    def read(self, files: CheckpointFiles, claim: Claim, choices: Choices) -> Dictionary:
        """The model in claimed files; raises ``CheckpointError`` where they contradict themselves.

        ``choices`` are what the user says about the checkpoint; what neither files nor user settle
        is marked as assumed, or asked for.
        """
