"""What saebench itself wrote into a config of any layout, under a key of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from saebench.adapters.reading.fields import Fields
from saebench.errors import CheckpointError
from saebench.sae import Fact

PROVENANCE_KEY = "saebench"
READS = "reads"  # below it: which models' activations a checkpoint reads
DIFFERENCES = ("1-0", "0-1")


def written_reads(fields: Fields) -> dict[str, Fact]:
    """The ``difference`` and the ``models`` that a config says under our key; those it does not are absent.

    Raises :class:`CheckpointError` for values of the wrong kind.
    """
    key = f"{PROVENANCE_KEY}.{READS}"
    fields.check_table(key)
    found: dict[str, Fact] = {}
    difference = fields.one_of(DIFFERENCES, f"{key}.difference")
    if difference is not None:
        found["difference"] = difference
    names = fields.value(f"{key}.models")
    if names is None:
        return found
    n_models = 1 if difference is None else 2
    if not _is_of_names(names) or len(names) != n_models:
        raise CheckpointError(
            f"{key}.models in {fields.file} (a list of names, as many as are read: {n_models})",
            repr(names)[:200],
            "Correct the config, or fetch the config that belongs to these weights.",
        )
    return {**found, "models": Fact(tuple(names), f"{fields.file}: {key}.models")}


def _is_of_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def written_provenance(*configs: Fields) -> dict[str, Any]:
    """Under our key what the first of these configs says there, as :mod:`saebench.train` writes it."""
    tables = (fields.value(PROVENANCE_KEY) for fields in configs)
    ours = next((table for table in tables if isinstance(table, dict)), None)
    return {} if ours is None else {PROVENANCE_KEY: ours}


def without_ours(data: Mapping[str, Any]) -> dict[str, Any]:
    """What a config says but for our key, which has a place of its own in the provenance."""
    return {key: value for key, value in data.items() if key != PROVENANCE_KEY}
