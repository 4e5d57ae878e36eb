"""Wiring references, models and token streams to passes, and what they found to records.

``run`` opens and checks what a configuration names, ``main_pass`` measures all checkpoints in one pass,
``records`` writes down what was measured on what.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from saebench.config import Config, SAESpec
from saebench.errors import OutputError
from saebench.measure.main_pass import measure_pass
from saebench.measure.run import Run, Target, policy, prepare
from saebench.record import Record
from saebench.store import RecordStore

__all__ = ["Run", "Target", "measure", "policy", "prepare"]


def measure(config: Config, entries: Sequence[tuple[str, str, SAESpec]]) -> dict[str, Record]:
    """The record of every checkpoint ``(name, reference, spec)``: kept ones, or else measured in one pass.

    Only one process measures at a time; others wait and find the records. Raises the errors of whatever
    is missing or does not fit together.
    """
    run = prepare(config, entries)
    if run.missing():
        with run.store.lock():
            if missing := run.missing():  # another process may have measured them meanwhile
                for record in measure_pass(run, missing):
                    run.store.write(record)
    return {target.name: _kept(run.store, target) for target in run.targets}


def _kept(store: RecordStore, target: Target) -> Record:
    """The record of a target, under the name and reference that it goes by in this run."""
    record = store.read(target.key)
    if record is None:
        raise OutputError(
            f"the record of {target.name} in {store.out}",
            "it was written and is gone",
            "Check that nothing else cleans that folder, and run again.",
        )
    here = {"name": target.name, "reference": str(target.checkpoint.reference)}
    return replace(record, checkpoint={**record.checkpoint, **here})
