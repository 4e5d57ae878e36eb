"""What a SAELens config says about the run beyond its weights: facts, provenance, and warnings."""

from __future__ import annotations

from typing import Any

from saebench.adapters.reading.choices import Choices
from saebench.adapters.reading.fields import Fields
from saebench.adapters.reading.ours import PROVENANCE_KEY
from saebench.adapters.reading.processing import is_written, may_be_centred
from saebench.adapters.reading.tensors import Tensors
from saebench.adapters.saelens.architecture import BATCH
from saebench.adapters.saelens.normalization import AVERAGE, KEY, WHITENED
from saebench.files import CheckpointFiles
from saebench.sae import Fact

METADATA = "metadata"
RUNNER_FILE = "runner_cfg.json"
HEAD_KEYS = (f"{METADATA}.hook_head_index", "hook_head_index", "hook_point_head_index")
RESHAPE_KEY = "reshape_activations"
MAX_SHOWN = 200  # characters of a value that becomes a fact; longer ones stay in the provenance

# how activations were sampled: whoever measures has to do the same
SAMPLING = ("context_size", "prepend_bos", "exclude_special_tokens", "seqpos_slice", "noise_scale")


def sampling_facts(fields: Fields) -> dict[str, Fact | None]:
    """How the activations of the run were made, as far as the config says."""
    found = {}
    for key in SAMPLING:
        for name in (f"{METADATA}.{key}", key):
            if name in fields:
                value = fields.value(name)
                if isinstance(value, int | float | str | list) and len(repr(value)) <= MAX_SHOWN:
                    found[key] = Fact(value, f"{fields.file}: {name}")
                break
    return dict(found)


def centring(
    fields: Fields, choices: Choices, model: Fact | None, *sites: Fact | None
) -> tuple[Fact | None, list[str]]:
    """Whether the run's model had its writing weights centred by TransformerLens, and what to note.

    None where the files do not say and it makes no difference, or where the user says it.
    """
    tables = (f"{METADATA}.model_from_pretrained_kwargs", "model_from_pretrained_kwargs")
    keys = [f"{table}.center_writing_weights" for table in tables]
    if any(key in fields for key in keys):
        return fields.flag(*keys, default=False), []
    if "centred" in choices or PROVENANCE_KEY in fields:
        return None, []
    if not (may_be_centred(model) and is_written(*sites)):
        return None, []
    source = f"not in {fields.file}: SAELens loads models without centring unless it is told to"
    note = (
        f"{fields.file} does not say whether the model had its writing weights centred; if it had, "
        "as for the first SAEs of GPT-2 (gpt2-small-res-jb), give --set centred=true"
    )
    return Fact(False, source, "assumed"), [note]


def default_processing(
    fields: Fields, choices: Choices, *sites: Fact | None
) -> tuple[Fact | None, list[str]]:
    """:func:`centring` of runs before SAELens could be told: their models were centred."""
    if "centred" in choices or not is_written(*sites):
        return None, []
    source = f"not in {fields.file}: models were loaded with TransformerLens' default processing"
    note = (
        "such runs loaded models with TransformerLens' default processing, which centres the "
        "residual stream of models with LayerNorm (GPT-2, Pythia); so does a run here, unless "
        "centred=false is set"
    )
    return Fact(True, source, "assumed"), [note]


def reshaping(fields: Fields, site: Fact | None) -> Fact | None:
    """The fact that attention heads are laid side by side, as activations at a hook_z come here."""
    named = fields.one_of(("none", "hook_z"), RESHAPE_KEY)
    if named is None and METADATA not in fields and site is not None and "hook_z" in site.value:
        return Fact("hook_z", f"not in {fields.file}: hook_z by the name of the hook", "assumed")
    return named if named is not None and named.value != "none" else None


def provenance(fields: Fields) -> dict[str, Any]:
    """What the config says beyond the model: its metadata, or the flat keys of older versions."""
    metadata = fields.value(METADATA)
    found = dict(metadata) if isinstance(metadata, dict) else dict(fields.data)
    ours = fields.value(PROVENANCE_KEY)
    return found if ours is None else {**found, PROVENANCE_KEY: ours}


def warnings(
    fields: Fields,
    tensors: Tensors,
    files: CheckpointFiles,
    architecture: Fact,
    *,
    own_threshold: bool = True,
) -> list[str]:
    """What whoever measures this checkpoint should know; its thresholds where they are used."""
    notes = []
    head = fields.value(*HEAD_KEYS)
    if head is not None:
        notes.append(f"trained on attention head {head!r:.40} of the hook point only")
    if fields.value(f"{METADATA}.model_from_pretrained_kwargs", "model_from_pretrained_kwargs"):
        notes.append("trained on a model loaded with options (model_from_pretrained_kwargs)")
    if not own_threshold:
        pass
    elif "topk_threshold" in tensors:
        notes.append(
            "a training checkpoint: its running threshold is used as SAELens exports it; early in a "
            "run it lags behind, so compare L0 with k"
        )
        if tensors.scalar("topk_threshold") == 0:
            notes.append(
                "topk_threshold is 0: training never estimated it "
                "(--set threshold=estimate takes one from data)"
            )
    elif architecture.value in BATCH and (folded := _folded(files)):
        notes.append(
            f"{folded}: SAELens before 6.54 did not scale the threshold of a BatchTopK run when it "
            "folded this into the weights, so that it may be off by that factor: compare L0 with k"
        )
    if tensors.unused():
        notes.append(f"tensors of {tensors.file} not used: {', '.join(tensors.unused())}")
    return notes


def _folded(files: CheckpointFiles) -> str | None:
    """Where the files say that activations were normalised in training; None where they do not."""
    if RUNNER_FILE not in files.names:
        return None
    runner = Fields(RUNNER_FILE, files.json(RUNNER_FILE))
    for key in (f"sae.{KEY}", KEY):
        if runner.value(key) in (AVERAGE, WHITENED):
            return f"{RUNNER_FILE}: {key} is {runner.value(key)}"
    return None
