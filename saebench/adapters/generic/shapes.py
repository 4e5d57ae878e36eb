"""Widths and orientations of an encoder and a decoder, from lengths that leave one possibility.

A matrix ``[a, b]`` may be either way round. The number of latents is the length of the encoder's bias,
the width the length of the decoder's; configs and the user may say more. What two readings survive
is asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from saebench.adapters.generic.config import (
    D_IN,
    D_OUT,
    D_SAE,
    EXPANSION,
    MAYBE_D_IN,
    MAYBE_D_SAE,
    Knowledge,
    a_number,
    a_size,
)
from saebench.adapters.generic.sheet import Sheet, contradiction, shown
from saebench.adapters.reading.choices import Choices
from saebench.sae import Fact

MAY_BE_ONE = ("threshold", "mean")  # one number for all
PLAIN, LINEAR = "d_in,d_sae", "d_sae,d_in"
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layout:
    """Widths, and which way round each matrix is; ``linear`` as the weight of a torch Linear."""

    d_in: Fact
    d_sae: Fact
    d_out: Fact
    encoder: Fact
    decoder: Fact

    @property
    def encoder_linear(self) -> bool:
        """Whether the file has the encoder as ``[d_sae, d_in]``."""
        return bool(self.encoder.value == LINEAR)

    @property
    def decoder_linear(self) -> bool:
        """Whether the file has the decoder as ``[d_out, d_sae]``."""
        return bool(self.decoder.value == PLAIN)


@dataclass(frozen=True)
class _Reading:
    """One way to read the two shapes."""

    d_in: int
    d_sae: int
    d_out: int
    encoder: str
    decoder: str


def settle_layout(
    sheet: Sheet,
    shapes: Mapping[str, tuple[str, Shape]],
    known: Knowledge,
    choices: Choices,
) -> Layout | None:
    """The one reading that all lengths allow; None, and a question, where several are left.

    ``shapes`` gives the name and shape of the tensor in each role; a tied dictionary has its one
    matrix as encoder or decoder only. Raises :class:`CheckpointError` where nothing fits.
    """
    left = _possible(shapes)
    reasons: dict[str, Fact] = {}
    for field, evidence in _evidence(sheet.file, shapes, known, choices):
        fitting = [item for item in left if getattr(item, field) == evidence.value]
        if not fitting:
            raise contradiction(
                f"{field} {evidence.value} ({evidence.source})",
                f"{_matrices(shapes)} of {sheet.file} cannot be read so"
                + (f" with {', '.join(f.source for f in reasons.values())}" if reasons else ""),
            )
        if len(fitting) < len(left) or field not in reasons:
            reasons[field] = evidence
        left = fitting
    if len(left) > 1:
        _ask(sheet, shapes, left)
        return None
    return _layout(left[0], shapes, reasons, sheet)


def _possible(shapes: Mapping[str, tuple[str, Shape]]) -> list[_Reading]:
    """Every reading in which both matrices have the same number of latents."""
    one = shapes.get("encoder") or shapes["decoder"]
    encoder, decoder = shapes.get("encoder"), shapes.get("decoder")
    found = []
    for first in (PLAIN, LINEAR):
        a, b = (encoder or one)[1] if encoder else one[1]
        d_in, d_sae = (a, b) if first == PLAIN else (b, a)
        if encoder is None or decoder is None:
            found.append(_Reading(d_in, d_sae, d_in, first, first))
            continue
        c, d = decoder[1]
        for second in (LINEAR, PLAIN):
            rows, d_out = (c, d) if second == LINEAR else (d, c)
            if rows == d_sae:
                found.append(_Reading(d_in, d_sae, d_out, first, second))
    if not found:
        raise contradiction(
            "an encoder and a decoder with one number of latents", _matrices(shapes) or "no matrix"
        )
    return found


def _evidence(
    file: str,
    shapes: Mapping[str, tuple[str, Shape]],
    known: Knowledge,
    choices: Choices,
) -> list[tuple[str, Fact]]:
    """What is known of each width and orientation: the user first, then tensors, then configs."""
    found: list[tuple[str, Fact]] = []
    for field, fact in (
        ("d_in", choices.size("d_in")),
        ("d_sae", choices.size("d_sae")),
        ("encoder", choices.text("orientation", (PLAIN, LINEAR))),
        ("decoder", choices.text("decoder_orientation", (PLAIN, LINEAR))),
    ):
        found += [(field, fact)] if fact else []
    one_way = not {"encoder", "decoder"} <= set(shapes)
    lengths = {"b_enc": "d_sae", "b_gate": "d_sae", "r_mag": "d_sae", "b_mag": "d_sae"}
    lengths |= {"threshold": "d_sae", "b_dec": "d_out", "b_in": "d_in", "mean": "d_in"}
    for role, field in lengths.items():
        if role in shapes and (role not in MAY_BE_ONE or math.prod(shapes[role][1]) != 1):
            name, shape = shapes[role]
            found.append((field, Fact(math.prod(shape), f"{file}: length of {shown(name)}")))
    found += [("d_in", fact) for fact in known.all(D_IN, a_size)[:1]]
    found += [("d_sae", fact) for fact in known.all(D_SAE, a_size)[:1]]
    found += [("d_out", fact) for fact in known.all(D_OUT, a_size)[:1]]
    found += _perhaps(shapes, known)
    if one_way:
        found = [("d_in" if field == "d_out" else field, fact) for field, fact in found]
    return found


def _perhaps(shapes: Mapping[str, tuple[str, Shape]], known: Knowledge) -> list[tuple[str, Fact]]:
    """Sizes under keys that may be of the language model: used where they are those of a matrix."""
    shape = (shapes.get("encoder") or shapes["decoder"])[1]
    found = []
    for field, keys in (("d_in", MAYBE_D_IN), ("d_sae", MAYBE_D_SAE)):
        fitting = [fact for fact in known.all(keys, a_size) if fact.value in shape]
        found += [(field, fact) for fact in fitting[:1]]
    for factor in known.all(EXPANSION, a_number)[:1]:
        narrow, wide = sorted(shape)
        if factor.value > 1 and narrow * factor.value == wide:
            found.append(("d_in", Fact(narrow, factor.source)))
        elif 0 < factor.value < 1 and wide * factor.value == narrow:
            found.append(("d_in", Fact(wide, factor.source)))
    return found


def _ask(sheet: Sheet, shapes: Mapping[str, tuple[str, Shape]], left: Sequence[_Reading]) -> None:
    """Ask for the orientations that are still open."""
    for role, setting in (("encoder", "orientation"), ("decoder", "decoder_orientation")):
        open_ones = list(dict.fromkeys(getattr(item, role) for item in left))
        if role not in shapes or len(open_ones) < 2:
            continue
        name, shape = shapes[role]
        square = " is square" if len(set(shape)) == 1 else ""
        answers = [f"--set {setting}={value}" for value in open_ones]
        sheet.ask(
            f"which way round the {role} {shown(name, shape)} is: {'it' + square if square else 'no'}"
            + (" and lengths do not tell" if square else " bias and no config gives a length"),
            *answers,
        )
        if not square and role == "encoder":
            return  # the decoder follows from the encoder


def _layout(
    reading: _Reading,
    shapes: Mapping[str, tuple[str, Shape]],
    reasons: Mapping[str, Fact],
    sheet: Sheet,
) -> Layout:
    facts = {}
    for field in ("d_in", "d_sae", "d_out"):
        value = getattr(reading, field)
        source = f"{sheet.file}: {_matrices(shapes)}"
        facts[field] = reasons.get(field) or Fact(value, source)
    ways = {}
    for role in ("encoder", "decoder"):
        because = ", ".join(f.source.removeprefix(f"{sheet.file}: ") for f in reasons.values())
        said = reasons.get(role)
        ways[role] = said or Fact(
            getattr(reading, role), f"{sheet.file}: shapes; {because or 'one reading'}"
        )
        if role in shapes:
            why = ways[role].source.removeprefix(f"{sheet.file}: ")
            names = _dimensions(role, ways[role].value, reading)
            sheet.settle(f"{role}: {shown(*shapes[role])} is [{names}] by {why}")
    return Layout(**facts, **ways)


def _dimensions(role: str, way: str, reading: _Reading) -> str:
    width = "d_out" if role == "decoder" and reading.d_out != reading.d_in else "d_in"
    return ", ".join(("d_sae", width) if way == LINEAR else (width, "d_sae"))


def _matrices(shapes: Mapping[str, tuple[str, Shape]]) -> str:
    parts = [f"{role} {shown(*shapes[role])}" for role in ("encoder", "decoder") if role in shapes]
    return " and ".join(parts)
