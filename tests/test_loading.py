"""From a reference to the one checkpoint it means, and what ``inspect`` says about it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import save_file

import saebench
from saebench.errors import BadReferenceError, CheckpointError, UnknownFormatError
from saebench.files import MAX_CONFIG_BYTES
from saebench.inspection import printable
from saebench.loading import expand, inspect, load_sae, open_checkpoint, short_name
from saebench.reference import parse_reference
from saebench.sae import Fact

GOLDEN = Path(__file__).parent / "oracles" / "golden" / "saelens"
TOPK = GOLDEN / "topk-none-b_dec-subtracted"


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """Three checkpoints in folders, the last with an earlier step inside it."""
    for name in ("a/trainer_0", "a/trainer_1", "b/trainer_0", "b/trainer_0/checkpoints/step_10"):
        shutil.copytree(TOPK, tmp_path / name, dirs_exist_ok=True)
    return tmp_path


class TestLoad:
    def test_the_public_surface(self) -> None:
        sae = saebench.load_sae(TOPK)
        x = torch.randn(2, 3, 8)
        f = sae.encode(x)
        values, indices = sae.encode_sparse(x)
        assert (f.shape, values.shape, indices.shape) == ((2, 3, 20), (2, 3, 4), (2, 3, 4))
        assert torch.allclose(sae.decode(f), sae.decode_sparse(values, indices), atol=1e-6)
        assert torch.allclose(sae.decode(f), sae.forward(x), atol=1e-6)
        assert (sae.cfg.d_in, sae.cfg.d_sae, sae.cfg.k) == (8, 20, 4)
        assert not sae.training

    def test_text_path_and_reference_name_the_same_checkpoint(self) -> None:
        by_text = open_checkpoint(str(TOPK))
        assert by_text.digests == open_checkpoint(TOPK).digests
        assert by_text.digests == open_checkpoint(by_text.reference).digests

    def test_a_weight_file_can_be_referenced_itself(self) -> None:
        found = open_checkpoint(TOPK / "sae_weights.safetensors")
        assert found.name == "sae_weights"
        assert set(found.digests) == {"cfg.json", "sae_weights.safetensors"}

    def test_other_weights_of_the_folder_are_noted_and_not_read(self, runs: Path) -> None:
        folder = runs / "a" / "trainer_0"
        before = open_checkpoint(folder)
        assert not [note for note in before.sae.cfg.notes if "also in the folder" in note]
        numpy.savez(folder / "params.npz", W_enc=numpy.ones((2, 3)))
        found = open_checkpoint(folder)
        assert found.sae.cfg.notes == (
            *before.sae.cfg.notes,
            "also in the folder, not read: params.npz (reference it by itself to load it)",
        )
        assert found.digests == before.digests
        itself = open_checkpoint(folder / "sae_weights.safetensors")
        assert itself.sae.cfg.notes == before.sae.cfg.notes

    def test_of_many_other_weights_some_are_noted_and_the_rest_counted(self, runs: Path) -> None:
        folder = runs / "a" / "trainer_0"
        for step in range(15):
            (folder / f"checkpoint_{step}.pt").touch()
        note = load_sae(folder).cfg.notes[-1]
        assert "checkpoint_11.pt and 3 more (reference one of them by itself" in note

    def test_a_file_that_holds_no_weights_points_to_its_folder(self) -> None:
        with pytest.raises(BadReferenceError, match="Reference the folder it is in"):
            load_sae(TOPK / "cfg.json")

    def test_several_checkpoints_are_listed_with_references_that_work(self, runs: Path) -> None:
        with pytest.raises(BadReferenceError, match="2 of them") as error:
            load_sae(runs / "a")
        listed = str(error.value).split("Reference one: ")[1].removesuffix(".").split(", ")
        assert listed == [str(runs / "a" / "trainer_0"), str(runs / "a" / "trainer_1")]
        assert load_sae(listed[0]).cfg.k == 4

    def test_the_folder_of_a_checkpoint_means_it_and_not_the_steps_inside(self, runs: Path) -> None:
        assert open_checkpoint(runs / "b" / "trainer_0").files.root == runs / "b" / "trainer_0"
        assert open_checkpoint(runs / "b").name == "trainer_0"

    def test_an_empty_folder_says_what_a_checkpoint_is(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError, match=r"no weight file.*a folder with a config"):
            load_sae(tmp_path)

    def test_a_format_that_nobody_knows_lists_what_was_found(self, tmp_path: Path) -> None:
        numpy.savez(tmp_path / "params.npz", unheard_of=numpy.ones(2))
        (tmp_path / "cfg.json").write_text('{"evil\\u001b[31m": 1}')
        with pytest.raises(UnknownFormatError) as error:
            load_sae(tmp_path)
        assert "none of the 23 known formats fits" in str(error.value)
        assert "params.npz" in str(error.value)
        assert "\x1b" not in str(error.value)

    @pytest.mark.parametrize("ref", [None, 5, b"x", ["a"], "".join])
    def test_what_is_no_reference_is_named(self, ref: object) -> None:
        with pytest.raises(BadReferenceError, match="a text or a path") as error:
            load_sae(ref)  # type: ignore[arg-type]
        assert f"({type(ref).__name__}). Write hf:org/repo" in str(error.value)

    def test_weights_whose_config_is_missing_say_so(self, tmp_path: Path) -> None:
        shutil.copy(TOPK / "sae_weights.safetensors", tmp_path)
        with pytest.raises(UnknownFormatError) as error:
            load_sae(tmp_path)
        assert "cfg.json is missing beside sae_weights.safetensors ('W_" in str(error.value)
        assert "Copy the cfg.json that belongs to these weights" in str(error.value)

    def test_the_folder_of_a_language_model_is_recognised_and_listed_briefly(
        self, tmp_path: Path
    ) -> None:
        (tmp_path / "config.json").write_text('{"architectures": ["GPTNeoXForCausalLM"]}')
        (tmp_path / "tokenizer.json").write_text(json.dumps({"vocab": "x" * MAX_CONFIG_BYTES}))
        layers = {f"layers.{i}.weight": torch.zeros(1) for i in range(20)}
        save_file(layers, tmp_path / "model.safetensors")
        with pytest.raises(UnknownFormatError) as error:
            load_sae(tmp_path)
        message = str(error.value)
        assert "config.json has 'architectures', as that of a language model has" in message
        assert "this looks like the language model itself" in message
        assert message.count(".weight'") == 6
        assert "…" in message

    def test_digests_change_with_the_weights_and_not_with_other_files(self, runs: Path) -> None:
        folder = runs / "a" / "trainer_0"
        before = open_checkpoint(folder).digests
        (folder / "trainer_state.json").write_text("{}")
        assert open_checkpoint(folder).digests == before
        (folder / "cfg.json").write_text((folder / "cfg.json").read_text() + "\n")
        assert open_checkpoint(folder).digests["cfg.json"] != before["cfg.json"]


class TestSite:
    def test_a_site_from_the_user_settles_what_a_note_said_was_open(self, tmp_path: Path) -> None:
        weights = {"W_enc": torch.ones(3, 6), "W_dec": torch.ones(6, 3)}
        weights |= {"b_enc": torch.zeros(6), "b_dec": torch.zeros(3)}
        save_file(weights, tmp_path / "sae.safetensors")
        said = {"activation": "relu", "subtract_b_dec": "false"}
        bare = load_sae(tmp_path, settings=said).cfg
        given = load_sae(tmp_path, settings=said, site="blocks.2.hook_mlp_out").cfg
        left = [note for note in bare.notes if note not in given.notes]
        assert len(left) == 1
        assert left[0].startswith("no config says which hook point it was trained on")
        assert given.facts["site"] == Fact(
            "blocks.2.hook_mlp_out", "--site blocks.2.hook_mlp_out", "user"
        )

    def test_a_site_from_the_user_overrules_the_file_and_is_noted(self) -> None:
        cfg = load_sae(TOPK, site="blocks.2.hook_resid_post").cfg
        assert cfg.site == "blocks.2.hook_resid_post"
        assert cfg.facts["site"].how == "user"
        assert "overrules blocks.1.hook_resid_post" in cfg.notes[-1]

    def test_the_same_site_from_the_user_is_no_contradiction(self) -> None:
        cfg = load_sae(TOPK, site="blocks.1.hook_resid_post").cfg
        assert cfg.facts["site"].how == "user"
        assert cfg.notes == load_sae(TOPK).cfg.notes


class TestExpand:
    def test_a_folder_expands_to_its_outermost_checkpoints_in_order(self, runs: Path) -> None:
        found = [Path(item.path).relative_to(runs).as_posix() for item in expand(runs)]
        assert found == ["a/trainer_0", "a/trainer_1", "b/trainer_0"]

    def test_a_pattern_expands_to_what_it_matches_in_order(self, runs: Path) -> None:
        (runs / "c").mkdir()
        found = [Path(item.path).relative_to(runs).as_posix() for item in expand(f"{runs}/*/*_0")]
        assert found == ["a/trainer_0", "b/trainer_0"]
        assert len(expand(f"{runs}/*")) == 3
        steps = expand(f"{runs}/b/trainer_0/checkpoints/*")
        assert [short_name(item) for item in steps] == ["step_10"]

    def test_one_checkpoint_expands_to_itself(self) -> None:
        assert [item.path for item in expand(TOPK)] == [str(TOPK)]
        file = TOPK / "sae_weights.safetensors"
        assert [item.path for item in expand(file)] == [str(file)]

    @pytest.mark.parametrize("pattern", ["nothing-*", "*/cfg.json"])
    def test_a_pattern_that_matches_no_checkpoint_is_an_error(
        self, tmp_path: Path, pattern: str
    ) -> None:
        (tmp_path / "x").mkdir()
        (tmp_path / "x" / "cfg.json").write_text("{}")
        with pytest.raises(CheckpointError, match="A checkpoint is a folder"):
            expand(f"{tmp_path}/{pattern}")


class TestInspect:
    def test_json_is_plain_and_says_where_each_fact_is_from(self) -> None:
        found = json.loads(json.dumps(inspect(TOPK).to_json()))
        assert found["facts"]["k"] == {"value": 4, "source": "cfg.json: k", "how": "file"}
        assert found["tensors"]["W_enc"] == {"dtype": "float32", "shape": [8, 20]}
        assert found["format"] == "saelens"
        assert found["evidence"][0] == "cfg.json: d_in, d_sae"
        assert set(found["digests"]) == {"cfg.json", "sae_weights.safetensors"}
        norms = load_sae(TOPK).W_dec.norm(dim=1)
        assert found["norms"]["max"] == pytest.approx(float(norms.max()))

    def test_text_shows_facts_tensors_notes_and_what_is_missing(self, runs: Path) -> None:
        folder = runs / "a" / "trainer_0"
        config = json.loads((folder / "cfg.json").read_text())
        del config["metadata"]["model_name"]
        config["metadata"]["hook_head_index"] = 2
        (folder / "cfg.json").write_text(json.dumps(config))
        text = inspect(folder).to_text()
        for line in ("architecture", "cfg.json: k", "[8, 20]", "not known", "note: trained on"):
            assert line in text
        assert inspect(folder, site="blocks.0.hook_resid_pre").to_text().count("given: ") == 1

    def test_values_from_a_file_cannot_drive_the_terminal(self, runs: Path) -> None:
        folder = runs / "a" / "trainer_0"
        config = json.loads((folder / "cfg.json").read_text())
        config["metadata"] |= {"model_name": "\x1b[2J\u202eevil\n\r", "\x9bkey": "x" * 5000}
        (folder / "cfg.json").write_text(json.dumps(config))
        text = inspect(folder).to_text()
        assert all(character.isprintable() or character == "\n" for character in text)
        assert "evil" in text
        assert max(map(len, text.split("\n"))) < 500

    def test_printable_keeps_text_and_cuts_it(self) -> None:
        assert printable("tête 日本") == "tête 日本"
        assert printable("abcdef", 4) == "abc…"


def test_short_names_take_parent_folders_only_where_they_are_needed():
    from saebench.loading import short_names

    texts = ["runs/layer_13/trainer_0", "runs/layer_24/trainer_0", "runs/layer_24/trainer_1"]
    assert short_names([parse_reference(text) for text in texts]) == [
        "layer_13/trainer_0",
        "layer_24/trainer_0",
        "trainer_1",
    ]
    deeper = ["a/x/ae", "b/x/ae", "b/x/ae"]
    assert short_names([parse_reference(text) for text in deeper]) == ["a/x/ae", "b/x/ae", "b/x/ae"]
    hub = f"hf:org/repo@{'a' * 40}:layer_1"
    assert short_names([parse_reference(hub)]) == [f"repo@{'a' * 7}:layer_1"]
