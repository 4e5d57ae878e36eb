"""dictionary_learning: which class, which k, which site; and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from saebench.activations import JumpReLU
from saebench.adapters import Choices
from saebench.adapters.dictionary_learning import crosscoders as dictionary_crosscoders
from saebench.adapters.dictionary_learning import hub as dictionary_hub
from saebench.adapters.dictionary_learning import run as dictionary_learning
from saebench.adapters.dictionary_learning.classes import KINDS
from saebench.errors import CheckpointError, UnknownFormatError, UnsafeFileError
from saebench.files import CheckpointFiles
from saebench.loading import load_sae

GOLDEN = Path(__file__).parents[1] / "oracles" / "golden" / "dictionary_learning"
CLASSES = sorted(KINDS)


def converted(name: str, root: Path, weights: str = "ae.safetensors") -> Path:
    """The golden checkpoint of a class with its weights in safetensors."""
    root.mkdir(exist_ok=True)
    shutil.copy(GOLDEN / name / "config.json", root)
    save_file(stored(name), root / weights)
    return root


def stored(name: str) -> dict[str, Tensor]:
    found = torch.load(GOLDEN / name / "ae.pt", weights_only=True)
    return {key: value.contiguous() for key, value in found.items()}


def edit(root: Path, **trainer: object) -> Path:
    config = json.loads((root / "config.json").read_text())
    config["trainer"] |= trainer
    config["trainer"] = {k: v for k, v in config["trainer"].items() if v is not ...}
    (root / "config.json").write_text(json.dumps(config))
    return root


def replace(root: Path, **tensors: Tensor) -> Path:
    file = root / "ae.safetensors"
    save_file(load_file(file) | tensors, file)
    return root


def message(root: Path, **settings: str) -> str:
    with pytest.raises(CheckpointError) as error:
        load_sae(root, settings=settings)
    return str(error.value)


def backup(root: Path, name: str = "AutoEncoder", **beside: object) -> Path:
    shutil.copy(GOLDEN / name / "config.json", root)
    torch.save({"ae": stored(name), **beside}, root / "ae.pt")
    return root


def test_a_pickle_is_refused_by_default_with_the_flag_that_reads_it() -> None:
    with pytest.raises(UnsafeFileError, match=r"ae\.pt: a pickle.*--allow-pickle"):
        load_sae(GOLDEN / "AutoEncoder")


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("weights", ["ae.safetensors", "model.safetensors", "other.safetensors"])
def test_safetensors_with_the_same_keys_give_the_same_sae(
    tmp_path: Path, name: str, weights: str
) -> None:
    expected = load_sae(GOLDEN / name, allow_pickle=True)
    found = load_sae(converted(name, tmp_path, weights))
    x = load_file(GOLDEN / "expected" / f"{name}.safetensors")["x"]
    assert torch.equal(found(x), expected(x))
    assert found.cfg.architecture == expected.cfg.architecture


def test_facts_name_their_keys(tmp_path: Path) -> None:
    cfg = load_sae(converted("BatchTopKSAE", tmp_path)).cfg
    sources = {name: (fact.value, fact.source, fact.how) for name, fact in cfg.facts.items()}
    assert sources["architecture"] == ("batchtopk", "config.json: trainer.dict_class", "file")
    assert sources["k"] == (4, "config.json: trainer.k", "file")
    assert sources["model"] == ("tiny", "config.json: trainer.lm_name", "file")
    assert sources["d_sae"] == (20, "config.json: trainer.dict_size", "file")
    assert sources["site"][0] == "blocks.1.hook_resid_post"
    assert sources["site"][2] == "assumed"
    assert cfg.provenance["trainer"]["trainer_class"] == "BatchTopKTrainer"


def test_sizes_and_k_come_from_the_tensors_where_the_config_has_none(tmp_path: Path) -> None:
    root = edit(converted("AutoEncoderTopK", tmp_path), k=..., activation_dim=..., dict_size=...)
    cfg = load_sae(root).cfg
    assert (cfg.d_in, cfg.d_sae, cfg.k) == (8, 20, 4)
    assert cfg.facts["k"].source == "ae.safetensors: k"
    assert cfg.facts["d_in"].source == "ae.safetensors: shape of encoder.weight"


@pytest.mark.parametrize(
    ("trainer", "io", "site"),
    [
        ({"layer": 3, "submodule_name": None}, "out", "blocks.3.hook_resid_post"),
        ({"layer": [3], "submodule_name": ["resid"]}, "out", "blocks.3.hook_resid_post"),
        ({"layer": 3, "submodule_name": "mlp_out_layer_3"}, "out", "blocks.3.mlp.hook_out"),
        ({"layer": 3, "submodule_name": "mlp"}, "in", "blocks.3.mlp.hook_in"),
        ({"layer": 3, "submodule_name": "attn_layer_3"}, "out", "blocks.3.attn.hook_out"),
        ({"layer": 3, "submodule_name": "resid_pre_layer_3"}, "out", "blocks.3.hook_resid_pre"),
        ({"layer": 3, "submodule_name": "model.layers.4.mlp"}, "out", "blocks.4.mlp.hook_out"),
        ({"layer": 3}, "in", "blocks.3.hook_resid_pre"),
        ({"layer": None}, "out", None),
        ({"layer": [3, 4]}, "out", None),
        ({"layer": 3, "submodule_name": "attn"}, "in_and_out", None),
    ],
)
def test_the_site_is_the_output_of_the_layer_unless_the_config_says_otherwise(
    tmp_path: Path, trainer: dict[str, Any], io: str, site: str | None
) -> None:
    root = with_io(edit(converted("AutoEncoder", tmp_path), **trainer), io)
    cfg = load_sae(root).cfg
    assert cfg.site == site
    assert (site is None) == any("which hook point" in note for note in cfg.notes)


def with_io(root: Path, io: str) -> Path:
    config = json.loads((root / "config.json").read_text())
    config["buffer"]["io"] = io
    (root / "config.json").write_text(json.dumps(config))
    return root


def test_a_run_on_inputs_and_outputs_of_a_module_is_a_transcoder(tmp_path: Path) -> None:
    root = edit(converted("AutoEncoderTopK", tmp_path), layer=2, submodule_name="mlp")
    cfg = load_sae(with_io(root, "in_and_out")).cfg
    assert (cfg.site, cfg.site_out) == ("blocks.2.mlp.hook_in", "blocks.2.mlp.hook_out")
    assert cfg.is_transcoder
    assert any("a transcoder" in note for note in cfg.notes)


class TestUnfinishedRuns:
    def test_a_backup_takes_raw_activations_once_its_factor_is_in_the_biases(
        self, tmp_path: Path
    ) -> None:
        sae = load_sae(backup(tmp_path, step=40, norm_factor=2.5), allow_pickle=True)
        assert torch.equal(sae.b_dec, stored("AutoEncoder")["bias"] * 2.5)
        assert sae.cfg.facts["norm_factor"].value == 2.5
        assert sae.cfg.facts["step"].value == 40
        assert sae.cfg.facts["normalization"].how == "file"
        assert "backup of an unfinished run" in sae.cfg.notes[0]
        assert "activations / 2.5, were multiplied" in sae.cfg.notes[0]
        assert sae.cfg.provenance["run"] == {"step": 40, "norm_factor": 2.5}

    def test_a_backup_without_a_factor_is_taken_as_it_is(self, tmp_path: Path) -> None:
        sae = load_sae(backup(tmp_path, step=40), allow_pickle=True)
        assert torch.equal(sae.b_dec, stored("AutoEncoder")["bias"])
        assert "multiplied" not in sae.cfg.notes[0]

    def test_weights_under_a_key_of_their_own_are_not_a_backup(self, tmp_path: Path) -> None:
        sae = load_sae(backup(tmp_path), allow_pickle=True)
        assert sae.cfg.notes == ("tensors of ae.pt lie under 'ae'",)

    def test_a_factor_that_is_no_scale_is_refused(self, tmp_path: Path) -> None:
        root = backup(tmp_path, step=40, norm_factor=0.0)
        with pytest.raises(
            CheckpointError, match=r"norm_factor of ae\.pt \(a positive number\): 0\.0"
        ):
            load_sae(root, allow_pickle=True)

    def test_the_threshold_given_is_in_units_of_raw_activations(self, tmp_path: Path) -> None:
        root = backup(tmp_path, "BatchTopKSAE", step=40, norm_factor=2.5)
        stored_one = load_sae(root, allow_pickle=True)
        given = load_sae(root, allow_pickle=True, settings={"threshold": "0.9"})
        assert isinstance(stored_one.activation, JumpReLU)
        assert float(stored_one.activation.threshold) == pytest.approx(0.3 * 2.5)
        assert float(given.activation.threshold) == pytest.approx(0.9)

    def test_a_step_of_a_run_is_named_and_needs_no_scaling(self, tmp_path: Path) -> None:
        (tmp_path / "checkpoints").mkdir()
        shutil.copy(GOLDEN / "AutoEncoder" / "config.json", tmp_path)
        torch.save(stored("AutoEncoder"), tmp_path / "checkpoints" / "ae_100.pt")
        files = CheckpointFiles(tmp_path, ("config.json", "checkpoints/ae_100.pt"), True)
        claim = dictionary_learning.sniff(files)
        assert claim is not None
        assert claim.weight == "checkpoints/ae_100.pt"
        sae = dictionary_learning.read(files, claim, Choices())
        assert torch.equal(sae.b_dec, stored("AutoEncoder")["bias"])
        assert sae.cfg.facts["step"].value == 100
        assert "saved at step 100 of 10,000" in sae.cfg.notes[0]


class TestChoices:
    def test_whether_a_jumprelu_subtracts_b_dec_is_the_users_to_say(self, tmp_path: Path) -> None:
        root = converted("JumpReluAutoEncoder", tmp_path)
        assumed = load_sae(root)
        given = load_sae(root, settings={"subtract_b_dec": "true"})
        assert assumed.b_in is None
        assert assumed.cfg.facts["subtract_b_dec"].how == "assumed"
        assert given.b_in is not None
        assert given.cfg.facts["subtract_b_dec"].how == "user"

    @pytest.mark.parametrize("name", ["BatchTopKSAE", "MatryoshkaBatchTopKSAE"])
    def test_a_threshold_never_estimated_can_be_given_or_estimated(
        self, tmp_path: Path, name: str
    ) -> None:
        root = replace(converted(name, tmp_path), threshold=torch.tensor(-1.0))
        assert "--set threshold=estimate" in message(root)
        given = load_sae(root, settings={"threshold": "0.5"})
        assert given.pending == ()
        assert given.cfg.facts["threshold"].how == "user"
        sae = load_sae(root, settings={"threshold": "estimate", "k": "3"})
        assert sae.pending == ("threshold",)
        x = load_file(GOLDEN / "expected" / f"{name}.safetensors")["x"]
        sae.calibrate(x)
        assert int((sae.encode(x) != 0).sum()) == 3 * len(x)

    def test_a_class_without_a_threshold_takes_none(self, tmp_path: Path) -> None:
        with pytest.raises(Exception, match=r"threshold=1.*has no use for it"):
            load_sae(converted("AutoEncoderTopK", tmp_path), settings={"threshold": "1"})

    def test_k_annealed_in_training_is_the_one_stored(self, tmp_path: Path) -> None:
        root = edit(converted("AutoEncoderTopK", tmp_path), k=12, k_anneal_steps=1000)
        cfg = load_sae(root).cfg
        assert (cfg.k, cfg.facts["k"].source) == (4, "ae.safetensors: k")
        assert "config.json: trainer.k is 12; training changed it to 4" in cfg.notes

    def test_group_sizes_are_kept(self, tmp_path: Path) -> None:
        facts = load_sae(converted("MatryoshkaBatchTopKSAE", tmp_path)).cfg.facts
        assert facts["group_sizes"].value == (5, 15)
        assert facts["group_sizes"].source == "ae.safetensors: group_sizes"

    @pytest.mark.parametrize("name", ["GatedAutoEncoder", "JumpReluAutoEncoder"])
    def test_classes_that_a_fork_redefined_say_whose_codes_these_are(
        self, tmp_path: Path, name: str
    ) -> None:
        cfg = load_sae(converted(name, tmp_path)).cfg
        assert f"codes of {name} are as in dictionary_learning" in str(cfg.notes)


class TestClaims:
    def files(self, root: Path) -> CheckpointFiles:
        return CheckpointFiles(root, tuple(sorted(path.name for path in root.iterdir())), True)

    def test_a_run_is_claimed_by_one_adapter_of_the_family(self, tmp_path: Path) -> None:
        files = self.files(converted("BatchTopKSAE", tmp_path))
        claim = dictionary_learning.sniff(files)
        assert claim is not None
        assert claim.evidence[0] == "config.json: trainer.dict_class 'BatchTopKSAE'"
        assert dictionary_hub.sniff(files) is None
        assert dictionary_crosscoders.sniff(files) is None

    def test_crosscoders_are_left_to_their_adapter(self, tmp_path: Path) -> None:
        by_name = edit(converted("AutoEncoder", tmp_path / "name"), dict_class="CrossCoder")
        assert dictionary_learning.sniff(self.files(by_name)) is None
        shapes = {"encoder.weight": torch.ones(2, 8, 20), "decoder.weight": torch.ones(2, 20, 8)}
        by_shape = replace(converted("AutoEncoder", tmp_path / "shape"), **shapes)
        assert dictionary_learning.sniff(self.files(by_shape)) is None

    def test_weights_without_a_config_are_not_claimed(self, tmp_path: Path) -> None:
        save_file(stored("AutoEncoder"), tmp_path / "ae.safetensors")
        assert dictionary_learning.sniff(self.files(tmp_path)) is None


def test_prefixes_of_wrapped_modules_are_taken_off(tmp_path: Path) -> None:
    root = converted("AutoEncoder", tmp_path)
    prefixed = {f"module._orig_mod.{k}": v for k, v in stored("AutoEncoder").items()}
    save_file(prefixed, root / "ae.safetensors")
    assert load_sae(root).cfg.d_sae == 20


class TestContradictions:
    @pytest.mark.parametrize("name", ["BatchTopKSAE", "MatryoshkaBatchTopKSAE"])
    def test_a_threshold_of_minus_one(self, tmp_path: Path, name: str) -> None:
        root = replace(converted(name, tmp_path), threshold=torch.tensor(-1.0))
        assert "training never estimated it" in message(root)

    def test_topk_does_not_need_its_threshold(self, tmp_path: Path) -> None:
        root = replace(converted("AutoEncoderTopK", tmp_path), threshold=torch.tensor(-1.0))
        assert load_sae(root).cfg.k == 4

    def test_a_negative_jumprelu_threshold(self, tmp_path: Path) -> None:
        logs = torch.linspace(-2, 1, 20)
        root = replace(converted("JumpReluAutoEncoder", tmp_path), threshold=logs)
        assert "the logarithm may have been stored" in message(root)

    def test_a_k_other_than_the_one_stored(self, tmp_path: Path) -> None:
        root = edit(converted("AutoEncoderTopK", tmp_path), k=5)
        assert "k of ae.safetensors equal to config.json: trainer.k (5): 4" in message(root)

    def test_more_latents_asked_for_than_there_are(self, tmp_path: Path) -> None:
        k = torch.tensor(21, dtype=torch.int)
        root = replace(edit(converted("BatchTopKSAE", tmp_path), k=21), k=k)
        assert "trainer.k of at most d_sae = 20: 21" in message(root)

    def test_no_k_at_all(self, tmp_path: Path) -> None:
        root = edit(converted("AutoEncoderTopK", tmp_path), k=...)
        save_file(
            {key: value for key, value in stored("AutoEncoderTopK").items() if key != "k"},
            root / "ae.safetensors",
        )
        assert "trainer.k in config.json (a positive integer): no such key" in message(root)

    @pytest.mark.parametrize(("key", "wrong"), [("activation_dim", 9), ("dict_size", 21)])
    def test_sizes_other_than_the_tensors(self, tmp_path: Path, key: str, wrong: int) -> None:
        root = edit(converted("AutoEncoder", tmp_path), **{key: wrong})
        assert "tensor 'encoder.weight' of ae.safetensors with shape" in message(root)

    def test_group_sizes_that_do_not_add_up(self, tmp_path: Path) -> None:
        root = replace(converted("MatryoshkaBatchTopKSAE", tmp_path), group_sizes=torch.ones(2))
        assert "group_sizes of ae.safetensors with sum d_sae = 20: 2" in message(root)

    def test_group_sizes_of_another_shape(self, tmp_path: Path) -> None:
        wrong = {"group_sizes": torch.ones(2, 10)}
        root = replace(converted("MatryoshkaBatchTopKSAE", tmp_path), **wrong)
        assert "'group_sizes' of ae.safetensors with shape [groups 20]: shape [2, 10]" in message(
            root
        )

    def test_a_class_of_another_library_lists_the_known_ones(self, tmp_path: Path) -> None:
        root = edit(converted("AutoEncoder", tmp_path), dict_class="HeterogeneousCrossCoder")
        assert "one of AutoEncoder, AutoEncoderNew" in message(root)

    def test_weights_of_another_class(self, tmp_path: Path) -> None:
        root = edit(converted("AutoEncoder", tmp_path), dict_class="GatedAutoEncoder")
        assert "tensor 'r_mag' in ae.safetensors: only bias, decoder.weight" in message(root)

    def test_an_encoder_that_is_no_matrix(self, tmp_path: Path) -> None:
        flat = {"encoder.weight": torch.ones(20)}
        root = replace(converted("AutoEncoder", tmp_path), **flat)
        assert "with two dimensions" in message(root)

    def test_weights_that_are_not_finite(self, tmp_path: Path) -> None:
        bad = {"encoder.bias": torch.full((20,), torch.nan)}
        root = replace(converted("AutoEncoder", tmp_path), **bad)
        assert "20 of 20 are NaN" in message(root)

    def test_a_config_that_names_no_class_is_not_guessed(self, tmp_path: Path) -> None:
        root = edit(converted("BatchTopKSAE", tmp_path), dict_class=...)
        with pytest.raises(UnknownFormatError, match=r"config\.json \('trainer', 'buffer'\)"):
            load_sae(root)

    def test_two_formats_in_one_folder_are_both_named(self, tmp_path: Path) -> None:
        root = converted("AutoEncoder", tmp_path)
        other = GOLDEN.parent / "saelens" / "standard-none-b_dec-subtracted"
        for file in other.iterdir():
            shutil.copy(file, root)
        with pytest.raises(UnknownFormatError) as error:
            load_sae(root)
        assert "dictionary_learning by config.json: trainer.dict_class" in str(error.value)
        assert "saelens by cfg.json: d_in, d_sae" in str(error.value)
