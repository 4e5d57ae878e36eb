"""What a user may say about a SAELens checkpoint, and the activations of its older versions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from saebench.activations import AbsTopK, BatchTopK, JumpReLU, TanhReLU, TopK
from saebench.errors import CheckpointError, ConfigError
from saebench.loading import load_sae
from saebench.sae import SAE
from tests.adapters.test_saelens import D_IN, D_SAE, METADATA, config, tensors, write

X = torch.randn(6, D_IN, generator=torch.Generator().manual_seed(1))
LOGS = torch.linspace(-3, -0.1, D_SAE)


def given(path: Path, cfg: dict[str, Any], settings: dict[str, str], **extra: Any) -> SAE:
    sae = load_sae(write(path, cfg, tensors(**extra)), settings=settings)
    assert isinstance(sae, SAE)
    return sae


class TestActivation:
    @pytest.mark.parametrize(("name", "kind"), [("topk", TopK), ("abstopk", AbsTopK)])
    def test_a_config_that_lost_its_architecture_may_be_told_it(
        self, tmp_path: Path, name: str, kind: type
    ) -> None:
        sae = given(tmp_path, config(architecture=...), {"activation": name, "k": "3"})
        assert type(sae.activation) is kind
        facts = sae.cfg.facts
        assert (sae.cfg.architecture, sae.cfg.k) == (name, 3)
        assert (facts["architecture"].how, facts["k"].how) == ("user", "user")

    def test_the_user_overrules_a_contradiction(self, tmp_path: Path) -> None:
        sae = given(tmp_path, config(k=4), {"activation": "relu"})
        assert sae.cfg.architecture == "standard"

    def test_k_alone_overrules_that_of_a_topk(self, tmp_path: Path) -> None:
        sae = given(tmp_path, config("topk", k=4), {"k": "2"})
        assert int((sae.encode(X) != 0).sum(-1).max()) <= 2
        assert sae.cfg.facts["k"].source == "--set k=2"

    def test_a_transcoder_takes_none(self, tmp_path: Path) -> None:
        cfg = config("transcoder", d_out=D_IN, apply_b_dec_to_input=False)
        with pytest.raises(ConfigError, match="has no use for it"):
            given(tmp_path, cfg, {"activation": "topk"})

    def test_b_dec_may_be_kept_where_the_config_subtracts_it(self, tmp_path: Path) -> None:
        kept = given(tmp_path / "a", config(), {"subtract_b_dec": "false"})
        file = given(tmp_path / "b", config(apply_b_dec_to_input=False), {})
        assert torch.equal(kept(X), file(X))
        assert kept.cfg.facts["subtract_b_dec"].how == "user"

    def test_abstopk_keeps_signs(self, tmp_path: Path) -> None:
        codes = given(tmp_path, config("abstopk", k=3), {}).encode(X)
        assert bool((codes < 0).any())
        assert bool(((codes != 0).sum(-1) == 3).all())


class TestTanhRelu:
    def test_it_is_tanh_of_relu_as_before_version_6_and_noted(self, tmp_path: Path) -> None:
        cfg = config(metadata=..., activation_fn_str="tanh-relu")
        sae = given(tmp_path / "a", cfg, {})
        plain = given(tmp_path / "b", config(), {})
        assert isinstance(sae.activation, TanhReLU)
        assert torch.allclose(sae.encode(X), plain.encode(X).tanh())
        assert sae.cfg.facts["activation"].source == "cfg.json: activation_fn_str"
        assert "later versions load it as plain ReLU" in "; ".join(sae.cfg.notes)

    def test_the_user_may_ask_for_what_version_6_computes(self, tmp_path: Path) -> None:
        cfg = config(metadata=..., activation_fn_str="tanh-relu")
        sae = given(tmp_path / "a", cfg, {"activation": "relu"})
        assert torch.equal(sae(X), given(tmp_path / "b", config(), {})(X))

    def test_another_architecture_has_none(self, tmp_path: Path) -> None:
        cfg = config("jumprelu", activation_fn_str="tanh-relu")
        with pytest.raises(CheckpointError, match="activation_fn_str is 'tanh-relu'"):
            given(tmp_path, cfg, {}, threshold=torch.ones(D_SAE))


class TestThreshold:
    def test_logarithms_are_refused_with_the_way_to_take_them(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="Pass --set threshold=log if these are logar"):
            given(tmp_path, config("jumprelu"), {}, threshold=LOGS)

    def test_they_may_be_said_to_be_logarithms(self, tmp_path: Path) -> None:
        sae = given(tmp_path, config("jumprelu"), {"threshold": "log"}, threshold=LOGS)
        assert torch.allclose(sae.activation.threshold, LOGS.exp())
        assert sae.cfg.facts["threshold"].how == "user"

    def test_they_may_be_taken_as_they_are_as_saelens_does(self, tmp_path: Path) -> None:
        sae = given(tmp_path / "a", config("jumprelu"), {"threshold": "stored"}, threshold=LOGS)
        assert torch.equal(sae(X), given(tmp_path / "b", config(), {})(X))

    def test_one_number_may_stand_for_all(self, tmp_path: Path) -> None:
        sae = given(tmp_path, config("jumprelu"), {"threshold": "0.5"}, threshold=LOGS)
        assert isinstance(sae.activation, JumpReLU)
        assert float(sae.activation.threshold) == 0.5
        assert not any("not used" in note for note in sae.cfg.notes)

    def test_a_batchtopk_whose_threshold_never_moved_may_take_one_from_data(
        self, tmp_path: Path
    ) -> None:
        cfg = config("batchtopk", k=2, rescale_acts_by_decoder_norm=True)
        zero = torch.zeros((), dtype=torch.float64)
        sae = given(tmp_path, cfg, {"threshold": "estimate"}, topk_threshold=zero)
        assert isinstance(sae.activation, BatchTopK)
        assert not any("running threshold" in note for note in sae.cfg.notes)
        assert sae.pending == ("threshold",)
        sae.calibrate(X)
        assert int((sae.encode(X) != 0).sum()) == 2 * X.shape[0]

    def test_a_batchtopk_without_any_threshold_takes_one_from_data(self, tmp_path: Path) -> None:
        settings = {"activation": "batchtopk", "k": "2"}
        sae = given(tmp_path / "a", config(), settings)
        assert sae.pending == ("threshold",)
        assert sae.cfg.facts["threshold"].how == "assumed"
        stored = given(tmp_path / "b", config(), settings, threshold=LOGS.exp())
        assert torch.equal(stored.activation.threshold, LOGS.exp())

    def test_an_estimate_needs_a_k(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match="Pass --set k="):
            given(tmp_path, config("jumprelu"), {"threshold": "estimate"}, threshold=LOGS)


class TestContext:
    def test_how_activations_were_sampled_is_a_fact(self, tmp_path: Path) -> None:
        known = METADATA | {
            "context_size": 128,
            "prepend_bos": False,
            "exclude_special_tokens": [0, 1],
            "seqpos_slice": [1, None],
        }
        facts = given(tmp_path, config(metadata=known), {}).cfg.facts
        assert facts["context_size"].source == "cfg.json: metadata.context_size"
        assert facts["prepend_bos"].value is False
        assert facts["exclude_special_tokens"].value == [0, 1]
        assert facts["seqpos_slice"].value == [1, None]

    def test_heads_side_by_side_are_a_fact(self, tmp_path: Path) -> None:
        known = METADATA | {"hook_name": "blocks.1.attn.hook_z"}
        cfg = config(metadata=known, reshape_activations="hook_z")
        sae = given(tmp_path, cfg, {})
        assert sae.cfg.facts["reshape"].source == "cfg.json: reshape_activations"
        assert sae(X).shape == X.shape

    def test_before_version_6_the_name_of_the_hook_said_so(self, tmp_path: Path) -> None:
        cfg = config(metadata=..., hook_point="blocks.1.attn.hook_z")
        fact = given(tmp_path, cfg, {}).cfg.facts["reshape"]
        assert (fact.value, fact.how) == ("hook_z", "assumed")

    def test_a_finetuned_decoder_is_noted(self, tmp_path: Path) -> None:
        cfg = config(metadata=..., finetuning_scaling_factor=True)
        sae = given(tmp_path, cfg, {}, finetuning_scaling_factor=torch.full((D_SAE,), 2.0))
        assert "later versions drop the factor" in "; ".join(sae.cfg.notes)
