"""The adapter of last resort: settles what lengths and configs settle, asks for the rest in one error."""

from __future__ import annotations

import contextlib
import re
import shutil
from pathlib import Path

import pytest
import torch

from saebench.adapters.generic import dictionary as generic
from saebench.adapters.generic import names as generic_names
from saebench.adapters.generic.config import ACTIVATIONS
from saebench.adapters.generic.names import role_of
from saebench.errors import CheckpointError, ConfigError, SaebenchError
from saebench.files import CheckpointFiles
from saebench.loading import open_checkpoint
from saebench.settings import ROLES, SETTINGS
from tests.adapters.generic_files import D, F, Write, load, refused

GOLDEN = Path(__file__).parents[1] / "oracles" / "golden" / "generic"


class TestWhatIsAskedFor:
    def test_everything_open_stands_in_one_error_with_a_command_to_answer_it(
        self, write: Write
    ) -> None:
        message = refused(
            write(W_enc=torch.ones(D, D), W_dec=torch.ones(D, D), b_enc=torch.ones(D))
        )
        assert "3 things have to be said first" in message
        assert "which way round the encoder 'W_enc' [8, 8] is: it is square" in message
        assert "which way round the decoder 'W_dec' [8, 8] is" in message
        assert "the activation (neither config nor tensors say" in message
        for option in (
            "orientation=d_in,d_sae",
            "decoder_orientation=d_sae,d_in",
            "activation=relu",
        ):
            assert f"--set {option}" in message.split("\n")[0]

    def test_what_is_settled_stands_there_with_its_reason(self, write: Write) -> None:
        message = refused(write())
        assert "encoder: 'W_enc' [8, 20] is [d_in, d_sae] by shapes; length of 'b_enc'" in message
        assert "b_dec: 'b_dec' [8]" in message
        assert "config: none beside the weights or inside the file" in message

    def test_the_example_answers_the_questions(self, write: Write) -> None:
        root = write(folder="Org/W32K-L0_3", file="layer5.sae.pt")
        first = refused(root).split("for example: ")[1].split("\n")[0]
        options = dict(part.split("=", 1) for part in first.split("--set ")[1:])
        sae = load(root, **{name: value.strip() for name, value in options.items()})
        assert (sae.cfg.architecture, sae.cfg.k) == ("topk", 3)
        assert sae.cfg.facts["k"].how == "user"

    def test_k_in_a_path_is_a_hint_and_never_used(self, write: Write) -> None:
        root = write(folder="SAE-Res-W32K-L0_50")
        assert "'L0_50', a hint at a top-k and no more" in refused(root)
        assert "k, the latents kept per token (the path has 'L0_50'" in refused(
            root, activation="topk"
        )

    def test_a_k_without_an_activation_points_to_a_top_k(self, write: Write) -> None:
        message = refused(write({"k": 5}))
        assert "cfg.json: k 5 points to a top-k" in message
        assert load(write({"k": 5}), activation="topk").cfg.facts["k"].how == "file"

    def test_a_threshold_without_an_activation_points_to_jumprelu(self, write: Write) -> None:
        root = write(threshold=torch.rand(F))
        assert "'threshold' points to jumprelu or batchtopk" in refused(root)
        assert load(root, activation="jumprelu").cfg.architecture == "jumprelu"

    def test_a_threshold_that_the_activation_does_not_use_has_to_be_ignored(
        self, write: Write
    ) -> None:
        root = write({"activation": "relu"}, threshold=torch.rand(F))
        message = refused(root)
        assert "what 'threshold' [20] is for, which relu does not use" in message
        assert "--set activation=jumprelu" in message
        assert "or --set ignore=threshold" in message
        assert load(root, ignore="threshold").cfg.architecture == "relu"

    def test_a_mean_is_not_placed_by_its_name(self, write: Write) -> None:
        root = write({"activation": "relu"}, act_mean=torch.randn(D))
        message = refused(root)
        assert "what 'act_mean' [8] is for" in message
        assert "--map mean=act_mean" in message
        assert "--map b_in=act_mean" in message
        assert load(root, ignore="act_mean").cfg.normalization == "none"
        assert load(root, {"mean": "act_mean"}).cfg.facts["normalization"].how == "user"

    def test_a_vector_is_offered_the_roles_of_its_length(self, write: Write) -> None:
        message = refused(
            write({"activation": "relu"}, b_enc=..., strange=torch.randn(F)), d_in="8"
        )
        assert "--map b_enc=strange" in message
        assert "--map threshold=strange" in message

    def test_tensors_of_no_length_known_are_ignored_together(self, write: Write) -> None:
        root = write({"activation": "relu"}, odd=torch.randn(3), even=torch.randn(5))
        assert "tensors without a known role: 'odd' [3], 'even' [5]" in refused(root)
        cfg = load(root, ignore="odd,even").cfg
        assert any("not used: 'even', 'odd'" in note for note in cfg.notes)

    def test_counters_are_noted_and_need_no_answer(self, write: Write) -> None:
        counts = {"n_forward_passes_since_fired": torch.ones(F), "step": torch.tensor(3)}
        cfg = load(write({"activation": "relu"}, **counts)).cfg
        assert any("n_forward_passes_since_fired" in note for note in cfg.notes)

    def test_a_factor_in_the_config_may_mean_three_things(self, write: Write) -> None:
        root = write({"activation": "relu", "norm_factor": 4.0})
        message = refused(root)
        assert "cfg.json: norm_factor is 4, which may be a factor, a divisor, or folded" in message
        assert "--set input_scale=0.25" in message
        assert load(root, input_scale="0.25").cfg.normalization == "affine"
        assert load(root, input_scale="1").cfg.normalization == "none"

    def test_a_normalisation_nobody_knows_has_to_be_named(self, write: Write) -> None:
        root = write({"activation": "relu", "normalize_activations": "rms"})
        assert "cfg.json: normalize_activations is 'rms'" in refused(root)
        assert load(root, normalization="layer_norm").cfg.normalization == "layer_norm"

    def test_a_lone_bias_may_be_subtracted(self, write: Write) -> None:
        root = write({"activation": "relu"}, b_dec=..., pre_bias=torch.randn(D))
        assert "whether 'pre_bias' is subtracted before the encoder as well" in refused(root)
        sae = load(root, subtract_b_dec="true")
        assert torch.equal(sae.b_in, sae.b_dec)

    def test_names_of_a_library_that_subtracts_its_bias_are_a_question(self, write: Write) -> None:
        linears = {"encoder.weight": torch.ones(F, D), "encoder.bias": torch.ones(F)}
        root = write({"activation": "relu"}, W_enc=..., b_enc=..., **linears)
        assert "whether 'b_dec' is subtracted before the encoder" in refused(root)

    def test_two_encoders_are_both_named(self, write: Write) -> None:
        weights = {"encoder.0.weight": torch.ones(F, D), "encoder.2.weight": torch.ones(F, F)}
        message = refused(write(W_enc=..., **weights), activation="relu")
        assert "which tensor is the encoder: 'encoder.0.weight' [20, 8], 'encoder.2" in message

    def test_a_missing_decoder_may_be_tied(self, write: Write) -> None:
        root = write({"activation": "relu"}, W_dec=...)
        assert "no tensor is the decoder by name" in refused(root)
        sae = load(root, tied="true")
        assert torch.equal(sae.W_dec, sae.W_enc.T)

    def test_a_name_that_says_nothing_is_mapped(self, write: Write) -> None:
        first, second = torch.randn(D, F), torch.randn(F, D)
        root = write({"act": 1, "d_in": D}, plain=True, first=first, second=second)
        message = refused(root)
        assert "--map encoder=first" in message
        assert "--map decoder=second" in message
        sae = load(root, {"encoder": "first", "decoder": "second"}, activation="relu")
        assert torch.equal(sae.W_enc, first)

    def test_hostile_names_are_escaped_and_cut(self, write: Write) -> None:
        evil = "\x1b[31m" * 50
        message = refused(write({"\x1b[2J": 1, "activation": "\x1b[0m"}, **{evil: torch.ones(3)}))
        assert "\x1b" not in message
        assert len(message) < 2500
        assert "--set ignore=NAME" in message

    def test_names_are_quoted_for_a_shell(self, write: Write) -> None:
        message = refused(write({"activation": "relu"}, **{"a; rm -rf x": torch.ones(3)}))
        assert "--set ignore='a; rm -rf x'" in message

    def test_weights_of_saelens_without_their_config_say_so(self, write: Write) -> None:
        assert "cfg.json is missing beside sae.pt ('W_enc' [8, 20]" in refused(write())
        assert "cfg.json is missing" not in refused(write({"d_in": D}))
        turned = write(folder="turned", W_enc=torch.ones(F, D), W_dec=torch.ones(D, F))
        assert "cfg.json is missing" not in refused(turned)


