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
    """Seconds to encode activations sparsely; how many latents fire hardly matters to the product."""
    benchmark.extra_info["tokens"] = activations.shape[0]
    codes = benchmark(sae.codes, activations)
    assert codes.n_tokens == activations.shape[0]


def test_decode(benchmark, sae, activations):
    """Seconds to decode as many tokens with exactly k active latents each (32 where there is no k)."""
    import torch

    k = min(sae.cfg.k or 32, sae.cfg.d_sae)
    generator = torch.Generator().manual_seed(0)
    indices = torch.rand(TOKENS, sae.cfg.d_sae, generator=generator).topk(k).indices.to(sae.device)
    values = torch.ones(TOKENS, k, device=sae.device)
    benchmark.extra_info.update(tokens=TOKENS, active_latents=k)
    reconstruction = benchmark(sae.decode_sparse, values, indices, activations)
    assert reconstruction.shape == (TOKENS, sae.cfg.d_out)


@pytest.fixture(scope="session")
def activations(sae):
    """Gaussian activations: the cost of the encoder's product does not depend on their values."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return torch.randn(TOKENS, sae.cfg.d_in, generator=generator).to(sae.device)
