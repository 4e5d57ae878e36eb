"""Crosscoders and cross-layer transcoders against their formulas written out with einsum."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from saebench.activations import BatchTopK, JumpReLU, ReLU, TopK
from saebench.codes import SparseCodes, side_by_side
from saebench.errors import CheckpointError
from saebench.sae import SAE, Crosscoder, CrossLayerTranscoder, SAEConfig, Source
from saebench.sae.normalization import Affine, AverageNorm

M, D, F, N = 3, 5, 11, 7


def rand(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + 31 * len(shape)))


def crosscoder(activation=None, **changes):
    weights = {
        "W_enc": rand(M * D, F),
        "W_dec": rand(F, M * D, seed=1),
        "b_dec": rand(M * D, seed=2),
        "b_enc": rand(F, seed=3),
    }
    cfg = SAEConfig(
        "crosscoder", D, F, D, n_sources=M, n_targets=M, site="blocks.1.hook_resid_post"
    )
    return Crosscoder(cfg, activation or ReLU(), **(weights | changes))


def cross_layer(*, skips=False):
    """Three sources; source s writes targets s, s + 1, …"""
    layers, targets = [], [list(range(s, M)) for s in range(M)]
    for s, written in enumerate(targets):
        width = len(written) * D
        cfg = SAEConfig("jumprelu", D, F, D, n_targets=len(written))
        layers.append(
            SAE(
                cfg,
                JumpReLU(torch.full((F,), 0.2)),
                W_enc=rand(D, F, seed=s),
                W_dec=rand(F, width, seed=10 + s),
                b_dec=torch.zeros(width),
                b_enc=rand(F, seed=20 + s),
            )
        )
    cfg = SAEConfig("clt", D, M * F, D, n_sources=M, n_targets=M)
    extra = [rand(D, D, seed=40 + s) for s in range(M)] if skips else ()
    return CrossLayerTranscoder(cfg, layers, targets, rand(M, D, seed=30), extra)


def test_a_crosscoder_sums_over_sources_and_writes_each():
    cc, x = crosscoder(), rand(N, M, D, seed=9)
    W_enc, W_dec = cc.W_enc.view(M, D, F), cc.W_dec.view(F, M, D)
    f = (torch.einsum("nmd,mdf->nf", x, W_enc) + cc.b_enc).relu()
    torch.testing.assert_close(cc.encode(x), f)
    expected = torch.einsum("nf,fmd->nmd", f, W_dec) + cc.b_dec.view(M, D)
    torch.testing.assert_close(cc.decode(f), expected)
    torch.testing.assert_close(cc(x), expected)


def test_leading_dimensions_are_kept():
    cc, x = crosscoder(), rand(2, 3, M, D)
    assert cc.encode(x).shape == (2, 3, F)
    assert cc(x).shape == (2, 3, M, D)
    values, indices = cc.encode_sparse(x)
    torch.testing.assert_close(cc.decode_sparse(values, indices), cc(x))


def test_the_flat_surface_is_the_same_model():
    cc, x = crosscoder(TopK(3)), rand(N, M, D)
    codes, flat = cc.reconstruct(x.reshape(N, -1))
    torch.testing.assert_close(codes.dense(), cc.encode(x))
    torch.testing.assert_close(flat.view(N, M, D), cc(x))


def test_a_source_in_other_units_is_brought_to_the_weights_units_and_back():
    scale = torch.tensor([2.0, 0.5, 4.0]).repeat_interleave(D)
    plain, x = crosscoder(), rand(N, M, D)
    scaled = crosscoder(normalization=Affine(scale))
    by_source = scale.view(M, D)
    torch.testing.assert_close(scaled.encode(x), plain.encode(x * by_source))
    torch.testing.assert_close(scaled(x), plain(x * by_source) / by_source)
    norms = plain.W_dec.view(F, M, D).norm(dim=-1) / torch.tensor([2.0, 0.5, 4.0])
    torch.testing.assert_close(scaled.decoder_norms(), norms)


@pytest.mark.parametrize("shape", [(N, D), (N, M + 1, D), (N, M, D + 1), (D,)])
def test_activations_of_another_shape_are_refused(shape):
    with pytest.raises(CheckpointError, match=r"\[\.\.\., 3, 5\]"):
        crosscoder().encode(torch.zeros(shape))


def test_a_cross_layer_transcoder_writes_each_layer_from_it_and_all_before():
    clt, x = cross_layer(), rand(N, M, D)
    assert clt.encode(x).shape == (N, M * F)
    expected = clt.b_dec.repeat(N, 1, 1)
    for s, layer in enumerate(clt.layers):
        pre = x[:, s] @ layer.W_enc + layer.b_enc
        f = torch.where(pre > 0.2, pre, torch.zeros(()))
        torch.testing.assert_close(clt.encode(x)[:, s * F : (s + 1) * F], f)
        for place, target in enumerate(clt.targets[s]):
            expected[:, target] += f @ layer.W_dec.view(F, -1, D)[:, place]
    torch.testing.assert_close(clt(x), expected)
    torch.testing.assert_close(clt.decode(clt.encode(x)), expected)


@pytest.mark.parametrize("skips", [False, True])
def test_its_flat_surface_is_the_same_model(skips):
    clt, x = cross_layer(skips=skips), rand(N, M, D)
    flat = x.reshape(N, -1)
    codes, y = clt.reconstruct(flat)
    torch.testing.assert_close(codes.dense(), clt.encode(x))
    torch.testing.assert_close(clt.codes(flat).dense(), clt.encode(x))
    torch.testing.assert_close(y.view(N, M, D), clt(x))
    torch.testing.assert_close(clt.decode_codes(codes).view(N, M, D), clt.decode(clt.encode(x)))


def test_a_skip_goes_to_the_layer_that_it_comes_from():
    plain, skipping, x = cross_layer(), cross_layer(skips=True), rand(N, M, D)
    for s in range(M):
        added = x[:, s] @ getattr(skipping, f"W_skip_{s}").T
        torch.testing.assert_close(skipping(x)[:, s], plain(x)[:, s] + added)


def test_a_latent_that_does_not_write_to_a_layer_has_norm_zero_there():
    norms = cross_layer().decoder_norms()
    assert norms.shape == (M * F, M)
    for s in range(M):
        rows = norms[s * F : (s + 1) * F]
        assert bool((rows[:, :s] == 0).all())
        assert bool((rows[:, s:] > 0).all())


def test_parts_that_do_not_belong_together_are_refused():
    clt = cross_layer()
    with pytest.raises(CheckpointError, match="sources"):
        CrossLayerTranscoder(clt.cfg, list(clt.layers)[:2], clt.targets, clt.b_dec)
    with pytest.raises(CheckpointError, match="bias"):
        CrossLayerTranscoder(clt.cfg, list(clt.layers), clt.targets, clt.b_dec[:2])


@given(st.lists(st.integers(0, 4), min_size=1, max_size=4), st.integers(1, 6))
@settings(deadline=None, max_examples=30)
def test_codes_side_by_side_are_the_concatenation_and_come_apart_again(sizes, n):
    dense = [
        (rand(n, size + 1, seed=i) > 0.4) * rand(n, size + 1, seed=50 + i)
        for i, size in enumerate(sizes)
    ]
    parts = [sparse(item) for item in dense]
    joined = side_by_side(parts)
    assert torch.equal(joined.dense(), torch.cat(dense, 1))
    start = 0
    for item in dense:
        assert torch.equal(joined.between(start, start + item.shape[1]).dense(), item)
        start += item.shape[1]


def sparse(dense):
    rows, columns = dense.nonzero(as_tuple=True)
    counts = torch.bincount(rows, minlength=dense.shape[0])
    offsets = torch.cat((torch.zeros(1, dtype=torch.int64), counts.cumsum(0))).int()
    return SparseCodes(dense[rows, columns], columns.int(), offsets, dense.shape[1])


# --- what the files lack is estimated on data -------------------------------------------------------


@pytest.mark.parametrize("rows", [1, 4, 10_000])
def test_an_estimated_threshold_lets_k_latents_per_token_pass(rows, monkeypatch):
    monkeypatch.setattr("saebench.sae.model.CHUNK_BYTES", 0)
    monkeypatch.setattr("saebench.sae.model.MIN_CHUNK_ROWS", rows)
    cc, x = crosscoder(BatchTopK(3)), rand(200, M * D)
    assert cc.pending == ("threshold",)
    found = cc.calibrate(x)
    pre = x @ cc.W_enc + cc.b_enc
    assert int(cc.codes(x).counts().sum()) == 3 * 200
    assert found["threshold"] == pytest.approx(float(pre.flatten().sort().values[-601]), rel=1e-6)
    assert cc.pending == ()


def test_a_threshold_is_not_negative_where_fewer_than_k_are_positive():
    cc, x = crosscoder(BatchTopK(F)), rand(20, M * D)
    assert cc.calibrate(x) == {"threshold": 0.0}
    assert int(cc.codes(x).counts().sum()) == int((x @ cc.W_enc + cc.b_enc > 0).sum())


def test_latents_ranked_by_decoder_norms_pass_by_them_and_keep_their_values():
    weight = rand(F, seed=5).abs() + 0.1
    cc, x = crosscoder(BatchTopK(2, weight)), rand(100, M * D)
    cc.calibrate(x)
    pre = x @ cc.W_enc + cc.b_enc
    ranked = (pre * weight).flatten()
    active = pre * weight > ranked.sort().values[-201]
    torch.testing.assert_close(cc.codes(x).dense(), torch.where(active, pre, torch.zeros(())))


def test_scales_that_are_not_stored_make_the_mean_norm_of_each_source_root_d():
    cc, x = (
        crosscoder(normalization=AverageNorm(M)),
        rand(50, M, D)
        * torch.tensor(
            [
                [[2.0]],
            ]
        ),
    )
    assert cc.pending == ("input_scale",)
    scales = torch.tensor(cc.calibrate(x.reshape(50, -1))["input_scale"])
    scaled = x * scales[:, None]
    torch.testing.assert_close(scaled.norm(dim=-1).mean(0), torch.full((M,), D**0.5))
    torch.testing.assert_close(cc(x), crosscoder()(scaled) / scales[:, None])


def test_nothing_is_encoded_before_what_is_pending_was_estimated():
    with pytest.raises(CheckpointError, match=r"threshold.*calibrate"):
        crosscoder(BatchTopK(3)).encode(rand(N, M, D))


# --- where activations come from --------------------------------------------------------------------


def test_sources_are_models_unless_sites_are_named():
    cfg = SAEConfig("crosscoder", D, F, D, n_sources=2, n_targets=2, site="s")
    assert cfg.reads == (Source("s", 0), Source("s", 1)) == cfg.writes
    assert cfg.n_models == 2
    assert not cfg.is_transcoder
    layers = SAEConfig("crosscoder", D, F, D, n_sources=2, n_targets=2, sites=("a", "b"))
    assert layers.reads == (Source("a"), Source("b"))
    assert layers.n_models == 1


def test_a_difference_names_the_model_and_the_one_subtracted():
    cfg = SAEConfig("batchtopk", D, F, D, site="s", difference="1-0")
    assert cfg.reads == (Source("s", 1, 0),) == cfg.writes
    assert cfg.n_models == 2


def test_a_transcoder_writes_elsewhere():
    cfg = SAEConfig("transcoder", D, F, D, site="a", site_out="b")
    assert cfg.is_transcoder
    assert cfg.writes == (Source("b"),)
