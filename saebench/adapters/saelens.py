"""SAELens checkpoints, versions 2 to 6, and our own: ``cfg.json`` and ``sae_weights.safetensors``.

Our own format is the layout of SAELens 6 with one more key in ``cfg.json``, which SAELens ignores.
Version 6 nests what is known about the model under ``metadata``; before it the config was flat and
some keys had other names. A run that trained BatchTopK or Matryoshka is saved for inference as
``jumprelu`` with the estimated threshold, and keeps its name in ``metadata.training_architecture``.
"""

from __future__ import annotations

from typing import Any

from saebench.adapters.choices import Choices
from saebench.adapters.claims import Claim
from saebench.adapters.fields import Fields, config_from
from saebench.adapters.saelens_architecture import BATCH, TRANSCODERS, read_architecture
from saebench.adapters.saelens_weights import read_weights, rescaling
from saebench.adapters.tensors import Tensors
from saebench.errors import CheckpointError
from saebench.files import CheckpointFiles
from saebench.sae import SAE, Fact

FORMAT = "saelens"
CONFIG_FILE = "cfg.json"
WEIGHT_FILE = "sae_weights.safetensors"
KEY_TENSORS = frozenset({"W_enc", "W_dec", "b_dec"})
SCALER_FILE = "activation_scaler.json"  # beside the checkpoints of a run that is not finished
PROVENANCE_KEY = "saebench"  # our key in cfg.json
LAYOUT_VERSION = "6.0.0"  # metadata.sae_lens_version that announces the nested layout

METADATA = "metadata"
MODEL_KEY = "model_name"
SITE_KEY = "hook_name"
SITE_OUT_KEY = "hook_name_out"
VERSION_KEY = "sae_lens_version"
TRAINED_AS_KEY = "training_architecture"
TRAINING_KEY = "training_architecture_details"

TABLES = (METADATA, "activation_fn_kwargs", f"{METADATA}.{TRAINING_KEY}")
DTYPES = ("float32", "float64", "float16", "bfloat16")
NORMALIZATIONS = ("none", "layer_norm", "constant_norm_rescale", "expected_average_only_in")


def sniff(files: CheckpointFiles) -> Claim | None:
    """A claim when cfg.json has d_in and d_sae, and a file W_dec, b_dec and a W_enc of one SAE."""
    if CONFIG_FILE not in files.names:
        return None
    fields = Fields(CONFIG_FILE, files.json(CONFIG_FILE))
    if not {"d_in", "d_sae"} <= set(fields.data):
        return None
    fitting = [name for name in files.names if name.endswith(".safetensors") and _fits(files, name)]
    if not fitting:
        return None
    weights = WEIGHT_FILE if WEIGHT_FILE in fitting else fitting[0]
    if len(fitting) > 1 and weights != WEIGHT_FILE:
        raise CheckpointError(
            f"one weight file in {files.root}", ", ".join(fitting), "Reference one of the files."
        )
    evidence = (f"{CONFIG_FILE}: d_in, d_sae", f"{weights}: W_enc, W_dec, b_dec")
    return Claim(FORMAT, evidence, (weights,), (CONFIG_FILE,))


def read(files: CheckpointFiles, claim: Claim, choices: Choices) -> SAE:
    """The SAE; raises :class:`CheckpointError` where config and tensors contradict each other."""
    fields = Fields(claim.config, files.json(claim.config))
    tensors = Tensors(claim.weight, files.state_dict(claim.weight))
    _check_kinds(fields)
    architecture = read_architecture(fields, tensors)
    transcoder = architecture.value in TRANSCODERS
    d_in, d_sae = fields.size("d_in"), fields.size("d_sae")
    d_out = _d_out(fields, tensors) if transcoder else d_in
    k = _k(fields, architecture, d_sae.value)
    subtract = _subtract_b_dec(fields, transcoder)
    normalization, notes = _normalization(fields, files)
    weights = read_weights(
        fields, tensors, architecture.value, (d_in.value, d_sae.value, d_out.value), k
    )
    undo = Fact(False, f"definition of {architecture.value}", "assumed") if transcoder else None
    facts = {
        "architecture": _trained_as(fields, architecture),
        "d_in": d_in,
        "d_sae": d_sae,
        "d_out": d_out,
        "k": k,
        "site": fields.text(f"{METADATA}.{SITE_KEY}", SITE_KEY, "hook_point"),
        "site_out": fields.text(f"{METADATA}.{SITE_OUT_KEY}", SITE_OUT_KEY) if transcoder else None,
        "model": fields.text(f"{METADATA}.{MODEL_KEY}", MODEL_KEY),
        "dtype": Fact(tensors.dtype("W_dec"), f"{claim.weight}: W_dec"),
        "normalization": normalization,
        "undo_normalization": undo,
        "subtract_b_dec": subtract,
        "rescale_by_decoder_norm": rescaling(fields, architecture.value),
    }
    notes += _notes(fields, tensors, transcoder, has_output_site=facts["site_out"] is not None)
    config = config_from(facts, format=FORMAT, notes=notes, provenance=_provenance(fields))
    return SAE(
        config,
        weights.activation,
        W_enc=weights.W_enc,
        W_dec=weights.W_dec,
        b_dec=weights.b_dec,
        b_enc=weights.b_enc,
        b_in=weights.b_dec if subtract.value else None,
        latent_scale=weights.latent_scale,
        W_skip=weights.W_skip,
    )


