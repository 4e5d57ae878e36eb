"""Where the labels of a concept's texts come from and how far they can be trusted, in a paragraph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from saebench.report import escape
from saebench.report.digits import counted
from saebench.report.places import portable
from saebench.report.stored import mapping
from saebench.report.table import markdown_grid


def labels(facts: Mapping[str, Any]) -> str:
    """The paragraph, and a table of precision and recall where rules were scored; empty without facts."""
    source = mapping(facts.get("labels"))
    if not source:
        return ""
    sentences = [f"Labels: {_source(source)}."]
    sentences += [_drawn(name, mapping(part)) for name, part in mapping(facts.get("data")).items()]
    sentences += [_agreement(mapping(facts.get("agreement"))), _writers(mapping(facts.get("data")))]
    scores = _scores(mapping(facts.get("rules_scores")))
    return "\n\n".join(part for part in (" ".join(filter(None, sentences)), scores) if part)


def _source(source: Mapping[str, Any]) -> str:
    kind = source.get("kind")
    if kind == "rules":
        return f"by the keyword rules of {_code(source.get('file'))}"
    if kind == "judges":
        how = escape.markdown_text(source.get("consensus"))
        return f"by consensus ({how}) of the judges {_listed(source.get('columns'))}"
    return f"those of the column {_code(source.get('column'))}"


def _drawn(name: str, part: Mapping[str, Any]) -> str:
    """How many texts the labels leave out."""
    if not isinstance(part.get("n_drawn"), int):
        return ""
    where = "" if name == "data" else f" ({escape.markdown_text(name.replace('_', '-'))} texts)"
    share = _percent(mapping(part.get("ambiguous_share")))
    return (
        f"Of {counted(part.get('n_drawn'))} drawn texts{where} {counted(part.get('n_ambiguous'))} were "
        f"ambiguous and dropped ({share})."
    )


def _agreement(found: Mapping[str, Any]) -> str:
    """How far judges agree beyond chance."""
    fleiss = mapping(found.get("fleiss"))
    if not fleiss:
        return ""
    if not isinstance(fleiss.get("value"), int | float):
        reason = escape.markdown_text(fleiss.get("reason") or "no text has a label of all")
        return f"Agreement of the judges has no κ: {reason}."
    return (
        f"The judges agree with Fleiss' κ {_number(fleiss)} on the {counted(fleiss.get('n'))} texts that all "
        f"of them label (raw agreement {_number(mapping(found.get('raw')))})."
    )


def _writers(data: Mapping[str, Any]) -> str:
    """The models that wrote the completions."""
    models = [
        mapping(mapping(mapping(part).get("written_by")).get("model")) for part in data.values()
    ]
    names = dict.fromkeys(_code(portable(model.get("id"))) for model in models if model.get("id"))
    return f"The completions were written by {', '.join(names)}." if names else ""


def _scores(found: Mapping[str, Any]) -> str:
    """Precision and recall of the rules, by class."""
    rows = [
        [
            escape.code_cell(name),
            _number(mapping(mapping(one).get("precision"))),
            _number(mapping(mapping(one).get("recall"))),
        ]
        for name, one in mapping(found.get("by_class")).items()
    ]
    if not rows:
        return ""
    against = mapping(found.get("against"))
    judges = against.get("judges")
    right = f"the judges {_listed(judges)}" if judges else f"column {_code(against.get('column'))}"
    table = markdown_grid(["Class", "Precision", "Recall"], rows, right=(1, 2))
    return (
        f"The rules against {right}, on the {counted(found.get('n_texts'))} texts that have a label there; "
        f"in brackets 95 % intervals:\n\n{table}"
    )


def _number(figure: Mapping[str, Any]) -> str:
    """``0.61 [0.54, 0.68]``."""
    value, low, high = (figure.get(key) for key in ("value", "low", "high"))
    if not isinstance(value, int | float):
        return "–"
    if not isinstance(low, int | float) or not isinstance(high, int | float):
        return f"{value:.2f}"
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"


def _percent(figure: Mapping[str, Any]) -> str:
    """``4.2 % [2.0, 8.1]``."""
    value, low, high = (figure.get(key) for key in ("value", "low", "high"))
    if not isinstance(value, int | float):
        return "–"
    if not isinstance(low, int | float) or not isinstance(high, int | float):
        return f"{100 * value:.1f} %"
    return f"{100 * value:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def _listed(names: object) -> str:
    return ", ".join(map(_code, names)) if isinstance(names, list | tuple) else "–"


def _code(text: object) -> str:
    return escape.code_span(portable(text))
