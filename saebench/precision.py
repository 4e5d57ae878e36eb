"""The precisions that a language model can run in, as text: ``bfloat16``, ``nf4+double+bf16``, ``rtn4``.

Light on purpose: configurations are read without torch.

A regime is a base and modifiers, joined by ``+``.

=================================  =================================================================
base                               what it is
=================================  =================================================================
float32, bfloat16, float16         all weights and products (short: fp32, bf16, fp16)
nf4, fp4                           weights in 4 bits by a code book, one scale per 64 (QLoRA)
int8                               LLM.int8: weights and activations in 8 bits, outliers in 16
rtn2 ... rtn8                      weights rounded to integers, one scale per output channel
fp8                                weights in 8-bit floats, one scale per output channel
=================================  =================================================================

=================================  =================================================================
modifier                           what it does
=================================  =================================================================
double                             nf4, fp4: scales in 8 bits too, in groups of 256
fp32, bf16, fp16                   what a quantised model computes in; float32 where none is named
act                                fp8: activations too, one scale per token
e5m2                               fp8: five bits of exponent instead of four (e4m3fn)
bitsandbytes, reference            nf4, fp4, int8: insist on one implementation
=================================  =================================================================

Embeddings, norms and the unembedding of a quantised model stay in what it computes in.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Literal

from saebench.errors import ConfigError

Base = Literal["float32", "bfloat16", "float16", "int8", "rtn", "nf4", "fp4", "fp8"]
Float = Literal["float32", "bfloat16", "float16"]
Backend = Literal["auto", "bitsandbytes", "reference"]
Float8 = Literal["e4m3fn", "e5m2"]

FLOATS: tuple[Float, ...] = ("float32", "bfloat16", "float16")
CODE_BOOKS = ("nf4", "fp4")
BITSANDBYTES = (*CODE_BOOKS, "int8")
BLOCK = 64  # weights to a scale in nf4 and fp4
SCALE_BLOCK = 256  # scales to a scale of theirs, with double quantisation
_SHORT: dict[str, Float] = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_RTN_BITS = range(2, 9)
_BASES = (*FLOATS, *BITSANDBYTES, *(f"rtn{bits}" for bits in _RTN_BITS), "fp8")
_MODIFIERS = ("double", *_SHORT, "act", "e5m2", "bitsandbytes", "reference")


@dataclass(frozen=True)
class Precision:
    """One precision regime; ``str`` gives its canonical name, in which defaults are left out.

    ``bits`` is that of ``rtn``, None elsewhere. ``compute`` is the type of products, norms, embeddings
    and unembedding. ``activations`` and ``float8`` concern ``fp8`` alone, ``double`` code books alone.
    """

    base: Base = "float32"
    bits: int | None = None
    compute: Float = "float32"
    double: bool = False
    activations: bool = False
    float8: Float8 = "e4m3fn"
    backend: Backend = "auto"

    @property
    def is_quantised(self) -> bool:
        """Whether linear layers have fewer bits than what the model computes in."""
        return self.base not in FLOATS

    def __str__(self) -> str:
        if not self.is_quantised:
            return self.base
        parts = [f"rtn{self.bits}" if self.base == "rtn" else self.base]
        parts += ["double"] * self.double
        parts += ["act"] * self.activations
        parts += ["e5m2"] * (self.float8 == "e5m2")
        parts += [self.compute] * (self.compute != "float32")
        parts += [self.backend] * (self.backend != "auto")
        return "+".join(parts)


def parse_precision(text: str) -> Precision:
    """Read a regime: a base and modifiers in any order, as the module's table has them.

    Raises
    ------
    ConfigError : an unknown name, a modifier that the base does not take, or one named twice.
    """
    name, *modifiers = (part.strip().lower() for part in str(text).split("+"))
    found = _base(text, _SHORT.get(name, name))
    seen: set[str] = set()
    for modifier in modifiers:
        found = _modified(text, found, modifier)
        kind = _kind(modifier)
        if kind in seen:
            raise _wrong(text, f"it names a {kind} more than once", "Name it once")
        seen.add(kind)
    return found


def _base(text: str, name: str) -> Precision:
    if name in FLOATS:
        return Precision(base=name, compute=name)
    if name.startswith("rtn") and name[3:].isdecimal() and int(name[3:]) in _RTN_BITS:
        return Precision(base="rtn", bits=int(name[3:]))
    if name in BITSANDBYTES or name == "fp8":
        return Precision(base=name)  # type: ignore[arg-type]
    raise _unknown(text, f"regime {name!r}", name, (*_SHORT, *_BASES), _BASES)


def _modified(text: str, found: Precision, modifier: str) -> Precision:
    """The regime with one more modifier; raises :class:`ConfigError` where its base takes none such."""
    modifier = _SHORT.get(modifier, modifier)
    if modifier in FLOATS:
        _only(text, found, found.is_quantised, modifier, "a quantised regime")
        return replace(found, compute=modifier)
    if modifier == "double":
        _only(text, found, found.base in CODE_BOOKS, modifier, "nf4 or fp4")
        return replace(found, double=True)
    if modifier == "act":
        _only(text, found, found.base == "fp8", modifier, "fp8")
        return replace(found, activations=True)
    if modifier in ("e5m2", "e4m3fn"):
        _only(text, found, found.base == "fp8", modifier, "fp8")
        return replace(found, float8=modifier)  # type: ignore[arg-type]
    if modifier in ("bitsandbytes", "reference"):
        what = "nf4, fp4 or int8, which have two implementations"
        _only(text, found, found.base in BITSANDBYTES, modifier, what)
        return replace(found, backend=modifier)  # type: ignore[arg-type]
    known = (*_MODIFIERS, *FLOATS)
    raise _unknown(text, f"modifier {modifier!r}", modifier, known, _MODIFIERS)


def _kind(modifier: str) -> str:
    """What a modifier sets: two of one kind contradict or repeat each other."""
    if modifier in (*FLOATS, *_SHORT):
        return "compute type"
    if modifier in ("bitsandbytes", "reference"):
        return "backend"
    return "format of 8-bit floats" if modifier in ("e5m2", "e4m3fn") else f"modifier {modifier}"


def _only(text: str, found: Precision, fits: bool, modifier: str, bases: str) -> None:
    if not fits:
        raise _wrong(text, f"+{modifier} goes with {bases}", f"Use {found}, or change the base")


def _unknown(
    text: str, what: str, name: str, known: tuple[str, ...], shown: tuple[str, ...]
) -> ConfigError:
    near = get_close_matches(name, known, n=1)
    asked = f"Did you mean {near[0]}? " if near else ""
    return _wrong(text, f"no {what} is known", f"{asked}Known are {', '.join(shown)}")


def _wrong(text: str, found: str, next_step: str) -> ConfigError:
    return ConfigError(f"precision {str(text)!r:.80}", found, next_step)
