"""One checkpoint of SAELens' and what computes the numbers that belong to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
import torchvision_guard  # noqa: F401  # first: the peers import torchvision
from sae_lens.saes.sae import SAEMetadata
from torch import Tensor

K = 4


class Peer(Protocol):
    """Encodes and decodes as the library does."""

    def encode(self, x: Tensor) -> Tensor: ...

    def decode(self, codes: Tensor) -> Tensor: ...

    def __call__(self, x: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Case:
    name: str
    save: Callable[[Path, int, int], Peer]  # writes the checkpoint, returns the peer's model of it
    golden: bool = False
    sequences: bool = False  # activations are [b, t, d_in]
    size: float = 1.0  # of activations: small ones show what is added to deviations


def randomize(sae: torch.nn.Module) -> None:
    """Weights far from their initial values: unequal decoder norms, biases and thresholds."""
    with torch.no_grad():
        for name, weight in sae.named_parameters():
            if "threshold" in name:
                weight.uniform_(0.1, 0.4)
            elif name.startswith("b_") or name == "r_mag" or name.endswith("bias"):
                weight.normal_(0.0, 0.2)
            else:
                weight.normal_(0.0, weight.shape[0] ** -0.5)
        sae.W_dec *= torch.empty(sae.W_dec.shape[0], 1).uniform_(0.5, 1.5)


def metadata(**values: object) -> SAEMetadata:
    known = {"model_name": "tiny", "hook_name": "blocks.1.hook_resid_post"}
    return SAEMetadata(**(known | values))
