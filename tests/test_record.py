"""A measurement holds numbers or a reason, and a record survives the way through JSON."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saebench.errors import OutputError
from saebench.record import SCHEMA_VERSION, Measurement, Record

numbers = st.none() | st.floats(allow_nan=False, allow_infinity=False)


def record(*metrics: str) -> Record:
    measurements = {metric: Measurement(metric, 0.5) for metric in metrics}
    return Record("k" * 64, {"name": "topk-s0"}, {"id": "m"}, {}, {}, measurements, created="now")


class Scalar:
    """What NumPy and torch scalars look like from here."""

    def __float__(self) -> float:
        return 0.5


def test_numbers_become_plain_python_numbers() -> None:
    measurement = Measurement("fve@1", Scalar(), Scalar(), 1)  # type: ignore[arg-type]
    values = (measurement.value, measurement.low, measurement.high)
    assert values == (0.5, 0.5, 1.0)
    assert {type(value) for value in values} == {float}


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_no_number_becomes_a_reason(value: float) -> None:
    measurement = Measurement("fve@1", value)
    assert measurement.value is None
    assert measurement.reason == f"the value is {value}"


def test_a_reason_that_was_given_is_kept() -> None:
    assert Measurement("fve@1", math.nan, reason="no variance").reason == "no variance"
    assert Measurement("fve@1", None).reason == "not measured"
    assert Measurement("fve@1", 0.5).reason is None


def test_a_bound_that_is_no_number_leaves_the_value() -> None:
    measurement = Measurement("fve@1", 0.5, math.nan, 0.6)
    assert (measurement.value, measurement.low, measurement.high) == (0.5, None, 0.6)


def test_the_name_is_the_metric_without_its_version() -> None:
    assert Measurement("fve@1", 0.5).name == "fve"
    assert Measurement("fve", 0.5).name == "fve"


@given(numbers, numbers, numbers, st.integers(0), st.text(), st.dictionaries(st.text(), numbers))
def test_a_measurement_survives_json(
    value: float | None,
    low: float | None,
    high: float | None,
    n: int,
    reason: str,
    detail: dict[str, Any],
) -> None:
    measurement = Measurement("fve@1", value, low, high, n, n, "bootstrap", reason, detail)
    assert Measurement.from_json(json.loads(json.dumps(measurement.to_json()))) == measurement


def test_a_record_survives_json() -> None:
    original = record("fve@1", "l0@1")
    assert Record.from_json(json.loads(json.dumps(original.to_json()))) == original


def test_fields_of_a_newer_release_are_ignored() -> None:
    data = record("fve@1").to_json()
    data["measurements"]["fve@1"]["novel"] = 1
    assert Record.from_json({**data, "novel": 1}) == record("fve@1")


@pytest.mark.parametrize("version", [SCHEMA_VERSION + 1, 0, None, "1"])
def test_a_foreign_schema_version_is_refused(version: object) -> None:
    with pytest.raises(OutputError, match=f"{version!r}"):
        Record.from_json({**record().to_json(), "schema_version": version})


def test_a_short_name_finds_the_newest_version() -> None:
    held = record("fve@2", "fve@10", "fve_legacy@99", "l0@1")
    found = held.get("fve")
    assert found is not None
    assert found.metric == "fve@10"
    assert held.get("fve@2") == Measurement("fve@2", 0.5)
    assert held.get("fve@3") is None
    assert held.get("mse") is None


def test_a_record_is_called_as_its_checkpoint() -> None:
    assert record().name == "topk-s0"
