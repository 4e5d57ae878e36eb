"""Single ``.pt`` files with d_in, d_sae and an activation in a config: what is assumed about them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from saebench.adapters.single_file import nanochat_sae
from saebench.errors import CheckpointError, ConfigError
from saebench.files import CheckpointFiles
from saebench.loading import load_sae, open_checkpoint

GOLDEN = Path(__file__).parents[1] / "oracles" / "golden" / "nanochat_sae"
BEHAVIOUR = "gemma4_e2b_gf1_behaviorSAE_topk_k16_L25_bnb4bit"


def load(folder: Path, **settings: str) -> Any:
    return load_sae(folder, allow_pickle=True, settings=settings)


def edited(case: str, folder: Path, **changes: Any) -> Path:
    """A stored case with keys of its cfg.json replaced, or taken out by ``...``."""
    shutil.copytree(GOLDEN / case, folder, dirs_exist_ok=True)
    config = json.loads((folder / "cfg.json").read_text()) | changes
    text = json.dumps({k: v for k, v in config.items() if v is not ...})
    (folder / "cfg.json").write_text(text)
    return folder


@pytest.fixture
def behaviour(tmp_path: Path) -> Path:
    """The published behaviour SAE at its width, with few latents: its file names and config keys."""
    folder, d_in, d_sae = tmp_path / "Solshine" / BEHAVIOUR, 1536, 48
    folder.mkdir(parents=True)
    weights = {
        "W_enc": torch.randn(d_in, d_sae),
        "W_dec": torch.randn(d_sae, d_in),
        "b_enc": torch.zeros(d_sae),
        "b_dec": torch.zeros(d_in),
    }
    torch.save(weights, folder / f"{BEHAVIOUR}.pt")
    config = {
        "d_in": d_in,
        "d_sae": d_sae,
        "k": 16,
        "activation": "topk",
        "normalize_decoder": True,
    }
    (folder / "cfg.json").write_text(json.dumps(config))
    return folder


def test_the_behaviour_sae_loads_by_its_file_names(behaviour: Path) -> None:
    checkpoint = open_checkpoint(behaviour, allow_pickle=True)
    cfg = checkpoint.sae.cfg
    assert checkpoint.claim.format == "nanochat_sae"
    assert (cfg.architecture, cfg.d_in, cfg.d_sae, cfg.k) == ("topk", 1536, 48, 16)
    counts = checkpoint.sae.codes(torch.randn(4, 1536)).counts()
    assert counts.tolist() == [16] * 4  # negative values stay, so that all k count


def test_what_nobody_confirmed_is_assumed_with_the_option_that_changes_it(behaviour: Path) -> None:
    cfg = load(behaviour).cfg
    for name in ("relu", "subtract_b_dec"):
        assert (cfg.facts[name].value, cfg.facts[name].how) == (False, "assumed")
        assert any(f"--set {name}=true" in note for note in cfg.notes)
    given = load(behaviour, relu="true", subtract_b_dec="true").cfg
    assert {given.facts[name].how for name in ("relu", "subtract_b_dec")} == {"user"}
    assert not any("--set relu" in note for note in given.notes)


def test_batch_top_k_is_used_per_token_unless_the_user_wants_a_threshold() -> None:
    cfg = load(GOLDEN / "scope-batchtopk").cfg
    assert (cfg.architecture, cfg.facts["architecture"].how) == ("batchtopk", "file")
    assert (cfg.facts["selection"].value, cfg.facts["selection"].how) == ("per token", "assumed")
    assert any("--set activation=batchtopk" in note for note in cfg.notes)
    estimated = load(GOLDEN / "scope-batchtopk", activation="batchtopk")
    assert estimated.pending == ("threshold",)


def test_the_layer_of_the_config_is_assumed_to_be_the_residual_stream_after_it() -> None:
    cfg = load(GOLDEN / "scope-batchtopk").cfg
    assert (cfg.site, cfg.facts["site"].how) == ("blocks.17.hook_resid_post", "assumed")
    assert load(GOLDEN / "run-relu").cfg.site is None


def test_a_config_that_says_more_is_believed(tmp_path: Path) -> None:
    more = {"apply_b_dec_to_input": True, "hook_name": "blocks.3.hook_resid_pre"}
    cfg = load(edited("scope-batchtopk", tmp_path, **more)).cfg
    assert (cfg.facts["subtract_b_dec"].value, cfg.facts["subtract_b_dec"].how) == (True, "file")
    assert (cfg.site, cfg.facts["site"].how) == ("blocks.3.hook_resid_pre", "file")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("activation", "topk"),
        ("architecture", "TopKSAE"),
        ("sae_type", "batch_topk"),
        ("activation_fn", "BatchTopK"),
        ("activation", {"name": "topk", "k": 4}),
    ],
)
def test_several_spellings_of_the_activation_are_known(
    tmp_path: Path, key: str, value: object
) -> None:
    changes = {"activation": ..., key: value}
    assert load(edited("behaviour-parameters", tmp_path, **changes)).cfg.k == 4


@pytest.mark.parametrize("key", ["top_k", "topk", "k_sparse"])
def test_several_spellings_of_k_are_known(tmp_path: Path, key: str) -> None:
    cfg = load(edited("behaviour-parameters", tmp_path, **{"k": ..., key: 3})).cfg
    assert (cfg.k, cfg.facts["k"].source) == (3, f"cfg.json: {key}")


def test_a_config_inside_the_file_of_a_run_is_read() -> None:
    cfg = load(GOLDEN / "run-checkpoint").cfg
    assert cfg.facts["k"].source == "checkpoint_step500.pt: config: k"
    assert any("lay under 'sae_state_dict'" in note for note in cfg.notes)


@pytest.mark.parametrize("end", ["", ".weight"])
def test_which_way_round_square_matrices_are_is_asked(tmp_path: Path, end: str) -> None:
    W_enc, W_dec = torch.randn(8, 8), torch.randn(8, 8)
    config = {"d_in": 8, "d_sae": 8, "activation": "relu"}
    (tmp_path / "cfg.json").write_text(json.dumps(config))
    biases = {"b_enc": torch.randn(8), "b_dec": torch.randn(8)}
    torch.save({f"W_enc{end}": W_enc, f"W_dec{end}": W_dec} | biases, tmp_path / "sae.pt")
    ways = ["d_in,d_sae", "d_sae,d_in"]
    first, second = ways if not end else reversed(ways)
    asked = f"--set orientation={first} --set decoder_orientation={second}"
    with pytest.raises(CheckpointError, match=f"square, .8, 8.*Give {asked} if"):
        load(tmp_path)
    with pytest.raises(CheckpointError, match=f"Give --set decoder_orientation={second} if"):
        load(tmp_path, orientation="d_in,d_sae")
    plain = load(tmp_path, orientation="d_in,d_sae", decoder_orientation="d_sae,d_in")
    assert torch.equal(plain.W_enc, W_enc)
    assert torch.equal(plain.W_dec, W_dec)
    both = {"orientation": "d_sae,d_in", "decoder_orientation": "d_in,d_sae"}
    turned = load(tmp_path, **both)
    assert torch.equal(turned.W_enc, W_enc.T)
    assert torch.equal(turned.W_dec, W_dec.T)
    assert turned.cfg.facts["orientation"].how == "user"


class TestContradictions:
    def test_a_width_other_than_that_of_the_tensors(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"d_in 9 \(cfg\.json: d_in\): encoder 'W_enc'"):
            load(edited("behaviour-parameters", tmp_path, d_in=9))

    def test_a_gate_of_another_shape(self, tmp_path: Path) -> None:
        shutil.copytree(GOLDEN / "run-gated", tmp_path, dirs_exist_ok=True)
        stored = torch.load(tmp_path / "best_model.pt", weights_only=True)
        for name, wrong, expected in (
            ("W_gate", stored["W_gate"].T.contiguous(), r"tensor 'W_gate' of best_model\.pt"),
            ("b_gate", torch.ones(7), r"d_sae 7 \(best_model\.pt: length of 'b_gate'\)"),
        ):
            torch.save(stored | {name: wrong}, tmp_path / "best_model.pt")
            with pytest.raises(CheckpointError, match=expected):
                load(tmp_path)

    def test_no_k(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"cfg\.json: activation is topk.*--set k=K"):
            load(edited("behaviour-parameters", tmp_path, k=...))

    def test_more_latents_than_there_are(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"k of at most d_sae = 20: 21"):
            load(edited("behaviour-parameters", tmp_path, k=21))

    def test_a_setting_without_use(self) -> None:
        with pytest.raises(ConfigError, match="no use for it"):
            load(GOLDEN / "run-relu", relu="true")

    def test_several_files_of_one_run_are_listed(self, tmp_path: Path) -> None:
        edited("behaviour-parameters", tmp_path)
        shutil.copy(tmp_path / f"{BEHAVIOUR}.pt", tmp_path / "best_model.pt")
        names = ("cfg.json", f"{BEHAVIOUR}.pt", "best_model.pt")
        with pytest.raises(CheckpointError, match=r"best_model\.pt.*Reference one"):
            nanochat_sae.sniff(CheckpointFiles(tmp_path, names, allow_pickle=True))


class TestDetection:
    def claims(self, folder: Path) -> bool:
        names = tuple(path.name for path in folder.iterdir())
        return nanochat_sae.sniff(CheckpointFiles(folder, names, allow_pickle=True)) is not None

    @pytest.mark.parametrize("key", ["d_in", "d_sae", "activation"])
    def test_needs_both_widths_and_an_activation(self, tmp_path: Path, key: str) -> None:
        assert not self.claims(edited("behaviour-parameters", tmp_path, **{key: ...}))

    def test_does_not_claim_an_activation_the_format_lacks(self, tmp_path: Path) -> None:
        assert not self.claims(edited("behaviour-parameters", tmp_path, activation="jumprelu"))

    def test_does_not_claim_safetensors(self) -> None:
        saelens = GOLDEN.parent / "saelens"
        assert not any(self.claims(case) for case in saelens.iterdir() if case.name != "expected")

    def test_what_lies_beside_other_checkpoints_is_skipped(self, tmp_path: Path) -> None:
        (tmp_path / "trainer_state.pt").write_bytes(b"rubbish")
        assert not self.claims(tmp_path)
