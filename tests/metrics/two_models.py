"""Tokens of two models that differ by some noise, and everything that portability sums over them."""

from __future__ import annotations

import numpy as np
import torch

from saebench.codes import SparseCodes
from saebench.metrics.portability.latents import alive_shift, survival
from saebench.metrics.portability.results import Both, measurements, values
from saebench.metrics.portability.sums import ModelSums, PairSums, SpreadSums
from saebench.protocols import PortabilityProtocol

N, D, M, K = 240, 5, 12, 3
N_SEQUENCES = 40  # of 6 tokens
PROTOCOL = PortabilityProtocol(top_k=K, survival=0.8)


def sparse(dense: torch.Tensor) -> SparseCodes:
    rows, columns = dense.nonzero(as_tuple=True)
    offsets = torch.zeros(len(dense) + 1, dtype=torch.int32)
    offsets[1:] = torch.bincount(rows, minlength=len(dense)).cumsum(0)
    return SparseCodes(dense[rows, columns], columns.int(), offsets, dense.shape[1])


def world(seed: int = 0, noise: float = 0.4) -> dict[str, torch.Tensor]:
    """Activations, reconstructions and codes of ``N`` tokens under two models that differ by ``noise``."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    x0, pre = normal(N, D) + 1, normal(N, M)
    x1 = x0 + noise * normal(N, D)
    f0, f1 = (pre - 0.7).relu(), (pre + noise * normal(N, M) - 0.7).relu()
    f0[3] = 0  # a token without codes on the reference
    f1[4] = 0  # and one on the variant
    f0[5] = f1[5] = 0
    f1[:, 2] = 0  # a latent that the variant never uses
    f0[:, 7] = f1[:, 7] = 0  # and one that nobody does
    return {
        "ids": torch.arange(N) // (N // N_SEQUENCES),
        "x0": x0,
        "x1": x1,
        "y0": x0 + 0.5 * normal(N, D),
        "y1": x1 + 0.7 * normal(N, D),
        "f0": f0,
        "f1": f1,
    }


class Sums:
    """Everything summed for one checkpoint under two models."""

    def __init__(self) -> None:
        self.spreads = SpreadSums(D), SpreadSums(D)
        self.models = ModelSums(), ModelSums()
        self.pair = PairSums(M, K)

    def over(self, data: dict[str, torch.Tensor], tokens: np.ndarray) -> Sums:
        part = {name: column[tokens] for name, column in data.items()}
        for side in (0, 1):
            x, y, codes = part[f"x{side}"], part[f"y{side}"], sparse(part[f"f{side}"])
            self.spreads[side].update(x, part["ids"])
            self.models[side].update(x, y, codes, part["ids"])
        read = part["x0"], part["x1"]
        codes = sparse(part["f0"]), sparse(part["f1"])
        self.pair.update(read, read, codes, part["ids"])
        return self

    def merge(self, other: Sums) -> Sums:
        for side in (0, 1):
            self.spreads[side].merge(other.spreads[side])
            self.models[side].merge(other.models[side])
        self.pair.merge(other.pair)
        return self

    def both(self) -> Both:
        return Both(self.spreads, self.models, self.pair)

    def points(self) -> dict[str, float]:
        found = {name: float(value) for name, value in values(self.both()).items()}
        found |= survival(self.pair.latents, PROTOCOL.survival)[0]
        return {**found, "alive_shift": alive_shift(self.pair.latents)[0]}


def whole(data: dict[str, torch.Tensor]) -> Sums:
    return Sums().over(data, np.arange(N))


def found(data: dict[str, torch.Tensor], **options):
    made = measurements(
        whole(data).both(), PROTOCOL, n_sequences=N_SEQUENCES, n_resamples=300, **options
    )
    return {item.name.removeprefix("port_"): item for item in made.measurements.values()}, made
