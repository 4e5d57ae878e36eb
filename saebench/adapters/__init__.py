"""Checkpoint formats: one module per ecosystem, recognised by content, in one ordered registry."""

from __future__ import annotations

from saebench.adapters import dictionary_learning, saelens
from saebench.adapters.claims import Adapter, Claim
from saebench.errors import UnknownFormatError
from saebench.files import CheckpointFiles
from saebench.weights import is_pickle

ADAPTERS: tuple[Adapter, ...] = (dictionary_learning, saelens)

SHOWN = 12  # config keys and tensors listed in an error

__all__ = ["ADAPTERS", "Adapter", "Claim", "claim"]


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
    known = ", ".join(adapter.FORMAT for adapter in ADAPTERS)
    raise UnknownFormatError(
        f"the format of {files.root}",
        f"none of the known formats ({known}) fits {_contents(files)}",
        "Convert it to the SAELens layout (cfg.json and sae_weights.safetensors).",
    )


def _contents(files: CheckpointFiles) -> str:
    """What is in the files, for an error: config keys, and tensors with their shapes."""
    parts = []
    for name in files.names:
        if name.endswith(".json"):
            inside = [repr(key) for key in files.json(name)]
        elif name.endswith(".safetensors") or (is_pickle(name) and files.allow_pickle):
            header = files.header(name)
            inside = [f"{key!r} {list(item.shape)}" for key, item in header.items()]
        else:
            parts.append(name)
            continue
        more = ", …" if len(inside) > SHOWN else ""
        parts.append(f"{name} ({', '.join(inside[:SHOWN])}{more})")
    return "; ".join(parts)
