"""What an adapter says about files before it reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from saebench.files import CheckpointFiles
from saebench.sae import SAE


@dataclass(frozen=True)
class Claim:
    """An adapter's claim on some files: which format, which files, and on what evidence."""

    format: str
    config: str
    weights: str
    evidence: tuple[str, ...]

    @property
    def files(self) -> tuple[str, ...]:
        """The files that make up the checkpoint."""
        return (self.config, self.weights)


class Adapter(Protocol):
    """One family of formats: recognised by content, read into the canonical model."""

    FORMAT: str

    def sniff(self, files: CheckpointFiles) -> Claim | None:
        """A claim when configs and tensor headers are of this format, else None."""

    def read(self, files: CheckpointFiles, claim: Claim) -> SAE:
        """The SAE in claimed files; raises ``CheckpointError`` where they contradict themselves."""
