"""What a SAELens checkpoint does to its input: at run time, or in training and not yet folded in.

``layer_norm`` and ``constant_norm_rescale`` are applied to every token. A run that scales by an
average norm or whitens does so outside the SAE: its trainer keeps the numbers in
``activation_scaler.json`` and ``activation_whitening.safetensors`` and folds them into the weights
when it ends. Checkpoints from before the end are not folded, so the numbers are applied here: the
SAE then gives for raw activations what it gave its trainer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch

from saebench.adapters.reading.batch_gate import ESTIMATE
from saebench.adapters.reading.choices import Choices
from saebench.adapters.reading.fields import Fields
from saebench.adapters.reading.tensors import Tensors
from saebench.adapters.saelens.architecture import TEMPORAL
from saebench.errors import CheckpointError
from saebench.files import CheckpointFiles
from saebench.sae import Fact
from saebench.sae.normalization import Affine, AverageNorm, Normalization, Whitening

KEY = "normalize_activations"
FACTOR_KEY = "activation_normalization_factor"  # of a temporal SAE
SCALER_FILE = "activation_scaler.json"  # beside the checkpoints of a run
WHITENING_FILE = "activation_whitening.safetensors"
AVERAGE = "expected_average_only_in"
WHITENED = "covariance_whitening"
RESCALED = "constant_scalar_rescale"
PER_TOKEN = ("layer_norm", "constant_norm_rescale")
NORMALIZATIONS = ("none", *PER_TOKEN, AVERAGE, WHITENED)


@dataclass
class Inputs:
    """How activations enter: facts, notes, and the normalisation where it has numbers."""

    facts: dict[str, Fact]
    notes: list[str] = field(default_factory=list)
    normalization: Normalization | None = None

    @property
    def is_scaled(self) -> bool:
        """Whether one number scales all activations, and its inverse what is decoded."""
        return isinstance(self.normalization, Affine | AverageNorm)


def run_files(files: CheckpointFiles) -> tuple[list[str], list[str]]:
    """The config and weight files of a training run that say how its activations are scaled."""
    if SCALER_FILE not in files.names:
        return [], []
    whitened = files.json(SCALER_FILE).get("has_whitening", True)
    return [SCALER_FILE], [WHITENING_FILE] if whitened and WHITENING_FILE in files.names else []


def read_normalization(
    fields: Fields, files: CheckpointFiles, choices: Choices, architecture: str, d_in: int
) -> Inputs:
    """The normalisation: the user's, the run's, the config's, or none.

    Raises :class:`CheckpointError` where numbers that it needs are missing or make no sense.
    """
    given = choices.text("normalization", NORMALIZATIONS)
    named = given or _named(fields, architecture)
    found = Inputs({"normalization": named})
    if named.value == RESCALED:
        _scale(found, _rescaling(fields))
        return found
    scale = None if named.value in PER_TOKEN else choices.text("input_scale")
    if scale is not None and scale.value == ESTIMATE:
        found.facts |= {"normalization": Fact(AVERAGE, scale.source, "user"), "input_scale": scale}
        found.normalization = AverageNorm(1)
    elif scale is not None and (number := choices.number("input_scale")) is not None:
        _average(found, _positive(number))
    elif given is None or given.value != "none":
        _add_run(files, found, d_in)
    if found.normalization is not None:
        if named.value in PER_TOKEN:
            raise CheckpointError(
                f"{SCALER_FILE} with a scaling_factor of null, since {named.source} is {named.value}",
                "a scale or a whitening of the run as well",
                "Keep the file that belongs to this config only.",
            )
        return found
    if named.value == WHITENED:
        raise CheckpointError(
            f"{WHITENING_FILE} beside {fields.file}, since {named.source} is {WHITENED}",
            "no such file, or a run that says it has none",
            "Copy it from the run, or pass --set normalization=none if it is folded in already.",
        )
    if named.value == AVERAGE:
        found.facts["normalization"] = Fact("none", named.source, named.how)
        found.notes.append(
            f"{KEY} is {AVERAGE} and no file has the scale: it is not applied, as in SAELens, which "
            "writes none here when it folds one in. If reconstructions are poor the weights expect "
            f"one: --set input_scale=… or --set input_scale={ESTIMATE}"
        )
    return found


def _named(fields: Fields, architecture: str) -> Fact:
    """What the config says; before version 6 it could be true, false or null."""
    if isinstance(fields.value(KEY), bool):
        return Fact(AVERAGE if fields.value(KEY) else "none", f"{fields.file}: {KEY}")
    extra = (RESCALED,) if architecture == TEMPORAL else ()
    named = fields.one_of((*NORMALIZATIONS, *extra), KEY)
    return named or Fact("none", f"not in {fields.file}: {KEY} defaults to none", "assumed")


def _rescaling(fields: Fields) -> Fact:
    value = fields.value(FACTOR_KEY)
    if value is None:
        return Fact(1.0, f"not in {fields.file}: {FACTOR_KEY} defaults to 1", "assumed")
    return _positive(Fact(value, f"{fields.file}: {FACTOR_KEY}"))


def _scale(found: Inputs, factor: Fact) -> None:
    """Activations times a number on the way in; what is decoded is divided by it."""
    found.facts["input_scale"] = factor
    found.normalization = Affine(torch.tensor(float(factor.value)))


def _average(found: Inputs, factor: Fact) -> None:
    """:func:`_scale` by what brings the average norm to ``√d``."""
    found.facts["normalization"] = Fact(AVERAGE, factor.source, factor.how)
    _scale(found, factor)


def _add_run(files: CheckpointFiles, found: Inputs, d_in: int) -> None:
    """Apply what the trainer did to activations before the SAE saw them."""
    if SCALER_FILE not in files.names:
        return
    run = Fields(SCALER_FILE, files.json(SCALER_FILE))
    factor = run.value("scaling_factor")
    scale = None if factor is None else _positive(Fact(factor, f"{SCALER_FILE}: scaling_factor"))
    if _has_whitening(run, files):
        tensors = Tensors(WHITENING_FILE, files.state_dict(WHITENING_FILE))
        s = 1.0 if scale is None else float(scale.value)  # the trainer scales before it whitens
        found.facts["normalization"] = Fact(WHITENED, f"{WHITENING_FILE}: mean, matrix")
        found.normalization = Whitening(
            tensors.take("mean", d_in=d_in).div_(s),
            tensors.take("matrix", d_in=d_in, whitened=d_in).mul_(s),
            tensors.take("inverse_matrix", whitened=d_in, d_in=d_in).div_(s),
        )
        what = "whitening"
    elif scale is not None:
        _average(found, scale)
        what = f"scale {scale.value:.6g}"
    else:
        found.notes.append(
            f"{SCALER_FILE} lies beside the weights and scales nothing: a checkpoint of a training run"
        )
        return
    found.notes.append(
        f"{SCALER_FILE} lies beside the weights: the run was not finished and its {what} is not folded "
        "in. It is applied here, to activations and back; SAELens applies it in its trainer only"
    )


def _has_whitening(run: Fields, files: CheckpointFiles) -> bool:
    is_there = WHITENING_FILE in files.names
    if "has_whitening" not in run:
        return is_there
    claimed = run.flag("has_whitening", default=False)
    if claimed.value and not is_there:
        raise CheckpointError(
            f"{WHITENING_FILE}, since {claimed.source} is true",
            "no such file",
            "Copy it from the run, or pass --set normalization=none to do without.",
        )
    return bool(claimed.value)


def _positive(fact: Fact) -> Fact:
    """The fact, if it is a positive finite number."""
    value = fact.value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and math.isfinite(value) and value > 0:
        return Fact(float(value), fact.source, fact.how)
    raise CheckpointError(
        f"{fact.source} (a positive number)",
        repr(value)[:200],
        "Give the factor that the run multiplied activations by.",
    )
