"""sparsify checkpoints (EleutherAI): ``cfg.json`` and ``sae.safetensors`` in a folder per hook point.

``f = act((x − b_dec) W_encᵀ + b_enc)`` and ``x̂ = f W_dec + b_dec [+ x W_skipᵀ]``, where a file that says
``transcode`` subtracts nothing. ``W_dec`` is ``[d_sae, d_in]`` as stored: it is not transposed.
"""

from __future__ import annotations

from typing import Any

from saebench.activations import AbsTopK, GroupMax, TopK
from saebench.adapters.eleuther.hooks import TRAINING_FILE, hook_points, training_config
from saebench.adapters.reading.choices import Choices
from saebench.adapters.reading.claims import Claim
from saebench.adapters.reading.fields import Fields, config_from
from saebench.adapters.reading.tensors import Tensors
from saebench.errors import CheckpointError
from saebench.files import CheckpointFiles
from saebench.sae import SAE, Fact
from saebench.weights import TensorInfo

FORMAT = "sparsify"
CONFIG_FILE = "cfg.json"
KEY_TENSORS = frozenset({"encoder.weight", "encoder.bias", "W_dec", "b_dec"})
DEFAULT_K = 32
DEFAULT_EXPANSION = 32

# What only the clt-training fork writes, which has the same file names.
FORK_KEYS = (
    "n_targets",
    "n_sources",
    "normalize_io",
    "train_post_encoder",
    "post_encoder_scale",
    "per_source_tied",
    "secondary_target_tied",
    "coalesce_topk",
    "topk_coalesced",
    "divide_cross_layer",
)
FORK_TENSORS = ("W_decs.", "b_decs.", "W_skips.", "post_enc", "in_norm", "out_norm")


def sniff(files: CheckpointFiles) -> Claim | None:
    """A claim for ``encoder.weight`` and ``W_dec`` of one shape beside a ``cfg.json`` with ``d_in``."""
    found = weights_of(files, KEY_TENSORS)
    if found is None or is_fork(files, found[1]):
        return None
    name, header = found
    shape = header["encoder.weight"].shape
    if len(shape) != 2 or header["W_dec"].shape != shape:
        return None
    evidence = (
        f"{CONFIG_FILE}: d_in",
        f"{name}: encoder.weight and W_dec, both [d_sae {shape[0]}, d_in {shape[1]}]",
    )
    return Claim(FORMAT, evidence, (name,), config_files(files))


def read(files: CheckpointFiles, claim: Claim, choices: Choices) -> SAE:
    """The SAE or transcoder; raises :class:`CheckpointError` where config and tensors disagree."""
    fields = Fields(CONFIG_FILE, files.json(CONFIG_FILE))
    tensors = Tensors(claim.weight, files.state_dict(claim.weight))
    d_in, d_sae = sizes(fields)
    k = active_per_token(fields, choices, d_sae)
    architecture, activation = _activation(fields, k.value, d_sae.value)
    transcode = fields.flag("transcode", default=False)
    subtract = _subtract(transcode, choices)
    W_skip = skip_matrix(fields, tensors, "W_skip", d_in.value, d_in.value)
    b_dec = tensors.take("b_dec", d_in=d_in.value)
    first = next(iter(files.header(claim.weight)))
    W_enc = tensors.encoder("encoder.weight", d_in=d_in.value, d_sae=d_sae.value, linear=True)
    W_dec = tensors.decoder("W_dec", d_sae=d_sae.value, d_out=d_in.value)
    b_enc = tensors.take("encoder.bias", d_sae=d_sae.value)
    facts = {
        "architecture": architecture,
        "d_in": d_in,
        "d_sae": d_sae,
        "d_out": d_in,
        "k": k,
        "transcode": transcode,
        "subtract_b_dec": subtract,
        "normalization": Fact("none", f"definition of {FORMAT}", "assumed"),
        "dtype": Fact(tensors.dtype(first), f"{claim.weight}: {first}"),
        **hook_points(files, transcode=bool(transcode.value)),
    }
    config = config_from(
        facts,
        format=FORMAT,
        notes=_notes(fields, tensors, facts, transcode),
        provenance=provenance(files, fields),
    )
    return SAE(
        config,
        activation,
        W_enc=W_enc,
        W_dec=W_dec,
        b_enc=b_enc,
        b_dec=b_dec,
        b_in=b_dec if subtract.value else None,
        W_skip=W_skip,
    )


def weights_of(
    files: CheckpointFiles, keys: frozenset[str]
) -> tuple[str, dict[str, TensorInfo]] | None:
    """The one safetensors file that holds these tensors, where ``cfg.json`` has ``d_in``."""
    if CONFIG_FILE not in files.names or "d_in" not in files.json(CONFIG_FILE):
        return None
    names = [name for name in files.names if name.endswith(".safetensors")]
    found = [(name, header) for name in names if keys <= set(header := files.header(name))]
    return found[0] if len(found) == 1 else None


