"""SAELens checkpoints, versions 2 to 6, and our own: ``cfg.json`` and ``sae_weights.safetensors``.

Our own format is the layout of SAELens 6 with one more key in ``cfg.json``, which SAELens ignores.
Version 6 nests what is known about the model under ``metadata``; before it the config was flat and
some keys had other names. A run that trained BatchTopK or Matryoshka is saved for inference as
``jumprelu`` with the estimated threshold, and keeps its name in ``metadata.training_architecture``.
"""

from __future__ import annotations

from saebench.adapters.reading.choices import Choices
from saebench.adapters.reading.claims import Claim
from saebench.adapters.reading.fields import Fields
from saebench.adapters.reading.ours import PROVENANCE_KEY, written_reads
from saebench.adapters.reading.processing import FOLDED_VALUES, is_of_heads
from saebench.adapters.reading.tensors import Tensors
from saebench.adapters.saelens.architecture import (
    BATCH,
    PURSUIT,
    TEMPORAL,
    TRANSCODERS,
    read_architecture,
)
from saebench.adapters.saelens.context import (
    METADATA,
    centring,
    default_processing,
    reshaping,
    sampling_facts,
)
from saebench.adapters.saelens.models import Read, build
from saebench.adapters.saelens.normalization import read_normalization, run_files
from saebench.errors import CheckpointError
from saebench.files import CheckpointFiles
from saebench.sae import SAE, Fact

__all__ = [
    "CONFIG_FILE",
    "FORMAT",
    "KEY_TENSORS",
    "LAYOUT_VERSION",
    "PROVENANCE_KEY",
    "WEIGHT_FILE",
    "read",
    "read_as",
    "sniff",
]

FORMAT = "saelens"
CONFIG_FILE = "cfg.json"
WEIGHT_FILE = "sae_weights.safetensors"
KEY_TENSORS = frozenset({"W_enc", "W_dec", "b_dec"})
LAYOUT_VERSION = "6.0.0"  # metadata.sae_lens_version that announces the nested layout

MODEL_KEY = "model_name"
SITE_KEY = "hook_name"
SITE_OUT_KEY = "hook_name_out"
VERSION_KEY = "sae_lens_version"
TRAINED_AS_KEY = "training_architecture"
TRAINING_KEY = "training_architecture_details"

TABLES = (METADATA, "activation_fn_kwargs", f"{METADATA}.{TRAINING_KEY}")
DTYPES = ("float32", "float64", "float16", "bfloat16")


def sniff(files: CheckpointFiles) -> Claim | None:
    """A claim when cfg.json has d_in and d_sae, and a file W_dec, b_dec and a W_enc of one SAE."""
    if CONFIG_FILE not in files.names:
        return None
    fields = Fields(CONFIG_FILE, files.json(CONFIG_FILE))
    if not {"d_in", "d_sae"} <= set(fields.data):
        return None
    # of matching pursuit, and of temporal SAEs as a rule, the encoder is the transposed decoder
    tied = fields.value("architecture") in (PURSUIT, TEMPORAL)
    keys = KEY_TENSORS - {"W_enc"} if tied else KEY_TENSORS
    fitting = [
        name for name in files.names if name.endswith(".safetensors") and _fits(files, name, keys)
    ]
    if not fitting:
        return None
    weights = WEIGHT_FILE if WEIGHT_FILE in fitting else fitting[0]
    if len(fitting) > 1 and weights != WEIGHT_FILE:
        raise CheckpointError(
            f"one weight file in {files.root}", ", ".join(fitting), "Reference one of the files."
        )
    found = f"{weights}: {', '.join(key for key in ('W_enc', 'W_dec', 'b_dec') if key in keys)}"
    configs, more = run_files(files)
    return Claim(
        FORMAT,
        (f"{CONFIG_FILE}: d_in, d_sae", found),
        (weights, *more),
        (CONFIG_FILE, *configs),
    )


def read(files: CheckpointFiles, claim: Claim, choices: Choices) -> SAE:
    """The SAE; raises :class:`CheckpointError` where config and tensors contradict each other."""
    fields = Fields(claim.config, files.json(claim.config))
    tensors = Tensors(claim.weight, files.state_dict(claim.weight))
    return read_as(FORMAT, files, fields, tensors, choices)


