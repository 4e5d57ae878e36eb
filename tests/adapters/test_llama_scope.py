"""Llama Scope: folded and run-time scaling, hook points, and what its loader does unlike others."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from saebench.adapters import claim
from saebench.adapters.openmoss import llama_scope, llamascopium
from saebench.adapters.reading.choices import Choices
from saebench.errors import CheckpointError
from saebench.files import CheckpointFiles
from saebench.sae import SAE

D_IN, D_SAE = 4, 32
SITE = "blocks.15.hook_resid_post"
# the keys of a published Llama3_1-8B-Base-L15R-8x, at reduced width
OLD = {
    "hook_point_in": SITE,
    "hook_point_out": SITE,
    "use_decoder_bias": True,
    "apply_decoder_bias_to_pre_encoder": False,
    "expansion_factor": 8,
    "d_model": D_IN,
    "d_sae": D_SAE,
    "norm_activation": "dataset-wise",
    "dataset_average_activation_norm": {"in": 8.5, "out": 8.5},
    "decoder_exactly_fixed_norm": False,
    "sparsity_include_decoder_norm": True,
    "act_fn": "jumprelu",
    "jump_relu_threshold": 0.4,
    "top_k": 50,
}
# and of a published R1 distill, at reduced width
NEW = {
    "sae_type": "sae",
    "hook_point_in": SITE,
    "hook_point_out": SITE,
    "d_model": D_IN,
    "expansion_factor": 8,
    "use_decoder_bias": True,
    "use_glu_encoder": False,
    "act_fn": "jumprelu",
    "norm_activation": "dataset-wise",
    "sparsity_include_decoder_norm": True,
    "top_k": 50,
}
AVERAGE = f"dataset_average_activation_norm.{SITE}"


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def linear(**more: Tensor) -> dict[str, Tensor]:
    found = {"encoder.weight": normal(D_SAE, D_IN), "encoder.bias": normal(D_SAE, seed=1)}
    found |= {"decoder.weight": normal(D_IN, D_SAE, seed=2), "decoder.bias": normal(D_IN, seed=3)}
    return {key: value.bfloat16() for key, value in found.items()} | more


def old(path: Path, weights: dict[str, Tensor] | None = None, **keys: Any) -> CheckpointFiles:
    (path / "checkpoints").mkdir(parents=True, exist_ok=True)
    config = {key: value for key, value in (OLD | keys).items() if value is not ...}
    (path / "hyperparams.json").write_text(json.dumps(config))
    (path / "lm_config.json").write_text(json.dumps({"model_name": "meta-llama/Llama-3.1-8B"}))
    save_file(weights or linear(), path / "checkpoints" / "final.safetensors")
    return CheckpointFiles(
        path, ("checkpoints/final.safetensors", "hyperparams.json", "lm_config.json")
    )


def new(path: Path, weights: dict[str, Tensor] | None = None, **keys: Any) -> CheckpointFiles:
    path.mkdir(exist_ok=True)
    config = {key: value for key, value in (NEW | keys).items() if value is not ...}
    (path / "config.json").write_text(json.dumps(config))
    more = {AVERAGE: torch.tensor(8.5), "log_jumprelu_threshold": torch.full((D_SAE,), -1.0)}
    save_file(linear(**more) if weights is None else weights, path / "sae_weights.safetensors")
    return CheckpointFiles(path, ("config.json", "sae_weights.safetensors"))


def read(files: CheckpointFiles, **settings: str) -> SAE:
    adapter, found = claim(files)
    assert found.format == "llama_scope"
    sae = adapter.read(files, found, Choices(settings))
    assert isinstance(sae, SAE)
    return sae


def refused(files: CheckpointFiles, **settings: str) -> str:
    with pytest.raises(CheckpointError) as error:
        read(files, **settings)
    return str(error.value)


class TestFirstRelease:
    def test_facts_name_the_keys_they_were_read_from(self, tmp_path: Path) -> None:
        cfg = read(old(tmp_path)).cfg
        assert (cfg.d_in, cfg.d_sae, cfg.site, cfg.site_out) == (D_IN, D_SAE, SITE, None)
        assert (cfg.architecture, cfg.dtype) == ("jumprelu", "bfloat16")
        assert cfg.model == "meta-llama/Llama-3.1-8B"
        assert cfg.facts["model"].source == "lm_config.json: model_name"
        assert cfg.facts["threshold"].value == 0.4
        assert cfg.facts["threshold"].how == "file"
        assert "folded" in cfg.facts["normalization"].source
        assert cfg.facts["folded_input_scale"].value == pytest.approx(math.sqrt(D_IN) / 8.5)

    def test_codes_are_those_of_its_own_loader(self, tmp_path: Path) -> None:
        w = {key: value.float() for key, value in linear().items()}
        s = math.sqrt(D_IN) / 8.5
        norm = w["decoder.weight"].norm(dim=0)
        x = normal(20, D_IN, seed=9) * 3
        pre = (x @ w["encoder.weight"].T + w["encoder.bias"] / s) * norm
        codes = pre * (pre > 0.4)
        sae = read(old(tmp_path))
        assert torch.allclose(sae.encode(x), codes, atol=1e-5)
        rebuilt = codes / norm @ w["decoder.weight"].T + w["decoder.bias"] / s
        assert torch.allclose(sae(x), rebuilt, atol=1e-4)
        # as SAELens does it, latents are larger by s and decoder norms do not count
        scaled = (x * s) @ w["encoder.weight"].T + w["encoder.bias"]
        assert not torch.allclose(sae.encode(x), scaled * (scaled > 0.4 * s), atol=1e-2)

    def test_input_and_output_of_a_transcoder_are_scaled_each_by_its_own_norm(
        self, tmp_path: Path
    ) -> None:
        norms = {"in": 8.5, "out": 2.0}
        sae = read(
            old(
                tmp_path,
                hook_point_in="blocks.15.ln2.hook_normalized",
                hook_point_out="blocks.15.hook_mlp_out",
                dataset_average_activation_norm=norms,
            )
        )
        assert sae.cfg.site_out == "blocks.15.hook_mlp_out"
        assert sae.cfg.architecture == "jumprelu_transcoder"
        expected = linear()["decoder.weight"].float().T * (norms["out"] / norms["in"])
        assert torch.allclose(sae.W_dec, expected)
        assert sae.b_dec.allclose(linear()["decoder.bias"].float() * norms["out"] / 2)

    def test_decoder_directions_are_unit_vectors(self, tmp_path: Path) -> None:
        assert torch.allclose(read(old(tmp_path)).decoder_norms(), torch.ones(D_SAE, 1))

    @pytest.mark.parametrize("act_fn", ["relu", "topk"])
    def test_other_activation_functions(self, tmp_path: Path, act_fn: str) -> None:
        sae = read(old(tmp_path, act_fn=act_fn, top_k=3))
        counts = (sae.encode(normal(9, D_IN)) != 0).sum(-1)
        assert (sae.cfg.k == 3) == (act_fn == "topk")
        assert int(counts.max()) <= 3 or act_fn == "relu"

    def test_a_threshold_given_by_the_user_overrules_the_config(self, tmp_path: Path) -> None:
        facts = read(old(tmp_path), threshold="0.9").cfg.facts
        assert (facts["threshold"].value, facts["threshold"].how) == (0.9, "user")


class TestBadFirstRelease:
    @pytest.mark.parametrize("value", [..., None, "0.4", -0.4, True])
    def test_a_threshold_that_is_missing_or_no_threshold_is_refused(
        self, tmp_path: Path, value: object
    ) -> None:
        message = refused(old(tmp_path, jump_relu_threshold=value))
        assert "hyperparams.json: jump_relu_threshold" in message
        assert "--set threshold=" in message

    @pytest.mark.parametrize("norms", [..., {}, {"in": 0, "out": 1}, {"in": "8", "out": 8}, 8.5])
    def test_average_norms_that_are_missing_are_refused(
        self, tmp_path: Path, norms: object
    ) -> None:
        message = refused(old(tmp_path, dataset_average_activation_norm=norms))
        assert "hyperparams.json: dataset_average_activation_norm.in" in message

    def test_scaling_by_the_batch_is_refused(self, tmp_path: Path) -> None:
        message = refused(old(tmp_path, norm_activation="batch-wise"))
        assert "hyperparams.json: norm_activation" in message

    def test_a_config_of_other_weights_is_refused(self, tmp_path: Path) -> None:
        message = refused(old(tmp_path, d_sae=D_SAE + 1))
        assert "of checkpoints/final.safetensors" in message
        assert f"d_sae {D_SAE + 1}" in message

    def test_an_encoder_with_a_gated_linear_unit_is_refused(self, tmp_path: Path) -> None:
        assert "GLU" in refused(old(tmp_path, use_glu_encoder=True))


class TestRunTimeScaling:
    def test_thresholds_and_averages_come_from_the_tensors(self, tmp_path: Path) -> None:
        cfg = read(new(tmp_path)).cfg
        assert (cfg.architecture, cfg.normalization, cfg.d_sae) == ("jumprelu", "affine", D_SAE)
        scale = cfg.facts["input_scale"]
        assert scale.value == pytest.approx((math.sqrt(D_IN) / 8.5,))
        assert scale.source.startswith("sae_weights.safetensors: √d_model")
        assert not any("not used" in note for note in cfg.notes)

    def test_the_newer_name_of_the_thresholds_means_the_same(self, tmp_path: Path) -> None:
        logs = torch.full((D_SAE,), -1.0)
        averages = {AVERAGE: torch.tensor(8.5)}
        named = linear(**averages, **{"activation_function.log_jumprelu_threshold": logs})
        x = normal(9, D_IN) * 5
        assert torch.equal(
            read(new(tmp_path / "a", named)).encode(x), read(new(tmp_path / "b")).encode(x)
        )

    def test_missing_averages_are_given_by_the_user_or_estimated(self, tmp_path: Path) -> None:
        files = new(tmp_path, linear(log_jumprelu_threshold=torch.full((D_SAE,), -1.0)))
        sae = read(files)
        assert sae.pending == ("input_scale",)
        assert sae.cfg.facts["normalization"].how == "assumed"
        x = normal(50, D_IN)
        assert sae.calibrate(x)["input_scale"] == pytest.approx([2 / float(x.norm(dim=-1).mean())])
        given = read(files, input_scale="0.25")
        assert given.pending == ()
        assert given.cfg.facts["input_scale"].how == "user"
        assert "positive" in refused(files, input_scale="0.25,0.5")

    def test_averages_saved_before_they_were_measured_are_refused(self, tmp_path: Path) -> None:
        logs = torch.full((D_SAE,), -1.0)
        unset = linear(log_jumprelu_threshold=logs, **{AVERAGE: torch.tensor(0.0)})
        assert AVERAGE in refused(new(tmp_path, unset))

    def test_a_transcoder_without_averages_is_refused(self, tmp_path: Path) -> None:
        files = new(
            tmp_path,
            linear(log_jumprelu_threshold=torch.full((D_SAE,), -1.0)),
            hook_point_out="blocks.15.hook_mlp_out",
        )
        assert "dataset_average_activation_norm.blocks.15.hook_mlp_out" in refused(files)

    def test_missing_thresholds_are_named_and_can_be_given(self, tmp_path: Path) -> None:
        files = new(tmp_path, linear(**{AVERAGE: torch.tensor(8.5)}))
        assert "log_jumprelu_threshold' in sae_weights.safetensors" in refused(files)
        assert read(files, threshold="0.5").cfg.facts["threshold"].how == "user"


class TestDetection:
    def test_each_release_is_claimed_by_one_adapter(self, tmp_path: Path) -> None:
        for files in (old(tmp_path / "old"), new(tmp_path / "new")):
            assert llama_scope.sniff(files) is not None
            assert llamascopium.sniff(files) is None

    def test_evidence_is_keys_and_tensors(self, tmp_path: Path) -> None:
        found = llama_scope.sniff(old(tmp_path))
        assert found is not None
        assert found.evidence == (
            f"hyperparams.json: hook_point_in {SITE!r}",
            f"checkpoints/final.safetensors: encoder.weight [{D_SAE}, {D_IN}]",
        )

    def test_a_config_without_hook_points_is_not_claimed(self, tmp_path: Path) -> None:
        assert llama_scope.sniff(old(tmp_path, hook_point_in=...)) is None
        assert llama_scope.sniff(new(tmp_path / "new", hook_point_in=...)) is None

    def test_other_tensors_are_not_claimed(self, tmp_path: Path) -> None:
        other = {"W_enc": normal(D_IN, D_SAE), "W_dec": normal(D_SAE, D_IN)}
        assert llama_scope.sniff(new(tmp_path, other)) is None