class TestDetection:
    def test_it_is_asked_only_when_nobody_else_claims(self) -> None:
        other = GOLDEN.parent / "goodfire" / "float32"
        assert open_checkpoint(other, allow_pickle=True).claim.format == "goodfire"
        files = CheckpointFiles(other, (next(other.iterdir()).name,), allow_pickle=True)
        assert generic.sniff(files) is not None

    def test_the_evidence_shows_the_matrices(self, write: Write) -> None:
        claim = open_checkpoint(write({"activation": "relu"}), allow_pickle=True).claim
        assert claim.evidence[1] == "sae.pt: 'W_enc' [8, 20], 'W_dec' [20, 8]"
        assert claim.configs == ("cfg.json",)

    def test_a_network_of_many_layers_is_not_claimed(self, write: Write) -> None:
        layers = {f"layers.{i}.weight": torch.ones(4, 4) for i in range(8)}
        assert "known formats fits" in refused(write(plain=True, **layers))

    def test_an_encoder_of_three_dimensions_is_not_claimed(self, write: Write) -> None:
        cross = {"W_enc": torch.ones(2, D, F), "W_dec": torch.ones(F, 2, D), "b": torch.ones(F)}
        with pytest.raises(CheckpointError):
            load(write(plain=True, **cross), activation="relu")

    def test_several_files_are_listed(self, write: Write) -> None:
        root = write(file="layer0.sae.pt")
        shutil.copy(root / "layer0.sae.pt", root / "layer1.sae.pt")
        files = CheckpointFiles(root, ("layer0.sae.pt", "layer1.sae.pt"), allow_pickle=True)
        with pytest.raises(CheckpointError, match=r"layer0\.sae\.pt, layer1.*Reference one"):
            generic.sniff(files)
        assert load(root / "layer1.sae.pt", activation="relu").cfg.d_sae == F

    def test_rubbish_beside_the_weights_is_no_obstacle(self, write: Write) -> None:
        root = write({"activation": "relu"})
        (root / "state.pt").write_bytes(b"rubbish")
        assert load(root).cfg.d_sae == F


