"""The canonical SAE: sparse and dense forms agree, on any batch, chunk and shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import saebench.sae.model
from saebench.activations import Activation, Gated, JumpReLU, ReLU, TopK
from saebench.codes import SparseCodes
from saebench.errors import CheckpointError
from saebench.sae import SAE, SAEConfig

D_IN, D_SAE = 5, 12


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


ACTIVATIONS: dict[str, Callable[[], Activation]] = {
    "relu": ReLU,
    "jumprelu": lambda: JumpReLU(torch.linspace(0.0, 0.8, D_SAE)),
    "batchtopk": lambda: JumpReLU(torch.tensor(0.6)),
    "topk": lambda: TopK(3),
    "topk of all": lambda: TopK(D_SAE),
    "gated": lambda: Gated(normal(D_SAE), normal(D_SAE, seed=1) / 4, normal(D_SAE, seed=2)),
}
NORMALIZATIONS = ("none", "layer_norm", "constant_norm_rescale")


def make(activation: str = "relu", normalization: str = "none", **extra: Tensor | None) -> SAE:
    cfg = SAEConfig("test", D_IN, D_SAE, D_IN, normalization=normalization)  # type: ignore[arg-type]
    tensors: dict[str, Tensor | None] = {
        "W_enc": normal(D_IN, D_SAE, seed=3),
        "W_dec": normal(D_SAE, D_IN, seed=4),
        "b_dec": normal(D_IN, seed=5),
        "b_enc": None if activation == "gated" else normal(D_SAE, seed=6) / 4,
    }
    return SAE(cfg, ACTIVATIONS[activation](), **(tensors | extra))  # type: ignore[arg-type]


def close(found: Tensor, expected: Tensor) -> bool:
    return torch.allclose(found, expected, rtol=1e-5, atol=1e-5)


every_kind = pytest.mark.parametrize(
    ("activation", "normalization"), list(product(ACTIVATIONS, NORMALIZATIONS))
)


class TestFormula:
    def test_a_hand_computed_case(self) -> None:
        cfg = SAEConfig("standard", 2, 2, 2)
        sae = SAE(
            cfg,
            ReLU(),
            W_enc=torch.tensor([[1.0, 0.0], [0.0, 2.0]]),
            W_dec=torch.tensor([[3.0, 0.0], [0.0, -1.0]]),
            b_dec=torch.tensor([0.5, 1.0]),
            b_enc=torch.tensor([0.0, -1.0]),
            b_in=torch.tensor([1.0, 1.0]),
        )
        x = torch.tensor([[3.0, 2.0], [0.0, 1.0]])  # pre-activations [2, 1] and [-1, -1]
        assert torch.equal(sae.encode(x), torch.tensor([[2.0, 1.0], [0.0, 0.0]]))
        assert torch.equal(sae(x), torch.tensor([[6.5, 0.0], [0.5, 1.0]]))

    def test_layer_norm_inputs_are_centred_scaled_and_undone(self) -> None:
        sae = make("relu", "layer_norm")
        x = normal(4, D_IN) * 3 + 2
        mean, std = x.mean(-1, keepdim=True), x.std(-1, keepdim=True)
        codes = ((x - mean) / (std + 1e-5) @ sae.W_enc + sae.b_enc).relu()
        assert close(sae.encode(x), codes)
        assert close(sae(x), (codes @ sae.W_dec + sae.b_dec) * std + mean)

    def test_rescaled_inputs_have_norm_root_d_and_are_undone(self) -> None:
        sae = make("relu", "constant_norm_rescale")
        x = normal(4, D_IN) * 3
        factor = D_IN**0.5 / x.norm(dim=-1, keepdim=True)
        codes = (x * factor @ sae.W_enc + sae.b_enc).relu()
        assert close(sae(x), (codes @ sae.W_dec + sae.b_dec) / factor)

    @pytest.mark.parametrize("normalization", NORMALIZATIONS[1:])
    def test_a_transcoder_does_not_undo_the_normalisation_of_its_input(
        self, normalization: str
    ) -> None:
        plain = make("relu", normalization)
        sae = SAE(
            replace(plain.cfg, undo_normalization=False),
            plain.activation,
            W_enc=plain.W_enc,
            W_dec=plain.W_dec,
            b_dec=plain.b_dec,
            b_enc=plain.b_enc,
        )
        x = normal(4, D_IN) * 3 + 1
        codes = sae.encode(x)
        assert close(codes, plain.encode(x))
        assert close(sae.decode(codes), codes @ sae.W_dec + sae.b_dec)
        assert close(sae.reconstruct(x)[1], sae(x))

    def test_latent_scale_changes_the_selection_and_not_the_unit_of_the_output(self) -> None:
        scale = torch.linspace(0.1, 3.0, D_SAE)
        scaled, plain = make("topk of all", latent_scale=scale), make("topk of all")
        x = normal(6, D_IN)
        assert close(scaled.encode(x), plain.encode(x) * scale)
        assert close(scaled(x), plain(x))

    def test_the_skip_path_is_in_the_output_and_not_in_the_decoding(self) -> None:
        skip = normal(D_IN, D_IN, seed=9)
        sae, plain = make(W_skip=skip), make()
        x = normal(6, D_IN)
        assert close(sae(x), plain(x) + x @ skip.T)
        assert close(sae.decode(sae.encode(x)), plain.decode(plain.encode(x)))
        assert close(sae.reconstruct(x)[1], sae(x))

    def test_inputs_of_another_dtype_are_cast_to_that_of_the_weights(self) -> None:
        x = normal(3, D_IN).bfloat16()
        assert torch.equal(make()(x), make()(x.float()))


class TestSparseIsDense:
    @every_kind
    def test_sparse_codes_are_the_dense_ones(self, activation: str, normalization: str) -> None:
        sae, x = make(activation, normalization), normal(9, D_IN)
        codes = sae.codes(x)
        assert close(codes.dense(), sae.encode(x))
        assert torch.equal(codes.counts(), (sae.encode(x) != 0).sum(-1).int())
        assert bool((codes.values != 0).all()), "only active latents are listed"

    @every_kind
    def test_sparse_reconstruction_is_the_forward_pass(
        self, activation: str, normalization: str
    ) -> None:
        sae, x = make(activation, normalization), normal(9, D_IN)
        assert close(sae.reconstruct(x)[1], sae(x))
        assert close(sae.decode_codes(sae.codes(x), x), sae.decode(sae.encode(x), x))

    @every_kind
    def test_padded_codes_decode_to_the_same(self, activation: str, normalization: str) -> None:
        sae, x = make(activation, normalization), normal(2, 4, D_IN)
        values, indices = sae.encode_sparse(x)
        assert values.shape == indices.shape == (2, 4, values.shape[-1])
        assert close(sae.decode_sparse(values, indices, x), sae(x))

    def test_latent_scale_is_divided_out_of_sparse_codes_too(self) -> None:
        sae = make("topk", latent_scale=torch.linspace(0.1, 3.0, D_SAE))
        x = normal(7, D_IN)
        assert close(sae.reconstruct(x)[1], sae(x))

    def test_topk_pads_to_k_even_where_fewer_are_positive(self) -> None:
        sae = make("topk", b_enc=torch.full((D_SAE,), -50.0))
        values, indices = sae.encode_sparse(normal(4, D_IN))
        assert values.shape == (4, 3)
        assert torch.equal(values, torch.zeros(4, 3))
        assert torch.equal(indices, torch.zeros(4, 3, dtype=torch.int64))
        assert close(sae.decode_sparse(values, indices), sae.b_dec.expand(4, D_IN))

    def test_no_tokens_give_no_codes(self) -> None:
        codes, output = make("topk").reconstruct(torch.zeros(0, D_IN))
        assert (codes.n_tokens, codes.values.numel(), output.shape) == (0, 0, (0, D_IN))


class TestChunks:
    @pytest.mark.parametrize("activation", ACTIVATIONS)
    @given(rows=st.integers(1, 9), tokens=st.integers(0, 20))
    @settings(max_examples=15, deadline=None)
    def test_the_size_of_row_chunks_does_not_matter(
        self, activation: str, rows: int, tokens: int
    ) -> None:
        sae, x = make(activation), normal(tokens, D_IN)
        whole = sae.codes(x)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(saebench.sae.model, "CHUNK_BYTES", 0)
            patch.setattr(saebench.sae.model, "MIN_CHUNK_ROWS", rows)
            chunked = sae.codes(x)
        assert torch.equal(chunked.offsets, whole.offsets)
        assert torch.equal(chunked.indices, whole.indices)
        assert close(chunked.values, whole.values)

    @pytest.mark.parametrize("activation", ACTIVATIONS)
    def test_a_token_has_the_same_codes_in_any_batch(self, activation: str) -> None:
        sae, x = make(activation, "layer_norm"), normal(3, 4, D_IN)
        alone = torch.stack([sae.encode(token) for token in x.reshape(-1, D_IN)])
        assert close(sae.encode(x).reshape(-1, D_SAE), alone)
        assert torch.equal(sae.encode(x).reshape(-1, D_SAE) != 0, alone != 0)


class TestSparseCodes:
    @given(
        st.lists(
            st.dictionaries(st.integers(0, 6), st.floats(0.5, 2.0), max_size=5),
            min_size=1,
            max_size=6,
        )
    )
    def test_padding_and_unpadding_is_the_identity(self, tokens: list[dict[int, float]]) -> None:
        dense = torch.zeros(len(tokens), 7)
        for row, active in enumerate(tokens):
            for index, value in active.items():
                dense[row, index] = value
        rows, columns = dense.nonzero(as_tuple=True)
        offsets = torch.tensor([0, *(dense != 0).sum(-1).cumsum(0)], dtype=torch.int32)
        codes = SparseCodes(dense[rows, columns], columns.int(), offsets, 7)
        assert torch.equal(codes.dense(), dense)
        values, indices = codes.padded(9)
        assert torch.equal(torch.zeros(len(tokens), 7).scatter_add_(1, indices, values), dense)
        keep = torch.arange(len(tokens)) % 2 == 0
        assert torch.equal(codes.select_tokens(keep).dense(), dense[keep])


class TestRefusals:
    @pytest.mark.parametrize("normalization", NORMALIZATIONS[1:])
    def test_decoding_normalised_codes_needs_the_activations(self, normalization: str) -> None:
        sae, x = make("topk", normalization), normal(3, D_IN)
        with pytest.raises(CheckpointError, match="without the activations they came from"):
            sae.decode(sae.encode(x))
        with pytest.raises(CheckpointError, match="without the activations they came from"):
            sae.decode_codes(sae.codes(x))

    def test_activations_of_another_width_name_both(self) -> None:
        for call in (make().encode, make().codes):
            with pytest.raises(CheckpointError, match=r"d_in = 5: width 6 \(shape \[3, 6\]\)"):
                call(torch.zeros(3, 6))

    @pytest.mark.parametrize(
        ("name", "shape"),
        [
            ("W_enc", (D_SAE, D_IN)),
            ("W_dec", (D_IN, D_SAE)),
            ("b_dec", (D_SAE,)),
            ("b_enc", (D_IN,)),
            ("b_in", (D_SAE,)),
            ("latent_scale", (D_IN,)),
            ("W_skip", (D_IN, D_SAE)),
        ],
    )
    def test_a_tensor_that_contradicts_the_config_is_named(
        self, name: str, shape: tuple[int, ...]
    ) -> None:
        with pytest.raises(CheckpointError, match=rf"{name} of shape .*: shape"):
            make(**{name: torch.zeros(shape)})


def test_a_token_of_zeros_stays_finite_under_constant_norm_rescaling():
    sae = make("relu", "constant_norm_rescale")
    assert bool(sae.encode(torch.zeros(1, D_IN)).isfinite().all())
    assert bool(sae(torch.zeros(1, D_IN)).isfinite().all())
