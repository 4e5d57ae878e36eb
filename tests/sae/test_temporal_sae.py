"""Temporal SAEs: what is predicted from earlier tokens, what is new, and who may be context."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from saebench.activations import ReLU, TopK
from saebench.errors import CheckpointError
from saebench.sae import SAEConfig
from saebench.sae import temporal as module
from saebench.sae.temporal import LatentAttention, TemporalSAE

D_IN, D_SAE, D_ATTN, LENGTH = 4, 12, 6, 7


def sae(*, n_layers: int = 1, k: int | None = 3) -> TemporalSAE:
    torch.manual_seed(0)

    def linear(rows: int) -> tuple[Tensor, Tensor]:
        return torch.randn(rows, D_SAE) * 0.3, torch.randn(rows) * 0.1

    layers = [
        LatentAttention([linear(D_ATTN), linear(D_ATTN), linear(D_SAE), linear(D_SAE)], 2)
        for _ in range(n_layers)
    ]
    return TemporalSAE(
        SAEConfig("temporal", D_IN, D_SAE, D_IN, k=k),
        ReLU() if k is None else TopK(k),
        W_dec=torch.randn(D_SAE, D_IN),
        b_dec=torch.randn(D_IN),
        b_in=torch.randn(D_IN),
        attention=layers,
    )


def sequences(n: int = 3) -> Tensor:
    return torch.randn(n, LENGTH, D_IN, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("n_layers", [1, 2])
def test_a_token_depends_on_those_before_it_and_on_no_later_one(n_layers: int) -> None:
    model, x = sae(n_layers=n_layers, k=None), sequences(1)
    changed = x.clone()
    changed[:, 3] += 1
    before, after = model(x), model(changed)
    assert torch.allclose(before[:, :3], after[:, :3], atol=1e-6)
    assert bool((before[:, 4:] != after[:, 4:]).any(-1).all())


def test_without_attention_it_is_an_sae_of_scaled_input() -> None:
    model, x = sae(n_layers=0, k=None), sequences()
    codes = ((x - model.b_in) / (4 * D_IN) @ model.W_dec.T).relu()
    assert torch.allclose(model.encode(x), codes, atol=1e-6)
    assert torch.allclose(model(x), codes @ model.W_dec + model.b_dec, atol=1e-6)


def test_what_is_predicted_is_a_projection_that_leaves_less() -> None:
    model, x = sae(), sequences()
    ((rest, predicted),) = model._split(x)
    assert torch.allclose(rest + predicted, x - model.b_in, atol=1e-5)
    products = (rest * predicted).sum(-1) / (predicted.norm(dim=-1) * rest.norm(dim=-1) + 1e-9)
    assert float(products.abs().max()) < 1e-3
    assert bool((rest.norm(dim=-1) <= (x - model.b_in).norm(dim=-1) + 1e-5).all())


def test_decoding_the_codes_leaves_out_what_was_predicted() -> None:
    model, x = sae(), sequences()
    ((_, predicted),) = model._split(x)
    assert torch.allclose(model(x), model.decode(model.encode(x)) + predicted, atol=1e-5)


def test_positions_that_do_not_count_are_context_all_the_same() -> None:
    model, x = sae(), sequences()
    counted = torch.rand(x.shape[:2], generator=torch.Generator().manual_seed(1)) > 0.4
    codes, rebuilt = model.reconstruct_sequences(x, counted)
    assert torch.allclose(codes.dense(), model.encode(x)[counted], atol=1e-6)
    assert torch.allclose(rebuilt, model(x)[counted], atol=1e-5)


def test_chunks_of_sequences_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = sae(), sequences(5)
    everywhere = torch.ones(x.shape[:2], dtype=torch.bool)
    whole, codes = model(x), model.reconstruct_sequences(x, everywhere)[0].dense()
    monkeypatch.setattr(module, "CHUNK_BYTES", 1)  # one sequence and one row at a time
    assert torch.allclose(model(x), whole, atol=1e-6)
    parts, rebuilt = model.reconstruct_sequences(x, everywhere)
    assert torch.allclose(parts.dense(), codes, atol=1e-6)
    assert torch.allclose(rebuilt, whole.reshape(-1, D_IN), atol=1e-5)


def test_one_sequence_needs_no_batch() -> None:
    model, x = sae(), sequences(1)
    assert torch.equal(model.encode(x[0]), model.encode(x)[0])
    assert model(x[0]).shape == (LENGTH, D_IN)


def test_rows_of_no_sequence_are_refused() -> None:
    model, rows = sae(), torch.zeros(4, D_IN)
    for call in (model.codes, model.reconstruct, lambda x: model.encode(x[0])):
        with pytest.raises(CheckpointError, match="Give whole sequences"):
            call(rows)


def test_activations_of_another_width_are_refused() -> None:
    with pytest.raises(CheckpointError, match="activations of width d_in = 4"):
        sae().encode(torch.zeros(2, 3, D_IN + 1))


def test_it_says_that_it_needs_sequences() -> None:
    assert sae().needs_sequences