def is_fork(files: CheckpointFiles, header: dict[str, TensorInfo]) -> bool:
    """Whether config or tensors hold what only the clt-training fork writes."""
    written = any(key in files.json(CONFIG_FILE) for key in FORK_KEYS)
    return written or any(key.startswith(FORK_TENSORS) for key in header)


def config_files(files: CheckpointFiles) -> tuple[str, ...]:
    """The config, and that of the training run where it lies in the same folder."""
    return tuple(name for name in (CONFIG_FILE, TRAINING_FILE) if name in files.names)


def sizes(fields: Fields) -> tuple[Fact, Fact]:
    """d_in and d_sae; ``num_latents`` 0 means ``d_in · expansion_factor``."""
    d_in = fields.size("d_in")
    if fields.value("num_latents") not in (0, None):
        return d_in, fields.size("num_latents")
    factor = fields.optional_size("expansion_factor")
    if factor is None:
        source = f"not in {fields.file}: expansion_factor defaults to {DEFAULT_EXPANSION}"
        return d_in, Fact(d_in.value * DEFAULT_EXPANSION, source, "assumed")
    source = f"{fields.file}: d_in · expansion_factor (num_latents is 0)"
    return d_in, Fact(d_in.value * factor.value, source)


def active_per_token(fields: Fields, choices: Choices, d_sae: Fact) -> Fact:
    """k, at most d_sae: what the user says, else the config's, else the library's default."""
    k = choices.size("k") or fields.optional_size("k")
    if k is None:
        source = f"not in {fields.file}: k defaults to {DEFAULT_K}"
        k = Fact(DEFAULT_K, source, "assumed")
    if k.value > d_sae.value:
        raise CheckpointError(
            f"{k.source} of at most d_sae = {d_sae.value}",
            str(k.value),
            "Correct the config, or give --set k=…, the latents kept per token.",
        )
    return k


def group_max(fields: Fields, k: int, d_sae: int) -> GroupMax:
    """The activation of ``groupmax``, whose k groups have to be of one size."""
    if d_sae % k:
        raise CheckpointError(
            f"d_sae divisible by k, the number of groups ({fields.file}: activation 'groupmax')",
            f"d_sae {d_sae}, k {k}",
            "Correct the config, or fetch the config that belongs to these weights.",
        )
    return GroupMax(k)


def skip_matrix(fields: Fields, tensors: Tensors, key: str, d_out: int, d_in: int) -> Any:
    """``W_skip[d_out, d_in]`` where the config says so, or None; they have to agree."""
    skip = fields.flag("skip_connection", default=False)
    if skip.value:
        return tensors.take(key, d_out=d_out, d_in=d_in)
    if key in tensors:
        raise CheckpointError(
            f"{fields.file}: skip_connection true, as {key} in {tensors.file} says",
            f"{skip.value} ({skip.source})",
            "Fetch the config that belongs to these weights.",
        )
    return None


def provenance(files: CheckpointFiles, fields: Fields) -> dict[str, Any]:
    """The config as written, and that of the training run where it is there."""
    run = training_config(files)
    return {"cfg": dict(fields.data)} | ({} if run is None else {"run": dict(run.data)})


def _activation(fields: Fields, k: int, d_sae: int) -> tuple[Fact, TopK]:
    name = fields.one_of(("topk", "groupmax"), "activation")
    signed = fields.flag("signed", default=False)
    if signed.value:
        return Fact("abstopk", signed.source), AbsTopK(k)
    if name is None:
        name = Fact("topk", f"not in {fields.file}: activation defaults to topk", "assumed")
    return name, group_max(fields, k, d_sae) if name.value == "groupmax" else TopK(k)


def _subtract(transcode: Fact, choices: Choices) -> Fact:
    """Whether b_dec is subtracted: what ``transcode`` says, or else the version without that key."""
    if transcode.how == "file":
        return Fact(not transcode.value, f"{transcode.source} {transcode.value}")
    source = f"{transcode.source}, and files without the key subtract b_dec"
    return choices.flag("subtract_b_dec") or Fact(True, source, "assumed")


def _notes(fields: Fields, tensors: Tensors, facts: dict[str, Any], transcode: Fact) -> list[str]:
    notes = []
    if transcode.how != "file":
        notes.append(
            f"{fields.file} has no 'transcode' (files before February 2025): b_dec is subtracted, as "
            "that version did, and a transcoder of that time looks like an SAE: if it is one, give "
            "its site and site_out"
        )
    if fields.flag("multi_topk", default=False).value:
        notes.append("multi_topk changed the training loss only; k latents are active here")
    if facts.get("site") is None:
        notes.append("neither config nor path say which hook point it was trained on")
    if tensors.unused():
        notes.append(f"tensors of {tensors.file} not used: {', '.join(tensors.unused())}")
    return notes
