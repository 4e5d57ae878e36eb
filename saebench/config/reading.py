"""``saebench.toml`` or ``[tool.saebench]`` of ``pyproject.toml``: what to measure and demand.

    model = "models/tiny"                  # or a table: ref, revision, precision; or several
    data = "text/heldout.jsonl"            # or a table: spec, context_size, mask, pack and
    out = "reports/tiny"                   #   n_sequences or n_tokens
    batch_size = 32                        # and device, confidence, suites
    [gates]
    fve = ">= 0.80"                        # a limit for every checkpoint
    ce_recovered = { limit = ">= 0.9", confidence = true }
    dead_fraction = false                  # no gate, though one is shipped
    [[sae]]
    ref = "saes/topk-s0"                   # and name, site, allow_pickle, set, map
    gates = { l0 = "16" }                  # limits for this one
    [[waiver]]
    sae = "topk-*"
    metric = "fve"
    reason = "trained for a tenth of the tokens"
    expires = 2027-01-31

Paths are relative to the file that they stand in. Whatever is not in this schema is an error.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from saebench.config.cases import parse_concepts, parse_variants
from saebench.config.defaults import (
    Rules,
    about,
    default_rules,
    metric_names,
    parse_rules,
    suite_of,
)
from saebench.config.parts import parse_pairs, parse_tasks
from saebench.config.schema import (
    FIELDS,
    PROTOCOLS,
    TOP_KEYS,
    Config,
    DataSpec,
    GroupSpec,
    ModelSpec,
    Place,
    SAESpec,
    check_top,
    parse_config,
    parse_data,
    parse_model,
    parse_settings,
    unique,
)
from saebench.config.tables import Table, nearest, read_toml
from saebench.errors import ConfigError
from saebench.gates import Gate
from saebench.protocols import Group

FILE_NAME = "saebench.toml"
SUITES_OF_OPTION = {  # one of them has to run
    "--group": ("seeds",),
    "--task": ("probing",),
    "--variant": ("portability",),
    "--concept": ("concepts", "cv_probing", "steering", "portability"),
}


def find_config(start: Path) -> Path | None:
    """The nearest ``saebench.toml``, or ``pyproject.toml`` with our table, from ``start`` up."""
    for folder in (start.absolute(), *start.absolute().parents):
        if (folder / FILE_NAME).is_file():
            return folder / FILE_NAME
        project = folder / "pyproject.toml"
        if project.is_file() and _has_our_table(project):
            return project
    return None


def load_config(path: str | Path | None = None, cwd: Path | None = None) -> Config:
    """The configuration in ``path``, or in the one that :func:`find_config` finds, or an empty one.

    Raises :class:`ConfigError` when the file is missing, is not TOML, or does not fit the schema.
    """
    cwd = (cwd or Path.cwd()).absolute()
    source = find_config(cwd) if path is None else cwd / Path(path).expanduser()
    if source is None:
        return Config()
    data: Any = read_toml(source)
    where = source.name
    if source.name == "pyproject.toml":
        data = _our_table(data)
        where = "[tool.saebench] of pyproject.toml"
        if data is None:
            raise ConfigError(
                f"[tool.saebench] in {source}",
                "there is no such table",
                f"Add it, or use {FILE_NAME}.",
            )
    check_top(data, where)
    config = parse_config(Table(data, where, TOP_KEYS), Place(where, source.parent, cwd))
    return replace(config, source=source)


def merge_options(
    config: Config,
    *,
    sae: Sequence[str] = (),
    model: str | Sequence[str] | None = None,
    revision: str | None = None,
    precision: str | None = None,
    data: str | None = None,
    context_size: int | None = None,
    n_sequences: int | None = None,
    n_tokens: int | None = None,
    mask: str | None = None,
    pack: bool | None = None,
    out: str | Path | None = None,
    batch_size: int | None = None,
    device: str | None = None,
    confidence: bool | None = None,
    suites: Sequence[str] = (),
    gates: Sequence[str] = (),
    site: str | None = None,
    allow_pickle: bool | None = None,
    settings: Sequence[str] = (),
    tensors: Sequence[str] = (),
    groups: Sequence[str] = (),
    tasks: Sequence[str] = (),
    matching: Sequence[str] = (),
    fake: Sequence[str] = (),
    probe: Sequence[str] = (),
    sae_dtype: str | None = None,
    variants: Sequence[str] = (),
    concepts: Sequence[str] = (),
    protocols: Sequence[str] = (),
) -> Config:
    """``config`` with options in place of what it says; None and nothing leave it as it is.

    ``sae`` replaces the checkpoints: one that the configuration knows, by name or reference, keeps
    its settings. ``gates`` are texts such as ``fve >= 0.8`` or ``l0 = 60..70``. Paths are relative
    to the current folder. ``groups`` are texts such as ``topk=topk-*``, ``tasks`` names or folders
    of labelled text; ``matching``, ``fake`` and ``probe`` change single values of those protocols, and
    ``protocols`` (``steering.mode=clamp``) of any. ``variants`` and ``concepts`` are texts as
    ``[[variant]]`` and ``[[concept]]`` take them.
    Raises :class:`ConfigError` as :func:`load_config` does.
    """
    place = Place("the options", Path.cwd(), Path.cwd())
    top = _given(batch_size=batch_size, device=device, confidence=confidence, sae_dtype=sae_dtype)
    top |= {"out": str(out)} if out is not None else {}
    top |= {"suites": list(suites)} if suites else {}
    changes = parse_settings(Table(top, place.where), place)
    changes |= _models(config, model, _given(revision=revision, precision=precision), place)
    size = _given(n_sequences=n_sequences, n_tokens=n_tokens)
    if new := _given(spec=data, context_size=context_size, mask=mask, pack=pack) | size:
        kept = _kept(config.data, drop=("n_sequences", "n_tokens") if size else ())
        changes["data"] = parse_data({**kept, **new}, place)
    saes = tuple(spec for text in sae for spec in _chosen(config.saes, text, place)) or config.saes
    chosen = _given(site=site, allow_pickle=allow_pickle)
    given, roles = pairs(settings, "--set k=10"), pairs(tensors, "--map encoder=W_enc")
    changes["saes"] = unique(
        replace(
            spec,
            **chosen,
            settings={**spec.settings, **given},
            tensors={**spec.tensors, **roles},
        )
        for spec in saes
    )
    if variants:
        changes["variants"] = parse_variants(variants, place)
    if concepts:
        changes["concepts"] = parse_concepts(concepts, place)
    values: list[tuple[str, Sequence[str], str]] = [
        ("seeds", matching, "--match"),
        ("fake_features", fake, "--fake"),
    ]
    values += [("probing", probe, "--probe"), *_of_suites(protocols)]
    changes |= _protocols(config, groups, tasks, values, place)
    rules = _gate_options(gates)
    changes["overrides"] = {**config.overrides, **rules}
    merged = replace(config, **changes)
    needed: dict[str, tuple[str, ...]] = {
        f"the gate on {metric}": (suite_of(metric),) for metric, rule in rules.items() if rule
    }
    said = {"--group": groups, "--task": tasks, "--variant": variants, "--concept": concepts}
    needed |= {option: SUITES_OF_OPTION[option] for option, texts in said.items() if texts}
    needed |= {option: (suite,) for suite, texts, option in values if texts}
    for what, suites_of_it in needed.items():
        if not set(suites_of_it) & set(merged.suites):
            raise ConfigError(
                what,
                f"its suite {suites_of_it[0]!r} does not run",
                f"Add --suite {suites_of_it[0]}, or leave it out.",
            )
    return merged


def _of_suites(texts: Sequence[str]) -> list[tuple[str, Sequence[str], str]]:
    """Each ``steering.mode=clamp`` as the suite, the rest, and the option it came by."""
    found: list[tuple[str, Sequence[str], str]] = []
    for text in texts:
        suite, dot, rest = text.partition(".")
        if not dot or suite not in (*PROTOCOLS, "probing"):
            raise ConfigError(
                f"--protocol {text!r}",
                f"no suite {suite!r} with a protocol",
                "Write SUITE.NAME=VALUE, as in steering.mode=clamp. "
                + nearest(suite, (*PROTOCOLS, "probing")),
            )
        found.append((suite, [rest], "--protocol"))
    return found


def _protocols(
    config: Config,
    groups: Sequence[str],
    tasks: Sequence[str],
    values: Sequence[tuple[str, Sequence[str], str]],
    place: Place,
) -> dict[str, Any]:
    """What options change of groups and, ``values`` by suite, of the protocols of single suites."""
    changes: dict[str, Any] = {}
    if groups:
        named = pairs(groups, "--group 'topk=topk-*'")
        changes["groups"] = tuple(
            GroupSpec(Group(name, tuple(saes.split(",")))) for name, saes in named.items()
        )
    for suite, texts, option in values:
        if texts:
            key = FIELDS.get(suite, suite)
            known = changes.get(key, getattr(config, key))
            given = pairs(texts, f"{option} NAME=VALUE")
            changes[key] = parse_pairs(type(known), given, option, known)
    if tasks:
        probing = changes.get("probing", config.probing)
        changes["probing"] = replace(probing, tasks=parse_tasks(tasks, place))
    return changes


def pairs(texts: Sequence[str], example: str) -> dict[str, str]:
    """``{"k": "10"}`` of ``["k=10"]``; raises :class:`ConfigError` where that is no pair."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (name.strip() and equals and value.strip()):
            raise ConfigError(f"the option {text!r}", "no name and value", f"Write {example}.")
        found[name.strip()] = value.strip()
    return found


