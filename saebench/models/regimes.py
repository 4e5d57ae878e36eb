"""Precision regimes of a language model: which implementation runs, and weights read into it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from saebench.errors import ModelError
from saebench.models import bits_and_bytes, float16
from saebench.models.failures import fail, first_line
from saebench.models.weights import read_weights
from saebench.precision import BITSANDBYTES, FLOATS, Precision, parse_precision
from saebench.quantisation import quantise_model
from saebench.quantisation.applying import unquantised
from saebench.quantisation.float8 import TYPES

_INTEGERS = "sums of products of integers are made in float32"
_FLOAT8 = "products of 8-bit floats are made in the compute type"


@dataclass(frozen=True)
class Regime:
    """How a model in memory is quantised, and by what.

    ``backend`` is ``torch``, ``reference`` or bitsandbytes with its version. ``emulated`` says that
    values are rounded as the regime has it while products are made in a wider type; ``why`` says why
    that is, or why the reference stands in for bitsandbytes. ``stored`` is the quantisation that the
    model's own files came with.
    """

    precision: Precision
    backend: str = "torch"
    emulated: bool = False
    why: str | None = None
    unquantised: tuple[str, ...] = ()
    stored: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, dtype: torch.dtype) -> Regime:
        """That of a model in memory with weights of this type, of which nothing else is known."""
        name = str(dtype).removeprefix("torch.")
        return cls(parse_precision(name) if name in FLOATS else Precision())

    @property
    def rounds_activations(self) -> bool:
        """Whether layers round what they read, so that a tiny change of it may cost a whole step."""
        return self.precision.base == "int8" or self.precision.activations

    def to_json(self) -> dict[str, Any]:
        """The fields as plain values for a record; those that say nothing are left out."""
        said = {"why": self.why, "unquantised": list(self.unquantised), "stored": dict(self.stored)}
        return {
            "regime": str(self.precision),
            "backend": self.backend,
            "emulated": self.emulated,
            "compute_dtype": self.precision.compute,
            **{key: value for key, value in said.items() if value},
        }


def regime_identity(precision: str | Precision, device: str | None = None) -> dict[str, Any]:
    """What would run for a precision on a device, as plain values for a key; no model is read.

    Whether float16 is emulated on a CPU depends on the model: it is not said here.

    Raises
    ------
    ConfigError : no such precision.
    ModelError : the device is not there, or the regime asks for a package that is not.
    """
    regime = choose(_parsed(precision), usable_device(device))
    return {key: value for key, value in regime.to_json().items() if key != "why"}


def choose(precision: Precision, device: torch.device) -> Regime:
    """The implementation that runs a regime on a device.

    Raises
    ------
    ModelError : bitsandbytes is insisted on and cannot be used there.
    """
    if not precision.is_quantised:
        return Regime(precision)
    why = None
    if precision.base in BITSANDBYTES and precision.backend != "reference":
        why = bits_and_bytes.why_not(device)
        if why is None:
            return Regime(precision, bits_and_bytes.backend_name())
        if precision.backend == "bitsandbytes":
            fail(
                f"precision {precision}", why, f"{bits_and_bytes.EXTRA}, or leave +bitsandbytes out"
            )
    if precision.base == "int8":
        return Regime(precision, "reference", True, f"{why}; {_INTEGERS}" if why else _INTEGERS)
    if precision.activations:
        return Regime(precision, "reference", True, _FLOAT8)
    return Regime(precision, "reference", False, why)


def read_model(
    asked: str, root: Path, config: Any, precision: str | Precision, device: str | None
) -> tuple[Any, Regime]:
    """The model of a folder on its device, in a regime, and how it came to be.

    Raises
    ------
    ConfigError : no such precision.
    ModelError : the weights cannot be read, or the device or its packages lack something.
    """
    precision = _parsed(precision)
    where = usable_device(device)
    _check_types(precision, where)
    stored = _stored(config)
    if stored:
        return _read_stored(asked, root, precision, where, stored)
    regime = choose(precision, where)
    dtype = getattr(torch, precision.compute)
    if regime.backend.startswith("bitsandbytes"):
        options = bits_and_bytes.loading_options(precision, where)
        model = read_weights(f"{asked} in {precision}", root, dtype, **options)
        left = unquantised(model, bits_and_bytes.settle_layers(model))
        return model, replace(regime, unquantised=tuple(left))
    model = read_weights(asked, root, dtype).to(where)
    if precision.is_quantised:
        regime = replace(regime, unquantised=tuple(quantise_model(model, precision)))
    if where.type == "cpu" and precision.compute == "float16":
        why = float16.make_fast(model)
        if why:
            regime = replace(regime, emulated=True, why="; ".join(filter(None, (regime.why, why))))
    return model, regime


def usable_device(device: str | None) -> torch.device:
    """The device of that name, by default the GPU where there is one; raises :class:`ModelError`."""
    name = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
        return torch.device(name)
    except (RuntimeError, AssertionError) as error:
        first = str(error).split("\n")[0]
        fail(
            f"device {name!r}", f"torch cannot use it ({first})", "Use cpu, or leave it out", error
        )


def _parsed(precision: str | Precision) -> Precision:
    return precision if isinstance(precision, Precision) else parse_precision(precision)


def _check_types(precision: Precision, device: torch.device) -> None:
    """Raise where a device has not the number types that a regime computes or rounds in."""
    wanted = [getattr(torch, precision.compute)]
    wanted += [TYPES[precision.float8]] * (precision.base == "fp8")
    for dtype in wanted:
        name = str(dtype).removeprefix("torch.")
        try:
            lacks = "" if _has(dtype, device) else "it only emulates it, slowly"
        except (RuntimeError, TypeError) as error:
            lacks = first_line(error)
        if lacks:
            others = ", ".join(known for known in FLOATS if known != name)
            fail(f"precision {precision}", f"{device} lacks {name} ({lacks})", f"Use {others}")


def _has(dtype: torch.dtype, device: torch.device) -> bool:
    torch.zeros(1, device=device).to(dtype).float()
    if dtype == torch.bfloat16 and device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return True


def _stored(config: Any) -> dict[str, Any]:
    """The quantisation that a model's own config declares, as plain values."""
    found = getattr(config, "quantization_config", None)
    if not found:
        return {}
    return dict(found if isinstance(found, Mapping) else found.to_dict())


def _read_stored(
    asked: str, root: Path, precision: Precision, device: torch.device, stored: Mapping[str, Any]
) -> tuple[Any, Regime]:
    """A model whose files are quantised already, as they are."""
    method = str(stored.get("quant_method") or "unnamed")
    if precision.is_quantised:
        raise ModelError(
            f"{asked} in {precision}",
            f"its files are quantised already (quant_method {method})",
            f"Ask for {', '.join(FLOATS)} to run it as stored, or name the unquantised model",
        )
    backend = method
    if method == "bitsandbytes":
        lack = bits_and_bytes.why_not(device)
        if lack:
            fail(asked, f"its files are quantised by {method}, and {lack}", bits_and_bytes.EXTRA)
        bits_and_bytes.load()
        backend = bits_and_bytes.backend_name()
    dtype = getattr(torch, precision.compute)
    model = read_weights(asked, root, dtype, device_map={"": device})
    left: list[str] = []
    if method == "bitsandbytes":
        left = unquantised(model, bits_and_bytes.settle_layers(model))
    return model, Regime(precision, backend, unquantised=tuple(left), stored=stored)
