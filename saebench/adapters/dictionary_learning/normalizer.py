"""The normaliser that forks of dictionary_learning store beside the weights.

``x' = (x − mean) · scale`` with one scale for each source, ``target_rms / √(Σ std² + 1e-8)``; undone by
``/ (scale + 1e-8) + mean``. The class can also divide each dimension by its own ``std + 1e-8``; its
scale is then 1. Buffers full of NaN mean that there is no normaliser. The config holds the arguments
the class was built with, which for ``target_rms`` is often the default: the buffers decide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor

from saebench.adapters.reading.choices import Choices
from saebench.adapters.reading.fields import Fields
from saebench.adapters.reading.tensors import Tensors
from saebench.errors import CheckpointError
from saebench.sae import Fact
from saebench.sae.normalization import Affine, Normalization

MEAN, STD, SCALE, RMS = KEYS = (
    "activation_mean",
    "activation_std",
    "activation_global_scale",
    "target_rms",
)
EPS = 1e-8
CLOSE = 1e-3  # of the scale that follows from std and target_rms
VARIANTS = ("global_scale", "per_dimension", "none")


@dataclass(frozen=True)
class Normalizer:
    """What the buffers say: the normalisation, its facts, and notes on what contradicts them."""

    normalization: Normalization
    facts: dict[str, Fact]
    notes: list[str] = field(default_factory=list)


def read_normalizer(
    tensors: Tensors, fields: Fields, choices: Choices, d_in: int, sources: int | None = None
) -> Normalizer:
    """The normaliser of ``sources`` activations side by side (None: of one).

    The buffers are ``[sources, d_in]`` and ``[sources]``, without the first dimension for None. Raises
    :class:`CheckpointError` when only some of the four buffers are there, or some of their values.
    """
    given = choices.text("normalization", VARIANTS)
    present = [key for key in KEYS if key in tensors]
    if not present:
        return _without(given, f"no {', '.join(KEYS)} in {tensors.file}")
    if len(present) < len(KEYS):
        missing = ", ".join(key for key in KEYS if key not in present)
        raise CheckpointError(
            f"{', '.join(KEYS)} in {tensors.file}, all or none",
            f"only {', '.join(present)} (missing {missing})",
            "Fetch the whole file: inputs cannot be normalised by a part of the normaliser.",
        )
    tensors.ignore(KEYS)
    outer = {} if sources is None else {"sources": sources}
    empty = [key for key in (MEAN, STD) if tensors.is_all_nan(key)]
    if len(empty) == 1:
        raise CheckpointError(
            f"{MEAN} and {STD} of {tensors.file}, both of numbers or both of NaN",
            f"NaN only in {empty[0]}",
            "The file is damaged, or was written by hand; fetch it again.",
        )
    if empty or (given is not None and given.value == "none"):
        return _without(given, f"{tensors.file}: {MEAN} and {STD} hold no numbers (NaN)")
    mean = tensors.numbers(MEAN, **outer, d_in=d_in)
    std = tensors.numbers(STD, **outer, d_in=d_in)
    scale = tensors.numbers(SCALE, **outer)
    rms = tensors.scalar(RMS)
    _check_positive(tensors.file, scale, std, rms)
    variant = given or _variant(tensors.file, scale, std, rms)
    facts = {
        "normalization": Fact(Affine.name, f"{tensors.file}: {', '.join(KEYS[:3])}"),
        "normalization_variant": variant,
        "target_rms": Fact(rms, f"{tensors.file}: {RMS}"),
    }
    kind = _per_dimension(mean, std) if variant.value == "per_dimension" else _scaled(mean, scale)
    return Normalizer(kind, facts, _notes(tensors.file, fields, variant, scale, std, rms))


def _without(given: Fact | None, source: str) -> Normalizer:
    if given is not None and given.value != "none":
        raise CheckpointError(
            f"{given.source} for a file with mean and std", source, "Leave the setting out."
        )
    return Normalizer(Normalization(), {"normalization": given or Fact("none", source)})


def _check_positive(file: str, scale: Tensor, std: Tensor, rms: float) -> None:
    if not 0 < rms < math.inf:
        raise CheckpointError(
            f"{RMS} of {file} (a positive number)",
            f"{rms:g}",
            "The file is damaged; fetch it again.",
        )
    for key, values, smallest in ((SCALE, scale, "> 0"), (STD, std, ">= 0")):
        if bool((values < 0).any()) or (key == SCALE and bool((values == 0).any())):
            raise CheckpointError(
                f"{key} of {file} with values {smallest}",
                f"a smallest value of {float(values.min()):.4g}",
                "The file is damaged; fetch it again.",
            )


def _expected(std: Tensor, rms: float) -> Tensor:
    """The scale of each source that follows from its standard deviations."""
    return rms / (std.square().sum(-1) + EPS).sqrt()


def _close(scale: Tensor, expected: Tensor) -> bool:
    return bool(((scale - expected).abs() <= CLOSE * expected.abs()).all())


def _variant(file: str, scale: Tensor, std: Tensor, rms: float) -> Fact:
    """Which of the two rules the buffers were made by."""
    if _close(scale, _expected(std, rms)):
        return Fact("global_scale", f"{file}: {SCALE} is {RMS} / √(Σ std²)")
    if bool((scale == 1).all()):
        return Fact("per_dimension", f"{file}: {SCALE} is 1 and not {RMS} / √(Σ std²)")
    return Fact("global_scale", "what the classes of the library do", "assumed")


def _scaled(mean: Tensor, scale: Tensor) -> Affine:
    d_in = mean.shape[-1]
    wide = scale if scale.ndim == 0 else scale.repeat_interleave(d_in)
    return Affine(wide, mean.reshape(-1), scale_out=1 / (wide + EPS))


def _per_dimension(mean: Tensor, std: Tensor) -> Affine:
    spread = (std + EPS).reshape(-1)
    return Affine(1 / spread, mean.reshape(-1), scale_out=spread)


def _notes(
    file: str, fields: Fields, variant: Fact, scale: Tensor, std: Tensor, rms: float
) -> list[str]:
    notes = []
    said = fields.value("target_rms", "trainer.target_rms")
    number = isinstance(said, int | float) and not isinstance(said, bool)
    if number and not math.isclose(said, rms, rel_tol=CLOSE):
        notes.append(
            f"{fields.file} says target_rms {said:g} and the buffer of {file} {rms:g}: the buffers "
            "decide (the config keeps the argument the class was built with)"
        )
    if variant.how == "assumed":
        found = ", ".join(f"{value:.4g}" for value in scale.reshape(-1).tolist()[:4])
        wanted = ", ".join(f"{v:.4g}" for v in _expected(std, rms).reshape(-1).tolist()[:4])
        notes.append(
            f"{SCALE} of {file} is {found}, where std and target_rms give {wanted}: the stored "
            "value is used"
        )
    return notes