def _fits(files: CheckpointFiles, name: str) -> bool:
    header = files.header(name)
    return set(header) >= KEY_TENSORS and len(header["W_enc"].shape) <= 2


def _check_kinds(fields: Fields) -> None:
    """Refuse values of the wrong kind under keys that are read only in part, or not at all."""
    for key in TABLES:
        fields.check_table(key)
    fields.one_of((*DTYPES, *(f"torch.{name}" for name in DTYPES)), "dtype")


def _trained_as(fields: Fields, architecture: Fact) -> Fact:
    """The architecture trained, where inference uses the JumpReLU that it was saved as."""
    trained = fields.text(f"{METADATA}.{TRAINED_AS_KEY}")
    exported = architecture.value == "jumprelu" and trained is not None
    return trained if exported and trained is not None and trained.value in BATCH else architecture


def _d_out(fields: Fields, tensors: Tensors) -> Fact:
    shape = tensors.shape("b_dec")
    return fields.optional_size("d_out") or Fact(shape[-1], f"{tensors.file}: shape of b_dec")


def _k(fields: Fields, architecture: Fact, d_sae: int) -> Fact | None:
    """The number of latents kept per token: needed by TopK, informative elsewhere."""
    keys = ("k", "activation_fn_kwargs.k", f"{METADATA}.{TRAINING_KEY}.k")
    k: Fact | None
    if architecture.value == "topk":
        k = fields.size(*keys)
    elif architecture.value in (*BATCH, "jumprelu"):
        k = fields.average(*keys)
    else:
        return None
    if k is not None and k.value > d_sae:
        raise CheckpointError(
            f"{k.source} of at most d_sae = {d_sae}", str(k.value), "Correct the config."
        )
    return k


def _subtract_b_dec(fields: Fields, transcoder: bool) -> Fact:
    subtract = fields.flag("apply_b_dec_to_input", default=not transcoder)
    if transcoder and subtract.value:
        raise CheckpointError(
            f"{subtract.source} of a transcoder, whose b_dec belongs to its output",
            "true",
            "Set it to false: SAELens does not load such a transcoder either.",
        )
    return subtract


def _normalization(fields: Fields, files: CheckpointFiles) -> tuple[Fact, list[str]]:
    """The run-time normalisation; scaling by an average norm is never applied at run time."""
    key = "normalize_activations"
    if isinstance(fields.value(key), bool):
        averaged = fields.value(key)
        fact = Fact("none", f"{fields.file}: {key}")
    else:
        named = fields.one_of(NORMALIZATIONS, key)
        averaged = named is not None and named.value == "expected_average_only_in"
        fact = named or Fact("none", f"not in {fields.file}: {key} defaults to none", "assumed")
    notes = []
    if averaged:
        fact = Fact("none", fact.source)
        notes.append(
            f"{key} is expected_average_only_in: the scale is taken to be folded into the weights "
            "and is not applied, as in SAELens"
        )
    if SCALER_FILE in files.names:
        scale = files.json(SCALER_FILE).get("scaling_factor")
        notes.append(
            f"{SCALER_FILE} lies beside the weights: the run was not finished"
            + (f" and its scale {scale!r:.40} is not folded in" if scale is not None else "")
        )
    return fact, notes


def _notes(
    fields: Fields, tensors: Tensors, transcoder: bool, *, has_output_site: bool
) -> list[str]:
    notes = []
    if transcoder and not has_output_site:
        notes.append("a transcoder, but the config does not say which hook point it writes")
    head = fields.value(f"{METADATA}.hook_head_index", "hook_head_index", "hook_point_head_index")
    if head is not None:
        notes.append(f"trained on attention head {head!r:.40} of the hook point only")
    if fields.value(f"{METADATA}.model_from_pretrained_kwargs", "model_from_pretrained_kwargs"):
        notes.append("trained on a model loaded with options (model_from_pretrained_kwargs)")
    if "topk_threshold" in tensors:
        notes.append("a training checkpoint: its estimated threshold is used as SAELens exports it")
        if tensors.scalar("topk_threshold") == 0:
            notes.append("topk_threshold is 0: training never estimated it")
    if tensors.unused():
        notes.append(f"tensors of {tensors.file} not used: {', '.join(tensors.unused())}")
    return notes


def _provenance(fields: Fields) -> dict[str, Any]:
    """What the config says beyond the model: its metadata, or the flat keys of older versions."""
    metadata = fields.value(METADATA)
    found = dict(metadata) if isinstance(metadata, dict) else dict(fields.data)
    ours = fields.value(PROVENANCE_KEY)
    return found if ours is None else {**found, PROVENANCE_KEY: ours}