def read_as(
    format: str,
    files: CheckpointFiles,
    fields: Fields,
    tensors: Tensors,
    choices: Choices,
    *,
    processed: bool = False,
) -> SAE:
    """:func:`read` for a config from wherever a version of the format keeps it.

    ``processed`` says that the run's model was loaded with the default processing of TransformerLens.
    """
    _check_kinds(fields)
    architecture = read_architecture(fields, tensors, choices)
    transcoder = architecture.value in TRANSCODERS
    d_in, d_sae = fields.size("d_in"), fields.size("d_sae")
    d_out = _d_out(fields, tensors) if transcoder else d_in
    inputs = read_normalization(fields, files, choices, architecture.value, d_in.value)
    trained = _trained_as(fields, architecture)
    site = fields.text(f"{METADATA}.{SITE_KEY}", SITE_KEY, "hook_point")
    site_out = fields.text(f"{METADATA}.{SITE_OUT_KEY}", SITE_OUT_KEY) if transcoder else None
    model = fields.text(f"{METADATA}.{MODEL_KEY}", MODEL_KEY)
    if processed:
        centred, notes = default_processing(fields, choices, site, site_out)
        notes += [FOLDED_VALUES] if is_of_heads(site) else []
    else:
        centred, notes = centring(fields, choices, model, site, site_out)
    inputs.notes.extend(notes)
    facts = {
        "architecture": trained,
        "d_in": d_in,
        "d_sae": d_sae,
        "d_out": d_out,
        "k": _k(fields, choices, architecture, d_sae.value),
        "site": site,
        "site_out": site_out,
        "model": model,
        **written_reads(fields),
        "dtype": Fact(tensors.dtype("W_dec"), f"{tensors.file}: W_dec"),
        **inputs.facts,
        "undo_normalization": _undo(architecture, is_scaled=inputs.is_scaled),
        "subtract_b_dec": _subtract_b_dec(fields, choices, transcoder),
        "reshape": reshaping(fields, site),
        "centred": centred,
        **sampling_facts(fields),
    }
    if transcoder and facts["site_out"] is None:
        inputs.notes.append("a transcoder, but the config does not say which hook point it writes")
    return build(Read(format, files, fields, tensors, choices, architecture, inputs, facts))


def _fits(files: CheckpointFiles, name: str, keys: frozenset[str]) -> bool:
    header = files.header(name)
    return set(header) >= keys and all(
        len(header[key].shape) == 2 for key in ("W_enc", "W_dec") if key in keys
    )


def _check_kinds(fields: Fields) -> None:
    """Refuse values of the wrong kind under keys that are read only in part, or not at all."""
    for key in TABLES:
        fields.check_table(key)
    fields.one_of((*DTYPES, *(f"torch.{name}" for name in DTYPES)), "dtype")


def _trained_as(fields: Fields, architecture: Fact) -> Fact:
    """The architecture trained, where inference uses the JumpReLU that it was saved as."""
    trained = fields.text(f"{METADATA}.{TRAINED_AS_KEY}")
    exported = architecture.value == "jumprelu" and architecture.how != "user"
    if exported and trained is not None and trained.value in BATCH:
        return trained
    return architecture


def _d_out(fields: Fields, tensors: Tensors) -> Fact:
    found = fields.optional_size("d_out")
    return found or Fact(tensors.shape("W_dec")[-1], f"{tensors.file}: shape of W_dec")


def _k(fields: Fields, choices: Choices, architecture: Fact, d_sae: int) -> Fact | None:
    """The number of latents kept per token: needed by TopK, informative elsewhere."""
    keys = ("k", "activation_fn_kwargs.k", f"{METADATA}.{TRAINING_KEY}.k")
    k: Fact | None
    if architecture.value in ("topk", "abstopk"):
        k = choices.size("k") or fields.size(*keys)
    elif architecture.value in (*BATCH, "jumprelu"):
        k = choices.size("k") or fields.average(*keys)
    else:
        return None
    if k is not None and k.value > d_sae:
        raise CheckpointError(
            f"{k.source} of at most d_sae = {d_sae}", str(k.value), "Correct the config."
        )
    return k


def _undo(architecture: Fact, *, is_scaled: bool) -> Fact | None:
    """Whether a transcoder's output is normalised back: only the one scale that SAELens folds."""
    if architecture.value not in TRANSCODERS:
        return None
    if is_scaled:
        return Fact(True, "SAELens folds one scale into both sides", "assumed")
    return Fact(False, f"definition of {architecture.value}", "assumed")


def _subtract_b_dec(fields: Fields, choices: Choices, transcoder: bool) -> Fact:
    given = None if transcoder else choices.flag("subtract_b_dec")
    subtract = given or fields.flag("apply_b_dec_to_input", default=not transcoder)
    if transcoder and subtract.value:
        raise CheckpointError(
            f"{subtract.source} of a transcoder, whose b_dec belongs to its output",
            "true",
            "Set it to false: SAELens does not load such a transcoder either.",
        )
    return subtract
