"""How activations enter a SAELens SAE: at run time, as its trainer scaled them, or as the user says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from saebench.errors import CheckpointError, ConfigError
from saebench.loading import load_sae, open_checkpoint
from saebench.sae import SAE
from tests.adapters.test_saelens import D_IN, D_OUT, D_SAE, METADATA, config, tensors, write

AVERAGE = "expected_average_only_in"
WHITENED = "covariance_whitening"
KEY = "normalize_activations"
X = torch.randn(6, D_IN, generator=torch.Generator().manual_seed(1)) * 2 + 0.5


def scaled_run(path: Path, factor: object, **keys: object) -> Path:
    """A checkpoint of a run whose trainer scales activations."""
    keys = {"normalize_activations": AVERAGE} | keys
    write(path, config(**keys), tensors())
    scaler = {"scaling_factor": factor, "has_whitening": False}
    (path / "activation_scaler.json").write_text(json.dumps(scaler))
    return path


def whitened_run(path: Path, **scaler: object) -> Path:
    write(path, config(normalize_activations=WHITENED), tensors())
    text = json.dumps({"scaling_factor": None, "has_whitening": True} | scaler)
    (path / "activation_scaler.json").write_text(text)
    matrix = torch.randn(D_IN, D_IN, dtype=torch.float64)
    mean = torch.randn(D_IN, dtype=torch.float64)
    parts = {"mean": mean, "matrix": matrix, "inverse_matrix": matrix.inverse().contiguous()}
    save_file(parts, path / "activation_whitening.safetensors")
    return path


class TestUnfinishedRuns:
    def test_the_scale_of_the_trainer_is_applied_and_undone(self, tmp_path: Path) -> None:
        plain = load_sae(write(tmp_path / "plain", config(), tensors()))
        sae = load_sae(scaled_run(tmp_path / "run", 0.25))
        assert torch.allclose(sae.encode(X), plain.encode(0.25 * X))
        assert torch.allclose(sae(X), plain(0.25 * X) / 0.25, atol=1e-6)

    def test_and_is_what_folding_it_into_the_weights_gives(self, tmp_path: Path) -> None:
        weights, s = tensors(), 0.25
        folded = weights | {"W_enc": weights["W_enc"] * s, "W_dec": weights["W_dec"] / s}
        folded["b_dec"] = weights["b_dec"] / s
        final = load_sae(write(tmp_path / "final", config(), folded))
        sae = load_sae(scaled_run(tmp_path / "run", s))
        assert torch.allclose(sae.encode(X), final.encode(X), atol=1e-5)
        assert torch.allclose(sae(X), final(X), atol=1e-5)
        assert torch.allclose(sae.decoder_norms(), final.decoder_norms())

    def test_facts_and_a_note_say_so(self, tmp_path: Path) -> None:
        cfg = load_sae(scaled_run(tmp_path / "run", 0.25)).cfg
        assert cfg.normalization == AVERAGE
        scale = cfg.facts["input_scale"]
        source = "activation_scaler.json: scaling_factor"
        assert (scale.value, scale.source, scale.how) == (0.25, source, "file")
        assert "its scale 0.25 is not folded in. It is applied here" in "; ".join(cfg.notes)

    def test_the_numbers_of_the_run_are_files_of_the_checkpoint(self, tmp_path: Path) -> None:
        opened = open_checkpoint(whitened_run(tmp_path / "run"))
        more = {"activation_scaler.json", "activation_whitening.safetensors"}
        assert more < set(opened.digests)

    def test_a_finished_run_scales_nothing(self, tmp_path: Path) -> None:
        sae = load_sae(scaled_run(tmp_path / "run", None, normalize_activations="none"))
        plain = load_sae(write(tmp_path / "plain", config(), tensors()))
        assert torch.equal(sae(X), plain(X))
        assert "scales nothing: a checkpoint of a training run" in "; ".join(sae.cfg.notes)

    def test_whitening_is_applied_and_undone(self, tmp_path: Path) -> None:
        run = whitened_run(tmp_path / "run")
        sae = load_sae(run)
        assert isinstance(sae, SAE)
        plain = load_sae(write(tmp_path / "plain", config(), tensors()))
        z = sae.normalization(X)
        assert torch.allclose(sae.encode(X), plain.encode(z))
        assert torch.allclose(sae.normalization.undo(z, None), X, atol=1e-4)
        assert sae.cfg.normalization == WHITENED
        assert "its whitening is not folded in" in "; ".join(sae.cfg.notes)

    def test_scale_and_whitening_of_one_run_follow_each_other(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        white = load_sae(whitened_run(tmp_path / "white"))
        torch.manual_seed(0)
        both = load_sae(whitened_run(tmp_path / "both", scaling_factor=0.5))
        assert torch.allclose(both.encode(X), white.encode(0.5 * X), atol=1e-5)
        assert torch.allclose(both(X), white(0.5 * X) / 0.5, atol=1e-4)

    def test_whitening_that_is_switched_off_is_not_read(self, tmp_path: Path) -> None:
        run = whitened_run(tmp_path / "run", has_whitening=False, scaling_factor=0.5)
        cfg = load_sae(run).cfg
        assert (cfg.normalization, cfg.facts["input_scale"].value) == (AVERAGE, 0.5)

    @pytest.mark.parametrize("has", [True, None])
    def test_whitening_without_its_file_is_refused(self, tmp_path: Path, has: bool | None) -> None:
        run = whitened_run(tmp_path / "run", has_whitening=has)
        (run / "activation_whitening.safetensors").unlink()
        with pytest.raises(CheckpointError, match=r"activation_whitening\.safetensors.*no such f"):
            load_sae(run)
        assert load_sae(run, settings={"normalization": "none"}).cfg.normalization == "none"

    @pytest.mark.parametrize("factor", [0, -1, "0.5", True])
    def test_a_scale_that_is_none_is_refused(self, tmp_path: Path, factor: object) -> None:
        with pytest.raises(CheckpointError, match=r"scaler\.json: scaling_factor \(a positive num"):
            load_sae(scaled_run(tmp_path / "run", factor))

    def test_a_scale_beside_a_normalisation_of_each_token_is_refused(self, tmp_path: Path) -> None:
        run = scaled_run(tmp_path / "run", 0.5, normalize_activations="layer_norm")
        with pytest.raises(
            CheckpointError, match=r"cfg\.json: normalize_activations is layer_norm"
        ):
            load_sae(run)

    def test_the_user_may_say_that_nothing_is_normalised(self, tmp_path: Path) -> None:
        run = scaled_run(tmp_path / "run", 0.5)
        plain = load_sae(write(tmp_path / "plain", config(), tensors()))
        assert torch.equal(load_sae(run, settings={"normalization": "none"})(X), plain(X))


class TestSettings:
    def test_an_average_that_no_file_has_may_be_given(self, tmp_path: Path) -> None:
        sae = load_sae(
            write(tmp_path, config(normalize_activations=AVERAGE), tensors()),
            settings={"input_scale": "0.23"},
        )
        plain = load_sae(write(tmp_path / "plain", config(), tensors()))
        assert torch.allclose(sae.encode(X), plain.encode(0.23 * X))
        assert torch.allclose(sae(X), plain(0.23 * X) / 0.23, atol=1e-5)
        assert sae.cfg.facts["input_scale"].how == "user"
        assert not any("is not applied" in note for note in sae.cfg.notes)

    def test_or_be_taken_from_data(self, tmp_path: Path) -> None:
        path = write(tmp_path, config(normalize_activations=AVERAGE), tensors())
        sae = load_sae(path, settings={"input_scale": "estimate"})
        assert sae.pending == ("input_scale",)
        (scale,) = sae.calibrate(X)["input_scale"]
        assert scale == pytest.approx(D_IN**0.5 / float(X.norm(dim=-1).mean()))
        given = load_sae(path, settings={"input_scale": str(scale)})
        assert torch.allclose(sae(X), given(X), atol=1e-5)

    def test_one_scale_is_for_both_sides_of_a_transcoder_as_saelens_folds_it(
        self, tmp_path: Path
    ) -> None:
        known = METADATA | {"hook_name_out": "blocks.1.hook_mlp_out"}
        keys = {"d_out": D_OUT, "apply_b_dec_to_input": False, "metadata": known}
        path = write(tmp_path, config("transcoder", **keys), tensors(D_OUT))
        plain, scaled = load_sae(path), load_sae(path, settings={"input_scale": "0.5"})
        assert torch.allclose(scaled(X), plain(0.5 * X) / 0.5, atol=1e-5)
        assert scaled.cfg.facts["undo_normalization"].value is True
        assert plain.cfg.facts["undo_normalization"].value is False

    def test_a_normalisation_that_only_the_registry_of_saelens_knows_may_be_given(
        self, tmp_path: Path
    ) -> None:
        path = write(tmp_path, config(), tensors())
        sae = load_sae(path, settings={"normalization": "constant_norm_rescale"})
        unit = X / X.norm(dim=-1, keepdim=True) * D_IN**0.5
        assert torch.allclose(sae.encode(X), load_sae(path).encode(unit), atol=1e-5)
        assert sae.cfg.facts["normalization"].how == "user"

    @pytest.mark.parametrize("value", ["0", "-0.5", "many"])
    def test_a_scale_that_is_no_positive_number_is_refused(
        self, tmp_path: Path, value: str
    ) -> None:
        with pytest.raises(CheckpointError, match=f"--set input_scale={value}"):
            load_sae(write(tmp_path, config(), tensors()), settings={"input_scale": value})

    def test_a_scale_is_of_no_use_where_each_token_is_normalised(self, tmp_path: Path) -> None:
        path = write(tmp_path, config(normalize_activations="layer_norm"), tensors())
        with pytest.raises(ConfigError, match="has no use for it"):
            load_sae(path, settings={"input_scale": "2"})

    def test_whitening_without_numbers_is_refused(self, tmp_path: Path) -> None:
        path = write(tmp_path, config(normalize_activations=WHITENED), tensors())
        with pytest.raises(CheckpointError, match="normalize_activations is covariance_whitening"):
            load_sae(path)


class TestThresholdsThatMayBeOff:
    TRAINED = METADATA | {"training_architecture": "batchtopk"}

    def notes(self, path: Path, **keys: object) -> str:
        cfg = config("jumprelu", metadata=self.TRAINED, **keys)
        write(path, cfg, tensors(threshold=torch.ones(D_SAE)))
        return "; ".join(load_sae(path).cfg.notes)

    @pytest.mark.parametrize("runner", [{"sae": {KEY: AVERAGE}, "lr": 1e-4}, {KEY: WHITENED}])
    def test_a_batchtopk_with_a_normalisation_folded_in_is_noted(
        self, tmp_path: Path, runner: dict[str, object]
    ) -> None:
        (tmp_path / "runner_cfg.json").write_text(json.dumps(runner))
        notes = self.notes(tmp_path)
        assert notes.startswith("runner_cfg.json: ")
        assert "may be off by that factor: compare L0 with k" in notes

    def test_not_where_activations_were_as_they_are(self, tmp_path: Path) -> None:
        assert "may be off" not in self.notes(tmp_path)
