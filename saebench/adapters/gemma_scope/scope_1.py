"""Gemma Scope 1: ``params.npz`` and nothing else; layer, site and model are only in the path.

``f = p · [p > threshold] · [p > 0]`` with ``p = x W_enc + b_enc``, ``x̂ = f W_dec + b_dec``; b_dec is not
subtracted. The embedding SAEs were trained on embeddings before the model multiplies them by ``√d``.
Source: Lieberum et al. 2024 (arXiv 2408.05147).
"""

from __future__ import annotations

import re
from typing import Any

import torch

from saebench.adapters.reading.choices import Choices
from saebench.adapters.reading.claims import Claim
from saebench.adapters.reading.fields import config_from
from saebench.adapters.reading.tensors import Tensors
from saebench.adapters.reading.thresholds import jump_relu
from saebench.errors import CheckpointError
from saebench.files import CheckpointFiles
from saebench.sae import SAE, Fact
from saebench.sae.normalization import Affine

FORMAT = "Gemma Scope"
FOREIGN = "The file is not of a Gemma Scope checkpoint."
KEY_TENSORS = frozenset({"W_enc", "W_dec", "b_enc", "b_dec", "threshold"})

# The site that each repository was trained at; what is read and, where that differs, what is written.
# The transcoders read what the norm before the MLP gives before its gain.
SITES = {
    "res": ("hook_resid_post", None),
    "mlp": ("hook_mlp_out", None),
    "att": ("attn.hook_z", None),
    "transcoders": ("ln2.hook_normalized", "hook_mlp_out"),
}

# The tensor whose first dimension each size is.
_SIZES = {"d_in": "W_enc", "d_sae": "b_enc", "d_out": "b_dec"}

_REPOSITORY = re.compile(r"gemma-scope-(?P<size>2b|9b|27b)-(?P<kind>pt|it)-(?P<part>[a-z]+)")
_LAYER = re.compile(r"(?:^|/)layer_(\d+)(?:/|$)")
_TELLING = re.compile(
    r"gemma-scope|^(layer|embedding|width|average_l0|l0|resid|attn|mlp|transcoder|crosscoder|clt)"
)
_EMBEDDING = re.compile(r"(?:^|/)embedding(?:/|$)")
_L0 = re.compile(r"average_l0_(\d+)")


def sniff(files: CheckpointFiles) -> Claim | None:
    """A claim for one ``.npz`` with exactly the tensors of a JumpReLU SAE."""
    names = [name for name in files.names if name.lower().endswith(".npz")]
    found = [name for name in names if set(files.header(name)) == KEY_TENSORS]
    if len(found) != 1:
        return None
    shapes = files.header(found[0])
    evidence = ", ".join(f"{key} {list(shapes[key].shape)}" for key in sorted(KEY_TENSORS))
    return Claim(FORMAT, (f"{found[0]}: exactly {evidence}",), (found[0],))


def read(files: CheckpointFiles, claim: Claim, choices: Choices) -> SAE:
    """The SAE or transcoder; raises :class:`CheckpointError` for shapes that contradict each other."""
    tensors = Tensors(claim.weight, files.state_dict(claim.weight))
    sizes = _sizes(tensors)
    d_in, d_sae, d_out = (int(sizes[name].value) for name in ("d_in", "d_sae", "d_out"))
    places = _places(files.hint)
    scale = _embedding_scale(files.hint, choices, d_in)
    activation, said = jump_relu(tensors, "threshold", choices, d_sae=d_sae)
    source = f"definition of {FORMAT}"
    facts: dict[str, Fact | None] = {
        "architecture": Fact("jumprelu", source, "assumed"),
        **sizes,
        **places,
        "dtype": Fact(tensors.dtype("W_enc"), f"{claim.weight}: W_enc"),
        "subtract_b_dec": Fact(False, source, "assumed"),
        "normalization": Fact("none", source, "assumed"),
        "threshold": said,
    }
    normalization = None
    if scale is not None:
        facts |= {"input_scale": scale, "normalization": Fact("affine", scale.source, scale.how)}
        normalization = Affine(torch.tensor(float(scale.value[0])))
    config = config_from(
        facts, format=FORMAT, notes=_notes(places, scale), provenance=_provenance(files.hint)
    )
    return SAE(
        config,
        activation,
        W_enc=tensors.encoder("W_enc", d_in=d_in, d_sae=d_sae),
        W_dec=tensors.decoder("W_dec", d_sae=d_sae, d_out=d_out),
        b_enc=tensors.take("b_enc", d_sae=d_sae),
        b_dec=tensors.take("b_dec", d_out=d_out),
        normalization=normalization,
    )


def _sizes(tensors: Tensors) -> dict[str, Fact]:
    """The widths and the number of latents, each by the length of a tensor."""
    return {
        name: tensors.length(key, FOREIGN, dimensions=2 if key == "W_enc" else 1)
        for name, key in _SIZES.items()
    }


def telling_part(hint: str) -> str:
    """The path from the first folder that says something; parents of a local folder say nothing."""
    parts = hint.split("/")
    first = next((i for i, part in enumerate(parts) if _TELLING.search(part)), len(parts) - 1)
    shown = "/".join(parts[first:])
    return f"the path {shown}" if first == 0 else f"the path …/{shown}"


def _places(hint: str) -> dict[str, Fact | None]:
    """Facts ``site``, ``site_out`` and ``model``, as far as the path tells them."""
    source = telling_part(hint)
    facts: dict[str, Fact | None] = {}
    repository, layer = _REPOSITORY.search(hint), _LAYER.search(hint)
    if repository is not None:
        instruct = "-it" if repository["kind"] == "it" else ""
        model = f"google/gemma-2-{repository['size']}{instruct}"
        facts["model"] = Fact(model, source, "assumed")
    if _EMBEDDING.search(hint):
        facts["site"] = Fact("blocks.0.hook_resid_pre", source, "assumed")
    elif repository is not None and layer is not None and repository["part"] in SITES:
        for name, hook in zip(("site", "site_out"), SITES[repository["part"]], strict=True):
            if hook is not None:
                facts[name] = Fact(f"blocks.{int(layer[1])}.{hook}", source, "assumed")
    return facts


def _embedding_scale(hint: str, choices: Choices, d_in: int) -> Fact | None:
    """What the first block's input is multiplied by to give what an embedding SAE was trained on."""
    if not _EMBEDDING.search(hint):
        return None
    given = choices.numbers("input_scale")
    if given is None:
        source = (
            f"{telling_part(hint)}: trained on embeddings before the model scales them by √d_in"
        )
        return Fact((d_in**-0.5,), source, "assumed")
    if len(given.value) != 1 or given.value[0] <= 0:
        raise CheckpointError(given.source, "not one number above 0", "Give one number above 0.")
    return given


def _notes(places: dict[str, Fact | None], scale: Fact | None) -> list[str]:
    notes = []
    if places.get("site") is None:
        notes.append("the path does not say which hook point it was trained on, nor does the file")
    if scale is not None:
        notes.append(
            "an SAE of the embeddings: the first block's input is divided by √d_in before encoding "
            "and the reconstruction multiplied by it"
        )
    if places.get("site_out") is not None:
        notes.append("a transcoder: its input is the MLP's normalised input without the gain")
    return notes


def _provenance(hint: str) -> dict[str, Any]:
    """The mean L0 that the folder is named for."""
    found = _L0.search(hint)
    return {} if found is None else {"average_l0": int(found[1])}
