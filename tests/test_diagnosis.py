"""What weights alone show: each finding on a checkpoint made to have it, and on none that has not."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from saebench.activations import BatchTopK, JumpReLU, ReLU, TopK
from saebench.diagnosis import diagnose
from saebench.sae import SAE, Crosscoder, CrossLayerTranscoder, SAEConfig
from saebench.sae.normalization import Affine
from saebench.sae.pursuit import MatchingPursuit

D, F = 32, 80


def sae(activation=None, *, d_sae=F, noise=0.3, **changes):
    """A plausible SAE: unit decoder rows, an encoder that points roughly the same way."""
    generator = torch.Generator().manual_seed(0)
    W_dec = torch.randn(d_sae, D, generator=generator)
    W_dec /= W_dec.norm(dim=1, keepdim=True)
    W_enc = (W_dec + noise * torch.randn(d_sae, D, generator=generator)).T.contiguous()
    parts = {
        "W_enc": W_enc,
        "W_dec": W_dec,
        "b_dec": torch.zeros(D),
        "b_enc": torch.randn(d_sae, generator=generator),
    }
    cfg = changes.pop("cfg", SAEConfig("standard", D, d_sae, D))
    return SAE(cfg, activation or ReLU(), **(parts | changes))


def found(item):
    return {finding.code: finding for finding in diagnose(item)}


def test_a_healthy_checkpoint_has_no_error_and_no_warning():
    assert {f.severity for f in diagnose(sae())} == {"info"}
    assert set(found(sae())) == {"unit_norms", "alignment"}


def test_alignment_is_the_mean_cosine_of_encoder_columns_and_decoder_rows():
    item = sae()
    cosines = torch.nn.functional.cosine_similarity(item.W_enc.T, item.W_dec, dim=1)
    assert found(item)["alignment"].figures["mean"] == pytest.approx(
        float(cosines.mean()), rel=1e-5
    )


def test_an_encoder_of_another_checkpoint_does_not_align():
    W_enc = torch.randn(D, F, generator=torch.Generator().manual_seed(9))
    assert found(sae(W_enc=W_enc))["alignment"].severity == "warning"


def test_a_square_encoder_the_wrong_way_round_is_an_error():
    healthy = sae(d_sae=D)
    assert found(healthy)["alignment"].severity == "info"
    turned = sae(d_sae=D, W_enc=healthy.W_enc.T.contiguous())
    finding = found(turned)["orientation"]
    assert finding.severity == "error"
    assert finding.figures["transposed"] == pytest.approx(
        found(healthy)["alignment"].figures["mean"]
    )


def test_a_transcoder_need_not_align():
    cfg = SAEConfig("transcoder", D, F, D, site="a", site_out="b")
    W_enc = torch.randn(D, F, generator=torch.Generator().manual_seed(9))
    assert "alignment" not in found(sae(cfg=cfg, W_enc=W_enc))


def test_tied_weights_are_named():
    item = sae()
    assert "tied" in found(sae(W_enc=item.W_dec.T.contiguous()))
    assert "tied" not in found(item)


def test_norms_are_reported_when_they_are_not_one():
    W_dec = sae().W_dec * torch.linspace(0.5, 2, F)[:, None]
    figures = found(sae(W_dec=W_dec))["norms"].figures
    assert (figures["min"], figures["max"]) == (pytest.approx(0.5), pytest.approx(2.0))


def test_norms_are_those_of_what_is_written_and_not_of_what_is_stored():
    scale = torch.linspace(0.5, 2, F)
    stored = sae().W_dec * scale[:, None]
    scaled = sae(W_dec=stored, latent_scale=scale)
    assert "unit_norms" in found(scaled)
    assert "norms" not in found(scaled)
    assert found(scaled)["alignment"].figures == pytest.approx(
        found(sae())["alignment"].figures, rel=1e-5
    )
    affine = sae(normalization=Affine(torch.tensor(0.25)))
    figures = found(affine)["norms"].figures
    assert figures == {key: pytest.approx(4) for key in ("min", "mean", "max")}
    norms = affine.decoder_norms()
    assert (figures["min"], figures["max"]) == (float(norms.min()), float(norms.max()))
    kept = replace(affine.cfg, undo_normalization=False)
    assert "unit_norms" in found(sae(cfg=kept, normalization=Affine(torch.tensor(0.25))))


def test_a_latent_whose_target_is_scaled_to_nothing_writes_nothing():
    mute = Affine(torch.tensor(1.0), scale_out=torch.tensor([0.0] + [1.0] * (D - 1)))
    W_dec = sae().W_dec.clone()
    W_dec[4, 1:] = 0
    assert found(sae(W_dec=W_dec, normalization=mute))["zero_decoder_rows"].figures == {
        "latents": 1
    }


def test_norms_of_several_targets_are_taken_together_and_said_to_be():
    W_dec = torch.zeros(F, 2 * D)
    W_dec[:, 0], W_dec[:, D] = 3, 4
    cfg = SAEConfig("crosscoder", D, F, D, n_sources=2, n_targets=2)
    W_enc = torch.randn(2 * D, F, generator=torch.Generator().manual_seed(0))
    item = Crosscoder(cfg, ReLU(), W_enc=W_enc, W_dec=W_dec, b_dec=torch.zeros(2 * D))
    finding = found(item)["norms"]
    assert finding.figures == {"min": 5, "mean": 5, "max": 5}
    assert "over all 2 targets together" in finding.text
    assert "targets" not in found(sae())["unit_norms"].text


def test_of_a_decoder_of_zeros_nothing_else_is_said():
    zeros = torch.zeros(F, D)
    assert set(found(sae(W_dec=zeros))) == {"zero_decoder"}
    untrained = found(sae(W_dec=zeros, W_enc=zeros.T.contiguous()))
    assert not {"tied", "alignment", "dtype_loss"} & set(untrained)


def test_a_dictionary_that_is_pursued_has_the_same_findings_and_is_tied():
    options = {"residual_threshold": 0.0, "max_rounds": 4, "stop_on_repeat": True}
    cfg = SAEConfig("matching_pursuit", D, F, D)
    W_dec = sae().W_dec.clone()
    W_dec[3], W_dec[5] = 0, W_dec[50]
    item = found(MatchingPursuit(cfg, W_dec=W_dec, b_dec=torch.zeros(D), **options))
    assert {"tied", "unit_norms", "duplicates", "zero_decoder_rows"} <= set(item)


def test_latents_without_a_direction_or_without_an_encoder_are_counted():
    W_dec, W_enc = sae().W_dec.clone(), sae().W_enc.clone()
    W_dec[:3] = 0
    W_enc[:, 10:14] = 0
    b_enc = torch.full((F,), -1.0)
    b_enc[13] = 1.0
    item = found(sae(W_dec=W_dec, W_enc=W_enc, b_enc=b_enc))
    assert item["zero_decoder_rows"].figures == {"latents": 3}
    assert item["zero_encoder"].figures == {"latents": 3}


def test_a_bias_below_the_threshold_cannot_make_a_zero_encoder_fire():
    W_enc = torch.zeros(D, F)
    b_enc = torch.full((F,), 0.5)
    low, high = (JumpReLU(torch.full((F,), value)) for value in (0.1, 0.9))
    assert "zero_encoder" not in found(sae(low, W_enc=W_enc, b_enc=b_enc))
    assert found(sae(high, W_enc=W_enc, b_enc=b_enc))["zero_encoder"].figures == {"latents": F}


def test_duplicates_are_counted_with_both_twins():
    W_dec = sae().W_dec.clone()
    W_dec[5] = 3 * W_dec[50]
    W_dec[7] = W_dec[70] + 0.01 * W_dec[1]
    item = found(sae(W_dec=W_dec))["duplicates"]
    assert item.figures["latents"] == 4
    assert item.figures["compared"] == F


def test_of_many_latents_a_sample_is_compared_and_said_to_be_one(monkeypatch):
    monkeypatch.setattr("saebench.diagnosis.PAIR_FLOPS", 2 * F * D * 20)
    item = sae(W_dec=sae().W_dec[:1].repeat(F, 1))
    finding = found(item)["duplicates"]
    assert finding.figures["compared"] == 20 == finding.figures["latents"]
    assert "20 latents compared" in finding.text


@pytest.mark.parametrize("rows", [1, 7, 1000])
def test_the_size_of_blocks_changes_nothing(rows, monkeypatch):
    W_dec = sae().W_dec.clone()
    W_dec[5] = W_dec[50]
    whole = diagnose(sae(W_dec=W_dec))
    monkeypatch.setattr("saebench.diagnosis.BLOCK_BYTES", 4 * D * rows)
    for a, b in zip(diagnose(sae(W_dec=W_dec)), whole, strict=True):
        assert a.code == b.code
        assert a.figures == pytest.approx(b.figures, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_values_rounded_before_they_were_stored_wider_are_noticed(dtype):
    rounded = {name: getattr(sae(), name).to(dtype).float() for name in ("W_enc", "W_dec")}
    assert found(sae(**rounded))["dtype_loss"].figures["fits"] == str(dtype).removeprefix("torch.")
    stored = replace(SAEConfig("standard", D, F, D), dtype=str(dtype).removeprefix("torch."))
    assert "dtype_loss" not in found(sae(**rounded, cfg=stored))
    assert "stored_16_bit" in found(sae(**rounded, cfg=stored))


def test_thresholds_that_were_never_set_and_those_that_are_all_one():
    threshold = torch.rand(F) + 0.1
    assert not {"zero_threshold", "one_threshold"} & set(found(sae(JumpReLU(threshold))))
    threshold[:5] = 0
    assert found(sae(JumpReLU(threshold)))["zero_threshold"].figures["zero"] == 5
    assert "one_threshold" in found(sae(JumpReLU(torch.full((F,), 0.3))))


def test_what_has_to_be_estimated_is_a_warning():
    assert found(sae(BatchTopK(4)))["pending"].severity == "warning"
    assert "pending" not in found(sae(TopK(4)))


def test_each_layer_of_a_cross_layer_transcoder_is_looked_at():
    layers = [sae(W_dec=torch.zeros(F, D)), sae()]
    cfg = SAEConfig("clt", D, 2 * F, D, n_sources=2, n_targets=2)
    findings = diagnose(CrossLayerTranscoder(cfg, layers, [[0], [1]], torch.zeros(2, D)))
    assert findings[0].severity == "error"
    assert findings[0].text.startswith("layer 0: ")
    assert any(f.code == "unit_norms" and f.text.startswith("layer 1: ") for f in findings)


def test_layers_of_different_widths_have_the_norms_of_their_own_latents():
    layers = [sae(d_sae=10), sae(W_dec=2 * sae().W_dec)]
    cfg = SAEConfig("clt", D, F + 10, D, n_sources=2, n_targets=2)
    shared = Affine(torch.tensor(0.5))
    item = CrossLayerTranscoder(cfg, layers, [[0], [1]], torch.zeros(2, D), normalization=shared)
    means = [f.figures["mean"] for f in diagnose(item) if f.code == "norms"]
    assert means == [pytest.approx(2), pytest.approx(4)]


def test_twins_are_found_as_by_comparing_all_pairs_at_once():
    generator = torch.Generator().manual_seed(3)
    W_dec = sae().W_dec.repeat(2, 1) + 0.02 * torch.randn(2 * F, D, generator=generator)
    item = sae(d_sae=2 * F, W_dec=W_dec)
    unit = W_dec.double() / W_dec.double().norm(dim=1, keepdim=True)
    expected = int(((unit @ unit.T).fill_diagonal_(-1).amax(1) > 0.99).sum())
    assert 0 < expected < 2 * F
    assert found(item)["duplicates"].figures["latents"] == expected
