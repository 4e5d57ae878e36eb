"""The gate of a fork's crosscoder: on codes times a norm that a latent's decoders make.

``c`` is the sum of the decoder norms over the sources (CROSSCODER), the norm of all of them together
(SAE), ``α_sae · SAE + α_cc · CROSSCODER`` (MIXED) or 1 (NONE); a code ``f`` passes where
``f · c > threshold``. DECOUPLED gates, and codes, each source apart. Source: the method
``get_code_normalization`` of the forks.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from saebench.activations import Activation, JumpReLU, ReLU
from saebench.adapters.dictionary_learning.classes import batch_threshold
from saebench.adapters.dictionary_learning.trainer import check_k, settle_k
from saebench.adapters.reading.batch_gate import ESTIMATE, batch_gate
from saebench.adapters.reading.choices import Choices
from saebench.adapters.reading.fields import Fields
from saebench.adapters.reading.tensors import Tensors, row_norms
from saebench.errors import CheckpointError
from saebench.sae import Fact

KINDS = {1: "CROSSCODER", 2: "SAE", 3: "MIXED", 4: "NONE", 5: "DECOUPLED"}
CODE_ID = "code_normalization_id"
SAID = ("code_normalization", "trainer.code_normalization")
ALPHAS = {"code_normalization_alpha_sae": 1.0, "code_normalization_alpha_cc": 0.1}


@dataclass
class Gate:
    """An activation with the facts behind it and notes on them."""

    activation: Activation
    facts: dict[str, Fact | None]
    notes: list[str] = field(default_factory=list)


def read_gate(
    fields: list[Fields],
    tensors: Tensors,
    choices: Choices,
    W_dec: Tensor,
    n_sources: int,
    batch: bool,
) -> Gate:
    """The gate of the class with ``k`` and ``threshold`` (``batch``), or a ReLU.

    Raises :class:`CheckpointError` for a threshold that training never estimated, and for codes that
    differ from source to source.
    """
    kind, notes = _code_normalization(fields, tensors)
    if not batch:
        return Gate(ReLU(), {"code_normalization": kind}, notes)
    if kind.value == "DECOUPLED":
        raise CheckpointError(
            f"one code of a latent for all {n_sources} sources ({kind.source})",
            "DECOUPLED: every source has thresholds and codes of its own, and the library "
            "normalises its input twice there",
            "Save each source as a dictionary of its own, or train with another code normalisation.",
        )
    d_sae = W_dec.shape[0]
    said = fields[0].optional_size("trainer.k", "k")
    k, k_notes = settle_k(said, tensors, fields[0], strict=False)
    k = choices.size("k") or k
    check_k(k, d_sae)
    norms = _norms(kind.value, fields, W_dec, n_sources)
    threshold = batch_threshold(tensors, choices, k)
    facts: dict[str, Fact | None] = {
        "code_normalization": kind,
        "k": k,
        "threshold": threshold,
    }
    notes = notes + k_notes + _dead(norms)
    if threshold.value == ESTIMATE:
        assert k is not None  # or it was asked for
        return Gate(batch_gate(k.value, threshold, norms), facts, notes)
    value = torch.tensor(float(threshold.value))
    return Gate(JumpReLU(torch.where(norms > 0, value / norms, math.inf)), facts, notes)


def _code_normalization(fields: list[Fields], tensors: Tensors) -> tuple[Fact, list[str]]:
    """Which norm ranks latents: by the buffer, else by a config, else as before there was a choice."""
    said = next((fact for f in fields if (fact := f.text(*SAID))), None)
    named = None if said is None else said.value.upper().rpartition(".")[2]
    if CODE_ID not in tensors:
        if said is None:
            source = f"no {CODE_ID} in {tensors.file}: that of the versions which stored none"
            return Fact(KINDS[1], source, "assumed"), []
        if named not in KINDS.values():
            raise CheckpointError(
                f"{said.source} (one of {', '.join(KINDS.values())})",
                repr(said.value)[:200],
                "Correct the config, or fetch the config that belongs to these weights.",
            )
        return Fact(named, said.source), []
    value = tensors.scalar(CODE_ID)
    if value not in KINDS:
        raise CheckpointError(
            f"{CODE_ID} of {tensors.file} from 1 to {len(KINDS)}",
            f"{value:g}",
            "A newer version of the library may have written it; it is not known here.",
        )
    stored = Fact(KINDS[int(value)], f"{tensors.file}: {CODE_ID}")
    if named in (None, stored.value):
        return stored, []
    assert said is not None
    return stored, [
        f"{said.source} is {said.value!r:.40} and {stored.source} {stored.value}, used here"
    ]


def _norms(kind: str, fields: list[Fields], W_dec: Tensor, n_sources: int) -> Tensor:
    """``c[d_sae]``, the factor of the codes that the threshold is compared with."""
    if kind == "NONE":
        return torch.ones(W_dec.shape[0])
    whole = row_norms(W_dec)
    if kind == "SAE":
        return whole
    summed = torch.zeros(W_dec.shape[0])
    for decoder in W_dec.chunk(n_sources, -1):
        summed += row_norms(decoder)
    if kind == "CROSSCODER":
        return summed
    sae, crosscoder = (_alpha(fields, key, default) for key, default in ALPHAS.items())
    return sae * whole + crosscoder * summed


def _alpha(fields: list[Fields], key: str, default: float) -> float:
    for run in fields:
        value = run.value(key, f"trainer.{key}")
        if value is None:
            continue
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e6:
            return float(value)
        raise CheckpointError(
            f"{key} in {run.file} (a number >= 0)", repr(value)[:200], "Correct the config."
        )
    return default


def _dead(norms: Tensor) -> list[str]:
    zero = int((norms == 0).sum())
    return [f"{zero:,} latents have no decoder direction and pass no threshold"] if zero else []
