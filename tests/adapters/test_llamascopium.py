"""llamascopium: scaling modes, gates of each hook point of a crosscoder, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from saebench.adapters import claim
from saebench.adapters.openmoss import llama_scope, llamascopium
from saebench.adapters.reading.choices import Choices
from saebench.errors import CheckpointError, UnsafeFileError
from saebench.files import CheckpointFiles
from saebench.sae import SAE, Crosscoder, CrossLayerTranscoder, Dictionary
from saebench.sae.headwise import HeadwiseCrosscoder, HeadwiseGate

D_IN, D_SAE, K = 4, 10, 3
SITE = "blocks.1.hook_resid_post"
SITES = [f"blocks.{i}.hook_resid_post" for i in (1, 4)]
BASE = {
    "d_model": D_IN,
    "expansion_factor": D_SAE / D_IN,
    "use_decoder_bias": True,
    "act_fn": "topk",
    "norm_activation": "inference",
    "sparsity_include_decoder_norm": True,
    "top_k": K,
}
SAE_CONFIG = BASE | {"sae_type": "sae", "hook_point_in": SITE, "hook_point_out": SITE}
CROSSCODER = BASE | {"sae_type": "crosscoder", "hook_points": SITES}
CLT = BASE | {
    "sae_type": "clt",
    "hook_points_in": [f"blocks.{i}.hook_resid_mid" for i in range(2)],
    "hook_points_out": [f"blocks.{i}.hook_mlp_out" for i in range(2)],
}
LOGS = "activation_function.log_jumprelu_threshold"


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sae(**more: Tensor) -> dict[str, Tensor]:
    found = {"W_E": normal(D_IN, D_SAE), "b_E": normal(D_SAE, seed=1)}
    return found | {"W_D": normal(D_SAE, D_IN, seed=2), "b_D": normal(D_IN, seed=3)} | more


def heads(n: int = 2, **more: Tensor) -> dict[str, Tensor]:
    found = {"W_E": normal(n, D_IN, D_SAE), "b_E": normal(n, D_SAE, seed=1)}
    found |= {"W_D": normal(n, D_SAE, D_IN, seed=2), "b_D": normal(n, D_IN, seed=3)}
    return found | more


def layers(n: int = 2, **more: Tensor) -> dict[str, Tensor]:
    found = {"W_E": normal(n, D_IN, D_SAE), "b_E": normal(n, D_SAE, seed=1)}
    for t in range(n):
        found |= {f"W_D.{t}": normal(t + 1, D_SAE, D_IN, seed=2 + t), f"b_D.{t}": normal(D_IN)}
    return found | more


def averages(hooks: list[str]) -> dict[str, Tensor]:
    return {
        f"dataset_average_activation_norm.{hook}": torch.tensor(4.0 + i)
        for i, hook in enumerate(hooks)
    }


def write(path: Path, config: dict[str, Any], weights: dict[str, Tensor]) -> CheckpointFiles:
    path.mkdir(exist_ok=True)
    kept = {key: value for key, value in config.items() if value is not ...}
    (path / "config.json").write_text(json.dumps(kept))
    save_file(weights, path / "sae_weights.safetensors")
    return CheckpointFiles(path, ("config.json", "sae_weights.safetensors"))


def read(files: CheckpointFiles, **settings: str) -> Dictionary:
    adapter, found = claim(files)
    assert found.format == "llamascopium"
    return adapter.read(files, found, Choices(settings))


def refused(files: CheckpointFiles, **settings: str) -> str:
    with pytest.raises(CheckpointError) as error:
        read(files, **settings)
    return str(error.value)


class TestSAE:
    def test_facts_and_what_is_not_in_the_file(self, tmp_path: Path) -> None:
        cfg = read(write(tmp_path, SAE_CONFIG, sae())).cfg
        assert (cfg.architecture, cfg.k, cfg.site, cfg.d_sae) == ("topk", K, SITE, D_SAE)
        assert cfg.facts["k"].source == "config.json: top_k"
        assert cfg.facts["normalization"].source == "config.json: norm_activation"
        assert cfg.facts["subtract_b_dec"].value is False
        assert cfg.facts["subtract_b_dec"].how == "assumed"

    def test_latents_are_ranked_by_decoder_norm_but_keep_their_values(self, tmp_path: Path) -> None:
        found = read(write(tmp_path, SAE_CONFIG, sae()))
        x, w = normal(20, D_IN, seed=9), sae()
        pre = (x @ w["W_E"] + w["b_E"]).relu()
        best = (pre * w["W_D"].norm(dim=1)).topk(K).indices
        expected = torch.zeros_like(pre).scatter(-1, best, pre.gather(-1, best))
        assert torch.allclose(found.encode(x), expected, atol=1e-6)

    def test_thresholds_are_divided_by_decoder_norms(self, tmp_path: Path) -> None:
        files = write(
            tmp_path, SAE_CONFIG | {"act_fn": "jumprelu"}, sae(**{LOGS: normal(D_SAE, seed=7)})
        )
        found = read(files)
        assert isinstance(found, SAE)
        expected = normal(D_SAE, seed=7).exp() / sae()["W_D"].norm(dim=1)
        assert torch.allclose(found.activation.threshold, expected)

    def test_batch_top_k_needs_data_or_a_threshold(self, tmp_path: Path) -> None:
        files = write(tmp_path, SAE_CONFIG | {"act_fn": "batchtopk"}, sae())
        found = read(files)
        assert found.pending == ("threshold",)
        assert found.cfg.facts["threshold"].how == "assumed"
        assert any("estimated on data" in note for note in found.cfg.notes)
        x = normal(200, D_IN, seed=9)
        found.calibrate(x)
        assert float((found.encode(x) != 0).sum(-1).float().mean()) == pytest.approx(K, abs=0.05)
        assert read(files, threshold="0.5").pending == ()

    def test_scaling_by_batch_becomes_an_average_over_the_data(self, tmp_path: Path) -> None:
        found = read(write(tmp_path, SAE_CONFIG | {"norm_activation": "batch-wise"}, sae()))
        assert found.pending == ("input_scale",)
        assert found.cfg.facts["normalization"].how == "assumed"

    def test_the_model_is_read_from_the_config_beside(self, tmp_path: Path) -> None:
        files = write(tmp_path, SAE_CONFIG, sae())
        (tmp_path / "lm_config.json").write_text(json.dumps({"model_name": "Qwen/Qwen3-0.6B"}))
        found = read(CheckpointFiles(tmp_path, (*files.names, "lm_config.json")))
        assert found.cfg.model == "Qwen/Qwen3-0.6B"

    def test_tensors_of_another_width_are_refused(self, tmp_path: Path) -> None:
        message = refused(write(tmp_path, SAE_CONFIG | {"d_model": 5}, sae()))
        assert "'W_D' of sae_weights.safetensors" in message
        assert "d_out 5" in message

    def test_a_k_above_the_number_of_latents_is_refused(self, tmp_path: Path) -> None:
        message = refused(write(tmp_path, SAE_CONFIG | {"top_k": D_SAE + 1}, sae()))
        assert "config.json: top_k of at most d_sae = 10" in message

    def test_an_encoder_with_a_gated_linear_unit_is_refused(self, tmp_path: Path) -> None:
        glu = sae(W_E_glu=normal(D_IN, D_SAE), b_E_glu=normal(D_SAE))
        assert "W_E_glu" in refused(write(tmp_path, SAE_CONFIG | {"use_glu_encoder": True}, glu))

    @pytest.mark.parametrize("mode", ["token-wise", "batch-wise"])
    def test_a_transcoder_whose_output_scale_is_unknown_is_refused(
        self, tmp_path: Path, mode: str
    ) -> None:
        config = SAE_CONFIG | {"norm_activation": mode, "hook_point_out": "blocks.1.hook_mlp_out"}
        message = refused(write(tmp_path, config, sae()))
        assert f"norm_activation {mode!r}" in message


class TestCrosscoder:
    def test_one_set_of_latents_reads_and_writes_every_hook_point(self, tmp_path: Path) -> None:
        config = CROSSCODER | {"act_fn": "relu", "norm_activation": "dataset-wise"}
        found = read(write(tmp_path, config, heads(**averages(SITES))))
        assert type(found) is Crosscoder
        cfg = found.cfg
        assert (cfg.n_sources, cfg.n_targets, cfg.sites) == (2, 2, tuple(SITES))
        assert cfg.architecture == "relu_crosscoder"
        assert cfg.facts["input_scale"].value == (2 / 4.0, 2 / 5.0)
        assert found(normal(3, 2, D_IN)).shape == (3, 2, D_IN)

    def test_a_latent_is_written_only_where_the_gate_of_that_hook_point_lets_it(
        self, tmp_path: Path
    ) -> None:
        config = CROSSCODER | {"act_fn": "jumprelu"}
        w = heads(**{LOGS: torch.full((D_SAE,), 0.5)})
        found = read(write(tmp_path, config, w))
        assert isinstance(found, HeadwiseCrosscoder)
        x = normal(50, 2, D_IN, seed=9)
        pre = (torch.einsum("nhd,hdf->nhf", x, w["W_E"]) + w["b_E"]).sum(1)
        norms = w["W_D"].norm(dim=-1)
        gates = pre[:, None] * norms > torch.tensor(0.5).exp()
        assert bool((gates.any(1) & ~gates.all(1)).any()), "no latent differs between hook points"
        assert torch.allclose(found.encode(x), pre * gates.any(1), atol=1e-5)
        expected = torch.einsum("nhf,hfd->nhd", pre[:, None] * gates, w["W_D"]) + w["b_D"]
        assert torch.allclose(found(x), expected, atol=1e-4)
        assert any("gate of its own" in note for note in found.cfg.notes)

    def test_batch_top_k_estimates_one_threshold_over_all_hook_points(self, tmp_path: Path) -> None:
        found = read(write(tmp_path, CROSSCODER | {"act_fn": "batchtopk"}, heads()))
        assert isinstance(found, HeadwiseCrosscoder)
        assert found.pending == ("threshold",)
        x = normal(200, 2, D_IN, seed=9)
        found.calibrate(x.flatten(1))
        codes = found.encode(x)
        reached = [(codes > 0) & found.gate.passes(codes, m) for m in range(2)]
        mean = float(torch.stack(reached).sum(-1).float().mean())
        assert mean == pytest.approx(K, abs=0.05)

    def test_hook_points_have_to_be_listed(self, tmp_path: Path) -> None:
        message = refused(write(tmp_path, CROSSCODER | {"hook_points": []}, heads()))
        assert "config.json: hook_points (a list of hook points)" in message

    def test_weights_of_another_number_of_hook_points_are_refused(self, tmp_path: Path) -> None:
        message = refused(write(tmp_path, CROSSCODER, heads(3)))
        assert "[heads 2, d_sae 10, d_out 4]" in message


class TestHeadwiseGate:
    def test_selected_entries_are_the_dense_ones(self) -> None:
        gate = HeadwiseGate(normal(2, D_SAE).abs(), top_k=K)
        pre = normal(7, D_SAE, seed=3)
        counts, indices, values = gate.select(pre)
        dense = gate.dense(pre)
        assert torch.equal(counts, (dense != 0).sum(-1))
        assert torch.equal(values, dense[dense != 0])
        assert torch.equal(indices, (dense != 0).nonzero()[:, 1])


class TestCrossLayer:
    def test_latents_of_all_layers_are_counted_together(self, tmp_path: Path) -> None:
        found = read(write(tmp_path, CLT, layers()))
        assert isinstance(found, CrossLayerTranscoder)
        cfg = found.cfg
        assert (cfg.d_sae, cfg.k, cfg.n_sources) == (2 * D_SAE, 2 * K, 2)
        assert (cfg.sites, cfg.sites_out) == (
            tuple(CLT["hook_points_in"]),
            tuple(CLT["hook_points_out"]),
        )
        assert found.targets == [[0, 1], [1]]

    def test_gates_over_several_layers_are_refused(self, tmp_path: Path) -> None:
        for act_fn in ("layertopk", "batchlayertopk"):
            message = refused(write(tmp_path, CLT | {"act_fn": act_fn}, layers()))
            assert f"config.json: act_fn.*{act_fn!r}".split(".*")[1] in message

    def test_a_shared_threshold_can_be_given(self, tmp_path: Path) -> None:
        files = write(tmp_path, CLT | {"act_fn": "batchlayertopk"}, layers())
        found = read(files, threshold="0.7")
        assert (found.pending, found.cfg.k) == ((), K)
        assert found.cfg.facts["threshold"].how == "user"

    def same(self, path: Path, mode: str, **more: Tensor) -> CheckpointFiles:
        """One that writes the hook points it reads."""
        ends = {"hook_points_in": SITES, "hook_points_out": SITES, "norm_activation": mode}
        return write(path, CLT | ends | {"act_fn": "relu"}, layers(**more))

    def expected(self, x: Tensor, scale: Tensor) -> Tensor:
        """Of ``x[n, 2, d]`` with factors ``scale[n, 2, 1]``, or one for each hook point."""
        w, inputs = layers(), x * scale
        codes = (torch.einsum("nsd,sdf->nsf", inputs, w["W_E"]) + w["b_E"]).relu()
        written = [
            torch.einsum("nsf,sfd->nd", codes[:, : t + 1], w[f"W_D.{t}"]) + w[f"b_D.{t}"]
            for t in range(2)
        ]
        return torch.stack(written, 1) / scale

    def test_tokens_are_scaled_by_the_norms_of_what_each_layer_reads_and_writes(
        self, tmp_path: Path
    ) -> None:
        found, x = read(self.same(tmp_path, "token-wise")), normal(7, 2, D_IN, seed=9)
        scale = D_IN**0.5 / x.norm(dim=-1, keepdim=True)
        assert torch.allclose(found(x), self.expected(x, scale), atol=1e-5)
        assert torch.allclose(found.decode(found.encode(x), x), found(x))
        with pytest.raises(CheckpointError, match="without the activations they came from"):
            found.decode(found.encode(x))
        assert found.cfg.normalization == "constant_norm_rescale"

    @pytest.mark.parametrize("mode", ["batch-wise", "dataset-wise"])
    def test_averages_that_are_not_stored_are_estimated_for_each_hook_point(
        self, tmp_path: Path, mode: str
    ) -> None:
        found, x = read(self.same(tmp_path, mode)), normal(7, 2, D_IN, seed=9)
        assert found.pending == ("input_scale",)
        with pytest.raises(CheckpointError, match="input_scale"):
            found.encode(x)
        scale = D_IN**0.5 / x.norm(dim=-1).mean(0)
        estimated = found.calibrate(x.flatten(1))["input_scale"]
        assert estimated == pytest.approx(scale.tolist())
        assert torch.allclose(found(x), self.expected(x, scale[:, None]), atol=1e-5)
        codes, flat = found.reconstruct(x.flatten(1))
        assert torch.allclose(flat.view_as(x), found(x), atol=1e-6)
        assert torch.allclose(found.decode_codes(codes, x.flatten(1)), flat)
        w = layers()
        last = w["W_D.1"].norm(dim=-1).flatten() / scale[1]  # what both layers write to the second
        assert torch.allclose(found.decoder_norms()[:, 1], last, atol=1e-5)

    @pytest.mark.parametrize("stored", [{}, averages(SITES)], ids=["none", "averages"])
    def test_scales_that_the_user_gives_are_those_that_run(
        self, tmp_path: Path, stored: dict[str, Tensor]
    ) -> None:
        found = read(self.same(tmp_path, "dataset-wise", **stored), input_scale="0.25,4")
        x = normal(7, 2, D_IN, seed=9)
        assert found.pending == ()
        assert found.cfg.facts["input_scale"].how == "user"
        scale = torch.tensor([0.25, 4.0])[:, None]
        assert torch.allclose(found(x), self.expected(x, scale), atol=1e-5)

    def test_a_scale_that_depends_on_what_is_to_be_predicted_is_refused(
        self, tmp_path: Path
    ) -> None:
        message = refused(write(tmp_path, CLT | {"norm_activation": "token-wise"}, layers()))
        assert "norm_activation 'token-wise'" in message

    def test_a_missing_target_is_named(self, tmp_path: Path) -> None:
        weights = layers()
        del weights["W_D.1"]
        assert "'W_D.1' in sae_weights.safetensors" in refused(write(tmp_path, CLT, weights))


class TestDetection:
    @pytest.mark.parametrize("kind", ["lorsa", "molt"])
    def test_types_that_are_no_dictionary_are_named_and_refused(
        self, tmp_path: Path, kind: str
    ) -> None:
        files = write(tmp_path, SAE_CONFIG | {"sae_type": kind}, {"W_Q": normal(2, 3)})
        message = refused(files)
        assert "config.json: sae_type" in message
        assert repr(kind) in message

    def test_evidence_is_the_type_and_the_encoder(self, tmp_path: Path) -> None:
        files = write(tmp_path, SAE_CONFIG, sae())
        found = llamascopium.sniff(files)
        assert found is not None
        assert found.evidence == (
            "config.json: sae_type 'sae'",
            "sae_weights.safetensors: W_E [4, 10]",
        )
        assert llama_scope.sniff(files) is None

    @pytest.mark.parametrize("kind", ["topk", "vanilla"])
    def test_types_of_other_formats_are_not_claimed(self, tmp_path: Path, kind: str) -> None:
        assert llamascopium.sniff(write(tmp_path, SAE_CONFIG | {"sae_type": kind}, sae())) is None

    def test_a_pickled_checkpoint_is_read_only_when_allowed(self, tmp_path: Path) -> None:
        write(tmp_path, SAE_CONFIG, sae())
        (tmp_path / "sae_weights.safetensors").unlink()
        torch.save({"sae": sae(), "version": "2.0.0"}, tmp_path / "sae_weights.pt")
        names = ("config.json", "sae_weights.pt")
        with pytest.raises(UnsafeFileError):
            read(CheckpointFiles(tmp_path, names))
        assert read(CheckpointFiles(tmp_path, names, allow_pickle=True)).cfg.d_sae == D_SAE
