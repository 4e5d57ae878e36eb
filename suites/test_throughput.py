"""Throughput: what loading, encoding and decoding cost, as pytest-benchmark measures it."""

import pytest

TOKENS = 4096

pytestmark = pytest.mark.saebench(suite="throughput")


def test_load(benchmark, sae_reference):
    """Seconds from files to a ready SAE."""
    from saebench.loading import load_sae

    loaded = benchmark(load_sae, sae_reference.ref, allow_pickle=sae_reference.allow_pickle)
    assert loaded.cfg.d_sae > 0


def test_encode(benchmark, sae, activations):
    """Seconds to encode activations sparsely (their shape is in the extra information)."""
    benchmark.extra_info["tokens"] = activations.shape[0]
    codes = benchmark(sae.codes, activations)
    assert codes.n_tokens == activations.shape[0]


def test_decode(benchmark, sae, activations):
    """Seconds to decode the same tokens from their sparse codes."""
    codes = sae.codes(activations)
    benchmark.extra_info["tokens"] = activations.shape[0]
    reconstruction = benchmark(sae.decode_codes, codes, activations)
    assert reconstruction.shape == (activations.shape[0], sae.cfg.d_out)


@pytest.fixture(scope="session")
def activations(sae):
    """Gaussian activations: the cost of the dense product does not depend on their values."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return torch.randn(TOKENS, sae.cfg.d_in, generator=generator).to(sae.device)
