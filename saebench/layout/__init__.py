"""Which files of a listing make up which checkpoint, told by their names: nothing is read here."""

from __future__ import annotations

from saebench.layout.beside import is_below_its_config
from saebench.layout.candidates import Candidate, candidate_of_file, candidates

__all__ = ["Candidate", "candidate_of_file", "candidates", "is_below_its_config"]
