"""Which files make up which checkpoint, by their names alone."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saebench.layout import Candidate, candidate_of_file, candidates, is_below_its_config
from saebench.layout.names import in_order, is_side
from saebench.weights import is_weights
from tests.layout.published import PUBLISHED, below


def files(found: list[Candidate]) -> dict[str, set[str]]:
    """The files of each checkpoint by what it is referenced by."""
    assert len({item.path for item in found}) == len(found)
    return {item.path: set(item.files) for item in found}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_listing_has_the_checkpoints_that_its_authors_mean(name: str) -> None:
    listing, expected = PUBLISHED[name]
    found = candidates(listing)
    assert files(found) == expected
    assert list(files(found)) == sorted(expected, key=in_order)


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_path_and_every_file_of_a_listing_leads_back_to_its_checkpoint(name: str) -> None:
    listing, _ = PUBLISHED[name]
    for item in candidates(listing):
        if item.path in listing:
            assert candidate_of_file(listing, item.path) == item
        else:
            assert candidates(listing, item.path) == [item]
        for file in filter(is_weights, item.files):
            if not is_side(file.rpartition("/")[2]):  # which is read along with the weights
                assert candidate_of_file(listing, file).files == item.files


class TestSteps:
    RUN = ("run/config.json", "run/ae.pt", "run/checkpoints/ae_20.pt", "run/checkpoints/ae_100.pt")

    def test_a_step_has_the_config_of_the_run_above_it(self) -> None:
        found = candidate_of_file(self.RUN, "run/checkpoints/ae_100.pt")
        assert (found.path, found.folder) == ("run/checkpoints/ae_100.pt", "run")
        assert found.names == ("config.json", "checkpoints/ae_100.pt")

    def test_a_folder_of_steps_lists_them_by_number(self) -> None:
        paths = [item.path for item in candidates(self.RUN, "run/checkpoints")]
        assert paths == ["run/checkpoints/ae_20.pt", "run/checkpoints/ae_100.pt"]

    def test_a_run_that_did_not_end_is_its_steps(self) -> None:
        found = candidates(name for name in self.RUN if name != "run/ae.pt")
        assert [item.path for item in found] == [f"run/checkpoints/ae_{n}.pt" for n in (20, 100)]
        assert all("config.json" in item.names for item in found)

    def test_a_folder_per_step_has_the_config_above_as_well(self) -> None:
        found = candidates(["run/config.json", *below("run/checkpoints/step_5", "sae.safetensors")])
        assert [(item.path, item.folder) for item in found] == [("run/checkpoints/step_5", "run")]
        assert found[0].names == ("config.json", "checkpoints/step_5/sae.safetensors")

    def test_a_config_in_the_folder_of_steps_is_theirs(self) -> None:
        names = ["config.json", "checkpoints/config.json", "checkpoints/ae_1.pt"]
        assert candidate_of_file(names, names[2]).folder == "checkpoints"
        assert not is_below_its_config("checkpoints", ["config.json"])
        assert is_below_its_config("checkpoints", ["eval_results.json", "ae_1.pt"])
        assert not is_below_its_config("layer_3", ["ae.pt"])

    def test_a_step_may_have_the_namesake_config_of_the_end_and_never_that_of_another_step(
        self,
    ) -> None:
        names = ["model.pt", "model_cfg.yaml", "checkpoint_5.pt", "checkpoint_9.pt"]
        assert candidate_of_file(names, "checkpoint_5.pt").configs == ("model_cfg.yaml",)
        own = candidate_of_file([*names, "checkpoint_9_cfg.json"], "checkpoint_5.pt")
        assert own.configs == ("model_cfg.yaml",)
        own = candidate_of_file([*names, "checkpoint_5_cfg.json"], "checkpoint_5.pt")
        assert own.configs == ("checkpoint_5_cfg.json",)

    def test_one_end_in_a_folder_of_steps_is_the_run(self) -> None:
        names = [
            "hyperparams.json",
            "checkpoints/final.safetensors",
            "checkpoints/pruned.safetensors",
        ]
        found = candidates(names)
        assert [item.path for item in found] == [""]
        assert found[0].weights == ("checkpoints/pruned.safetensors",)
        assert candidates(names, "checkpoints") == found


class TestAModelBelowItsRun:
    MODEL = tuple(below("run/dictionary_model", "config.json", "model.safetensors"))

    @pytest.mark.parametrize("named", ["training_config.yaml", "training_metrics.json"])
    def test_it_has_what_the_run_says_of_itself_and_nothing_else_of_the_folder_above(
        self, named: str
    ) -> None:
        (found,) = candidates([*self.MODEL, f"run/{named}", "run/results.json", "run/cfg.json"])
        assert (found.path, found.folder) == ("run/dictionary_model", "run")
        assert found.configs == ("dictionary_model/config.json", named)
        assert found.weights == ("dictionary_model/model.safetensors",)

    def test_without_a_run_above_it_is_a_folder_like_any_other(self) -> None:
        (found,) = candidates([*self.MODEL, "run/cfg.json"])
        assert (found.folder, found.names) == (found.path, ("config.json", "model.safetensors"))

    def test_a_report_is_no_config_of_a_folder_of_steps(self) -> None:
        names = ["run/config.json", *below("run/checkpoints", "ae_1.pt", "training_metrics.json")]
        assert candidate_of_file(names, "run/checkpoints/ae_1.pt").configs == ("config.json",)


class TestLeftAside:
    def test_other_weights_of_a_folder_are_kept_by_name(self) -> None:
        names = below("a", "cfg.json", "sae_weights.safetensors", "params.npz", "optimizer.pt")
        (found,) = candidates(names)
        assert found.weights == ("sae_weights.safetensors",)
        assert found.aside == ("params.npz",)

    def test_they_are_relative_to_the_folder_of_the_configs(self) -> None:
        steps = below("run/checkpoints", "final.safetensors", "pruned.safetensors")
        (found,) = candidates(["run/hyperparams.json", *steps])
        assert found.aside == ("checkpoints/final.safetensors",)

    def test_the_same_weights_in_another_format_and_steps_are_named_too(self) -> None:
        (found,) = candidates(["sae.safetensors", "sae.pt", "checkpoint_5.pt"])
        assert found.aside == ("checkpoint_5.pt", "sae.pt")

    def test_nothing_is_aside_of_what_a_folder_has_alone_or_of_a_file_that_is_referenced(
        self,
    ) -> None:
        names = ["cfg.json", "sae.safetensors", "activation_whitening.safetensors", "params.npz"]
        assert candidates(names[:3])[0].aside == ()
        assert candidate_of_file(names, "params.npz").aside == ()
        together = ["config.yaml", "W_enc_0.safetensors", "W_dec_0.safetensors"]
        assert candidates(together)[0].aside == ()


class TestNesting:
    def test_nothing_inside_the_folder_of_a_checkpoint_is_listed(self) -> None:
        names = ["a/cfg.json", "a/sae.safetensors", "a/analysis/x.pt", "a/seed2/sae.safetensors"]
        assert [item.path for item in candidates(names)] == ["a"]
        assert [item.path for item in candidates(names, "a/seed2")] == ["a/seed2"]

    def test_folders_beside_several_checkpoints_of_one_folder_are_listed(self) -> None:
        names = [
            "layer_0.safetensors",
            "layer_1.safetensors",
            *below("wide", "layer_0.safetensors"),
        ]
        paths = [item.path for item in candidates(names)]
        assert paths == ["layer_0.safetensors", "layer_1.safetensors", "wide"]

    def test_a_folder_whose_name_another_begins_with_is_not_inside_it(self) -> None:
        names = ["l1/sae.pt", "l10/sae.pt", "l1-b/sae.pt"]
        assert [item.path for item in candidates(names, "l1")] == ["l1"]
        assert len(candidates(names)) == 3


PART = st.sampled_from(
    [
        "checkpoints",
        "layer_1",
        "dictionary_model",
        "training_metrics.json",
        "step_5",
        "ae.pt",
        "ae_1.pt",
        "ae_2.pt",
        "sae.safetensors",
        "cfg.json",
        "W_enc_0.safetensors",
        "W_dec_0.safetensors",
        "tokenizer.json",
        "optimizer.pt",
        "0.pt",
        "1.pt",
    ]
) | st.text(string.ascii_lowercase, min_size=1, max_size=3)
LISTING = st.sets(st.lists(PART, min_size=1, max_size=4).map("/".join), max_size=14)


@given(LISTING)
def test_any_listing_gives_distinct_checkpoints_made_of_its_files(listing: set[str]) -> None:
    found = candidates(listing)
    assert len({item.path for item in found}) == len(found)
    weights = [name for item in found for name in item.files if is_weights(name)]
    assert len(set(weights)) == len(weights), "no weights are in two checkpoints"
    for item in found:
        assert item.weights
        assert set(item.files) <= listing


def test_a_folder_of_thousands_is_sorted_out_in_seconds_and_not_quadratically() -> None:
    names = [f"{i}.pt" for i in range(20_000)] + [f"{i}_cfg.json" for i in range(20_000)]
    found = candidates([*names, *(f"sample_{i}.json" for i in range(10_000)), "config.yaml"])
    assert len(found) == 20_000
    assert {"7.pt", "7_cfg.json", "config.yaml"} <= set(found[7].names)
    assert sum(len(item.names) for item in found) < 20_000 * 35
