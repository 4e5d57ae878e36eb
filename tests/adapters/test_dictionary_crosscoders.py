"""Crosscoders of the forks of dictionary_learning: sources, gates, normalisers, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from saebench.activations import BatchTopK, JumpReLU, ReLU
from saebench.adapters import Choices
from saebench.adapters.dictionary_learning import crosscoders as dictionary_crosscoders
from saebench.adapters.dictionary_learning import hub as dictionary_hub
from saebench.adapters.dictionary_learning import run as dictionary_learning
from saebench.errors import CheckpointError
from saebench.files import CheckpointFiles
from saebench.sae import Crosscoder

GOLDEN = Path(__file__).parents[1] / "oracles" / "golden" / "dictionary_crosscoders"
EXPECTED = GOLDEN / "expected"


def files(root: Path, hint: str = "") -> CheckpointFiles:
    return CheckpointFiles(root, tuple(sorted(path.name for path in root.iterdir())), True, hint)


def read(root: Path, hint: str = "", **settings: str) -> Crosscoder:
    found = files(root, hint)
    claim = dictionary_crosscoders.sniff(found)
    assert claim is not None
    return dictionary_crosscoders.read(found, claim, Choices(settings))


def message(root: Path, **settings: str) -> str:
    with pytest.raises(CheckpointError) as error:
        read(root, **settings)
    return str(error.value)


def changed(root: Path, case: str, config: dict[str, Any] | None = None, **tensors: Any) -> Path:
    """A golden folder for the hub with other tensors (None: without it) and config keys."""
    found: dict[str, Tensor] = load_file(GOLDEN / case / "model.safetensors") | tensors
    root.mkdir(exist_ok=True)
    save_file({k: v for k, v in found.items() if v is not None}, root / "model.safetensors")
    data = json.loads((GOLDEN / case / "config.json").read_text()) | (config or {})
    text = json.dumps({k: v for k, v in data.items() if v is not ...})
    (root / "config.json").write_text(text)
    return root


class TestFacts:
    def test_a_hub_folder(self) -> None:
        cfg = read(GOLDEN / "crosscoder").cfg
        found = {name: (fact.value, fact.source, fact.how) for name, fact in cfg.facts.items()}
        where = "model.safetensors: shape of encoder.weight"
        assert found["n_sources"] == (2, where, "file")
        assert found["d_in"] == (8, where, "file")
        assert found["d_sae"] == (20, where, "file")
        assert found["architecture"] == ("batchtopk", "config.json: dict_class", "file")
        assert found["k"] == (4, "model.safetensors: k", "file")
        assert found["code_normalization"] == (
            "CROSSCODER",
            "model.safetensors: code_normalization_id",
            "file",
        )
        assert found["sources"][::2] == ("models", "assumed")
        assert found["subtract_b_dec"][0] is False
        assert found["target_rms"][0] == 100.0

    def test_without_threshold_it_is_a_relu_in_which_no_norm_takes_part(self) -> None:
        sae = read(GOLDEN / "relu")
        assert isinstance(sae.activation, ReLU)
        assert sae.cfg.architecture == "standard"

    def test_a_run_with_a_list_of_layers_reads_layers_of_one_model(self) -> None:
        cfg = read(GOLDEN / "three_layers").cfg
        assert cfg.sites == tuple(f"blocks.{i}.hook_resid_post" for i in range(3))
        assert cfg.facts["sources"].value == "layers"
        assert cfg.n_models == 1

    def test_a_run_on_two_models_at_one_layer(self) -> None:
        cfg = read(GOLDEN / "old_compiled_run").cfg
        assert cfg.site == "blocks.1.hook_resid_post"
        assert [source.model for source in cfg.reads] == [0, 1]
        assert cfg.facts["lm_name"].value == "org/tuned-org/base"
        assert any("base, then fine-tuned" in note for note in cfg.notes)

    def test_models_that_are_listed_are_taken(self, tmp_path: Path) -> None:
        trainer = {"trainer": {"lm_name": ["org/base", "org/tuned"], "layer": 5}}
        (tmp_path / "trainer_config.json").write_text(json.dumps(trainer))
        cfg = read(changed(tmp_path, "sae")).cfg
        assert (cfg.models, cfg.site) == (("org/base", "org/tuned"), "blocks.5.hook_resid_post")

    def test_the_layer_may_be_in_the_path(self) -> None:
        cfg = read(GOLDEN / "sae", "org/gemma-2-2b-L13-k100-lr1e-04").cfg
        assert (cfg.site, cfg.facts["site"].how) == ("blocks.13.hook_resid_post", "assumed")

    def test_it_needs_no_config(self, tmp_path: Path) -> None:
        shutil.copy(GOLDEN / "sae" / "model.safetensors", tmp_path)
        cfg = read(tmp_path).cfg
        assert cfg.architecture == "batchtopk"
        assert cfg.facts["architecture"].source == "model.safetensors: k, threshold"

    def test_matrices_are_those_of_the_sources_side_by_side(self) -> None:
        sae, w = read(GOLDEN / "none"), load_file(GOLDEN / "none" / "model.safetensors")
        assert torch.equal(sae.W_enc, torch.cat(list(w["encoder.weight"])))
        assert torch.equal(sae.W_dec, torch.cat(list(w["decoder.weight"]), dim=-1))
        norms = w["decoder.weight"].norm(dim=-1).T
        torch.testing.assert_close(sae.decoder_norms(), norms)


class TestSources:
    def test_more_than_two_without_layers_are_asked_for(self, tmp_path: Path) -> None:
        root = tmp_path / "unknown"
        root.mkdir()
        shutil.copy(GOLDEN / "three_layers" / "model_final.pt", root)
        assert "what the 3 sources are: neither layers nor models" in message(root)
        assert read(root, sources="models").cfg.n_models == 3
        sites = "blocks.0.hook_resid_post,blocks.4.hook_resid_post,blocks.8.hook_resid_post"
        cfg = read(root, sites=sites).cfg
        assert cfg.sites == tuple(sites.split(","))
        assert "Give --set sites=NAME,NAME" in message(root, sources="layers")

    def test_the_user_overrules_a_list_of_layers(self) -> None:
        cfg = read(GOLDEN / "three_layers", sources="models").cfg
        assert cfg.sites == ()
        assert (cfg.n_models, cfg.facts["sources"].how) == (3, "user")


class TestGate:
    @pytest.mark.parametrize("case", ["crosscoder", "sae", "mixed", "none"])
    def test_every_other_code_normalisation_gives_other_codes(
        self, tmp_path: Path, case: str
    ) -> None:
        expected = load_file(EXPECTED / f"{case}.safetensors")
        own = int(load_file(GOLDEN / case / "model.safetensors")["code_normalization_id"])
        for other in {1, 2, 3, 4} - {own}:
            root = changed(tmp_path, case, code_normalization_id=torch.tensor(other))
            codes = read(root).encode(expected["x"])
            assert not torch.equal(codes != 0, expected["codes"] != 0), other

    def test_the_buffer_wins_over_the_config(self, tmp_path: Path) -> None:
        cfg = read(changed(tmp_path, "sae", {"code_normalization": "CROSSCODER"})).cfg
        assert cfg.facts["code_normalization"].value == "SAE"
        assert any("code_normalization is 'CROSSCODER'" in note for note in cfg.notes)

    def test_files_older_than_the_choice_had_the_sum_of_norms(self, tmp_path: Path) -> None:
        fact = read(GOLDEN / "old_compiled_run").cfg.facts["code_normalization"]
        assert (fact.value, fact.how) == ("CROSSCODER", "assumed")
        root = changed(tmp_path, "sae", code_normalization_id=None)
        assert (
            read(root).cfg.facts["code_normalization"].source == "config.json: code_normalization"
        )

    @pytest.mark.parametrize("value", [0, 6])
    def test_an_id_of_no_known_normalisation(self, tmp_path: Path, value: int) -> None:
        root = changed(tmp_path, "sae", code_normalization_id=torch.tensor(value))
        assert f"code_normalization_id of model.safetensors from 1 to 5: {value}" in message(root)

    def test_codes_that_differ_by_source_are_refused(self, tmp_path: Path) -> None:
        threshold = torch.tensor([1.0, 2.0])
        five = torch.tensor(5)
        root = changed(tmp_path, "sae", code_normalization_id=five, threshold=threshold)
        found = message(root)
        assert "one code of a latent for all 2 sources (model.safetensors: code_normal" in found
        assert "DECOUPLED" in found

    def test_of_a_relu_decoupled_norms_change_nothing(self, tmp_path: Path) -> None:
        sae = read(changed(tmp_path, "relu", code_normalization_id=torch.tensor(5)))
        expected = load_file(EXPECTED / "relu.safetensors")
        torch.testing.assert_close(sae.encode(expected["x"]), expected["codes"])

    def test_a_threshold_never_estimated(self, tmp_path: Path) -> None:
        root = changed(tmp_path, "none", threshold=torch.tensor(-1.0))
        assert "threshold of model.safetensors with a value >= 0: -1" in message(root)
        sae = read(root, threshold="estimate", k="3")
        assert isinstance(sae.activation, BatchTopK)
        x = load_file(EXPECTED / "none.safetensors")["x"]
        sae.calibrate(x.flatten(1))
        assert int((sae.encode(x) != 0).sum()) == 3 * len(x)

    def test_a_threshold_given_is_in_the_units_of_the_one_stored(self, tmp_path: Path) -> None:
        root = changed(tmp_path, "crosscoder", threshold=torch.tensor(-1.0))
        expected = load_file(EXPECTED / "crosscoder.safetensors")
        sae = read(root, threshold="60")
        assert torch.equal(sae.encode(expected["x"]) != 0, expected["codes"] != 0)
        assert sae.cfg.facts["threshold"].how == "user"

    def test_a_latent_without_a_decoder_never_passes(self, tmp_path: Path) -> None:
        decoder = load_file(GOLDEN / "none" / "model.safetensors")["decoder.weight"]
        decoder[:, 7] = 0
        zero = {"decoder.weight": decoder, "threshold": torch.tensor(0.0)}
        sae = read(changed(tmp_path, "sae", **zero))
        assert isinstance(sae.activation, JumpReLU)
        codes = sae.encode(torch.randn(50, 2, 8) * 5)
        assert not bool(codes[:, 7].any())
        assert bool(codes[:, :7].any())
        assert "1 latents have no decoder direction and pass no threshold" in sae.cfg.notes

    def test_the_weights_of_a_mixture_are_read_from_the_config(self, tmp_path: Path) -> None:
        root = changed(tmp_path, "mixed", {"code_normalization_alpha_cc": "much"})
        assert "code_normalization_alpha_cc in config.json (a number >= 0): 'much'" in message(root)
        plain = changed(tmp_path, "mixed", {"code_normalization_alpha_cc": ...})
        assert read(plain).cfg.facts["code_normalization"].value == "MIXED"


class TestContradictions:
    @pytest.mark.parametrize(
        ("key", "value"), [("num_layers", 3), ("activation_dim", 9), ("dict_size", 21)]
    )
    def test_sizes_other_than_the_tensors(self, tmp_path: Path, key: str, value: int) -> None:
        found = message(changed(tmp_path, "sae", {key: value}))
        assert f"config.json: {key} as in the model.safetensors: shape of encoder.weight" in found
        assert f": {value}." in found

    def test_a_class_that_the_tensors_are_not_of(self, tmp_path: Path) -> None:
        found = message(changed(tmp_path, "sae", {"dict_class": "CrossCoder"}))
        assert "tensors of 'CrossCoder' (config.json: dict_class) in model.safetensors" in found
        assert "those of BatchTopKCrossCoder" in found

    def test_a_crosscoder_by_name_with_one_encoder(self, tmp_path: Path) -> None:
        flat = {"encoder.weight": torch.ones(20, 8), "decoder.weight": torch.ones(8, 20)}
        found = message(changed(tmp_path, "sae", **flat))
        assert "with shape [sources, d_in, d_sae]: shape [20, 8]" in found

    def test_an_encoder_of_fewer_sources_than_the_decoder(self, tmp_path: Path) -> None:
        root = changed(
            tmp_path, "sae", {"num_layers": 1}, **{"encoder.weight": torch.ones(1, 8, 20)}
        )
        assert "reads the [2] sources it writes: an encoder of [1]" in message(root)

    def test_an_encoder_that_reads_some_of_the_sources(self, tmp_path: Path) -> None:
        assert "(encoder_layers)" in message(changed(tmp_path, "sae", {"encoder_layers": [1]}))

    def test_no_sources_at_all(self, tmp_path: Path) -> None:
        empty = {"encoder.weight": torch.ones(0, 8, 20), "decoder.weight": torch.ones(0, 20, 8)}
        assert "with values: shape [0, 8, 20]" in message(changed(tmp_path, "sae", **empty))

    @pytest.mark.parametrize("layer", [[], [[1], [2]], "one", -1, {"at": 3}])
    def test_a_layer_that_is_none_is_no_site(self, tmp_path: Path, layer: object) -> None:
        (tmp_path / "trainer_config.json").write_text(json.dumps({"trainer": {"layer": layer}}))
        assert read(changed(tmp_path, "sae")).cfg.site is None

    def test_a_part_of_the_normaliser(self, tmp_path: Path) -> None:
        found = message(changed(tmp_path, "sae", activation_mean=None))
        assert "(missing activation_mean)" in found

    def test_means_of_one_source_only(self, tmp_path: Path) -> None:
        root = changed(tmp_path, "sae", activation_mean=torch.ones(8))
        assert "with shape [sources 2, d_in 8]: shape [8]" in message(root)


class TestClaims:
    @pytest.mark.parametrize("case", ["relu", "sae", "old_compiled_run", "three_layers"])
    def test_no_other_adapter_of_the_family_claims_it(self, case: str) -> None:
        found = files(GOLDEN / case)
        claim = dictionary_crosscoders.sniff(found)
        assert claim is not None
        assert "encoder.weight [" in claim.evidence[0]
        assert dictionary_learning.sniff(found) is None
        assert dictionary_hub.sniff(found) is None

    def test_a_pickle_that_may_not_be_opened_is_claimed_by_the_class_named(self) -> None:
        names = ("config.json", "model_final.pt")
        claim = dictionary_crosscoders.sniff(CheckpointFiles(GOLDEN / "three_layers", names))
        assert claim is not None
        assert claim.evidence == ("config.json: trainer.dict_class 'BatchTopKCrossCoder'",)

    def test_headers_alone_say_what_it_is(self) -> None:
        for case in ("sae", "three_layers", "mixed"):
            found = files(GOLDEN / case)
            outline = CheckpointFiles(found.root, found.names, True, outline=True)
            claim = dictionary_crosscoders.sniff(outline)
            assert claim is not None
            sae = dictionary_crosscoders.read(outline, claim, Choices())
            whole = read(GOLDEN / case)
            assert sae.W_dec.is_meta
            assert sae.cfg.normalization == whole.cfg.normalization
            assert (sae.cfg.d_sae, sae.cfg.sites) == (whole.cfg.d_sae, whole.cfg.sites)
