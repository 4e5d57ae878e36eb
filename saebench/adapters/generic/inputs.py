"""What a checkpoint of no known format does to its input: means, scales, norms and the decoder bias."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saebench.adapters.generic.config import NORMALIZATION, SCALE, SUBTRACT, Knowledge, a_number
from saebench.adapters.generic.names import words_of
from saebench.adapters.generic.shapes import Layout
from saebench.adapters.generic.sheet import Sheet, contradiction, shown
from saebench.adapters.reading.choices import Choices
from saebench.adapters.reading.tensors import Tensors
from saebench.sae import Fact
from saebench.sae.normalization import Affine, Normalization, by_name

NAMES = ("none", "layer_norm", "constant_norm_rescale")
_NONE = ("none", "", "null", "no", "false")
_SUBTRACTED = {"pre", "bias", "b"}  # names of a lone bias that libraries subtract as well as add
INPUT_ROLES = ("mean", "scale", "std")


@dataclass(frozen=True)
class Input:
    """The named normalisation, a factor for the input, and whether b_dec is subtracted."""

    normalization: Fact
    scale: Fact | None
    subtract_b_dec: Fact


def settle_input(
    sheet: Sheet,
    roles: Mapping[str, str],
    layout: Layout | None,
    known: Knowledge,
    choices: Choices,
) -> Input | None:
    """What is done before the encoder; None, and questions, where a config hints at more than it says."""
    before = len(sheet.questions)
    normalization = _normalization(sheet, roles, known, choices)
    scale = _scale(sheet, known, choices)
    subtract = _subtract(sheet, roles, layout, known, choices)
    if normalization is None or subtract is None or len(sheet.questions) > before:
        return None
    return Input(normalization, scale, subtract)


def build_normalization(
    found: Input, roles: Mapping[str, str], tensors: Tensors, d_in: int
) -> tuple[Normalization, Fact]:
    """The normalisation object and its name as a fact; mapped tensors and a factor make it affine."""
    mapped = [role for role in INPUT_ROLES if role in roles]
    if not mapped and found.scale is None:
        return by_name(found.normalization.value), found.normalization
    if found.normalization.value != "none":
        raise contradiction(
            f"{found.normalization.value} inputs ({found.normalization.source})",
            f"{', '.join(mapped) or 'an input scale'} given as well",
        )
    scale = torch.tensor(1.0 if found.scale is None else float(found.scale.value))
    for role in ("scale", "std"):
        if role in roles:
            values = _vector(tensors, roles[role], d_in)
            if not bool((values > 0).all()):
                raise contradiction(
                    f"{role} {shown(roles[role])} of positive numbers",
                    f"{int((values <= 0).sum())} of {values.numel()} are not",
                )
            scale = scale * values if role == "scale" else scale / values
    shift = _vector(tensors, roles["mean"], d_in) if "mean" in roles else None
    sources = [f"--map {role}={shown(roles[role])}" for role in mapped]
    sources += [found.scale.source] if found.scale is not None else []
    how = "user" if mapped or found.scale is None else found.scale.how
    return Affine(scale, shift), Fact("affine", ", ".join(sources), how)


def _vector(tensors: Tensors, name: str, d_in: int) -> Tensor:
    shape = tensors.shape(name)
    if math.prod(shape) == 1:
        return torch.tensor(tensors.scalar(name))
    if len(shape) == 2:
        return tensors.numbers(name, rows=1, d_in=d_in).reshape(d_in)  # an outline needs it too
    return tensors.take(name, d_in=d_in)


def _normalization(
    sheet: Sheet, roles: Mapping[str, str], known: Knowledge, choices: Choices
) -> Fact | None:
    given = choices.text("normalization", NAMES)
    if given is not None:
        return given
    for fact in known.all(NORMALIZATION, lambda value: value):
        value: Any = fact.value
        if value is False or str(value).lower() in _NONE:
            return Fact("none", fact.source)
        if value in NAMES:
            return fact
        if any(role in roles for role in INPUT_ROLES):
            return Fact("none", f"{fact.source}: done by the tensors mapped")
        sheet.ask(
            f"how inputs are normalised: {fact.source} is {value!r:.60}",
            *(f"--set normalization={name}" for name in NAMES),
        )
        return None
    source = "no config names one; --set normalization=layer_norm or input_scale=NUMBER if there is"
    return Fact("none", source, "assumed")


def _scale(sheet: Sheet, known: Knowledge, choices: Choices) -> Fact | None:
    given = choices.number("input_scale")
    if given is not None:
        if not 1e-20 < given.value < 1e20:
            raise contradiction(f"{given.source} between 1e-20 and 1e20", str(given.value))
        return None if given.value == 1 else given
    for fact in known.all(SCALE, a_number):
        if fact.value != 1:
            sheet.ask(
                f"whether inputs are scaled: {fact.source} is {fact.value:g}, which may be a factor, "
                "a divisor, or folded into the weights",
                f"--set input_scale={fact.value:g}",
                *([f"--set input_scale={1 / fact.value:g}"] if fact.value > 0 else []),
                "--set input_scale=1",
            )
            return None
    return None


def _subtract(
    sheet: Sheet,
    roles: Mapping[str, str],
    layout: Layout | None,
    known: Knowledge,
    choices: Choices,
) -> Fact | None:
    """Whether b_dec is subtracted before the encoder."""
    given = choices.flag("subtract_b_dec")
    stated = known.all(SUBTRACT, lambda value: value if isinstance(value, bool) else None)
    if "b_dec" not in roles:
        if given is not None and given.value:
            raise contradiction(f"a decoder bias for {given.source}", "there is none")
        return Fact(False, "there is no decoder bias")
    if layout is not None and layout.d_in.value != layout.d_out.value:
        if given is not None and given.value:
            raise contradiction(
                f"one width in and out for {given.source}",
                f"{layout.d_in.value} and {layout.d_out.value}",
            )
        return Fact(False, "b_dec has the width of the output, which is another")
    if given is not None or stated:
        return given or stated[0]
    name = roles["b_dec"]
    mixed = name == "b_dec" and roles.get("b_enc", "").endswith("encoder.bias")
    if mixed or set(words_of(name)) <= _SUBTRACTED:
        sheet.ask(
            f"whether {shown(name)} is subtracted before the encoder as well as added after the "
            "decoder (libraries with such names differ)",
            "--set subtract_b_dec=true",
            "--set subtract_b_dec=false",
        )
        return None
    source = "nothing says that it is; --set subtract_b_dec=true if it is"
    return Fact(False, source, "assumed")