def _models(
    config: Config, model: str | Sequence[str] | None, how: dict[str, Any], place: Place
) -> dict[str, Any]:
    """The models that options name, or those of the configuration run another way."""
    refs = [model] if isinstance(model, str) else list(model or ())
    if len(refs) > 1 and "revision" in how:
        raise ConfigError(
            "one revision", f"{len(refs)} models", "Give each its own in saebench.toml."
        )
    if refs:
        # a revision belongs to its model, not to the next one
        kept = _kept(config.model, drop=("revision",))
        first, *others = (parse_model({**kept, "ref": ref, **how}, place) for ref in refs)
        return {"model": first, "others": tuple(others)}
    if not how:
        return {}
    first = parse_model({**_kept(config.model, drop=()), **how}, place)
    again = {"precision": first.precision} if "precision" in how else {}
    return {"model": first, "others": tuple(replace(spec, **again) for spec in config.others)}


def gates_for(
    config: Config, name: str, k: int | None, sae: SAESpec | None = None
) -> tuple[Gate, ...]:
    """The gates of the checkpoint called ``name`` with ``k`` active latents per token (None: none).

    The shipped limits, then ``[gates]``, then those of ``sae`` (when not given: the entry with this
    name), then options; the last word counts. Ordered by suite and metric; suites that are not
    asked for are left out.
    """
    resolved = (gate.at(k) for gate in configured_gates(config, name, sae))
    return tuple(gate for gate in resolved if gate is not None)


