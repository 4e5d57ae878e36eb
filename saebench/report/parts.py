"""What a card says of measurements on other texts: fake features, and probes on labelled text. Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from saebench.record import Record
from saebench.report import escape
from saebench.report.digits import count, counted, number_or_dash
from saebench.report.stored import items, mapping
from saebench.report.table import markdown_grid

TEXTS = {
    "real": "the run's own text",
    "uniform": "ids drawn uniformly",
    "unigram": "ids as frequent as in the text",
    "shuffled": "the text, its tokens permuted",
    "configured": "as configured",
}
SATURATED, HALF = 0.9, 0.5  # as many on real text, and most of the dictionary
ARMS = (
    ("baseline", "Activations"),
    ("latents", "Latents"),
    ("reconstruction", "Reconstruction"),
)


def fake_features(record: Record) -> str:
    """A table of how many latents fire on which text, under each rule; empty without the part."""
    found = mapping(record.details.get("fake_features"))
    table_rows = [row for row in items(found.get("table")) if isinstance(row, Mapping)]
    if not table_rows:
        return ""
    protocols = mapping(found.get("protocols"))
    rows = [
        [
            escape.markdown_text(TEXTS.get(str(row.get("text")), row.get("text"))),
            _rule(mapping(protocols.get(str(row.get("protocol"))))),
            counted(row.get("n_units")),
            number_or_dash(row.get("mean_share")),
            counted(row.get("fake")),
            number_or_dash(row.get("fake_over_latents")),
            number_or_dash(row.get("fake_over_alive")),
        ]
        for row in table_rows
    ]
    header = ["Text", "Fires where", "Units", "Mean share", "Above", "of all", "of the alive"]
    table = markdown_grid(header, rows, right=range(2, len(header)))
    length = f", {counted(found['length'])} tokens long" if found.get("length") else ""
    return (
        f"Latents above the limit on random text{length}, and on real text as the control: a latent that "
        f"fires often on both is dense, not fake.{_saturated(table_rows)}\n\n{table}"
    )


def _saturated(rows: Sequence[Mapping[str, Any]]) -> str:
    """Which rules find as many latents on the real text, so that they say nothing about noise."""
    found = {(row.get("text"), row.get("protocol")): row.get("fake_over_latents") for row in rows}
    names = []
    for (text, protocol), real in found.items():
        random = found.get(("uniform", protocol))
        if text == "real" and isinstance(real, int | float) and isinstance(random, int | float):
            names += [str(protocol)] if real >= SATURATED * random > 0 and random > HALF else []
    if not names:
        return ""
    rules = " and ".join(escape.code_span(name) for name in names)
    return (
        f" The rule {rules} calls most latents fake on random text and as many on real text: at this "
        "length and threshold it does not tell them apart."
    )


def probing(record: Record) -> str:
    """A table of probe scores by task; empty without the part."""
    found = mapping(record.details.get("probing"))
    tasks = mapping(found.get("tasks"))
    if not tasks:
        return ""
    rows = [_task(name, mapping(task)) for name, task in tasks.items()]
    header = ["Task", "Classes", "Train", "Test", "Commonest class", *(title for _, title in ARMS)]
    table = markdown_grid(header, rows, right=range(1, len(header)))
    asked = mapping(found.get("protocol"))
    how = f"{asked.get('classifier', 'linear')} probes on {asked.get('pooling', 'pooled')} pooling"
    return (
        f"Accuracy / macro-F1 on test texts, {escape.markdown_text(how.replace('_', ' '))}; a probe "
        f"that gives all texts one class is marked as collapsed.\n\n{table}"
    )


def _task(name: str, task: Mapping[str, Any]) -> list[str]:
    arms = mapping(task.get("arms"))
    return [
        escape.code_span(name, cell=True),
        count(len(items(task.get("classes")))),
        counted(task.get("n_train")),
        counted(task.get("n_test")),
        _scores(mapping(task.get("majority"))),
        *(_scores(mapping(arms.get(arm))) for arm, _ in ARMS),
    ]


def _scores(scores: Mapping[str, Any]) -> str:
    """``0.81 / 0.80``, and whether the probe collapsed."""
    if scores.get("accuracy") is None:
        return "–"
    text = f"{number_or_dash(scores['accuracy'])} / {number_or_dash(scores.get('macro_f1'))}"
    return f"{text} (**collapsed**)" if scores.get("collapsed") else text


def _rule(protocol: Mapping[str, Any]) -> str:
    """When a latent counts, in words."""
    if not protocol:
        return "–"
    threshold = number_or_dash(protocol.get("threshold"))
    at = f"its own {threshold} quantile" if protocol.get("relative") else threshold
    code = "code"
    if protocol.get("unit") == "sequence":
        code = {"sum": "sum of codes", "max": "largest code"}.get(
            str(protocol.get("aggregate")), "any code"
        )
    unit = escape.markdown_text(protocol.get("unit"))
    share = protocol.get("share")
    percent = number_or_dash(100 * share) if isinstance(share, int | float) else "–"
    return f"{code} > {at} on > {percent} % of {unit}s"
