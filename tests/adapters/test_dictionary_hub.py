"""Folders that forks of dictionary_learning push to the hub: difference SAEs and their normaliser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from saebench.adapters.dictionary_learning import crosscoders as dictionary_crosscoders
from saebench.adapters.dictionary_learning import hub as dictionary_hub
from saebench.adapters.dictionary_learning import run as dictionary_learning
from saebench.adapters.reading.choices import Choices
from saebench.errors import CheckpointError
from saebench.files import CheckpointFiles
from saebench.loading import expand, load_sae, open_checkpoint
from saebench.sae import SAE
from saebench.sae.normalization import Affine

GOLDEN = Path(__file__).parents[1] / "oracles" / "golden" / "difference_sae"
D, F, K = 36, 144, 6
PUBLISHED = {  # config.json of Ftm23/cbd-sae-diff-gemma2-2pair-frgv at a reduced width
    "activation_dim": D,
    "activation_mean": None,
    "activation_std": None,
    "dict_size": F,
    "encoder_init_norm": 1.0,
    "k": K,
    "target_rms": 1.0,
}


def published_tensors() -> dict[str, Tensor]:
    """Names, shapes and dtypes of the published file: D 2304, F 9216 and k 128 there."""
    torch.manual_seed(13)
    std = torch.rand(D) * 3 + 0.1
    return {
        "activation_global_scale": 100.0 / torch.sqrt((std**2).sum() + 1e-8),
        "activation_mean": torch.randn(D),
        "activation_std": std,
        "b_dec": torch.randn(D) * 0.1,
        "decoder.weight": torch.nn.functional.normalize(torch.randn(D, F), dim=0),
        "encoder.bias": torch.randn(F) * 2,
        "encoder.weight": torch.nn.functional.normalize(torch.randn(F, D), dim=1),
        "k": torch.tensor(K, dtype=torch.int32),
        "target_rms": torch.tensor(100.0),
        "threshold": torch.tensor(25.0),
    }


def write(root: Path, config: dict[str, Any], tensors: dict[str, Tensor]) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    (root / "config.json").write_text(json.dumps(config, indent=2))
    save_file(tensors, root / "model.safetensors")
    return root


def folder(root: Path, config: dict[str, Any] | None = None, **tensors: Tensor) -> Path:
    return write(root, PUBLISHED | (config or {}), published_tensors() | tensors)


def files(root: Path, hint: str = "") -> CheckpointFiles:
    return CheckpointFiles(root, tuple(sorted(path.name for path in root.iterdir())), True, hint)


def read(root: Path, hint: str = "", **settings: str) -> SAE:
    found = files(root, hint)
    claim = dictionary_hub.sniff(found)
    assert claim is not None
    return dictionary_hub.read(found, claim, Choices(settings))


def message(root: Path, **settings: str) -> str:
    with pytest.raises(CheckpointError) as error:
        read(root, **settings)
    return str(error.value)


class TestThePublishedDifferenceSAE:
    HINT = "Ftm23/cbd-sae-diff-gemma2-2pair-frgv/layer_{}"

    @pytest.mark.parametrize("layer", [13, 24])
    def test_each_layer_is_a_checkpoint_of_its_own(self, tmp_path: Path, layer: int) -> None:
        sae = read(folder(tmp_path / f"layer_{layer}"), self.HINT.format(layer))
        cfg = sae.cfg
        assert cfg.site == f"blocks.{layer}.hook_resid_post"
        assert cfg.facts["site"].how == "assumed"
        assert (cfg.d_in, cfg.d_sae, cfg.k, cfg.architecture) == (D, F, K, "batchtopk")
        assert cfg.difference == "1-0"  # fine-tuned minus base
        assert cfg.facts["difference"].how == "assumed"
        assert cfg.facts["difference"].source.startswith("the path …sae-diff")
        assert [(s.model, s.minus) for s in cfg.reads] == [(1, 0)]
        assert cfg.n_models == 2

    def test_it_encodes_and_decodes_with_the_normaliser_in_its_buffers(
        self, tmp_path: Path
    ) -> None:
        sae, w = read(folder(tmp_path)), published_tensors()
        x = torch.randn(64, D) * 3 + 1
        xn = (x - w["activation_mean"]) * w["activation_global_scale"]
        pre = torch.relu((xn - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"])
        f = pre * (pre > 25.0)
        back = f @ w["decoder.weight"].T + w["b_dec"]
        back = back / (w["activation_global_scale"] + 1e-8) + w["activation_mean"]
        assert torch.equal(sae.encode(x) != 0, f != 0)
        assert 0 < float((f != 0).float().mean()) < 0.5
        torch.testing.assert_close(sae.encode(x), f, rtol=1e-5, atol=1e-4)
        torch.testing.assert_close(sae(x), back, rtol=1e-5, atol=1e-5)

    def test_the_buffer_wins_over_the_default_in_the_config(self, tmp_path: Path) -> None:
        cfg = read(folder(tmp_path)).cfg
        assert cfg.facts["target_rms"].value == 100.0
        assert cfg.facts["target_rms"].source == "model.safetensors: target_rms"
        note = "config.json says target_rms 1 and the buffer of model.safetensors 100"
        assert any(note in item for item in cfg.notes)

    def test_the_user_says_models_and_direction(self, tmp_path: Path) -> None:
        settings = {"direction": "difference_bft", "models": "google/gemma-2-2b-it,org/tuned"}
        cfg = load_sae(folder(tmp_path / "layer_13"), settings=settings).cfg
        assert (cfg.difference, cfg.facts["difference"].how) == ("0-1", "user")
        assert cfg.models == ("google/gemma-2-2b-it", "org/tuned")
        assert cfg.describe(cfg.reads) == [
            "blocks.13.hook_resid_post of google/gemma-2-2b-it − org/tuned"
        ]

    def test_its_evidence_is_the_config_and_the_encoder(self, tmp_path: Path) -> None:
        found = files(folder(tmp_path))
        claim = dictionary_hub.sniff(found)
        assert claim is not None
        assert claim.evidence == (
            "config.json: activation_dim, dict_size at the top",
            f"model.safetensors: encoder.weight [{F}, {D}]",
        )
        assert dictionary_learning.sniff(found) is None
        assert dictionary_crosscoders.sniff(found) is None


class TestDirection:
    def test_nothing_that_says_so_means_one_model(self, tmp_path: Path) -> None:
        cfg = read(folder(tmp_path), "org/some-sae").cfg
        assert cfg.difference is None
        assert cfg.n_models == 1
        assert any("--set direction=difference_ftb" in note for note in cfg.notes)
        assert any("which layer" in note for note in cfg.notes)

    @pytest.mark.parametrize(
        ("hint", "difference", "site"),
        [
            ("org/SAEdiff_ftb-gemma2_2B-cake-L13-k100-x2", "1-0", "blocks.13.hook_resid_post"),
            ("org/SAEdiff_bft-gemma2_2B-cake-L13-k100-x2", "0-1", "blocks.13.hook_resid_post"),
            ("sae_difference/layer_7/run/dictionary_model", "1-0", "blocks.7.hook_resid_post"),
            ("org/diff-sae/difference_bft/layer_2", "0-1", "blocks.2.hook_resid_post"),
            ("org/plain/layer_2/layer_3", None, None),
            ("org/sae-diffuse", None, None),
        ],
    )
    def test_the_path_is_a_hint(
        self, tmp_path: Path, hint: str, difference: str | None, site: str | None
    ) -> None:
        cfg = read(folder(tmp_path), hint).cfg
        assert (cfg.difference, cfg.site) == (difference, site)
        assert all(cfg.facts[n].how == "assumed" for n in ("difference", "site") if n in cfg.facts)

    def test_the_trainers_config_comes_before_the_path(self, tmp_path: Path) -> None:
        trainer = {
            "dict_class": "BatchTopKSAE",
            "layer": 9,
            "lm_name": "org/tuned-google/gemma-2-2b",
            "wandb_name": "SAEdiff_bft-gemma2_2B-cake-L9-s5-t100-k6-lr1e-04-x4",
        }
        (tmp_path / "trainer_config.json").write_text(json.dumps({"trainer": trainer}))
        cfg = read(folder(tmp_path), "org/sae-diff/layer_13").cfg
        assert (cfg.site, cfg.difference) == ("blocks.9.hook_resid_post", "0-1")
        assert "trainer_config.json: trainer.wandb_name" in cfg.facts["difference"].source
        assert cfg.model is None  # the text joins two ids
        assert cfg.facts["lm_name"].value == "org/tuned-google/gemma-2-2b"
        assert any("without the first 5 tokens" in note for note in cfg.notes)
        assert cfg.provenance["trainer_config.json"]["trainer"] == trainer

    @pytest.mark.parametrize(
        ("target", "difference"),
        [("difference_ftb", "1-0"), ("difference_bft", "0-1"), ("base", None)],
    )
    def test_the_target_of_the_run_is_read_from_its_file(
        self, tmp_path: Path, target: str, difference: str | None
    ) -> None:
        text = f"diffing:\n  method:\n    training:\n      target: {target}\nlayer: 4\n"
        (tmp_path / "training_config.yaml").write_text(text)
        cfg = read(folder(tmp_path), "org/sae-diff").cfg
        assert (cfg.difference, cfg.site) == (difference, "blocks.4.hook_resid_post")
        if difference:
            assert cfg.facts["difference"].how == "file"

    def test_a_target_of_another_kind_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "training_metrics.json").write_text('{"target": "sum"}')
        found = message(folder(tmp_path))
        assert "training_metrics.json: target (one of base, ft, difference_ftb" in found


class TestTheFolderThatARunLeaves:
    """Weights and config in ``dictionary_model``, and one folder above it what the run says of itself."""

    CONFIG = "diffing:\n  method:\n    training:\n      target: {}\n      k: 6\n"
    METRICS: ClassVar[dict[str, Any]] = {
        "layer": 9,
        "training_mode": "sae_difference",
        "model_type": "batch-top-k-sae-difference",
        "last_eval_logs": {"loss": float("nan")},
    }

    def run(self, root: Path, config: str | None, metrics: dict[str, Any] | None) -> Path:
        run = root / "sae_difference" / "layer_9" / "gemma2_2B-cake-L9-k6"
        folder(run / "dictionary_model")
        if config is not None:
            (run / "training_config.yaml").write_text(self.CONFIG.format(config))
        if metrics is not None:
            (run / "training_metrics.json").write_text(json.dumps(self.METRICS | metrics))
        return run

    @pytest.mark.parametrize(
        "inside",
        ["", "dictionary_model", "dictionary_model/model.safetensors"],
    )
    @pytest.mark.parametrize(
        ("config", "metrics", "file"),
        [
            ("difference_bft", {}, "training_config.yaml: diffing.method.training.target"),
            (None, {"target": "difference_bft"}, "training_metrics.json: target"),
        ],
    )
    def test_its_direction_and_layer_are_read_from_the_files_of_the_run(
        self,
        tmp_path: Path,
        inside: str,
        config: str | None,
        metrics: dict[str, Any],
        file: str,
    ) -> None:
        found = open_checkpoint(self.run(tmp_path, config, metrics) / inside)
        cfg = found.sae.cfg
        assert cfg.difference == "0-1"
        assert cfg.facts["difference"].how == "file"
        assert cfg.facts["difference"].source.startswith(file)
        assert cfg.site == "blocks.9.hook_resid_post"
        assert "training_metrics.json: layer" in cfg.facts["site"].source
        assert set(found.digests) == {
            "dictionary_model/config.json",
            "dictionary_model/model.safetensors",
            "training_metrics.json",
            *(["training_config.yaml"] if config else []),
        }
        assert found.claim.evidence[0].startswith("dictionary_model/config.json: activation_dim")

    def test_its_codes_are_those_of_the_same_files_alone(self, tmp_path: Path) -> None:
        run, x = self.run(tmp_path, "difference_bft", {}), torch.randn(5, D) * 3
        alone = load_sae(folder(tmp_path / "alone"))
        assert torch.equal(load_sae(run).encode(x), alone.encode(x))

    def test_without_the_files_of_the_run_the_path_is_a_hint(self, tmp_path: Path) -> None:
        cfg = load_sae(self.run(tmp_path, None, None) / "dictionary_model").cfg
        assert (cfg.difference, cfg.site) == ("1-0", "blocks.9.hook_resid_post")
        assert cfg.facts["difference"].how == "assumed"

    def test_each_run_of_a_folder_is_listed_once(self, tmp_path: Path) -> None:
        run = self.run(tmp_path, "difference_ftb", {})
        (reference,) = expand(tmp_path)
        assert reference.path == str(run / "dictionary_model")

    def test_metrics_beside_the_weights_are_read_as_well(self, tmp_path: Path) -> None:
        text = json.dumps(self.METRICS | {"target": "difference_bft"})
        (folder(tmp_path) / "training_metrics.json").write_text(text)
        cfg = load_sae(tmp_path).cfg
        assert (cfg.difference, cfg.facts["difference"].how) == ("0-1", "file")

    def test_other_files_above_belong_to_something_else(self, tmp_path: Path) -> None:
        run = self.run(tmp_path, "difference_ftb", {})
        (run / "config.json").write_text('{"model_type": "gemma"}')
        found = open_checkpoint(run / "dictionary_model")
        assert "config.json" not in found.files.names


class TestNormaliser:
    def test_buffers_of_nan_are_no_normaliser(self, tmp_path: Path) -> None:
        empty = torch.full((D,), torch.nan)
        sae = read(folder(tmp_path, activation_mean=empty, activation_std=empty.clone()))
        assert sae.cfg.normalization == "none"
        assert "hold no numbers (NaN)" in sae.cfg.facts["normalization"].source
        assert bool(torch.isfinite(sae(torch.randn(4, D))).all())

    def test_no_buffers_are_no_normaliser(self, tmp_path: Path) -> None:
        kept = {k: v for k, v in published_tensors().items() if k[:3] != "act" and k[:3] != "tar"}
        cfg = read(write(tmp_path, PUBLISHED, kept)).cfg
        assert cfg.normalization == "none"
        assert cfg.architecture == "batchtopk"  # by encoder_init_norm in the config

    def test_a_part_of_the_buffers_is_refused(self, tmp_path: Path) -> None:
        kept = {k: v for k, v in published_tensors().items() if k != "activation_std"}
        found = message(write(tmp_path, PUBLISHED, kept))
        assert "all or none: only activation_mean, activation_global_scale, target_rms" in found
        assert "(missing activation_std)" in found

    def test_means_without_deviations_are_refused(self, tmp_path: Path) -> None:
        root = folder(tmp_path, activation_std=torch.full((D,), torch.nan))
        assert "both of numbers or both of NaN: NaN only in activation_std" in message(root)

    def test_some_nan_among_numbers_are_refused(self, tmp_path: Path) -> None:
        mean = published_tensors()["activation_mean"]
        mean[3] = torch.nan
        found = message(folder(tmp_path, activation_mean=mean))
        assert "tensor 'activation_mean' of model.safetensors with finite values: 1 of 36" in found

    @pytest.mark.parametrize("scale", [0.0, -1.0])
    def test_a_scale_that_is_not_positive_is_refused(self, tmp_path: Path, scale: float) -> None:
        root = folder(tmp_path, activation_global_scale=torch.tensor(scale))
        assert "activation_global_scale of model.safetensors with values > 0" in message(root)

    @pytest.mark.parametrize("rms", [0.0, -1.0])
    def test_a_target_that_is_not_positive_is_refused(self, tmp_path: Path, rms: float) -> None:
        root = folder(tmp_path, target_rms=torch.tensor(rms))
        assert "target_rms of model.safetensors (a positive number)" in message(root)

    def test_a_scale_of_one_is_the_variant_by_dimension(self, tmp_path: Path) -> None:
        sae = read(folder(tmp_path, activation_global_scale=torch.tensor(1.0)))
        assert sae.cfg.facts["normalization_variant"].value == "per_dimension"
        assert isinstance(sae.normalization, Affine)
        assert sae.normalization.scale.shape == (D,)

    def test_a_scale_of_neither_rule_is_used_as_stored_with_a_note(self, tmp_path: Path) -> None:
        sae = read(folder(tmp_path, activation_global_scale=torch.tensor(2.5)))
        assert float(sae.normalization.scale) == 2.5
        assert sae.cfg.facts["normalization_variant"].how == "assumed"
        assert any("activation_global_scale" in note and "2.5" in note for note in sae.cfg.notes)

    def test_the_user_can_overrule_the_variant(self, tmp_path: Path) -> None:
        sae = read(folder(tmp_path), normalization="per_dimension")
        assert sae.normalization.scale.shape == (D,)
        assert sae.cfg.facts["normalization_variant"].how == "user"
        assert read(folder(tmp_path), normalization="none").cfg.normalization == "none"

    def test_buffers_of_another_width_are_refused(self, tmp_path: Path) -> None:
        wrong = {"activation_mean": torch.ones(35), "activation_std": torch.ones(35)}
        assert "'activation_mean' of model.safetensors with shape [d_in 36]" in message(
            folder(tmp_path, **wrong)
        )


class TestContents:
    def test_a_threshold_never_estimated(self, tmp_path: Path) -> None:
        root = folder(tmp_path, threshold=torch.tensor(-1.0))
        assert "threshold of model.safetensors with a value >= 0: -1, the initial" in message(root)
        assert read(root, threshold="estimate").pending == ("threshold",)

    def test_a_k_in_the_config_that_is_not_the_one_stored_is_noted(self, tmp_path: Path) -> None:
        cfg = read(folder(tmp_path, {"k": 9})).cfg
        assert cfg.k == K
        assert "config.json: k is 9 and model.safetensors: k 6, used here" in cfg.notes

    def test_sizes_in_the_config_have_to_fit(self, tmp_path: Path) -> None:
        found = message(folder(tmp_path, {"dict_size": 145}))
        assert "'encoder.bias' of model.safetensors with shape [d_sae 145]: shape [144]" in found

    @pytest.mark.parametrize(
        ("case", "architecture"), [("gated", "gated"), ("jumprelu", "jumprelu")]
    )
    def test_codes_of_the_forks_classes_are_times_decoder_norms(
        self, case: str, architecture: str
    ) -> None:
        sae = read(GOLDEN / case)
        assert sae.cfg.architecture == architecture
        assert sae.cfg.facts["code_unit"].value == "times decoder norm"
        norms = sae.decoder_norms()
        torch.testing.assert_close(norms, torch.ones_like(norms))

    def test_two_classes_with_the_same_tensors_are_told_apart_by_the_user(
        self, tmp_path: Path
    ) -> None:
        names = ("encoder.weight", "encoder.bias", "decoder.weight", "b_dec", "k", "threshold")
        kept = {name: published_tensors()[name] for name in names}
        root = write(tmp_path, {"activation_dim": D, "dict_size": F, "k": K}, kept)
        assert "Give --set activation=topk or --set activation=batchtopk" in message(root)
        assert read(root, activation="topk").cfg.architecture == "topk"
        assert read(root, activation="batchtopk").cfg.architecture == "batchtopk"

    def test_a_class_named_that_is_not_known(self, tmp_path: Path) -> None:
        found = message(folder(tmp_path, {"dict_class": "TemporalSAE"}))
        assert "config.json: dict_class (one of AutoEncoder" in found
        assert "'TemporalSAE'" in found

    def test_a_hand_made_file_with_such_a_config_is_left_to_others(self, tmp_path: Path) -> None:
        tensors = load_file(GOLDEN / "none" / "model.safetensors")
        own = {key: tensors[key] for key in ("encoder.weight", "encoder.bias", "decoder.weight")}
        root = write(tmp_path, {"activation_dim": 8, "dict_size": 20, "activation": "relu"}, own)
        assert dictionary_hub.sniff(files(root)) is None
