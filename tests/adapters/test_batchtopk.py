"""BatchTopK and its forks: which formula, what from config or name, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from saebench.adapters.batchtopk import sae as batchtopk
from saebench.errors import CheckpointError
from saebench.files import CheckpointFiles
from saebench.loading import inspect, load_sae, open_checkpoint
from saebench.sae import Dictionary

GOLDEN = Path(__file__).parents[1] / "oracles" / "golden" / "batchtopk"
NAME = "gpt2-small_blocks.8.hook_resid_pre_20_topk_4_0.0003_42_faithful-gpt2-small_128_24413"


def copied(case: str, root: Path, **changes: Any) -> Path:
    """A golden checkpoint with changed config keys (``...`` removes one)."""
    shutil.copytree(GOLDEN / case, root, dirs_exist_ok=True)
    if changes:
        config = json.loads((root / "config.json").read_text()) | changes
        kept = {key: value for key, value in config.items() if value is not ...}
        (root / "config.json").write_text(json.dumps(kept))
    return root


def stored(root: Path) -> dict[str, Tensor]:
    found: dict[str, Tensor] = torch.load(root / "sae.pt", weights_only=True)
    return found


def load(root: Path, **settings: str) -> Dictionary:
    return load_sae(root, allow_pickle=True, settings=settings)


def message(root: Path, **settings: str) -> str:
    with pytest.raises(CheckpointError) as error:
        load(root, **settings)
    return str(error.value)


def expected(case: str) -> dict[str, Tensor]:
    return load_file(GOLDEN / "expected" / f"{case}.safetensors")


def test_facts_name_their_keys(tmp_path: Path) -> None:
    cfg = load(copied("topk_unit_norm", tmp_path)).cfg
    found = {name: (fact.value, fact.source, fact.how) for name, fact in cfg.facts.items()}
    assert found["architecture"] == ("topk", "config.json: sae_type", "file")
    assert found["k"] == (4, "config.json: top_k", "file")
    assert found["site"] == ("blocks.8.hook_resid_pre", "config.json: hook_point", "file")
    assert found["model"] == ("gpt2-small", "config.json: model_name", "file")
    assert found["normalization"] == ("layer_norm", "config.json: input_unit_norm", "file")
    assert found["subtract_b_dec"] == (True, "definition of sae_type topk", "assumed")
    assert found["adds_b_enc"] == (False, "definition of sae_type topk", "assumed")
    assert cfg.provenance["run"]["dataset_path"] == "seonglae/faithful-gpt2-small"
    assert cfg.provenance["run"]["seed"] == 42


def test_safetensors_with_the_same_keys_give_the_same_sae(tmp_path: Path) -> None:
    copied("topk", tmp_path)
    save_file(stored(tmp_path), tmp_path / "sae.safetensors")
    (tmp_path / "sae.pt").unlink()
    found = expected("topk")
    assert torch.allclose(load_sae(tmp_path)(found["x"]), found["output"], atol=1e-5)


def test_a_bias_that_the_class_does_not_add_is_reported_with_its_size(tmp_path: Path) -> None:
    root = copied("topk", tmp_path)
    largest = float(stored(root)["b_enc"].abs().max())
    notes = " ".join(load(root).cfg.notes)
    assert f"b_enc of sae.pt is not zero (largest value {largest:.4g})" in notes
    torch.save(stored(root) | {"b_enc": torch.zeros(20)}, root / "sae.pt")
    assert not any("b_enc" in note for note in load(root).cfg.notes)


def test_an_early_version_could_add_the_bias(tmp_path: Path) -> None:
    root = copied("topk", tmp_path, use_encoder_bias=True)
    sae = load(root)
    w, x = stored(root), expected("topk")["x"]
    pre = torch.relu((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"])
    assert torch.allclose(sae.encode(x).amax(-1), pre.amax(-1), atol=1e-5)
    assert sae.cfg.facts["adds_b_enc"].source == "config.json: use_encoder_bias"


@pytest.mark.parametrize("unit_norm", [False, True])
def test_a_threshold_estimated_on_a_batch_selects_what_the_batch_rule_selects(
    tmp_path: Path, unit_norm: bool
) -> None:
    case = "batchtopk_unit_norm" if unit_norm else "batchtopk"
    root = copied(case, tmp_path)
    sae, x, w = load(root), expected(case)["x"], stored(root)
    assert sae.pending == ("threshold",)
    with pytest.raises(CheckpointError, match="threshold"):
        sae.encode(x)
    sae.calibrate(x)
    inputs = x
    if unit_norm:
        inputs = (x - x.mean(-1, keepdim=True)) / (x.std(-1, keepdim=True) + 1e-5)
    acts = torch.relu((inputs - w["b_dec"]) @ w["W_enc"])
    best = acts.flatten().topk(4 * len(x))
    whole = torch.zeros(acts.numel()).scatter(0, best.indices, best.values).reshape(acts.shape)
    assert torch.equal(sae.encode(x) != 0, whole != 0)
    fact = sae.cfg.facts["threshold"]
    assert (fact.value, fact.how) == ("estimate", "assumed")
    assert any("estimated on data" in note for note in sae.cfg.notes)


def test_the_user_can_give_the_threshold_or_ask_for_an_estimate(tmp_path: Path) -> None:
    root = copied("batch-topk", tmp_path)
    sae = load(root, threshold="0.1")
    assert float(sae.activation.threshold) == pytest.approx(0.1)  # type: ignore[union-attr]
    assert sae.cfg.facts["threshold"].how == "user"
    assert "the threshold given overrules that of sae.pt" in sae.cfg.notes
    assert load(root, threshold="estimate").pending == ("threshold",)
    assert "not a finite number" in message(root, threshold="lots")
    assert "--set threshold=-1: a negative threshold" in message(root, threshold="-1")


@pytest.mark.parametrize(
    ("value", "why"), [(0.0, "0, the initial value"), (-1.0, "-1, the initial value")]
)
def test_a_threshold_that_was_never_estimated_is_refused(
    tmp_path: Path, value: float, why: str
) -> None:
    root = copied("matryoshka", tmp_path)
    torch.save(stored(root) | {"threshold": torch.tensor(value)}, root / "sae.pt")
    assert why in message(root)
    assert "sae.pt" in message(root)
    assert load(root, threshold="estimate").pending == ("threshold",)


def test_the_width_of_a_matryoshka_sae_is_that_of_its_groups(tmp_path: Path) -> None:
    sae = load(copied("matryoshka", tmp_path, dict_size=24576))
    assert sae.cfg.d_sae == 20
    assert sae.cfg.facts["d_sae"].source == "config.json: sum of group_sizes"
    assert "config.json: sum of group_sizes is 20, dict_size 24576" in sae.cfg.notes
    assert load(copied("matryoshka", tmp_path, group_sizes=[8, 12])).cfg.d_sae == 20


@pytest.mark.parametrize("groups", ["[5, -5]", "5, 5", [], [1.5, 2], "[[20]]", [True, 19]])
def test_groups_that_are_no_sizes_are_refused(tmp_path: Path, groups: object) -> None:
    found = message(copied("matryoshka", tmp_path, group_sizes=groups))
    assert "group_sizes in config.json (positive integers)" in found


def test_matryoshka_models_were_not_processed_and_others_were(tmp_path: Path) -> None:
    processed = load(copied("topk", tmp_path / "a")).cfg
    assert processed.facts["model_processing"].value == "TransformerLens default"
    assert any("centres the residual stream" in note for note in processed.notes)
    raw = load(copied("batch-topk", tmp_path / "b")).cfg
    assert raw.facts["model_processing"].value == "none"
    assert not any("centres the residual stream" in note for note in raw.notes)
    heads = load(copied("topk", tmp_path / "z", hook_point="blocks.8.attn.hook_z")).cfg
    assert any("smaller by a constant" in note for note in heads.notes)
    assert not any("smaller by a constant" in note for note in processed.notes)
    # centring changes nothing where each token is standardised anyway
    standardised = load(copied("topk_unit_norm", tmp_path / "c")).cfg
    assert not any("centres the residual stream" in note for note in standardised.notes)


def test_an_absent_input_unit_norm_is_false_as_the_class_takes_it(tmp_path: Path) -> None:
    fact = load(copied("topk", tmp_path, input_unit_norm=...)).cfg.facts["normalization"]
    assert (fact.value, fact.how) == ("none", "assumed")
    given = load(tmp_path, normalization="layer_norm").cfg.facts["normalization"]
    assert (given.value, given.how) == ("layer_norm", "user")


@pytest.mark.parametrize(("sae_type", "name"), [("nnet", "NNetSAE"), ("sym", "SymSAE")])
def test_classes_without_a_published_formula_are_refused_by_name(
    tmp_path: Path, sae_type: str, name: str
) -> None:
    found = message(copied("topk", tmp_path, sae_type=sae_type))
    assert name in found
    assert "config.json: sae_type" in found


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sae_type": "quantile"}, ("config.json: sae_type", "one of vanilla", "quantile")),
        ({"sae_type": "jumprelu"}, ("jumprelu", "sae.pt", "no such tensor")),
        ({"top_k": 21}, ("config.json: top_k", "d_sae = 20", "21")),
        ({"top_k": ...}, ("top_k in config.json", "no such key")),
        ({"act_size": 9}, ("'W_enc' of sae.pt", "d_in 9", "[8, 20]")),
        ({"dict_size": 64}, ("'W_enc' of sae.pt", "d_sae 64", "[8, 20]")),
        ({"tied_weights": True}, ("tied_weights of config.json",)),
        ({"activation": "quadratic"}, ("activation of config.json", "quadratic")),
        ({"input_unit_norm": "True"}, ("config.json: input_unit_norm", "true or false")),
    ],
)
def test_a_config_that_contradicts_the_tensors_is_refused(
    tmp_path: Path, changes: dict[str, Any], words: tuple[str, ...]
) -> None:
    found = message(copied("topk", tmp_path, **changes))
    for word in words:
        assert word in found


def test_thresholds_of_another_class_are_refused(tmp_path: Path) -> None:
    assert "'jumprelu.log_threshold', that of jumprelu" in message(
        copied("jumprelu", tmp_path, sae_type="topk")
    )


def test_thresholds_that_are_no_logarithms_are_refused(tmp_path: Path) -> None:
    root = copied("jumprelu", tmp_path)
    torch.save(stored(root) | {"jumprelu.log_threshold": torch.full((20,), 200.0)}, root / "sae.pt")
    assert "a largest value of 200, whose exponential is not finite" in message(root)


def test_transposed_weights_are_refused(tmp_path: Path) -> None:
    root = copied("topk", tmp_path)
    w = stored(root)
    torch.save(w | {"W_enc": w["W_enc"].T.contiguous()}, root / "sae.pt")
    assert "'W_enc' of sae.pt with shape [d_in 8, d_sae 20]: shape [20, 8]" in message(root)


def test_the_site_is_made_of_kind_and_layer_where_no_hook_point_is_given(tmp_path: Path) -> None:
    cfg = load(copied("topk", tmp_path, hook_point=..., site="mlp_out", layer=3)).cfg
    assert cfg.site == "blocks.3.hook_mlp_out"
    assert load(copied("topk", tmp_path, hook_point=..., site="pattern")).cfg.site is None


def test_a_config_counts_over_the_name_of_its_folder(tmp_path: Path) -> None:
    root = copied("topk", tmp_path / NAME.replace("topk_4", "topk_16"), seed=43)
    cfg = load(root).cfg
    assert cfg.k == 4
    notes = " ".join(cfg.notes)
    assert "the folder's name says top_k 16, config.json 4, which counts" in notes
    assert "the folder's name says seed 42, config.json 43, which counts" in notes
    assert "dataset" not in notes  # named by its last part, which agrees
    assert cfg.provenance["run"]["step"] == 24413


def test_without_a_config_the_name_says_what_it_would_and_is_assumed(tmp_path: Path) -> None:
    root = copied(NAME, tmp_path / NAME)
    checkpoint = open_checkpoint(root, allow_pickle=True, settings={"normalization": "none"})
    assert checkpoint.claim.configs == ()
    cfg = checkpoint.sae.cfg
    assert (cfg.d_in, cfg.d_sae, cfg.k) == (8, 20, 4)
    for name in ("architecture", "k", "d_sae", "site", "model"):
        fact = cfg.facts[name]
        assert fact.how == "assumed"
        assert fact.source.startswith("the folder's name")
    assert cfg.provenance["run"] == {
        "lr": 0.0003,
        "seed": 42,
        "dataset_path": "faithful-gpt2-small",
        "seq_len": 128,
        "step": 24413,
    }
    assert any("no config.json" in note for note in cfg.notes)


def test_the_name_of_a_file_is_not_taken_for_that_of_its_folder(tmp_path: Path) -> None:
    root = copied(NAME, tmp_path / NAME)
    assert load(root / "sae.pt", normalization="none").cfg.k == 4


def test_standardising_is_asked_for_where_only_the_name_is_known(tmp_path: Path) -> None:
    root = copied(NAME, tmp_path / NAME)
    assert "--set normalization=layer_norm" in message(root)
    assert load(root, normalization="layer_norm").cfg.normalization == "layer_norm"


def claims(root: Path) -> bool:
    names = tuple(sorted(path.name for path in root.iterdir()))
    files = CheckpointFiles(root, names, allow_pickle=True, hint=f"runs/{root.name}")
    return batchtopk.sniff(files) is not None


def test_a_name_alone_is_no_evidence(tmp_path: Path) -> None:
    assert claims(copied(NAME, tmp_path / NAME))
    assert not claims(copied(NAME, tmp_path / NAME.replace("_20_", "_40_")))
    assert not claims(copied(NAME, tmp_path / "trainer_0"))
    other = copied(NAME, tmp_path / "b" / NAME)
    save_file({"encoder.weight": torch.zeros(20, 8)}, other / "sae.safetensors")
    (other / "sae.pt").unlink()
    assert not claims(other)


@pytest.mark.parametrize(
    "shapes",
    [
        {"W_enc": (20, 8)},
        {"W_dec": (8, 20)},
        {"b_enc": (8,)},
        {"W_enc": (2, 8, 20), "W_dec": (20, 2, 8)},
    ],
)
def test_tensors_of_other_shapes_do_not_fit_a_name(
    tmp_path: Path, shapes: dict[str, tuple[int, ...]]
) -> None:
    root = copied(NAME, tmp_path / NAME)
    torch.save(stored(root) | {key: torch.ones(n) for key, n in shapes.items()}, root / "sae.pt")
    assert not claims(root)


@pytest.mark.parametrize("key", ["sae_type", "act_size", "dict_size"])
def test_a_config_without_the_keys_of_the_family_is_not_claimed(tmp_path: Path, key: str) -> None:
    assert claims(copied("topk", tmp_path / NAME))
    assert not claims(copied("topk", tmp_path / NAME, **{key: ...}))


def test_inspect_prints_the_evidence(tmp_path: Path) -> None:
    evidence = inspect(copied("topk", tmp_path), allow_pickle=True).evidence
    assert evidence[0] == "config.json: sae_type 'topk' with act_size and dict_size"
