"""Checkpoint formats: one module per ecosystem, recognised by content, in one ordered registry."""

from __future__ import annotations

from saebench.adapters import (
    batchtopk,
    circuit_tracer,
    clt_training,
    connor_rob,
    crosscode,
    crosscoder_replication,
    crosslayer_coding,
    dictionary_crosscoders,
    dictionary_hub,
    dictionary_learning,
    gemma_scope,
    gemma_scope_2,
    generic,
    goodfire,
    legacy,
    llama_scope,
    llamascopium,
    nanochat_sae,
    open_interp,
    openai,
    saelens,
    sparsify,
    temporal,
)
from saebench.adapters.choices import Choices
from saebench.adapters.claims import Adapter, Claim
from saebench.errors import CheckpointError, UnknownFormatError
from saebench.files import CheckpointFiles
from saebench.weights import is_pickle, is_weights

ADAPTERS: tuple[Adapter, ...] = (
    gemma_scope,
    gemma_scope_2,
    clt_training,
    sparsify,
    llama_scope,
    llamascopium,
    crosscode,
    circuit_tracer,
    crosslayer_coding,
    open_interp,
    crosscoder_replication,
    dictionary_crosscoders,
    dictionary_learning,
    dictionary_hub,
    batchtopk,
    saelens,
    connor_rob,
    openai,
    goodfire,
    nanochat_sae,
    temporal,
    legacy,
)
FALLBACK: Adapter = generic  # asked only where none of the others fits: it settles what it can

SHOWN = 6  # files, config keys of each and tensors of each listed in an error

__all__ = ["ADAPTERS", "Adapter", "Choices", "Claim", "claim"]


def claim(files: CheckpointFiles) -> tuple[Adapter, Claim]:
    """The one adapter that recognises the files.

    Raises :class:`UnknownFormatError` when none does, listing what was found, or when two do.
    """
    claims = [(adapter, found) for adapter in ADAPTERS if (found := adapter.sniff(files))]
    if len(claims) == 1:
        return claims[0]
    if claims:
        both = "; ".join(f"{item.format} by {', '.join(item.evidence)}" for _, item in claims)
        raise UnknownFormatError(
            f"the format of {files.root}",
            f"more than one fits: {both}",
            "Move the files of the other checkpoint out of the folder.",
        )
    found = FALLBACK.sniff(files)
    if found is not None:
        return FALLBACK, found
    raise _unknown(files)


def _unknown(files: CheckpointFiles) -> UnknownFormatError:
    """The error where no adapter fits, with the likely reason when there is one."""
    asked = f"the format of {files.root}"
    contents = {name: _content(files, name) for name in files.names}
    bare = [name for name, inside in contents.items() if set(inside) >= saelens.KEY_TENSORS]
    if bare and not {saelens.CONFIG_FILE, dictionary_learning.CONFIG_FILE} & set(files.names):
        return UnknownFormatError(
            asked,
            f"{saelens.CONFIG_FILE} is missing beside {_shown(bare[0], contents[bare[0]])}",
            f"Copy the {saelens.CONFIG_FILE} that belongs to these weights into the folder.",
        )
    known = ", ".join(adapter.FORMAT for adapter in ADAPTERS)
    parts = [_shown(name, inside) for name, inside in contents.items()]
    more = [f"and {len(parts) - SHOWN} more files"] if len(parts) > SHOWN else []
    found = f"none of the known formats ({known}) fits {'; '.join(parts[:SHOWN] + more)}"
    config = dictionary_learning.CONFIG_FILE
    if "architectures" in contents.get(config, {}):
        return UnknownFormatError(
            asked,
            f"{config} has 'architectures', as that of a language model has; {found}",
            "Reference the folder of an SAE here; this looks like the language model itself.",
        )
    next_step = "Convert it to the SAELens layout (cfg.json and sae_weights.safetensors)."
    return UnknownFormatError(asked, found, next_step)


def _content(files: CheckpointFiles, name: str) -> dict[str, str]:
    """The keys of a config, or the tensors of a weight file with their shapes; {} if unreadable."""
    try:
        if name.endswith(".json"):
            return dict.fromkeys(files.json(name), "")
        if name.endswith(".safetensors") or (is_pickle(name) and files.allow_pickle):
            return {key: f" {list(item.shape)}" for key, item in files.header(name).items()}
    except CheckpointError:
        if is_weights(name):
            raise  # of damaged weights that is the news, of a big tokenizer.json it is not
    return {}


def _shown(name: str, inside: dict[str, str]) -> str:
    """A file and the first of what is in it."""
    first = [f"{key!r:.80}{shape}" for key, shape in list(inside.items())[:SHOWN]]
    more = ", …" if len(inside) > SHOWN else ""
    return f"{name} ({', '.join(first)}{more})" if inside else name
