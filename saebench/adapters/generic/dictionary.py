"""Anything else with one encoder and one decoder: settled by shapes, configs and the user, not guessed.

The last resort, asked only when no other format fits. What is known comes, in this order, from the
user (``--set name=value``, ``--map role=tensor``), from configs beside the weights or inside their file, and
from shapes. Bias lengths and configs settle which way round each matrix is; names never do. What may
not be guessed (activation, k, thresholds, the orientation of square matrices, tensors without a known
role) is asked for in one error that lists everything. What is assumed is marked so, with a note: that
b_dec is not subtracted, that top-k rectifies, that inputs are not normalised.

``f = act((n(x) − b_in) W_enc + b_enc)``, ``x̂ = n⁻¹(f W_dec + b_dec)``;
the roles and settings are those of :mod:`saebench.settings`.

Hidden layers, batch norms and whole crosscoders are beyond it; so are Overcomplete's archetypal
dictionaries. Its plain ones load with ``normalize_decoder`` and ``log_threshold``; ``exp`` of their
``dictionary.multiplier`` scales the decoder.
"""

from __future__ import annotations

from saebench.adapters.generic.build import build
from saebench.adapters.generic.config import config_names, gather
from saebench.adapters.generic.gate import settle_gate
from saebench.adapters.generic.inputs import settle_input
from saebench.adapters.generic.names import find_roles, matrices, role_of
from saebench.adapters.generic.roles import advise, settle_leftovers, settle_roles, settle_variants
from saebench.adapters.generic.shapes import settle_layout
from saebench.adapters.generic.sheet import Sheet, shown
from saebench.adapters.reading.choices import Choices
from saebench.adapters.reading.claims import Claim
from saebench.adapters.reading.tensors import Tensors
from saebench.errors import CheckpointError
from saebench.files import CheckpointFiles
from saebench.sae import SAE
from saebench.weights import TensorInfo, is_pickle, is_weights

FORMAT = "generic"
MAX_MATRICES = 4  # encoder, decoder, a gate, a skip; more is a network of another kind


def sniff(files: CheckpointFiles) -> Claim | None:
    """A claim when one weight file has an encoder or a decoder by name, or few matrices at all."""
    fitting = {}
    for name in files.names:
        if is_weights(name) and (files.allow_pickle or not is_pickle(name)):
            evidence = _evidence(files, name)
            if evidence:
                fitting[name] = evidence
    if not fitting:
        return None
    if len(fitting) > 1:
        listed = ", ".join(list(fitting)[:12])
        raise CheckpointError(
            f"one weight file in {files.root}", listed, "Reference one of the files."
        )
    name, evidence = next(iter(fitting.items()))
    return Claim(FORMAT, evidence, (name,), tuple(config_names(files, name)))


def read(files: CheckpointFiles, claim: Claim, choices: Choices) -> SAE:
    """The dictionary; raises :class:`CheckpointError` with everything that has to be said first."""
    content = files.state_dict(claim.weight)
    header = files.header(claim.weight)
    tensors = Tensors(claim.weight, content)
    known, _ = gather(files, claim.weight, content)
    sheet = Sheet(claim.weight)
    roles = settle_roles(sheet, header, known, choices)
    shapes = {role: (name, header[name].shape) for role, name in roles.items()}
    layout = None
    if not sheet.questions:
        layout = settle_layout(sheet, shapes, known, choices)
    hint = f"{files.hint}/{claim.weight}"
    gate = settle_gate(sheet, roles, tensors, known, choices, hint)
    inputs = settle_input(sheet, roles, layout, known, choices)
    variants = settle_variants(sheet, roles, known, choices)
    settle_leftovers(sheet, roles, gate, header, choices, layout)
    advise(sheet, header, claim)
    sheet.check(known.described())
    assert layout is not None  # or it was asked for, as the others were
    assert gate is not None
    assert inputs is not None
    return build(
        FORMAT, tensors, content, known, roles=roles, layout=layout, gate=gate, inputs=inputs,
        variants=variants, hint=hint,
    )  # fmt: skip


def _evidence(files: CheckpointFiles, name: str) -> tuple[str, ...]:
    """The matrices that may be an encoder or a decoder; empty where the file is something else."""
    try:
        header: dict[str, TensorInfo] = files.header(name)
    except CheckpointError:
        return ()  # damaged ones are reported where nothing at all fits
    floating = {key: item for key, item in header.items() if "float" in item.dtype}
    found = matrices(floating)
    named = [key for key in found if role_of(key, header[key].shape) in ("encoder", "decoder")]
    both = {"encoder", "decoder"} <= set(find_roles(floating))
    if len(found) > MAX_MATRICES and not both:
        return ()
    if not named and len(found) != 2:
        return ()
    listed = ", ".join(shown(key, header[key].shape) for key in (named or found)[:2])
    return (f"no other format fits {name}", f"{name}: {listed}")
