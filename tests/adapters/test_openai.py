"""OpenAI's autoencoders: the activation beside the tensors decides everything else."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from saebench.adapters.single_file import openai
from saebench.errors import CheckpointError, ConfigError, UnknownFormatError, UnsafeFileError
from saebench.files import CheckpointFiles
from saebench.loading import load_sae

GOLDEN = Path(__file__).parents[1] / "oracles" / "golden" / "openai"


def edited(case: str, folder: Path, name: str = "8.pt", **changes: Any) -> Path:
    """A stored case with entries replaced, or taken out by ``...``."""
    content = torch.load(GOLDEN / case / "8.pt", weights_only=True) | changes
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({k: v for k, v in content.items() if v is not ...}, folder / name)
    return folder


def load(folder: Path, **settings: str) -> Any:
    return load_sae(folder, allow_pickle=True, settings=settings)


def test_topk_standardises_its_input_and_says_where_that_is_from() -> None:
    cfg = load(GOLDEN / "topk").cfg
    assert (cfg.architecture, cfg.k, cfg.normalization) == ("topk", 4, "layer_norm")
    assert cfg.facts["k"].source == "8.pt: activation_state_dict.k"
    assert cfg.facts["relu"].value is True
    assert cfg.facts["normalization"].how == "file"
    assert cfg.facts["subtract_b_dec"].how == "assumed"


def test_relu_does_not() -> None:
    cfg = load(GOLDEN / "relu").cfg
    assert (cfg.architecture, cfg.k, cfg.normalization) == ("relu", None, "none")
    assert cfg.facts["architecture"].how == "file"


def test_the_counters_of_training_are_left_out_without_a_note() -> None:
    assert not any("stats_last_nonzero" in note for note in load(GOLDEN / "topk").cfg.notes)


def test_an_unknown_tensor_is_noted(tmp_path: Path) -> None:
    folder = edited("topk", tmp_path, extra=torch.ones(3))
    assert any("not used: extra" in note for note in load(folder).cfg.notes)


@pytest.mark.parametrize(
    ("path", "site"),
    [
        ("v5_32k/autoencoders/resid_post_mlp/8.pt", "blocks.8.hook_resid_post"),
        ("resid_delta_attn/0.pt", "blocks.0.hook_attn_out"),
        ("gpt2-small/resid_post_attn_v5_32k/autoencoders/11.pt", "blocks.11.hook_resid_mid"),
        ("resid_delta_mlp_layer_3.pt", "blocks.3.hook_mlp_out"),
        ("elsewhere/8.pt", None),
    ],
)
def test_the_site_is_assumed_from_the_path(tmp_path: Path, path: str, site: str | None) -> None:
    folder, _, name = path.rpartition("/")
    cfg = load(edited("topk", tmp_path / folder, name)).cfg
    assert cfg.site == site
    assert site is None or cfg.facts["site"].how == "assumed"
    assert (site is None) == any("which hook point" in note for note in cfg.notes)
    assert cfg.model == ("gpt2" if "gpt2" in path else None)


def test_a_tied_decoder_is_the_encoder_transposed(tmp_path: Path) -> None:
    encoder = torch.load(GOLDEN / "relu" / "8.pt", weights_only=True)["encoder.weight"]
    tied = {"decoder.weight": ..., "decoder.linear.weight": encoder}
    sae = load(edited("relu", tmp_path, **tied))
    assert torch.equal(sae.W_dec, sae.W_enc.T)
    assert any("transposed" in note for note in sae.cfg.notes)


class TestWhatIsMissing:
    def test_k_of_a_topk_is_asked_for(self, tmp_path: Path) -> None:
        folder = edited("topk", tmp_path, activation_state_dict=...)
        with pytest.raises(CheckpointError, match=r"activation_state_dict\.k in 8\.pt.*--set k=32"):
            load(folder)
        assert load(folder, k="4").cfg.facts["k"].how == "user"

    def test_without_an_activation_a_k_means_topk(self, tmp_path: Path) -> None:
        assert load(edited("topk", tmp_path, activation=...)).cfg.architecture == "topk"

    def test_without_an_activation_and_a_k_relu_is_assumed(self, tmp_path: Path) -> None:
        folder = edited("relu", tmp_path, activation=...)
        assert load(folder).cfg.facts["architecture"].how == "assumed"
        assert load(folder, activation="topk", k="4").cfg.normalization == "layer_norm"

    def test_an_activation_nobody_knows_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(
            CheckpointError, match=r"8\.pt: activation \(one of TopK, ReLU\): 'Exp'"
        ):
            load(edited("topk", tmp_path, activation="Exp"))


class TestContradictions:
    def test_more_latents_than_there_are(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"between 1 and d_sae = 20: 21"):
            load(edited("topk", tmp_path, activation_state_dict={"k": 21}))

    def test_a_transposed_encoder(self, tmp_path: Path) -> None:
        turned = {"encoder.weight": torch.ones(8, 20)}
        with pytest.raises(CheckpointError, match=r"'encoder\.weight' of 8\.pt with shape"):
            load(edited("relu", tmp_path, **turned))

    def test_a_setting_without_use(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="a openai checkpoint has no use"):
            load(GOLDEN / "relu", k="4")

    def test_two_files_in_one_folder_are_listed(self, tmp_path: Path) -> None:
        edited("relu", tmp_path, "9.pt")
        files = CheckpointFiles(edited("relu", tmp_path), ("8.pt", "9.pt"), allow_pickle=True)
        with pytest.raises(CheckpointError, match=r"8\.pt, 9\.pt.*Reference one"):
            openai.sniff(files)


class TestDetection:
    def test_needs_both_biases_of_the_format(self, tmp_path: Path) -> None:
        folder = edited("relu", tmp_path, latent_bias=...)
        files = CheckpointFiles(folder, ("8.pt",), allow_pickle=True)
        assert openai.sniff(files) is None

    def test_the_evidence_names_what_was_seen(self) -> None:
        claim = openai.sniff(CheckpointFiles(GOLDEN / "topk", ("8.pt",), allow_pickle=True))
        assert claim is not None
        assert claim.evidence == ("8.pt: pre_bias, latent_bias", "encoder.weight [20, 8]")

    def test_without_the_flag_no_pickle_is_opened(self) -> None:
        assert openai.sniff(CheckpointFiles(GOLDEN / "topk", ("8.pt",))) is None
        with pytest.raises(UnsafeFileError, match="--allow-pickle"):
            load_sae(GOLDEN / "topk")

    def test_rubbish_beside_other_weights_is_not_claimed(self, tmp_path: Path) -> None:
        shutil.copy(GOLDEN / "topk" / "8.pt", tmp_path / "cut.pt")
        (tmp_path / "cut.pt").write_bytes((tmp_path / "cut.pt").read_bytes()[:200])
        assert openai.sniff(CheckpointFiles(tmp_path, ("cut.pt",), allow_pickle=True)) is None
        with pytest.raises(CheckpointError) as error:
            load(tmp_path)
        assert not isinstance(error.value, UnknownFormatError)