class TestNames:
    @pytest.mark.parametrize(
        ("name", "shape", "role"),
        [
            ("W_enc", (8, 20), "encoder"),
            ("encoder.weight", (20, 8), "encoder"),
            ("encoder.0.weight", (20, 8), "encoder"),
            ("sae.enc.weight", (20, 8), "encoder"),
            ("weight_enc", (20, 8), "encoder"),
            ("W_e", (8, 20), "encoder"),
            ("dictionary", (20, 8), "decoder"),
            ("dictionary._weights", (20, 8), "decoder"),
            ("W_dec.weight", (8, 20), "decoder"),
            ("W_dec.bias", (8,), "b_dec"),
            ("encoder.bias", (20,), "b_enc"),
            ("latent_bias", (20,), "b_enc"),
            ("pre_bias", (8,), "b_in"),
            ("act_mean", (8,), "mean"),
            ("log_threshold", (20,), "threshold"),
            ("W_skip", (8, 8), "skip"),
            ("W_gate", (8, 20), "gate"),
            ("encoder.layer.0.attention.self.query.weight", (8, 8), None),
            ("encoder.1.running_var", (20,), None),
            ("model.embed_tokens.weight", (100, 8), None),
        ],
    )
    def test_a_name_suggests_a_role(
        self, name: str, shape: tuple[int, ...], role: str | None
    ) -> None:
        assert role_of(name, shape) == role

    def test_all_matrices_are_roles(self) -> None:
        assert set(generic_names.MATRICES) <= set(ROLES)


def test_the_table_of_settings_is_whole() -> None:
    """Every setting and role that any reader asks for has a line of help, and no other has."""
    assert all(name in SETTINGS["activation"] for name in ACTIVATIONS)
    asked = r'choices\.(?:text|flag|size|number|numbers|names)\(\s*"(\w+)"'
    sources = [path.read_text() for path in Path(generic.__file__).parent.rglob("*.py")]
    found = {name for source in sources for name in re.findall(asked, source)}
    assert found <= set(SETTINGS)
    with pytest.raises(ConfigError) as error:
        load(GOLDEN / "bfloat16-linears", activation="relu", x="1")
    taken = set(str(error.value).split("It takes ")[1].removesuffix(".").split(", "))
    assert taken <= set(SETTINGS)


def test_nothing_but_our_own_errors_comes_out_of_odd_configs(write: Write) -> None:
    odd = [[], {}, "", "x" * 500, -1, 0, 1e300, True, None, [[1]], {"k": [1]}, 2**62]
    keys = ("k", "activation", "architecture", "d_in", "hidden_dim", "normalize_activations")
    keys += ("expansion_factor", "norm_factor", "threshold", "pre_bias", "hook_name", "tied")
    for key in keys:
        for value in odd:
            root = write({"activation": "topk", "k": 4} | {key: value})
            with contextlib.suppress(SaebenchError):
                load(root)
