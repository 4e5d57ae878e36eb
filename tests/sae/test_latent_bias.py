"""A bias on active latents: worked out by hand, dense and sparse alike, for each target apart."""

from __future__ import annotations

import pytest
import torch

from saebench.activations import ReLU
from saebench.errors import CheckpointError
from saebench.sae import CrossLayerTranscoder, SAEConfig
from saebench.sae.latent_bias import LatentBiasSAE
from saebench.sae.model import SAE
from saebench.sae.normalization import Affine


def biased(n_targets: int, normalization: Affine | None = None) -> LatentBiasSAE:
    """Two inputs, two latents that copy them, and decoders that differ between targets."""
    cfg = SAEConfig("relu", d_in=2, d_sae=2, d_out=1, n_targets=n_targets)
    W_dec = torch.tensor([[1.0, 10.0], [2.0, 20.0]])[:, :n_targets].contiguous()
    return LatentBiasSAE(
        cfg,
        ReLU(),
        W_enc=torch.eye(2),
        W_dec=W_dec,
        b_enc=torch.zeros(2),
        b_dec=torch.tensor([0.5, 0.25])[:n_targets],
        latent_bias=torch.tensor([[1.0, -1.0], [3.0, 0.0]])[:, :n_targets],
        normalization=normalization,
    )


def test_an_active_latent_is_decoded_with_its_bias_and_another_is_not() -> None:
    sae = biased(1)
    x = torch.tensor([[2.0, -4.0], [2.0, 5.0], [-1.0, -1.0]])
    assert sae.encode(x).tolist() == [[2, 0], [2, 5], [0, 0]]  # codes are without it
    assert sae(x).tolist() == [[3.5], [3 + 16 + 0.5], [0.5]]


def test_each_target_has_its_own_bias() -> None:
    y = biased(2)(torch.tensor([[2.0, 5.0]]))
    assert y.tolist() == [[[3 + 16 + 0.5], [10 + 100 + 0.25]]]


@pytest.mark.parametrize("n_targets", [1, 2])
def test_sparse_codes_are_decoded_to_the_same(n_targets: int) -> None:
    sae, x = biased(n_targets), torch.randn(7, 2)
    codes, output = sae.reconstruct(x)
    torch.testing.assert_close(output, sae(x).reshape(7, -1))
    torch.testing.assert_close(sae.decode_codes(codes), sae.decode(sae.encode(x)).reshape(7, -1))


def test_the_bias_is_in_units_of_codes_where_inputs_are_scaled() -> None:
    sae = biased(1, Affine(torch.tensor(2.0), scale_out=torch.tensor(10.0)))
    assert sae(torch.tensor([[1.0, -1.0]])).tolist() == [[10 * (3 + 0.5)]]


def cross_layer(**parts: object) -> CrossLayerTranscoder:
    layer = SAEConfig("relu", d_in=1, d_sae=1, d_out=1, n_targets=2)
    layers = [
        SAE(
            layer,
            ReLU(),
            W_enc=torch.ones(1, 1),
            W_dec=torch.zeros(1, 2),
            b_enc=torch.zeros(1),
            b_dec=torch.zeros(2),
        )
        for _ in range(2)
    ]
    cfg = SAEConfig("relu", d_in=1, d_sae=2, d_out=1, n_sources=2, n_targets=2)
    skips = [torch.full((1, 1), 3.0), torch.full((1, 1), 5.0)]
    both = [[0, 1], [0, 1]]
    return CrossLayerTranscoder(
        cfg,
        layers,
        both,
        torch.zeros(2, 1),
        **({"skips": skips} | parts),  # type: ignore[arg-type]
    )


def test_a_skip_of_a_cross_layer_dictionary_goes_to_the_target_named_for_it() -> None:
    x = torch.tensor([[[1.0], [10.0]]])
    assert cross_layer()(x).flatten().tolist() == [53, 0]  # the first written, by default
    assert cross_layer(skip_targets=[0, 1])(x).flatten().tolist() == [3, 50]


def test_skips_that_do_not_fit_the_sources_are_refused() -> None:
    with pytest.raises(CheckpointError, match="targets of skips"):
        cross_layer(skip_targets=[1])
    with pytest.raises(CheckpointError, match="skips of a cross-layer"):
        cross_layer(skips=[torch.ones(1, 1)])
    with pytest.raises(CheckpointError, match="skip of source 1"):
        cross_layer(skips=[None, torch.ones(2, 1)])
