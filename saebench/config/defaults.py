"""The shipped ``suites/defaults.toml``: the metrics that each suite gates, and default limits."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from saebench.config.tables import Table, nearest
from saebench.errors import ConfigError
from saebench.gates.limits import Limit, parse_limit

RULE_KEYS = ("limit", "confidence", "reason", "source")


@dataclass(frozen=True)
class GateRule:
    """A limit as somebody wrote it; ``confidence`` None leaves it to the whole configuration."""

    limit: Limit
    confidence: bool | None = None
    reason: str = ""
    source: str = ""


# None switches the gate off that a table further down has set.
Rules = Mapping[str, GateRule | None]


def suite_names() -> tuple[str, ...]:
    """Every suite there is, in the order of reports."""
    return tuple(_shipped()["suites"])


def measured_suites() -> tuple[str, ...]:
    """What runs when nothing is asked for: suites that gate metrics and need no other text or group."""
    return tuple(
        name for name in gated_suites() if not _shipped()["suites"][name].get("on_request")
    )


def gated_suites() -> tuple[str, ...]:
    """The suites that gate metrics (throughput only times)."""
    return tuple(name for name in suite_names() if metrics_of(name))


def about(suite: str) -> str:
    """What a suite measures: ``checkpoints``, ``groups`` of them, or cases: each under the ``variants`` of
    its model or on ``concepts``.
    """
    return str(_shipped()["suites"][suite].get("about", "checkpoints"))


def metrics_of(suite: str) -> tuple[str, ...]:
    """The short names of the metrics that the suite gates, in the order of reports."""
    return tuple(_shipped()["suites"][suite]["metrics"])


def metric_names() -> tuple[str, ...]:
    """Every metric that can be gated, in the order of suites and reports."""
    return tuple(metric for suite in suite_names() for metric in metrics_of(suite))


def suite_of(metric: str) -> str:
    """The suite that gates the metric. Raises :class:`ConfigError` for a name that no suite has."""
    for suite in suite_names():
        if metric in metrics_of(suite):
            return suite
    raise ConfigError(f"the metric {metric!r}", "no suite has it", nearest(metric, metric_names()))


@cache
def default_rules() -> Rules:
    """The shipped limits, each with its reason and source."""
    gates = {
        metric: {key: value for key, value in rule.items() if key != "kinds"}
        for metric, rule in _shipped()["gates"].items()
    }
    return parse_rules(gates, "[gates] of the shipped defaults")


def shipped_for(metric: str, kind: str) -> bool:
    """Whether the shipped limit on a metric is meant for a kind of checkpoint.

    Kinds are ``sae``, ``difference`` (of two models) and ``crosscoder`` (over two models).
    """
    kinds = _shipped()["gates"].get(metric, {}).get("kinds")
    return kinds is None or kind in kinds


def parse_rules(data: object, where: str) -> Rules:
    """The rules of a ``[gates]`` table: ``metric = "limit"``, a table, or false.

    Raises :class:`ConfigError` for a metric, key or limit that is wrong.
    """
    table = Table(data, where, metric_names())
    return {metric: _parse_rule(table, metric) for metric in table.data}


def _parse_rule(table: Table, metric: str) -> GateRule | None:
    value = table.data[metric]
    if value is False:
        return None
    if isinstance(value, str):
        return GateRule(_limit(table, metric, value))
    if not isinstance(value, Mapping):
        raise table.error(
            metric,
            f"expected a limit, found {value!r}",
            f'Write a limit as text, such as {metric} = ">= {value}", or false for no gate.'
            if type(value) in (int, float)
            else "Write a limit as text, or false for no gate.",
        )
    rule = Table(value, f"{metric!r} in {table.where}", RULE_KEYS)
    confidence = rule.flag("confidence") if "confidence" in rule.data else None
    limit = _limit(table, metric, rule.required("limit"))
    return GateRule(limit, confidence, rule.text("reason") or "", rule.text("source") or "")


def _limit(table: Table, metric: str, text: str) -> Limit:
    try:
        return parse_limit(text)
    except ConfigError as error:
        raise ConfigError(
            f"{error.asked} of {metric!r} in {table.where}", error.found, error.next_step
        ) from None


@cache
def _shipped() -> dict[str, Any]:
    return tomllib.loads(_shipped_text())


def _shipped_text() -> str:
    """From the installed package, or from the folder beside ours in a checkout."""
    try:
        return files("saebench.suites").joinpath("defaults.toml").read_text("utf-8")
    except (ModuleNotFoundError, FileNotFoundError):
        checkout = Path(__file__).parent.parent / "suites" / "defaults.toml"
    try:
        return checkout.read_text("utf-8")
    except OSError:
        raise ConfigError(
            "the shipped limits, defaults.toml of saebench.suites",
            "the installed package has no such file",
            "Install saebench again.",
        ) from None
