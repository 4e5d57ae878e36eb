"""circuit-tracer's transcoders: orientation by bias lengths, hook points by layer, missing files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from saebench.adapters import claim
from saebench.adapters.cross_layer import circuit_tracer
from saebench.adapters.reading.choices import Choices
from saebench.errors import CheckpointError
from saebench.files import CheckpointFiles
from saebench.loading import load_sae
from saebench.sae import SAE, CrossLayerTranscoder, Dictionary

D_IN, D_SAE, LAYERS = 4, 10, 3
CONFIG = """\
model_kind: transcoder_set
model_name: Qwen/Qwen3-4B
feature_input_hook: mlp.hook_in
feature_output_hook: hook_mlp_out
scan: qwen3-4b
"""
RUN_CONFIG = "d_model:\n  value: 4\nd_feature:\n  value: 10\nbatch_size:\n  value: 4096\n"


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def weights(d_sae: int = D_SAE, **more: Tensor) -> dict[str, Tensor]:
    found = {"W_enc": normal(d_sae, D_IN), "W_dec": normal(d_sae, D_IN, seed=1)}
    return found | {"b_enc": normal(d_sae, seed=2), "b_dec": normal(D_IN, seed=3)} | more


def layer(i: int, n: int = LAYERS, **more: Tensor) -> dict[str, dict[str, Tensor]]:
    encoder = {f"W_enc_{i}": normal(D_SAE, D_IN, seed=i), f"b_enc_{i}": normal(D_SAE, seed=9 + i)}
    encoder |= {f"b_dec_{i}": normal(D_IN, seed=20 + i)} | more
    decoder = {f"W_dec_{i}": normal(D_SAE, n - i, D_IN, seed=30 + i)}
    return {f"W_enc_{i}.safetensors": encoder, f"W_dec_{i}.safetensors": decoder}


def write(path: Path, files: dict[str, dict[str, Tensor]], **texts: str) -> CheckpointFiles:
    path.mkdir(exist_ok=True)
    for name, tensors in files.items():
        save_file(tensors, path / name)
    for name, text in texts.items():
        (path / f"{name.replace('_', '-')}.yaml").write_text(text)
    return CheckpointFiles(path, tuple(sorted(item.name for item in path.iterdir())))


def read(files: CheckpointFiles, **settings: str) -> Dictionary:
    adapter, found = claim(files)
    assert found.format == "circuit_tracer"
    return adapter.read(files, found, Choices(settings))


class TestOneLayer:
    def test_rows_of_the_encoder_are_latents(self, tmp_path: Path) -> None:
        sae = read(write(tmp_path, {"layer_3.safetensors": weights()}, config=CONFIG))
        assert isinstance(sae, SAE)
        assert torch.equal(sae.W_enc, weights()["W_enc"].T)
        assert sae.cfg.facts["orientation"].source.endswith("lengths of b_enc and b_dec")
        assert (sae.cfg.architecture, sae.cfg.model) == ("transcoder", "Qwen/Qwen3-4B")

    def test_hook_points_come_from_the_config_and_the_layer_from_the_file_name(
        self, tmp_path: Path
    ) -> None:
        cfg = read(write(tmp_path, {"layer_3.safetensors": weights()}, config=CONFIG)).cfg
        assert (cfg.site, cfg.site_out) == ("blocks.3.mlp.hook_in", "blocks.3.hook_mlp_out")
        assert cfg.facts["site"].how == "assumed"
        assert "the file name layer_3.safetensors" in cfg.facts["site"].source

    def test_the_layer_of_a_listed_file_is_its_place_in_the_list(self, tmp_path: Path) -> None:
        listed = (
            "transcoders:\n- hf://a/b/zero.safetensors\n- hf://a/b/one.safetensors?revision=x\n"
        )
        cfg = read(write(tmp_path, {"one.safetensors": weights()}, config=CONFIG + listed)).cfg
        assert (cfg.site, cfg.facts["site"].how) == ("blocks.1.mlp.hook_in", "file")

    @pytest.mark.parametrize("name", ["wandb_config", "wanb_config"])
    def test_a_run_config_without_hook_points_means_the_hooks_of_such_runs(
        self, tmp_path: Path, name: str
    ) -> None:
        files = write(tmp_path, {"layer_0.safetensors": weights()}, **{name: RUN_CONFIG})
        cfg = read(files).cfg
        assert (cfg.site, cfg.site_out) == ("blocks.0.mlp.hook_in", "blocks.0.hook_mlp_out")
        assert cfg.facts["site"].how == cfg.facts["site_out"].how == "assumed"

    def test_without_any_config_the_hook_points_stay_open(self, tmp_path: Path) -> None:
        cfg = read(write(tmp_path, {"layer_0.safetensors": weights()})).cfg
        assert cfg.site is None
        assert any("hook points" in note for note in cfg.notes)

    def test_thresholds_and_skip_are_in_the_name_of_the_architecture(self, tmp_path: Path) -> None:
        more = {"activation_function.threshold": normal(D_SAE).abs(), "W_skip": normal(D_IN, D_IN)}
        files = write(tmp_path, {"layer_0.safetensors": weights(**more)}, config=CONFIG)
        assert read(files).cfg.architecture == "jumprelu_skip_transcoder"

    def test_the_first_position_and_layer_norm_are_noted(self, tmp_path: Path) -> None:
        notes = read(write(tmp_path, {"layer_0.safetensors": weights()}, config=CONFIG)).cfg.notes
        assert any("first position" in note for note in notes)
        assert any("layer norm" in note for note in notes)

    def test_unknown_tensors_are_noted(self, tmp_path: Path) -> None:
        files = write(tmp_path, {"layer_0.safetensors": weights(extra=normal(2))}, config=CONFIG)
        assert any("not used: extra" in note for note in read(files).cfg.notes)


class TestOrientation:
    def test_a_square_encoder_is_settled_by_the_config(self, tmp_path: Path) -> None:
        files = write(tmp_path, {"layer_0.safetensors": weights(D_IN)}, config=CONFIG)
        (tmp_path / "config.yaml").write_text(CONFIG)
        square = weights(D_IN, **{"activation_function.threshold": torch.ones(D_IN)})
        save_file(square, tmp_path / "layer_0.safetensors")
        sae = read(files)
        assert isinstance(sae, SAE)
        assert torch.equal(sae.W_enc, square["W_enc"].T)

    def test_a_square_encoder_without_config_is_asked_for(self, tmp_path: Path) -> None:
        files = write(tmp_path, {"layer_0.safetensors": weights(D_IN)})
        with pytest.raises(CheckpointError, match=r"square.*--set orientation=d_sae,d_in"):
            read(files)
        sae = read(files, orientation="d_in,d_sae")
        assert isinstance(sae, SAE)
        assert torch.equal(sae.W_enc, weights(D_IN)["W_enc"])
        assert sae.cfg.facts["orientation"].how == "user"

    def test_other_orientations_are_not_claimed(self, tmp_path: Path) -> None:
        saelens = weights() | {"W_enc": normal(D_IN, D_SAE)}
        qwen = weights() | {"W_dec": normal(D_IN, D_SAE)}
        unnamed = weights(D_IN)
        for i, tensors in enumerate((saelens, qwen, unnamed)):
            files = write(tmp_path / str(i), {"weights.safetensors": tensors})
            assert circuit_tracer.sniff(files) is None


class TestCrossLayer:
    def files(self, path: Path, **changed: dict[str, Tensor] | None) -> CheckpointFiles:
        found = {name: item for i in range(LAYERS) for name, item in layer(i).items()}
        kept = {k: v for k, v in (found | changed).items() if v is not None}
        text = CONFIG.replace("transcoder_set", "cross_layer_transcoder")
        return write(path, kept, config=text)

    def test_each_layer_reads_its_own_site_and_writes_to_all_later_ones(
        self, tmp_path: Path
    ) -> None:
        clt = read(self.files(tmp_path))
        assert isinstance(clt, CrossLayerTranscoder)
        cfg = clt.cfg
        assert cfg.sites == tuple(f"blocks.{i}.mlp.hook_in" for i in range(LAYERS))
        assert cfg.sites_out == tuple(f"blocks.{i}.hook_mlp_out" for i in range(LAYERS))
        assert (cfg.d_sae, cfg.n_sources, cfg.n_targets) == (LAYERS * D_SAE, LAYERS, LAYERS)
        x = normal(5, LAYERS, D_IN, seed=50)
        codes = clt.encode(x).split(D_SAE, -1)
        target = sum(
            codes[s] @ layer(s)[f"W_dec_{s}.safetensors"][f"W_dec_{s}"][:, 1 - s] for s in (0, 1)
        )
        target = target + layer(1)["W_enc_1.safetensors"]["b_dec_1"]
        assert torch.allclose(clt(x)[:, 1], target, atol=1e-5)

    def test_without_a_config_hooks_are_the_library_s_defaults(self, tmp_path: Path) -> None:
        self.files(tmp_path)
        (tmp_path / "config.yaml").unlink()
        cfg = load_sae(tmp_path).cfg
        assert cfg.sites[0] == "blocks.0.hook_resid_mid"
        assert cfg.facts["sites"].how == "assumed"

    def test_missing_files_are_named(self, tmp_path: Path) -> None:
        files = self.files(tmp_path, **{"W_dec_1.safetensors": None, "W_enc_0.safetensors": None})
        with pytest.raises(
            CheckpointError, match=r"W_enc_0\.safetensors, W_dec_1\.safetensors missing"
        ):
            read(files)

    def test_a_decoder_for_another_number_of_layers_is_refused(self, tmp_path: Path) -> None:
        short = {"W_dec_0": normal(D_SAE, LAYERS - 1, D_IN)}
        files = self.files(tmp_path, **{"W_dec_0.safetensors": short})
        with pytest.raises(CheckpointError, match=r"'W_dec_0' of W_dec_0.safetensors.*targets 3"):
            read(files)

    def test_thresholds_in_some_layers_only_are_refused(self, tmp_path: Path) -> None:
        some = layer(1, threshold_1=torch.ones(D_SAE))["W_enc_1.safetensors"]
        files = self.files(tmp_path, **{"W_enc_1.safetensors": some})
        with pytest.raises(CheckpointError, match="threshold_0, threshold_2 missing"):
            read(files)

    @pytest.mark.parametrize("key", ["log_threshold_1", "log_thresholds_1"])
    def test_logarithms_of_thresholds_are_refused(self, tmp_path: Path, key: str) -> None:
        logs = layer(1, **{key: normal(D_SAE)})["W_enc_1.safetensors"]
        files = self.files(tmp_path, **{"W_enc_1.safetensors": logs})
        with pytest.raises(
            CheckpointError, match=f"W_enc_1.safetensors under 'threshold_1': '{key}'"
        ):
            read(files)

    @pytest.mark.parametrize("part", ["enc", "dec"])
    def test_a_skip_whose_orientation_nothing_tells_is_refused(
        self, tmp_path: Path, part: str
    ) -> None:
        name = f"W_{part}_1.safetensors"
        files = self.files(tmp_path, **{name: layer(1)[name] | {"W_skip_1": normal(D_IN, D_IN)}})
        with pytest.raises(CheckpointError, match=r"'W_skip_1' \[4, 4\].*which way round"):
            read(files)


class TestBadInput:
    def refused(self, path: Path, tensors: dict[str, Tensor]) -> str:
        files = write(path, {"layer_0.safetensors": tensors}, config=CONFIG)
        with pytest.raises(CheckpointError) as error:
            read(files)
        return str(error.value)

    def test_logarithms_of_thresholds_are_refused(self, tmp_path: Path) -> None:
        logs = {"activation_function.threshold": torch.full((D_SAE,), -2.0)}
        assert "logarithm" in self.refused(tmp_path, weights(**logs))
        assert "log_thresholds" in self.refused(tmp_path, weights(log_thresholds=normal(D_SAE)))

    def test_weights_that_are_not_finite_are_refused(self, tmp_path: Path) -> None:
        bad = weights()
        bad["b_enc"][2] = torch.nan
        message = self.refused(tmp_path, bad)
        assert "'b_enc' of layer_0.safetensors" in message
        assert "NaN" in message

    def test_several_layers_at_once_are_refused(self, tmp_path: Path) -> None:
        both = {f"layer_{i}.safetensors": weights() for i in range(2)}
        with pytest.raises(CheckpointError, match=r"layer_0[.]safetensors, layer_1"):
            read(write(tmp_path, both, config=CONFIG))
