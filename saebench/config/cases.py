"""The tables of a configuration that checkpoints are set beside: variants of the model, and concepts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from saebench.config.tables import Table
from saebench.errors import ConfigError
from saebench.precision import parse_precision
from saebench.protocols import Concept, Variant

T = TypeVar("T", Variant, Concept)

_PRECISION = "?precision="
_VARIANT_KEYS = tuple(item.name for item in fields(Variant))
_CONCEPT_KEYS = tuple(item.name for item in fields(Concept))
_SPECS = ("data", "held_out", "control")
_SEPARATORS = "@/"  # between a checkpoint and the case that it is set beside


def parse_variants(items: Sequence[object], place: Any) -> tuple[Variant, ...]:
    """Variants from texts (see :func:`variant_from_text`) or tables; raises :class:`ConfigError`."""
    found = [
        variant_from_text(item, place) if isinstance(item, str) else _variant(item, place)
        for item in items
    ]
    return _named_once(found, "[[variant]]", place)


def variant_from_text(text: str, place: Any) -> Variant:
    """``nf4``, ``org/name@revision``, a folder, or ``NAME=`` before one of these.

    A model may be followed by ``?precision=nf4``. What names a precision is one, unless a folder is
    called like it.
    """
    name, equals, what = text.partition("=")
    if not equals or "?" in name or "/" in name:
        name, what = "", text
    try:
        if not Path(what).exists():
            precision = str(parse_precision(what))
            return Variant(name or what, precision=precision)
    except ConfigError:
        if "/" not in what and not what.startswith((".", "~", "hf:")):
            raise  # no model on the hub that somebody would vary to is called without its owner
    ref, _, precision_text = what.partition(_PRECISION)
    ref, _, revision = ref.partition("@")
    chosen = str(parse_precision(precision_text)) if precision_text else None
    return Variant(
        name or Path(ref).name, place.path(ref, local=False), revision or None, precision=chosen
    )


def precision_at(table: Table, key: str = "precision") -> str | None:
    """The canonical text of the precision regime at ``key``, None where there is none."""
    text = table.text(key)
    if text is None:
        return None
    try:
        return str(parse_precision(text))
    except ConfigError as error:
        raise table.error(key, error.found, error.next_step) from None


def _variant(data: object, place: Any) -> Variant:
    table = Table(data, f"[[variant]] of {place.where}", _VARIANT_KEYS)
    ref, sae, said = (table.text(key) for key in ("ref", "sae", "precision"))
    precision = precision_at(table)
    if ref is None and precision is None and table.text("revision") is None:
        raise ConfigError(
            table.where,
            "nothing that differs from the run's own model",
            'Write precision = "nf4", revision = "…", or ref = "…" of another model.',
        )
    return Variant(
        table.text("name") or said or Path(ref or str(table.text("revision"))).name,
        place.path(ref, local=False) if ref else "",
        table.text("revision"),
        precision,
        place.path(sae) if sae else "",
    )


def parse_concepts(items: Sequence[object], place: Any) -> tuple[Concept, ...]:
    """Concepts from specs of labelled text, also as ``NAME=SPEC``, or tables; raises :class:`ConfigError`."""
    found = [
        _concept_from_text(item, place) if isinstance(item, str) else _concept(item, place)
        for item in items
    ]
    return _named_once(found, "[[concept]]", place)


def _concept_from_text(text: str, place: Any) -> Concept:
    name, equals, spec = text.partition("=")
    if not equals or "/" in name or "?" in name:
        name, spec = "", text
    return Concept(name or Path(spec.partition("#")[0]).stem, place.data(spec))


def _concept(data: object, place: Any) -> Concept:
    table = Table(data, f"[[concept]] of {place.where}", _CONCEPT_KEYS)
    usual = Concept("", "")
    given: dict[str, Any] = {key: table.text(key) for key in _CONCEPT_KEYS if key not in _OTHERS}
    given = {key: value for key, value in given.items() if value is not None}
    for key in _SPECS:
        if key in given:
            given[key] = place.data(given[key])
    if "rules" in given:
        given["rules"] = place.path(given["rules"])
    concept = Concept(
        **{**given, "name": table.required("name"), "data": place.data(table.required("data"))},
        judges=table.names("judges"),
        consensus=table.choice("consensus", ("all", "majority"), usual.consensus),  # type: ignore[arg-type]
    )
    if len(concept.judges) == 1:
        raise table.error("judges", f"only {concept.judges[0]}", "Name two, or use label =.")
    return concept


_OTHERS = ("judges", "consensus")


def _named_once(found: Sequence[T], what: str, place: Any) -> tuple[T, ...]:
    names = [item.name for item in found]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f"{what} of {place.where}", f"two are called {name!r}", "Name each its own."
            )
        if not name.strip() or set(name) & set(_SEPARATORS):
            raise ConfigError(
                f"the name {name!r} of a {what.strip('[]')} in {place.where}",
                f"it is empty, or holds one of {' '.join(_SEPARATORS)}",
                "Give it a short name of its own: name = in its table, or NAME= before it.",
            )
    return tuple(found)
