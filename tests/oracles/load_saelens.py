"""Saved checkpoints as SAELens itself loads them: its codes and reconstructions of given activations.

Run under the Python of an environment that has sae-lens (extra ``oracles``):

    python tests/oracles/load_saelens.py X.safetensors FOLDER...

reads ``x``, writes ``codes``, ``decoded`` and ``output`` to ``FOLDER.safetensors`` beside each folder,
and prints as JSON what each checkpoint was taken for.
"""

from __future__ import annotations

import json
import sys

import torch
import torchvision_guard  # noqa: F401  # first: the peer imports torchvision
from sae_lens import SAE
from safetensors.torch import load_file, save_file
from torch import Tensor


def measured(folder: str, x: Tensor) -> dict[str, object]:
    """Load, encode, decode and write; returns what SAELens says the checkpoint is."""
    sae = SAE.load_from_disk(folder)
    with torch.no_grad():
        codes = sae.encode(x)
        found = {"codes": codes, "decoded": sae.decode(codes), "output": sae(x)}
    save_file(
        {name: tensor.contiguous() for name, tensor in found.items()}, f"{folder}.safetensors"
    )
    metadata = sae.cfg.metadata
    return {
        "architecture": sae.cfg.architecture(),
        "k": getattr(sae.cfg, "k", None),
        "hook_name": metadata.hook_name,
        "model_name": metadata.model_name,
        "trained_as": metadata.training_architecture,
        "details": metadata.training_architecture_details,
    }


if __name__ == "__main__":
    given = load_file(sys.argv[1])["x"]
    print(json.dumps({folder: measured(folder, given) for folder in sys.argv[2:]}))
