"""dictionary_learning checkpoints: ``config.json`` with ``trainer.dict_class``, and a state dict.

The class has to be named: files of ``AutoEncoderTopK`` and ``BatchTopKSAE`` hold the same tensors.
Where training divided activations by a ``norm_factor``, biases and thresholds are multiplied by it before
a run's final file and its ``checkpoints/ae_STEP.pt`` are written, so that these take raw activations. The
backup of a run that goes on holds them as they are, beside the factor; then it is done here.
Runs of forks may hold a normaliser in buffers instead, which is no part of the biases.
"""

from __future__ import annotations

import math
from typing import Any

from saebench.adapters.dictionary_learning.classes import (
    KINDS,
    LINEAR,
    Kind,
    Stored,
    gate_notes,
    group_sizes,
    settle_threshold,
)
from saebench.adapters.dictionary_learning.files import config_of, is_crosscoder, weight_file
from saebench.adapters.dictionary_learning.normalizer import KEYS, Normalizer, read_normalizer
from saebench.adapters.dictionary_learning.trainer import check_k, settle_k, site_facts, step_of
from saebench.adapters.reading.choices import Choices
from saebench.adapters.reading.claims import Claim
from saebench.adapters.reading.fields import Fields, config_from
from saebench.adapters.reading.tensors import Tensors
from saebench.errors import CheckpointError
from saebench.files import CheckpointFiles
from saebench.sae import SAE, Fact
from saebench.weights import StateDict

FORMAT = "dictionary_learning"
SCALED = ("gated", "jumprelu")  # classes whose codes a fork multiplies by decoder norms


def sniff(files: CheckpointFiles) -> Claim | None:
    """A claim when ``config.json`` names a dictionary class and weights lie beside it."""
    fields = config_of(files)
    dict_class = None if fields is None else fields.value("trainer.dict_class")
    weights = weight_file(files.names)
    if fields is None or not isinstance(dict_class, str) or weights is None:
        return None
    if is_crosscoder(files, weights):
        return None
    evidence = (f"{fields.file}: trainer.dict_class {dict_class!r:.80}", f"weights {weights}")
    return Claim(FORMAT, evidence, (weights,), (fields.file,))


def read(files: CheckpointFiles, claim: Claim, choices: Choices) -> SAE:
    """The SAE; raises :class:`CheckpointError` where config and tensors contradict each other."""
    fields = Fields(claim.config, files.json(claim.config))
    fields.check_table("buffer")
    name = fields.one_of(tuple(KINDS), "trainer.dict_class")
    assert name is not None  # sniff saw it
    kind = KINDS[name.value]
    content = files.state_dict(claim.weight)
    tensors = Tensors(claim.weight, content)
    d_in, d_sae = sizes(fields, tensors, kind, "trainer.")
    k, notes = _k(fields, tensors, kind, choices, d_sae.value)
    unit, unit_notes = _unit(claim.weight, content)
    factor = 1.0 if unit is None else unit.value
    threshold = settle_threshold(kind, tensors, choices, k, factor)
    normalizer = read_normalizer(tensors, fields, choices, d_in.value)
    stored = Stored(
        tensors,
        d_in.value,
        d_sae.value,
        k=None if k is None else k.value,
        unit=factor,
        threshold=threshold,
    )
    parts = kind.read(stored)
    groups = group_sizes(tensors, d_sae.value)
    tensors.ignore({"k", "threshold"} if kind.needs_k else ())
    subtracts = subtracts_b_dec(kind, name, choices)
    step, step_notes = _step(claim.weight, content, fields)
    sites = site_facts(fields)
    facts = {
        "architecture": Fact(kind.architecture, name.source),
        "d_in": d_in,
        "d_sae": d_sae,
        "d_out": d_in,
        "k": k,
        **sites,
        "model": fields.text("trainer.lm_name"),
        "dtype": Fact(tensors.dtype(kind.encoder), f"{claim.weight}: {kind.encoder}"),
        **_normalization(normalizer, tensors, unit),
        "norm_factor": unit,
        "subtract_b_dec": subtracts,
        "threshold": threshold,
        "group_sizes": groups,
        "step": step,
    }
    notes += unit_notes + step_notes + normalizer.notes + gate_notes(threshold, tensors)
    config = config_from(
        facts,
        format=FORMAT,
        notes=notes + _notes(fields, tensors, sites) + _code_unit(kind, name, tensors),
        provenance=_provenance(fields, content),
    )
    b_in = parts.b_dec if subtracts.value else None
    return SAE(config, **vars(parts), b_in=b_in, normalization=normalizer.normalization)


