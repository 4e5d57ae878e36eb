"""``report.json``: the records and verdicts of a report, from which all of it can be written again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

from saebench.errors import OutputError, SaebenchError
from saebench.gates import Gate, Status, Verdict, Waiver, parse_limit
from saebench.record import Measurement, Record

REPORT_FILE = "report.json"
SCHEMA_VERSION = 1


@dataclass(frozen=True)
class StoredReport:
    """What a report was made from: records of checkpoints, of groups of them, and of cases of each.

    ``command`` is the command line that measured.
    """

    records: tuple[Record, ...]
    verdicts: tuple[Verdict, ...]
    command: str
    groups: tuple[Record, ...] = ()
    cases: tuple[Record, ...] = ()


def dump_report(
    records: Sequence[Record],
    verdicts: Sequence[Verdict],
    command: str,
    groups: Sequence[Record] = (),
    cases: Sequence[Record] = (),
) -> bytes:
    """The content of ``report.json``; the same records give the same bytes."""
    data = {
        "schema_version": SCHEMA_VERSION,
        "command": command,
        "verdicts": [_verdict_to_json(verdict) for verdict in verdicts],
        "records": [record.to_json() for record in records],
        "groups": [group.to_json() for group in groups],
        "cases": [case.to_json() for case in cases],
    }
    try:
        text = json.dumps(data, indent=1, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise OutputError(
            f"writing {REPORT_FILE}",
            f"a record holds a value that JSON does not have ({error})",
            "Read the records from the store, which makes them plain.",
        ) from error
    return text.encode() + b"\n"


def load_report(folder: Path) -> StoredReport:
    """The report stored in ``folder``; raises :class:`OutputError` when missing or damaged."""
    path = folder / REPORT_FILE
    try:
        data = json.loads(path.read_text("utf-8"))
        if data["schema_version"] != SCHEMA_VERSION:
            raise ValueError(f"schema version {data['schema_version']!r}, not {SCHEMA_VERSION}")
        return StoredReport(
            tuple(Record.from_json(record) for record in data["records"]),
            tuple(_verdict_from_json(verdict) for verdict in data["verdicts"]),
            str(data["command"]),
            tuple(Record.from_json(group) for group in data.get("groups", [])),
            tuple(Record.from_json(case) for case in data.get("cases", [])),
        )
    except FileNotFoundError:
        found = f"there is no {REPORT_FILE}"
    except OSError as error:
        found = error.strerror or str(error)
    except SaebenchError as error:
        found = f"{REPORT_FILE} is damaged ({error})"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        found = f"{REPORT_FILE} is damaged ({type(error).__name__}: {error})"
    raise OutputError(
        f"the report in {folder}", found, "Name the --out folder of a run, or run it again."
    )


def _verdict_to_json(verdict: Verdict) -> dict[str, Any]:
    gate, waiver = verdict.gate, verdict.waiver
    return {
        "name": verdict.name,
        "status": verdict.status.value,
        "message": verdict.message,
        "gate": {**vars(gate), "limit": str(gate.limit)},
        "measurement": verdict.measurement.to_json() if verdict.measurement else None,
        "waiver": {**vars(waiver), "expires": waiver.expires.isoformat()} if waiver else None,
    }


def _verdict_from_json(data: Mapping[str, Any]) -> Verdict:
    gate = Gate(**{**data["gate"], "limit": parse_limit(data["gate"]["limit"])})
    measurement, waiver = data["measurement"], data["waiver"]
    return Verdict(
        Status(data["status"]),
        gate,
        Measurement.from_json(measurement) if measurement else None,
        str(data["message"]),
        str(data["name"]),
        Waiver(**{**waiver, "expires": date.fromisoformat(waiver["expires"])}) if waiver else None,
    )


def items(value: object) -> Sequence[Any]:
    """A list that a record holds; empty where it holds something else."""
    return value if isinstance(value, list | tuple) else ()


def mapping(value: object) -> Mapping[str, Any]:
    """The table that should be there; an empty one where a stored report holds something else."""
    return value if isinstance(value, Mapping) else {}
