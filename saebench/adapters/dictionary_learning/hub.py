"""Folders that forks of dictionary_learning push to the hub: ``config.json`` and ``model.safetensors``.

The config holds the arguments the class was built with (``activation_dim``, ``dict_size``, …), newer ones
its name as well; older ones are told apart by their tensors. ``BatchTopKSAE`` may carry a normaliser in
its buffers, and is what difference SAEs are made of: ``x`` is then one model's activation minus the
other's. ``f = relu((n(x) − b_dec) Eᵀ + e) · [· > threshold]``, ``x̂ = n⁻¹(f Dᵀ + b_dec)``. The gated and
JumpReLU classes of these forks multiply codes by decoder norms. Source: the classes of the forks.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from saebench.activations import Activation, Gated, JumpReLU
from saebench.adapters.dictionary_learning.classes import (
    KINDS,
    LINEAR,
    MATRICES,
    Kind,
    Stored,
    gate_notes,
    group_sizes,
    settle_threshold,
)
from saebench.adapters.dictionary_learning.difference import run_facts, run_fields, run_files
from saebench.adapters.dictionary_learning.files import (
    CONFIG_FILE,
    config_of,
    dict_class,
    header_of,
    is_crosscoder,
    weight_file,
)
from saebench.adapters.dictionary_learning.normalizer import KEYS, read_normalizer
from saebench.adapters.dictionary_learning.run import SCALED, sizes, subtracts_b_dec
from saebench.adapters.dictionary_learning.trainer import check_k, settle_k
from saebench.adapters.reading.choices import Choices
from saebench.adapters.reading.claims import Claim
from saebench.adapters.reading.fields import Fields, config_from
from saebench.adapters.reading.ours import without_ours, written_provenance
from saebench.adapters.reading.tensors import Tensors, row_norms
from saebench.errors import CheckpointError
from saebench.files import CheckpointFiles
from saebench.sae import SAE, Fact

FORMAT = "dictionary_learning (hub folder)"
ARGUMENTS = ("activation_dim", "dict_size")
LINEARS = {"encoder.weight", "encoder.bias", "decoder.weight"}
TOP_K = {*LINEARS, "b_dec"}
NORMALIZER = (*KEYS, "encoder_init_norm")  # of BatchTopKSAE alone, in its buffers or its config
OWN_TENSORS = {  # of each class that is known by them
    "MatryoshkaBatchTopKSAE": {"W_enc", "W_dec", "b_enc", "b_dec", "group_sizes"},
    "GatedAutoEncoder": {"encoder.weight", "decoder.weight", "decoder_bias", "r_mag", "gate_bias"},
    "JumpReluAutoEncoder": {"W_enc", "W_dec", "b_enc", "b_dec", "threshold"},
}
ACTIVATIONS = {"topk": "AutoEncoderTopK", "batchtopk": "BatchTopKSAE"}


def sniff(files: CheckpointFiles) -> Claim | None:
    """A claim on a config with the arguments of a class at its top, and weights beside it."""
    weights = weight_file(files.names)
    fields = config_of(files)
    if fields is None or weights is None:
        return None
    if not all(key in fields for key in ARGUMENTS) or "trainer.dict_class" in fields:
        return None
    if is_crosscoder(files, weights):
        return None
    header = header_of(files, weights)
    if header and dict_class(files) is None and _class_of(fields, weights, set(header)) is None:
        return None
    evidence = [f"{fields.file}: {', '.join(ARGUMENTS)} at the top"]
    evidence += [
        f"{weights}: {key} {list(header[key].shape)}" for key in (LINEAR, MATRICES) if key in header
    ]
    return Claim(FORMAT, tuple(evidence), (weights,), (fields.file, *run_files(files)))


def read(files: CheckpointFiles, claim: Claim, choices: Choices) -> SAE:
    """The SAE; raises :class:`CheckpointError` where config and tensors contradict each other."""
    fields = Fields(claim.config, files.json(claim.config))
    content = files.state_dict(claim.weight)
    tensors = Tensors(claim.weight, content)
    name = _class_name(files, fields, tensors, choices)
    kind = KINDS[name.value]
    d_in, d_sae = sizes(fields, tensors, kind)
    k, notes = _k(fields, tensors, kind, choices, d_sae.value)
    threshold = settle_threshold(kind, tensors, choices, k)
    normalizer = read_normalizer(tensors, fields, choices, d_in.value)
    number = None if k is None else k.value
    parts = kind.read(Stored(tensors, d_in.value, d_sae.value, k=number, threshold=threshold))
    groups = group_sizes(tensors, d_sae.value)
    tensors.ignore({"k", "threshold"} if kind.needs_k else ())
    subtracts = subtracts_b_dec(kind, name, choices)
    run = run_fields(files)
    places, place_notes = run_facts(files, run, choices)
    activation, norms = _times_norms(kind, parts.activation, parts.W_dec)
    facts = {
        "architecture": Fact(kind.architecture, name.source, name.how),
        "d_in": d_in,
        "d_sae": d_sae,
        "d_out": d_in,
        "k": k,
        **places,
        "dtype": Fact(tensors.dtype(kind.encoder), f"{claim.weight}: {kind.encoder}"),
        **normalizer.facts,
        "subtract_b_dec": subtracts,
        "threshold": threshold,
        "group_sizes": groups,
        "code_unit": None
        if norms is None
        else Fact("times decoder norm", f"definition of {name.value} in the forks", "assumed"),
    }
    notes += normalizer.notes + place_notes + gate_notes(threshold, tensors)
    if unused := tensors.unused():
        notes.append(f"tensors of {tensors.file} not used: {', '.join(unused)}"[:400])
    config = config_from(
        facts, format=FORMAT, notes=notes, provenance=_provenance(fields, run, content.siblings)
    )
    return SAE(
        config,
        activation,
        W_enc=parts.W_enc,
        W_dec=parts.W_dec,
        b_dec=parts.b_dec,
        b_enc=parts.b_enc,
        b_in=parts.b_dec if subtracts.value else None,
        latent_scale=norms,
        normalization=normalizer.normalization,
    )


def _class_name(files: CheckpointFiles, fields: Fields, tensors: Tensors, choices: Choices) -> Fact:
    """The class, by a config or by the tensors that it alone has."""
    named = dict_class(files)
    if named is not None:
        value, source = named
        if value not in KINDS:
            raise CheckpointError(
                f"{source} (one of {', '.join(KINDS)})",
                repr(value)[:200],
                "Correct the config, or fetch the config that belongs to these weights.",
            )
        return Fact(value, source)
    found = _class_of(fields, tensors.file, tensors.names)
    if found is None:
        raise CheckpointError(
            f"dict_class in {CONFIG_FILE}, for tensors that no class has ({tensors.file})",
            "no such key",
            f"Add it: one of {', '.join(KINDS)}.",
        )
    return found if found.value else _kept(choices)


def _class_of(fields: Fields, file: str, names: set[str]) -> Fact | None:
    """The class that has these tensors; "" where two have, None where none has."""
    for kind, marks in OWN_TENSORS.items():
        if names >= marks:
            return Fact(kind, f"{file}: {', '.join(sorted(marks))}")
    if set(fields.data) == set(ARGUMENTS):  # the whole config of the classes without options
        for kind, bias in (("AutoEncoder", "bias"), ("AutoEncoderNew", "decoder.bias")):
            if names == {*LINEARS, bias}:
                return Fact(kind, f"{file}: {bias}")
    if not names >= TOP_K:
        return None
    own = [key for key in NORMALIZER if key in names or key in fields.data]
    if not own:
        return Fact("", f"{file}: k") if "k" in names else None
    return Fact("BatchTopKSAE", f"{file if own[0] in names else fields.file}: {own[0]}")


def _kept(choices: Choices) -> Fact:
    """Which of two classes with the same tensors, as the user says."""
    given = choices.text("activation", tuple(ACTIVATIONS))
    if given is None:
        raise CheckpointError(
            f"dict_class in {CONFIG_FILE}: AutoEncoderTopK and BatchTopKSAE have the same tensors",
            "no such key",
            "Give --set activation=topk or --set activation=batchtopk.",
        )
    return Fact(ACTIVATIONS[given.value], given.source, "user")


def _k(
    fields: Fields, tensors: Tensors, kind: Kind, choices: Choices, d_sae: int
) -> tuple[Fact | None, list[str]]:
    if not kind.needs_k:
        return None, []
    k, notes = choices.size("k"), list[str]()
    if k is None:
        k, notes = settle_k(fields.optional_size("k"), tensors, fields, strict=not kind.batch)
    k = k or fields.size("k")  # raises: nobody says
    check_k(k, d_sae)
    return k, notes


def _times_norms(
    kind: Kind, activation: Activation, W_dec: Tensor
) -> tuple[Activation, Tensor | None]:
    """The activation on pre-activations times decoder norms, and those; as it is for other classes."""
    if kind.architecture not in SCALED:
        return activation, None
    norms = row_norms(W_dec)
    norms[norms == 0] = 1  # a latent without a direction decodes to nothing in any unit
    if isinstance(activation, JumpReLU):
        return JumpReLU(activation.threshold * norms), norms
    assert isinstance(activation, Gated)
    gate, mag = activation.b_gate * norms, activation.b_mag * norms
    return Gated(gate, activation.r_mag, mag), norms


def _provenance(fields: Fields, run: list[Fields], siblings: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"arguments": dict(fields.data)}
    found |= {item.file: without_ours(item.data) for item in run}
    found |= written_provenance(*run)
    return found | ({"run": dict(siblings)} if siblings else {})