def sizes(fields: Fields, tensors: Tensors, kind: Kind, prefix: str = "") -> tuple[Fact, Fact]:
    """d_in and d_sae from the config, else from the encoder's shape."""
    shape = tensors.shape(kind.encoder)
    if len(shape) != 2:
        raise CheckpointError(
            f"tensor {kind.encoder!r} of {tensors.file} with two dimensions",
            f"shape {list(shape)}",
            "The config names a class that these weights are not of.",
        )
    source = f"{tensors.file}: shape of {kind.encoder}"
    d_sae, d_in = shape if kind.encoder == LINEAR else shape[::-1]
    return (
        fields.optional_size(f"{prefix}activation_dim") or Fact(d_in, source),
        fields.optional_size(f"{prefix}dict_size") or Fact(d_sae, source),
    )


def subtracts_b_dec(kind: Kind, name: Fact, choices: Choices) -> Fact:
    """Whether b_dec is subtracted from the input; of a JumpReLU that is a switch nobody saves."""
    if kind.architecture == "jumprelu" and (given := choices.flag("subtract_b_dec")):
        return given
    return Fact(kind.subtracts, f"definition of {name.value}", "assumed")


def _k(
    fields: Fields, tensors: Tensors, kind: Kind, choices: Choices, d_sae: int
) -> tuple[Fact | None, list[str]]:
    """k of the classes that keep a number of latents: the user's, the stored one, the config's."""
    if not kind.needs_k:
        return None, []
    k, notes = choices.size("k"), list[str]()
    if k is None:
        k, notes = settle_k(fields.optional_size("trainer.k"), tensors, fields)
    k = k or fields.size("trainer.k")  # raises: nobody says
    check_k(k, d_sae)
    return k, notes


def _unit(weights: str, content: StateDict) -> tuple[Fact | None, list[str]]:
    """The norm_factor of an unfinished run, whose biases are still in units of activations over it."""
    beside = content.siblings or {}
    if content.wrapper is None:
        return None, []
    if not {"step", "norm_factor"} & set(beside):
        return None, [f"tensors of {weights} lie under {content.wrapper!r}"]
    note = f"{weights} is the backup of an unfinished run (tensors under {content.wrapper!r}"
    note += f", step {beside['step']})" if isinstance(beside.get("step"), int) else ")"
    factor = beside.get("norm_factor")
    if factor is None:
        return None, [note]
    number = isinstance(factor, int | float) and not isinstance(factor, bool)
    if not number or not 0 < factor < math.inf:
        raise CheckpointError(
            f"norm_factor of {weights} (a positive number)",
            repr(factor)[:200],
            "The backup is damaged; use another checkpoint of the run.",
        )
    note += f"; its biases, stored for activations / {factor:g}, were multiplied by that"
    return Fact(float(factor), f"{weights}: norm_factor"), [note]


def _normalization(normalizer: Normalizer, tensors: Tensors, unit: Fact | None) -> dict[str, Fact]:
    """The user's word or the buffers, else what training did with the activations.

    Raises :class:`CheckpointError` for a normaliser beside a norm_factor: no known version of the
    library scales activations twice.
    """
    said = normalizer.facts["normalization"]
    if said.value != "none" and unit is not None and unit.value != 1:
        raise CheckpointError(
            f"{unit.source} or the buffers {', '.join(KEYS)}, one of the two",
            f"a factor of {unit.value:g} and a normaliser",
            "Use the final weights of the run, or give --set normalization=none for no normaliser.",
        )
    if said.how == "user" or any(key in tensors for key in KEYS):
        return normalizer.facts
    if unit is None:
        folded = "folded into the biases when a run is saved"
        return {"normalization": Fact("none", folded, "assumed")}
    return {"normalization": Fact("none", f"{unit.source}, multiplied into the biases here")}


def _step(weights: str, content: StateDict, fields: Fields) -> tuple[Fact | None, list[str]]:
    step = (content.siblings or {}).get("step")
    if content.wrapper is not None and isinstance(step, int):
        return Fact(step, f"{weights}: step"), []
    return step_of(weights, fields)


def _code_unit(kind: Kind, name: Fact, tensors: Tensors) -> list[str]:
    """A note on classes whose codes another library by the same names multiplies by decoder norms."""
    if kind.architecture not in SCALED:
        return []
    note = f"codes of {name.value} are as in dictionary_learning; a fork of it multiplies them by "
    note += "decoder norms, which changes their size and no reconstruction"
    if any(key in tensors for key in KEYS):
        note += f" (only forks store {KEYS[0]})"
    return [note]


def _notes(fields: Fields, tensors: Tensors, sites: dict[str, Fact]) -> list[str]:
    notes = []
    if not sites:
        notes.append("the config does not say which hook point it was trained on")
    if tensors.unused():
        notes.append(f"tensors of {tensors.file} not used: {', '.join(tensors.unused())}"[:400])
    if fields.value("buffer.io") == "in_and_out":
        notes.append(
            "trained on pairs of inputs and outputs of a module (buffer.io in_and_out): a transcoder"
        )
    return notes


def _provenance(fields: Fields, content: StateDict) -> dict[str, Any]:
    found = {key: fields.value(key) for key in ("trainer", "buffer") if key in fields}
    if content.siblings:
        found["run"] = dict(content.siblings)
    return found
