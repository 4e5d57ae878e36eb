"""Single ``.pt`` files of nanochat-SAE's classes, with ``d_in``, ``d_sae`` and an activation in a config.

``pre = x W_enc + b_enc``, top-k of the raw values per token, ``x̂ = f W_dec + b_dec``: as far as the published
class goes, b_dec is not subtracted and what is kept is not rectified. Neither is confirmed for every
file, so both are marked as assumed and ``--set subtract_b_dec=true``, ``--set relu=true`` change them.
A dictionary trained with batch top-k is used with top-k per token; ``--set activation=batchtopk`` takes a
threshold from the data instead. The gated class has a gate matrix of its own and no ReLU.

Tensors are plain parameters (``W_enc``, ``b_enc``), Linear modules of that name (``W_enc.weight``), or
``encoder.weight``; the files of a run hold them under ``sae_state_dict`` beside its ``config``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from saebench.adapters.generic.build import build
from saebench.adapters.generic.config import (
    ACTIVATION,
    SITE,
    SUBTRACT,
    K,
    Knowledge,
    a_flag,
    a_size,
    a_text,
    activation_named,
    gather,
)
from saebench.adapters.generic.gate import Gate
from saebench.adapters.generic.inputs import Input
from saebench.adapters.generic.shapes import LINEAR, PLAIN, Layout, settle_layout
from saebench.adapters.generic.sheet import Sheet, contradiction
from saebench.adapters.reading.choices import Choices
from saebench.adapters.reading.claims import Claim
from saebench.adapters.reading.tensors import Tensors
from saebench.errors import CheckpointError
from saebench.files import CheckpointFiles
from saebench.sae import SAE, Fact
from saebench.weights import TensorInfo, is_pickle

FORMAT = "nanochat_sae"
KINDS = ("topk", "batchtopk", "relu", "gated")
LAYOUTS = (
    {"encoder": "W_enc", "decoder": "W_dec"},
    {"encoder": "W_enc.weight", "decoder": "W_dec.weight"},
    {"encoder": "encoder.weight", "decoder": "decoder.weight"},
)
BIASES: dict[str, tuple[str, ...]] = {
    "b_enc": ("b_enc", "W_enc.bias", "encoder.bias"),
    "b_dec": ("b_dec", "W_dec.bias", "decoder.bias"),
    "gate": ("W_gate", "W_gate.weight", "gate.weight"),
    "b_gate": ("b_gate", "W_gate.bias", "gate.bias"),
}


def sniff(files: CheckpointFiles) -> Claim | None:
    """A claim when a ``.pt`` has the tensors and a config d_in, d_sae and one of the activations."""
    pickles = [name for name in files.names if is_pickle(name)] if files.allow_pickle else []
    fitting: dict[str, Claim] = {}
    for name in pickles:
        try:
            header, content = files.header(name), files.state_dict(name)
        except CheckpointError:
            continue  # what lies beside a checkpoint may be anything
        roles = _roles(header)
        if roles is None or any(len(header[roles[r]].shape) != 2 for r in ("encoder", "decoder")):
            continue
        known, configs = gather(files, name, content)
        said = _said(known)
        if said is not None:
            evidence = (
                f"{said.source} with d_in and d_sae",
                f"{name}: {', '.join(roles.values())}",
            )
            fitting[name] = Claim(FORMAT, evidence, (name,), tuple(configs))
    if len(fitting) > 1:
        raise CheckpointError(
            f"one weight file in {files.root}",
            ", ".join(list(fitting)[:12]),
            "Reference one of the files (the best or the last of the run).",
        )
    return next(iter(fitting.values()), None)


def read(files: CheckpointFiles, claim: Claim, choices: Choices) -> SAE:
    """The dictionary; raises :class:`CheckpointError` where config and tensors contradict each other."""
    content = files.state_dict(claim.weight)
    known, _ = gather(files, claim.weight, content)
    tensors = Tensors(claim.weight, content)
    header = files.header(claim.weight)
    roles = _roles(header)
    trained = _said(known)
    assert roles is not None  # sniff saw them
    assert trained is not None
    given = choices.text("activation", KINDS)
    layout = _layout(claim.weight, header, roles, known, choices)
    gate = _gate(claim.weight, trained, given, known, choices)
    inputs = _inputs(roles, known, choices)
    sae = build(
        FORMAT, tensors, content, known, roles=roles, layout=layout, gate=gate, inputs=inputs,
        variants={},
    )  # fmt: skip
    return _described(sae, trained if given is None else given, known)


def _roles(names: Iterable[str]) -> dict[str, str] | None:
    """The tensors by role, in the one layout that the names are of."""
    present = set(names)
    fitting = [item for item in LAYOUTS if set(item.values()) <= present]
    if len(fitting) != 1:
        return None
    roles = fitting[0]
    found = {r: [n for n in many if n in present] for r, many in BIASES.items()}
    return roles | {role: first[0] for role, first in found.items() if first}


def _said(known: Knowledge) -> Fact | None:
    """The activation of a config that has d_in and d_sae under just these names."""
    for fields in known.sources:
        one = Knowledge([fields])
        kinds = one.all(ACTIVATION, activation_named)
        widths = [one.all((key,), a_size) for key in ("d_in", "d_sae")]
        fitting = [fact for fact in kinds if fact.value in KINDS]
        if all(widths) and fitting:
            return next((fact for fact in fitting if fact.value != "relu"), fitting[0])
    return None


def _layout(
    file: str,
    header: Mapping[str, TensorInfo],
    roles: Mapping[str, str],
    known: Knowledge,
    choices: Choices,
) -> Layout:
    """Widths by config and shapes; raises where matrices are square and nobody says which way round."""
    shapes = {role: (name, header[name].shape) for role, name in roles.items()}
    sheet = Sheet(file)
    layout = settle_layout(sheet, shapes, known, choices)
    if layout is not None:
        return layout
    linear = roles["encoder"].endswith(".weight")
    usual = {"orientation": linear, "decoder_orientation": not linear}
    open_ones = [name for name in usual if choices.text(name) is None]
    answers = [f"--set {name}={LINEAR if usual[name] else PLAIN}" for name in open_ones]
    raise CheckpointError(
        f"which way round {' and '.join(roles[r] for r in ('encoder', 'decoder'))} of {file} are",
        f"square, {list(shapes['encoder'][1])}, so that lengths do not tell",
        f"Give {' '.join(answers)} if they are as a module of that name has them, or the other way "
        f"round ({PLAIN} or {LINEAR}).",
    )


def _gate(file: str, trained: Fact, given: Fact | None, known: Knowledge, choices: Choices) -> Gate:
    kind = (given or trained).value
    if kind in ("relu", "gated"):
        return Gate(given or trained)
    k = choices.size("k") or next(iter(known.all(K, a_size)), None)
    if k is None:
        raise contradiction(
            f"k in the config of {file} ({trained.source} is {trained.value})",
            "no such key: give it with --set k=K",
        )
    if given is not None and kind == "batchtopk":
        return Gate(given, k)
    source = "its published class keeps raw values; --set relu=true if this one rectifies them"
    relu = choices.flag("relu") or Fact(False, source, "assumed")
    return Gate(Fact("topk", (given or trained).source, (given or trained).how), k, relu)


def _inputs(roles: Mapping[str, str], known: Knowledge, choices: Choices) -> Input:
    given = choices.flag("subtract_b_dec")
    stated = known.all(SUBTRACT, a_flag)
    source = "its published class does not; --set subtract_b_dec=true if this one does"
    subtract = given or (stated[0] if stated else Fact(False, source, "assumed"))
    if subtract.value and "b_dec" not in roles:
        raise contradiction(f"a decoder bias for {subtract.source}", "there is none")
    return Input(Fact("none", "definition of the format", "assumed"), None, subtract)


def _described(sae: SAE, trained: Fact, known: Knowledge) -> SAE:
    """The dictionary with what it was trained as, and the layer that a config counts."""
    facts, notes = dict(sae.cfg.facts), [n for n in sae.cfg.notes if "normalization" not in n]
    facts["architecture"] = trained
    if trained.value == "batchtopk" and trained.how == "file":
        source = "its card has top-k per token at inference; --set activation=batchtopk otherwise"
        facts["selection"] = Fact("per token", source, "assumed")
        notes.append(f"trained with batch top-k and used with top-k per token: {source}")
    site = sae.cfg.site
    layers = known.all(("layer", "layer_idx", "hook_layer", "layer_index"), _a_layer)
    if layers and not known.all(SITE, a_text):
        site = f"blocks.{layers[0].value}.hook_resid_post"
        source = f"{layers[0].source}, residual stream after that layer"
        facts["site"] = Fact(site, source, "assumed")
        notes = [note for note in notes if "which hook point" not in note]
    sae.cfg = replace(
        sae.cfg, architecture=trained.value, site=site, facts=facts, notes=tuple(notes)
    )
    return sae


def _a_layer(value: object) -> int | None:
    number = isinstance(value, int) and not isinstance(value, bool)
    return value if number and isinstance(value, int) and 0 <= value < 1000 else None
