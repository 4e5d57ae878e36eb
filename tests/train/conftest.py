"""A small planted world: known atoms, known sparse codes, an offset and a scale to get wrong."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.train.two_models import Pair, make_pair


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Tensors this small gain nothing from threads, which wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def small_files() -> Callable[[int], AbstractContextManager[None]]:
    """A context in which the system refuses files of more bytes, as a full disk does."""
    import resource  # not on Windows

    @contextmanager
    def limited(n_bytes: int) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited


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


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    """Two models with text; leave both as they are."""
    return make_pair(tmp_path_factory.mktemp("pair"))
