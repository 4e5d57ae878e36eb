"""Matching pursuit and temporal SAEs of SAELens: what their configs say, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from saebench.errors import CheckpointError
from saebench.files import CheckpointFiles
from saebench.loading import load_sae
from saebench.sae.pursuit import MatchingPursuit
from saebench.sae.temporal import TemporalSAE
from tests.adapters.test_saelens import D_IN, D_SAE, config, refused, tensors, write

X = torch.randn(2, 5, D_IN, generator=torch.Generator().manual_seed(1))
N_SAE = 8  # of the temporal SAEs: n_heads times bottleneck_factor divides it


def decoder_only() -> dict[str, Tensor]:
    return {key: value for key, value in tensors().items() if key in ("W_dec", "b_dec")}


def attention(n_layers: int = 1, d_attn: int = 4) -> dict[str, Tensor]:
    widths = {"q_target": d_attn, "k_ctx": d_attn, "v_ctx": N_SAE, "c_proj": N_SAE}
    found = {"W_dec": torch.randn(N_SAE, D_IN), "b_dec": torch.randn(D_IN)}
    for i in range(n_layers):
        for name, rows in widths.items():
            found[f"attn_layers.{i}.{name}.weight"] = torch.randn(rows, N_SAE)
            found[f"attn_layers.{i}.{name}.bias"] = torch.randn(rows)
    return found


def temporal(**keys: object) -> dict[str, Any]:
    base = {"d_sae": N_SAE, "n_heads": 2, "bottleneck_factor": 2, "kval_topk": 3}
    return config("temporal", **base | keys)


class TestMatchingPursuit:
    def test_its_rules_are_facts(self, tmp_path: Path) -> None:
        keys = {"residual_threshold": 0.2, "max_iterations": 3, "stop_on_duplicate_support": False}
        sae = load_sae(write(tmp_path, config("matching_pursuit", **keys), decoder_only()))
        assert isinstance(sae, MatchingPursuit)
        rules = (sae.residual_threshold, sae.max_rounds, sae.stop_on_repeat)
        assert rules == (0.2, 3, False)
        assert sae.cfg.facts["max_iterations"].source == "cfg.json: max_iterations"
        assert sae.cfg.k is None

    def test_their_defaults_are_those_of_saelens(self, tmp_path: Path) -> None:
        sae = load_sae(write(tmp_path, config("matching_pursuit"), decoder_only()))
        assert isinstance(sae, MatchingPursuit)
        assert (sae.residual_threshold, sae.max_rounds, sae.stop_on_repeat) == (0.01, D_IN, True)
        assert sae.cfg.facts["residual_threshold"].how == "assumed"

    def test_a_bias_that_is_not_subtracted_is_not_added_either(self, tmp_path: Path) -> None:
        cfg = config("matching_pursuit", apply_b_dec_to_input=False)
        sae = load_sae(write(tmp_path, cfg, decoder_only()))
        assert not sae(torch.zeros(1, D_IN)).any()
        assert "in neither encoder nor decoder" in "; ".join(sae.cfg.notes)

    def test_a_threshold_that_is_no_number_is_refused(self, tmp_path: Path) -> None:
        cfg = config("matching_pursuit", residual_threshold="small")
        assert "residual_threshold (a number): 'small'" in refused(tmp_path, cfg, decoder_only())

    def test_rounds_without_an_end_are_refused(self, tmp_path: Path) -> None:
        cfg = config("matching_pursuit", max_iterations=2**38)
        assert "max_iterations of at most 100,000" in refused(tmp_path, cfg, decoder_only())

    def test_the_decoder_alone_is_no_sae_of_another_architecture(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError):
            load_sae(write(tmp_path, config("standard"), decoder_only()))


class TestTemporal:
    def test_its_sizes_are_facts(self, tmp_path: Path) -> None:
        sae = load_sae(write(tmp_path, temporal(), attention()))
        assert isinstance(sae, TemporalSAE)
        facts = sae.cfg.facts
        assert facts["k"].source == "cfg.json: kval_topk"
        assert (facts["n_heads"].value, facts["bottleneck_factor"].value) == (2, 2)
        assert facts["tied_weights"].how == "assumed"
        assert int((sae.encode(X) != 0).sum(-1).max()) <= 3
        assert "decoding them alone leaves that out" in "; ".join(sae.cfg.notes)

    def test_a_tied_encoder_is_not_stored_twice(self, tmp_path: Path) -> None:
        sae = load_sae(write(tmp_path, temporal(), attention()))
        assert isinstance(sae, TemporalSAE)
        assert sae.W_enc.data_ptr() == sae.W_dec.data_ptr()

    def test_an_untied_encoder_has_to_be_there(self, tmp_path: Path) -> None:
        message = refused(tmp_path, temporal(tied_weights=False), attention())
        assert "tensor 'W_enc' in sae_weights.safetensors" in message

    def test_the_constant_factor_scales_both_ways(self, tmp_path: Path) -> None:
        weights = attention()
        keys = {
            "normalize_activations": "constant_scalar_rescale",
            "activation_normalization_factor": 0.5,
        }
        scaled = load_sae(write(tmp_path / "a", temporal(**keys), weights))
        plain = load_sae(write(tmp_path / "b", temporal(), weights))
        assert torch.allclose(scaled(X), plain(0.5 * X) / 0.5, atol=1e-5)
        assert scaled.cfg.normalization == "constant_scalar_rescale"
        source = "cfg.json: activation_normalization_factor"
        assert scaled.cfg.facts["input_scale"].source == source

    def test_heads_that_do_not_divide_the_latents_are_refused(self, tmp_path: Path) -> None:
        message = refused(tmp_path, temporal(n_heads=3), attention())
        assert "divisible by n_heads x bottleneck_factor = 3 x 2" in message

    def test_more_layers_than_the_config_says_are_refused(self, tmp_path: Path) -> None:
        message = refused(tmp_path, temporal(), attention(n_layers=2))
        assert "1 attention layers" in message
        assert "attn_layers.1.k_ctx.weight" in message

    def test_fewer_are_refused_too(self, tmp_path: Path) -> None:
        message = refused(tmp_path, temporal(n_attn_layers=2), attention())
        assert "'attn_layers.1.q_target.weight'" in message

    def test_more_latents_asked_for_than_there_are(self, tmp_path: Path) -> None:
        message = refused(tmp_path, temporal(kval_topk=9), attention())
        assert "cfg.json: kval_topk of at most d_sae = 8: 9" in message

    def test_another_attention_width_is_refused(self, tmp_path: Path) -> None:
        assert "[d_out 4, d_sae 8]" in refused(tmp_path, temporal(), attention(d_attn=2))


ORACLES = Path(__file__).parents[1] / "oracles" / "golden" / "saelens"


@pytest.mark.parametrize(
    "path", sorted(p for p in ORACLES.iterdir() if p.name != "expected"), ids=lambda p: p.name
)
def test_an_outline_has_all_facts_and_no_matrices(path: Path) -> None:
    from saebench.adapters import Choices, claim

    names = tuple(sorted(item.name for item in path.iterdir()))
    files = CheckpointFiles(path, names, allow_pickle=True, hint=path.name, outline=True)
    adapter, found = claim(files)
    sae = adapter.read(files, found, Choices())
    whole = load_sae(path, allow_pickle=True)
    assert set(sae.cfg.facts) == set(whole.cfg.facts)
    assert sae.cfg.notes == whole.cfg.notes
    assert all(item.is_meta for item in sae.buffers() if item.ndim >= 2)


def test_every_weight_dtype_is_kept_as_a_fact(tmp_path: Path) -> None:
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        weights = {key: value.to(dtype) for key, value in tensors().items()}
        cfg = load_sae(write(tmp_path / str(dtype), config(), weights)).cfg
        assert f"torch.{cfg.dtype}" == str(dtype)
        assert cfg.d_sae == D_SAE
