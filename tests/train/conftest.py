"""A small planted world: known atoms, known sparse codes, an offset and a scale to get wrong."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors this small gain nothing from threads, which wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass
class Planted:
    """``x = 7 (offset + Σ codes · atoms + noise)`` with ``k`` of the atoms on every token."""

    atoms: Tensor
    offset: Tensor
    k: int

    def chunks(self, seed: int, rows: int = 2048) -> Iterator[Tensor]:
        generator = torch.Generator().manual_seed(seed)
        n_atoms, d = self.atoms.shape
        while True:
            chosen = torch.rand(rows, n_atoms, generator=generator).topk(self.k, dim=1).indices
            codes = 1.5 + 3 * torch.rand(rows, self.k, generator=generator)
            signal = (codes[..., None] * self.atoms[chosen]).sum(1)
            yield 7 * (self.offset + signal + 0.02 * torch.randn(rows, d, generator=generator))

    def sample(self, rows: int, seed: int = 99) -> Tensor:
        return next(self.chunks(seed, rows))


@pytest.fixture(scope="session")
def planted() -> Planted:
    generator = torch.Generator().manual_seed(5)
    atoms = F.normalize(torch.randn(40, 24, generator=generator), dim=1)
    return Planted(atoms, 2 * torch.randn(24, generator=generator), k=3)
