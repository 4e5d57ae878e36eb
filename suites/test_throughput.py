"""Throughput: what loading, encoding and decoding cost, as pytest-benchmark measures it."""

import pytest

TOKENS = 4096
SEQUENCE = 128  # of what encodes whole sequences

pytestmark = pytest.mark.saebench(suite="throughput")


def test_load(benchmark, sae_reference):
    """Seconds from files to a ready SAE."""
    loaded = benchmark(sae_reference.load)
    assert loaded.cfg.d_sae > 0


def test_encode(benchmark, ready, activations):
    """Seconds to encode activations sparsely; how many latents fire hardly matters to the product."""
    import torch

    benchmark.extra_info["tokens"] = TOKENS
    if ready.needs_sequences:  # no codes without the context, and then with the reconstruction
        x = activations.view(-1, SEQUENCE, activations.shape[1])
        everything = torch.ones(x.shape[:2], dtype=torch.bool, device=x.device)
        codes, _ = benchmark(ready.reconstruct_sequences, x, everything)
    else:
        codes = benchmark(ready.codes, activations)
    assert codes.n_tokens == TOKENS


def test_decode(benchmark, ready, activations):
    """Seconds to decode as many tokens with exactly k active latents each (32 where there is no k)."""
    import torch

    from saebench.codes import SparseCodes

    k = min(ready.cfg.k or 32, ready.cfg.d_sae)
    generator = torch.Generator().manual_seed(0)
    # k different latents: a random first one and those that follow it at equal distances
    first = torch.randint(ready.cfg.d_sae, (TOKENS, 1), generator=generator)
    indices = (first + torch.arange(k) * (ready.cfg.d_sae // k)) % ready.cfg.d_sae
    offsets = torch.arange(0, TOKENS * k + 1, k, dtype=torch.int32)
    parts = (torch.ones(TOKENS * k), indices.flatten().int(), offsets)
    codes = SparseCodes(*(part.to(ready.device) for part in parts), ready.cfg.d_sae)
    benchmark.extra_info.update(tokens=TOKENS, active_latents=k)
    reconstruction = benchmark(ready.decode_codes, codes, activations)
    assert reconstruction.shape == (TOKENS, ready.cfg.width_out)


@pytest.fixture(scope="session")
def activations(sae):
    """Gaussian activations: the cost of the encoder's product does not depend on their values."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return torch.randn(TOKENS, sae.cfg.width_in, generator=generator).to(sae.device)


@pytest.fixture(scope="session")
def ready(sae, activations):
    """The checkpoint, with what its files lack estimated on those activations."""
    sae.calibrate(activations)
    return sae
