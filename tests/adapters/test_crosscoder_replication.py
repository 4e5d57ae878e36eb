"""crosscoder-model-diff-replication: numbered and published files, and the scale that none holds."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from saebench.adapters.crosscoders import open_interp
from saebench.adapters.crosscoders import replication as crosscoder_replication
from saebench.errors import SaebenchError
from saebench.files import CheckpointFiles
from saebench.loading import load_sae, open_checkpoint
from saebench.sae import Crosscoder, Dictionary

GOLDEN = Path(__file__).parents[1] / "oracles" / "golden" / "crosscoder_replication"


def copied(case: str, root: Path) -> Path:
    shutil.copytree(GOLDEN / case, root, dirs_exist_ok=True)
    return root


def load(root: Path, **settings: str) -> Dictionary:
    return load_sae(root, allow_pickle=True, settings=settings)


def message(root: Path, **settings: str) -> str:
    with pytest.raises(SaebenchError) as error:
        load(root, **settings)
    return str(error.value)


def stored(path: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = torch.load(path, weights_only=True)
    return found


def test_facts_name_their_keys(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(copied("published", tmp_path), allow_pickle=True)
    assert checkpoint.claim.files == ("cfg.json", "cc_weights.pt")
    assert isinstance(checkpoint.sae, Crosscoder)
    cfg = checkpoint.sae.cfg
    found = {name: (fact.value, fact.source, fact.how) for name, fact in cfg.facts.items()}
    assert found["site"] == ("blocks.14.hook_resid_pre", "cfg.json: hook_point", "file")
    assert found["d_sae"] == (20, "cfg.json: dict_size", "file")
    assert found["model"] == ("gemma-2-2b", "cfg.json: model_name", "file")
    assert found["subtract_b_dec"] == (False, "definition of the format", "assumed")
    assert (cfg.n_sources, cfg.n_targets, cfg.models) == (2, 2, ())
    assert cfg.provenance["run"]["l1_coeff"] == 2
    notes = " ".join(cfg.notes)
    assert "BOS dropped" in notes
    assert "TransformerLens" in notes
    assert "names one of the two models only" in notes


def test_a_numbered_save_has_its_own_config_and_is_read_as_16_bits(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(copied("version_0", tmp_path), allow_pickle=True)
    assert checkpoint.claim.files == ("3_cfg.json", "3.pt")
    assert checkpoint.sae.cfg.dtype == "bfloat16"
    assert not any("enc_dtype" in note for note in checkpoint.sae.cfg.notes)


def test_another_dtype_than_that_of_training_is_reported(tmp_path: Path) -> None:
    root = copied("published", tmp_path)
    halves = {key: value.half() for key, value in stored(root / "cc_weights.pt").items()}
    torch.save(halves, root / "cc_weights.pt")
    notes = load(root).cfg.notes
    assert "trained in float32 (enc_dtype), stored in float16" in notes


def test_several_saves_in_one_folder_are_not_guessed_between(tmp_path: Path) -> None:
    root = copied("version_0", tmp_path)
    shutil.copy(root / "3.pt", root / "4.pt")
    shutil.copy(root / "3_cfg.json", root / "4_cfg.json")
    found = message(root)
    assert "2 of them" in found
    assert f"{root / '3.pt'}, {root / '4.pt'}" in found
    checkpoint = open_checkpoint(root / "4.pt", allow_pickle=True)
    assert checkpoint.claim.files == ("4_cfg.json", "4.pt")


def test_the_scales_are_estimated_on_data_and_marked_as_assumed(tmp_path: Path) -> None:
    root = copied("published", tmp_path)
    sae = load(root)
    assert sae.pending == ("input_scale",)
    x = load_file(GOLDEN / "expected" / "published.safetensors")["x"]
    with pytest.raises(SaebenchError, match="input_scale"):
        sae.encode(x)
    found = sae.calibrate(x.flatten(1))
    assert found["input_scale"] == pytest.approx(
        (8**0.5 / x.norm(dim=-1).mean(0)).tolist(), rel=1e-5
    )
    w = stored(root / "cc_weights.pt")
    h = x * torch.tensor(found["input_scale"])[:, None]
    pre = torch.einsum("bmd,mdf->bf", h, w["W_enc"]) + w["b_enc"]
    assert torch.allclose(sae.encode(x), pre.relu(), atol=1e-5)
    assert sae.cfg.facts["input_scale"].how == "assumed"
    assert any("--set input_scale=A,B" in note for note in sae.cfg.notes)


def test_scales_of_the_user_are_marked_as_such(tmp_path: Path) -> None:
    cfg = load(copied("published", tmp_path), input_scale="0.2,0.3").cfg
    fact = cfg.facts["input_scale"]
    assert (fact.value, fact.how) == ((0.2, 0.3), "user")
    assert cfg.facts["normalization"].how == "user"


@pytest.mark.parametrize("key", ["dict_size", "d_in"])
def test_a_config_of_other_weights_is_refused(tmp_path: Path, key: str) -> None:
    root = copied("published", tmp_path)
    config = json.loads((root / "cfg.json").read_text()) | {key: 64}
    (root / "cfg.json").write_text(json.dumps(config))
    assert f"cfg.json: {key} as in cc_weights.pt: shape of W_enc" in message(root)


def test_without_a_config_the_tensors_are_enough(tmp_path: Path) -> None:
    root = copied("published", tmp_path)
    (root / "cfg.json").unlink()
    cfg = load(root, site="blocks.14.hook_resid_pre").cfg
    assert (cfg.d_in, cfg.d_sae, cfg.site) == (8, 20, "blocks.14.hook_resid_pre")


def test_a_threshold_makes_it_another_format(tmp_path: Path) -> None:
    root = copied("published", tmp_path)
    more = stored(root / "cc_weights.pt") | {"threshold": torch.full((20,), 0.1)}
    torch.save(more, root / "cc_weights.pt")
    assert load(root).cfg.format == "OpenInterpretability crosscoder"


@pytest.mark.parametrize(
    "shapes",
    [
        {"W_enc": (3, 8, 20), "W_dec": (20, 3, 8)},
        {"W_enc": (2, 8, 20), "W_dec": (2, 20, 8)},
        {"W_enc": (8, 20), "W_dec": (20, 8)},
        {"w_enc": (2, 8, 20), "w_dec": (20, 2, 8)},
    ],
)
def test_other_shapes_and_names_are_not_claimed(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]]
) -> None:
    tensors = {name: torch.ones(shape) for name, shape in shapes.items()}
    biases = {"b_enc": torch.ones(20), "b_dec": torch.ones(2, 8)}
    save_file(tensors | biases, tmp_path / "a.safetensors")
    files = CheckpointFiles(tmp_path, ("a.safetensors",))
    assert crosscoder_replication.sniff(files) is None
    assert open_interp.sniff(files) is None


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    root = copied("published", tmp_path)
    w = stored(root / "cc_weights.pt")
    w["W_dec"][0, 0, 0] = torch.nan
    torch.save(w, root / "cc_weights.pt")
    assert "'W_dec' of cc_weights.pt with finite values: 1 of 320 are NaN" in message(root)