def configured_gates(config: Config, name: str, sae: SAESpec | None = None) -> tuple[Gate, ...]:
    """As :func:`gates_for` before the k of the checkpoint is known: limits may still need it."""
    spec = sae or next((spec for spec in config.saes if name in _names(spec)), None)
    return _gates(config, spec.gates if spec else {}, about_groups=False)


def group_gates(config: Config, spec: GroupSpec) -> tuple[Gate, ...]:
    """The gates of a group of checkpoints, in the same order of who has the last word."""
    return _gates(config, spec.gates, about_groups=True)


def _gates(config: Config, own: Rules, *, about_groups: bool) -> tuple[Gate, ...]:
    layers = [default_rules(), config.gates, own, config.overrides]
    gates = []
    for metric in metric_names():
        level = max((i for i, layer in enumerate(layers) if metric in layer), default=None)
        rule = None if level is None else layers[level][metric]
        suite = suite_of(metric)
        if rule is None or suite not in config.suites or (about(suite) == "groups") != about_groups:
            continue
        confidence = config.confidence if rule.confidence is None else rule.confidence
        gates.append(
            Gate(
                metric,
                rule.limit,
                confidence,
                suite_of(metric),
                rule.reason,
                rule.source,
                shipped=level == 0,
            )
        )
    order = config.suites.index
    return tuple(sorted(gates, key=lambda gate: order(gate.suite)))


def _gate_options(texts: Sequence[str]) -> Rules:
    """The rules of options such as ``fve >= 0.8``, ``l0 = 60..70`` or ``l0=>= 5``."""
    rules: dict[str, Any] = {}
    for text in texts:
        found = re.fullmatch(r"\s*(\w+)(?!\w)\s*(?:=(?!=))?\s*(.+?)\s*", text)
        if found is None:
            raise ConfigError(f"the gate {text!r}", "no metric and limit", "Write 'fve >= 0.8'.")
        rules[found[1]] = False if found[2] == "false" else found[2]
    return parse_rules(rules, "the gates of the options")


def _chosen(saes: Sequence[SAESpec], text: str, place: Place) -> list[SAESpec]:
    """The checkpoints of the configuration that ``text`` names, or a new one.

    A path that exists means itself, and no checkpoint elsewhere that only ends alike.
    """
    ref = place.path(text)
    known = [spec for spec in saes if ref == spec.ref or text == spec.name]
    if not known and not Path(ref).exists():
        known = [spec for spec in saes if text in _names(spec)]
    return known or [SAESpec(ref)]


def _names(spec: SAESpec) -> tuple[str, ...]:
    """What a checkpoint can be called: its name or, without one, the last part of its reference."""
    return (spec.name,) if spec.name is not None else (re.split(r"[/:]", spec.ref.rstrip("/"))[-1],)


def _given(**options: Any) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}


def _kept(spec: ModelSpec | DataSpec | None, drop: Sequence[str]) -> dict[str, Any]:
    kept = _given(**asdict(spec)) if spec is not None else {}
    return {key: value for key, value in kept.items() if key not in drop}


def _has_our_table(project: Path) -> bool:
    """Whether a ``pyproject.toml`` is ours to read; one that is broken is, if it mentions us."""
    try:
        return _our_table(read_toml(project)) is not None
    except ConfigError:
        with suppress(OSError):
            return b"[tool.saebench" in project.read_bytes()
        return False


def _our_table(project: dict[str, Any]) -> Any:
    tools = project.get("tool")
    return tools.get("saebench") if isinstance(tools, dict) else None
