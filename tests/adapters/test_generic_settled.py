"""What the adapter of last resort settles by itself, and files and settings that cannot all be true."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from saebench.adapters.generic.config import activation_named
from saebench.errors import CheckpointError, ConfigError
from tests.adapters.generic_files import D, F, Write, load, refused


class TestWhatIsSettled:
    @pytest.mark.parametrize("encoder", [(D, F), (F, D)])
    @pytest.mark.parametrize("decoder", [(D, F), (F, D)])
    def test_both_matrices_find_their_orientation_apart(
        self, write: Write, encoder: tuple[int, int], decoder: tuple[int, int]
    ) -> None:
        W_enc, W_dec = torch.randn(encoder), torch.randn(decoder)
        sae = load(write(W_enc=W_enc, W_dec=W_dec), activation="relu")
        assert torch.equal(sae.W_enc, W_enc if encoder == (D, F) else W_enc.T)
        assert torch.equal(sae.W_dec, W_dec if decoder == (F, D) else W_dec.T)
        assert sae.cfg.facts["orientation"].how == "file"

    def test_fewer_latents_than_dimensions_are_no_reason_to_turn_it(self, write: Write) -> None:
        narrow = {"W_enc": torch.ones(D, 3), "W_dec": torch.ones(3, D), "b_enc": torch.ones(3)}
        assert load(write(**narrow), activation="relu").cfg.d_sae == 3

    @pytest.mark.parametrize(
        "config",
        [
            {"d_in": D},
            {"hidden_dim": F},
            {"d_model": D},
            {"expansion_factor": 2.5},
            {"sae": {"d_sae": F}},
        ],
    )
    def test_without_biases_a_config_gives_the_lengths(
        self, write: Write, config: dict[str, Any]
    ) -> None:
        bare = {"W_enc": torch.ones(F, D), "W_dec": torch.ones(F, D), "b_enc": ..., "b_dec": ...}
        assert "which way round the encoder" in refused(write(folder="without", **bare))
        cfg = load(write(config, **bare), activation="relu").cfg
        assert (cfg.d_in, cfg.d_sae) == (D, F)

    def test_a_width_of_the_language_model_is_not_one_of_the_dictionary(self, write: Write) -> None:
        assert load(write({"d_model": 77, "activation": "relu"})).cfg.d_in == D

    def test_a_transcoder_has_a_width_of_its_own_out(self, write: Write) -> None:
        out = {"W_dec": torch.randn(F, 5), "b_dec": torch.randn(5)}
        cfg = load(write({"activation": "relu"}, **out)).cfg
        assert (cfg.d_in, cfg.d_sae, cfg.d_out) == (D, F, 5)
        assert cfg.undo_normalization is False

    @pytest.mark.parametrize(
        ("value", "meaning"),
        [
            ("ReLU", "relu"),
            ("TopKSAE", "topk"),
            ("batch_top_k", "batchtopk"),
            ("BatchTopK", "batchtopk"),
            ("jump-relu", "jumprelu"),
            ("k-sparse", "topk"),
            ("GatedSAE", "gated"),
            ("AbsTopK", "abstopk"),
            ("standard", "relu"),
            ("gelu", None),
            ({"name": "relu"}, None),
        ],
    )
    def test_the_activation_is_read_in_many_spellings(
        self, value: object, meaning: str | None
    ) -> None:
        assert activation_named(value) == meaning

    def test_a_top_k_beside_relu_rectifies_by_the_config(self, write: Write) -> None:
        cfg = load(write({"architecture": "topk", "activation_fn": "relu", "k": 4})).cfg
        assert (cfg.facts["relu"].value, cfg.facts["relu"].how) == (True, "file")

    def test_two_activations_are_a_question(self, write: Write) -> None:
        message = refused(write({"sae_type": "topk", "activation": "jumprelu", "k": 4}))
        assert "cfg.json: activation means jumprelu, cfg.json: sae_type means topk" in message

    def test_two_ks_are_a_question(self, write: Write) -> None:
        root = write({"activation": "topk", "k": 4}, k=torch.tensor(5))
        assert "k: 4 by cfg.json: k, 5 by sae.pt: 'k'" in refused(root).replace(
            "5 by sae.pt: 'k', 4 by cfg.json: k", "4 by cfg.json: k, 5 by sae.pt: 'k'"
        )
        assert load(root, k="5").cfg.k == 5

    def test_batch_top_k_without_a_threshold_takes_it_from_data(self, write: Write) -> None:
        sae = load(write({"activation": "batchtopk", "k": 4}))
        assert sae.pending == ("threshold",)
        assert sae.cfg.facts["threshold"].how == "assumed"
        assert load(write({"activation": "batchtopk"}), threshold="0.5").pending == ()

    def test_the_file_nearest_to_the_weights_gives_the_config(self, write: Write) -> None:
        root = write({"activation": "relu"}, file="layer.3.pt")
        (root / "layer.3_cfg.json").write_text('{"activation": "topk", "k": 3}')
        cfg = load(root).cfg
        assert cfg.facts["k"].source == "layer.3_cfg.json: k"

    def test_yaml_is_read_too(self, write: Write) -> None:
        root = write()
        (root / "config.yaml").write_text("sae:\n  d_sae: 20\n  activation: topk\n  k: 3\n")
        assert load(root).cfg.facts["k"].source == "config.yaml: sae.k"

    def test_the_config_of_a_language_model_beside_is_not_read(self, write: Write) -> None:
        model = {"architectures": ["OPTForCausalLM"], "activation_function": "relu", "k": 4}
        assert "config: none beside the weights" in refused(write(model))

    def test_hook_and_model_of_a_config_are_kept(self, write: Write) -> None:
        said = {"activation": "relu", "hook_point": "blocks.1.hook_mlp_out", "model_name": "tiny"}
        cfg = load(write(said)).cfg
        assert (cfg.site, cfg.model) == ("blocks.1.hook_mlp_out", "tiny")

    def test_assumptions_are_marked_and_noted_with_the_option_that_changes_them(
        self, write: Write
    ) -> None:
        cfg = load(write({"activation": "topk", "k": 4})).cfg
        for name in ("relu", "subtract_b_dec", "normalization"):
            assert cfg.facts[name].how == "assumed"
        for option in ("relu=false", "subtract_b_dec=true", "normalization=layer_norm"):
            assert any(f"--set {option}" in note for note in cfg.notes)

    def test_biases_may_be_stored_as_rows(self, write: Write) -> None:
        rows = {
            "b_enc": torch.randn(1, F),
            "b_dec": torch.randn(1, D),
            "threshold": torch.rand(1, F),
        }
        sae = load(write({"activation": "jumprelu"}, **rows))
        assert torch.equal(sae.b_enc, rows["b_enc"][0])
        assert sae.activation.threshold.shape == (F,)

    @pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
    def test_one_threshold_for_all_is_no_length(self, write: Write, shape: tuple[int, ...]) -> None:
        sae = load(write({"activation": "batchtopk"}, threshold=torch.full(shape, 0.5)))
        assert sae.activation.threshold.item() == 0.5

    def test_the_user_overrules_the_config(self, write: Write) -> None:
        said = {"activation": "topk", "k": 4, "subtract_b_dec": False}
        cfg = load(write(said), activation="abstopk", k="5", subtract_b_dec="true").cfg
        assert (cfg.architecture, cfg.k) == ("abstopk", 5)
        assert {cfg.facts[name].how for name in ("architecture", "k", "subtract_b_dec")} == {"user"}


class TestContradictions:
    @pytest.mark.parametrize(
        ("config", "tensors", "expected"),
        [
            ({"d_in": 9}, {}, r"d_in 9 \(cfg\.json: d_in\): encoder 'W_enc' \[8, 20\]"),
            ({}, {"b_enc": torch.ones(19)}, r"d_sae 19 \(sae\.pt: length of 'b_enc'\)"),
            ({}, {"b_dec": torch.ones(7)}, r"d_out 7 \(sae\.pt: length of 'b_dec'\)"),
            ({}, {"W_dec": torch.ones(5, 6)}, "one number of latents: encoder 'W_enc'"),
            ({"activation": "topk", "k": 21}, {}, r"k of at most d_sae = 20: 21"),
            ({}, {"k": torch.tensor(math.nan)}, r"'k' of sae\.pt with finite values"),
            ({}, {"W_enc": torch.full((D, F), math.nan)}, "160 of 160 are NaN"),
            (
                {},
                {"W_enc": torch.ones(0, F), "W_dec": torch.ones(F, 0), "b_dec": torch.ones(0)},
                "0",
            ),
        ],
    )
    def test_files_that_cannot_all_be_true(
        self, write: Write, config: dict[str, Any], tensors: dict[str, Tensor], expected: str
    ) -> None:
        root = write({"activation": "topk", "k": 4} | config, **tensors)
        with pytest.raises(CheckpointError, match=expected):
            load(root)

    @pytest.mark.parametrize(
        ("settings", "expected"),
        [
            ({"d_sae": "21"}, r"d_sae 21 \(--set d_sae=21\)"),
            ({"orientation": "d_sae,d_in"}, r"--set orientation=d_sae,d_in\)|length of 'b_enc'"),
            ({"orientation": "rows"}, "not one of d_in,d_sae, d_sae,d_in"),
            ({"ignore": "nothing"}, "--set ignore=nothing: sae.pt has 'W_enc'"),
            ({"input_scale": "-1"}, "between 1e-20 and 1e20"),
            ({"activation": "jumprelu", "threshold": "estimate"}, "as batchtopk has it"),
            ({"activation": "jumprelu", "threshold": "-1"}, "negative"),
            ({"activation": "gated"}, "gate and b_gate; or b_gate, r_mag and b_mag"),
            ({"input_scale": "2", "normalization": "layer_norm"}, "input scale given as well"),
        ],
    )
    def test_settings_that_cannot_be_true(
        self, write: Write, settings: dict[str, str], expected: str
    ) -> None:
        with pytest.raises(CheckpointError, match=expected):
            load(write({"activation": "relu"}), **settings)

    @pytest.mark.parametrize(
        "settings", [{"k": "4"}, {"relu": "true"}, {"tied": "true"}, {"x": "1"}]
    )
    def test_settings_without_use(self, write: Write, settings: dict[str, str]) -> None:
        with pytest.raises(ConfigError, match="has no use for it here"):
            load(write({"activation": "relu"}), **settings)

    def test_a_mapped_tensor_that_is_not_there(self, write: Write) -> None:
        with pytest.raises(CheckpointError, match=r"--map encoder=W: sae\.pt has 'W_enc'"):
            load(write(), {"encoder": "W"}, activation="relu")

    def test_a_mapped_encoder_that_is_no_matrix(self, write: Write) -> None:
        with pytest.raises(CheckpointError, match="two dimensions"):
            load(write(), {"encoder": "b_enc"}, activation="relu")

    def test_thresholds_that_are_logarithms_by_no_name(self, write: Write) -> None:
        root = write({"activation": "jumprelu"}, threshold=torch.linspace(-3, 0.5, F))
        with pytest.raises(CheckpointError, match="the logarithm may have been stored"):
            load(root)
        found = load(root, log_threshold="true").activation.threshold
        assert torch.allclose(found, torch.linspace(-3, 0.5, F).exp())

    def test_a_threshold_never_estimated_is_taken_from_data_on_request(self, write: Write) -> None:
        root = write({"activation": "batchtopk", "k": 3}, threshold=torch.tensor(-1.0))
        with pytest.raises(CheckpointError, match="training never estimated it"):
            load(root)
        assert load(root, threshold="estimate").pending == ("threshold",)

    def test_a_spread_of_zero(self, write: Write) -> None:
        root = write({"activation": "relu"}, x_std=torch.zeros(D))
        with pytest.raises(CheckpointError, match="8 of 8 are not"):
            load(root, {"std": "x_std"})

    def test_integer_weights_cannot_be_evaluated(self, write: Write) -> None:
        root = write({"activation": "relu"}, W_enc=torch.ones(D, F, dtype=torch.int8))
        with pytest.raises(CheckpointError, match="floating dtype"):
            load(root)
