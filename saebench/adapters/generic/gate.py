"""Which latents fire: activation, k and threshold of a checkpoint of no known format, never guessed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from saebench.adapters.generic.config import (
    ACTIVATION,
    ACTIVATION_WORDS,
    ACTIVATIONS,
    RELU,
    THRESHOLD,
    K,
    Knowledge,
    a_flag,
    a_number,
    a_size,
    a_text,
    activation_named,
)
from saebench.adapters.generic.sheet import Sheet, contradiction, option, shown
from saebench.adapters.reading.batch_gate import ESTIMATE
from saebench.adapters.reading.choices import Choices
from saebench.adapters.reading.tensors import Tensors
from saebench.adapters.reading.thresholds import HOW_STORED, said_threshold
from saebench.sae import Fact

NEEDS_K = ("topk", "batchtopk", "abstopk")
_K_IN_PATH = re.compile(r"(?:L0|top_?k|(?<![a-z0-9])k)[_-]?(\d{1,6})(?!\d)", re.IGNORECASE)


@dataclass(frozen=True)
class Gate:
    """The rule by which latents fire; ``threshold`` is a number or ``estimate``, not a tensor."""

    activation: Fact
    k: Fact | None = None
    relu: Fact | None = None
    threshold: Fact | None = None


def settle_gate(
    sheet: Sheet,
    roles: Mapping[str, str],
    tensors: Tensors,
    known: Knowledge,
    choices: Choices,
    hint: str,
) -> Gate | None:
    """Activation, k and threshold from the user or the files; None, and questions, where one is open."""
    before = len(sheet.questions)
    path_k = _K_IN_PATH.search(hint)
    stored_k = _stored_k(roles, tensors, known)
    activation, rectified = _activation(sheet, roles, known, choices, stored_k, path_k)
    if activation is None:
        said_threshold(choices)  # whatever it turns out to be, the settings are understood
        choices.flag("relu")
        return None
    kind = activation.value
    sheet.settle(f"activation: {kind} ({activation.source})")
    k = (choices.size("k") or _one_k(sheet, stored_k)) if kind in NEEDS_K else None
    threshold = _threshold(sheet, kind, roles, known, choices)
    gated_by_threshold = kind == "batchtopk" and (threshold is not None or "threshold" in roles)
    asked = len(sheet.questions) > before
    if kind in NEEDS_K and k is None and not gated_by_threshold and not asked:
        value = path_k[1] if path_k else "K"
        why = f" (the path has {path_k[0]!r}, which is no more than a hint)" if path_k else ""
        sheet.ask(f"k, the latents kept per token{why}", f"--set k={value}")
    if k is not None:
        sheet.settle(f"k: {k.value} ({k.source})")
    relu = _relu(known, choices, rectified) if kind == "topk" else None
    return None if len(sheet.questions) > before else Gate(activation, k, relu, threshold)


def _activation(
    sheet: Sheet,
    roles: Mapping[str, str],
    known: Knowledge,
    choices: Choices,
    stored_k: list[Fact],
    path_k: re.Match[str] | None,
) -> tuple[Fact | None, Fact | None]:
    """The activation, and the fact that a config names relu beside a top-k."""
    given = choices.text("activation", ACTIVATIONS)
    stated = known.all(ACTIVATION, activation_named)
    kinds = dict.fromkeys(fact.value for fact in stated if fact.value != "relu")
    relus = [fact for fact in stated if fact.value == "relu"]
    if given is not None:
        return given, None
    if len(kinds) == 1:
        return next(fact for fact in stated if fact.value in kinds), relus[0] if relus else None
    if kinds:
        said = ", ".join(f"{fact.source} means {fact.value}" for fact in stated)
        sheet.ask(
            f"the activation: {said}", *(option("--set", "activation", kind) for kind in kinds)
        )
    elif relus:
        return relus[0], None
    else:
        _ask_activation(sheet, roles, known, stored_k, path_k)
    return None, None


def _ask_activation(
    sheet: Sheet,
    roles: Mapping[str, str],
    known: Knowledge,
    stored_k: list[Fact],
    path_k: re.Match[str] | None,
) -> None:
    """Ask for the activation, with what points to one."""
    words = known.all(ACTIVATION_WORDS, a_text)
    said = [f"{fact.source} {fact.value!r:.60} is none known here" for fact in words[:2]]
    topk = "--set activation=topk"
    answers = {"relu": "--set activation=relu", "topk": f"{topk} --set k=K"}
    first = "relu"
    if stored_k:
        said.append(f"{stored_k[0].source} {stored_k[0].value} points to a top-k")
        answers["topk"], first = topk, "topk"
    elif path_k:
        said.append(f"the path has {path_k[0]!r}, a hint at a top-k and no more")
        answers["topk"], first = f"{topk} --set k={path_k[1]}", "topk"
    if "threshold" in roles:
        said.append(f"{shown(roles['threshold'])} points to jumprelu or batchtopk")
        answers["jumprelu"], first = "--set activation=jumprelu", "jumprelu"
    if {"gate", "b_gate"} & set(roles):
        said.append("gate tensors point to gated")
        answers["gated"], first = "--set activation=gated", "gated"
    order = [first, *(name for name in answers if name != first)]
    others = [name for name in ACTIVATIONS if name not in answers]
    why = "; ".join(said) or "neither config nor tensors say"
    sheet.ask(
        f"the activation ({why}; also {', '.join(others)})", *(answers[name] for name in order)
    )


def _stored_k(roles: Mapping[str, str], tensors: Tensors, known: Knowledge) -> list[Fact]:
    """Every k that tensors and configs state."""
    found: list[Fact] = []
    name = roles.get("k")
    if name is not None:
        value = tensors.scalar(name)
        if a_size(value) is None:
            raise contradiction(f"k in {shown(name)} of {tensors.file}", str(value))
        found.append(Fact(int(value), f"{tensors.file}: {shown(name)}"))
    return found + known.all(K, a_size)


def _one_k(sheet: Sheet, stored: list[Fact]) -> Fact | None:
    """The k that all sources agree on."""
    different = {fact.value: fact for fact in reversed(stored)}
    if len(different) > 1:
        said = ", ".join(f"{value} by {fact.source}" for value, fact in different.items())
        sheet.ask(f"k: {said}", *(f"--set k={value}" for value in different))
        return None
    return stored[0] if stored else None


def _threshold(
    sheet: Sheet, kind: str, roles: Mapping[str, str], known: Knowledge, choices: Choices
) -> Fact | None:
    """The number given or configured where no tensor holds thresholds."""
    if kind not in ("jumprelu", "batchtopk"):
        return None
    given = said_threshold(choices)
    if given is not None and given.value in HOW_STORED:
        if "threshold" not in roles:
            raise contradiction(f"a tensor of thresholds ({given.source})", "none is known by name")
        return None  # the tensor's, read that way
    if given is not None:
        return _estimable(given, kind)
    if "threshold" in roles:
        return None
    stated = known.all(THRESHOLD, a_number)
    if stated:
        if stated[0].value < 0:
            raise contradiction(f"{stated[0].source} >= 0", str(stated[0].value))
        return stated[0]
    if kind == "jumprelu":
        sheet.ask("the threshold of the jumprelu", "--map threshold=NAME", "--set threshold=NUMBER")
    return None


def _estimable(given: Fact, kind: str) -> Fact:
    if kind == "jumprelu" and given.value == ESTIMATE:
        raise contradiction(
            "a threshold estimated from k, as batchtopk has it",
            f"{given.source} with --set activation=jumprelu",
        )
    return given


def _relu(known: Knowledge, choices: Choices, rectified: Fact | None) -> Fact:
    """Whether the values that top-k keeps are rectified."""
    given = choices.flag("relu")
    stated = known.all(RELU, a_flag)
    if given is not None:
        return given
    if stated:
        return stated[0]
    if rectified is not None:
        return Fact(True, rectified.source)
    source = "most top-k dictionaries rectify what they keep; --set relu=false if this does not"
    return Fact(True, source, "assumed")
