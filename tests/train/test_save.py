import json
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from saebench.activations import AbsTopK, Gated, TopK
from saebench.errors import OutputError
from saebench.loading import load_sae
from saebench.sae import SAE
from saebench.sae.normalization import AverageNorm
from saebench.train import Recipe, Trainer, save_checkpoint
from saebench.train.save import check_folder

ARCHITECTURES = ["topk", "batchtopk"]
ORACLES = Path(__file__).parents[1] / "oracles"
SITE = "blocks.1.hook_resid_post"


def oracle_python():
    """The Python of the environment with SAELens, if there is one."""
    named = os.environ.get("SAEBENCH_ORACLE_PYTHON")
    beside = ORACLES.parents[1] / ".venv-oracles" / "bin" / "python"
    return named or (str(beside) if beside.exists() else None)


@pytest.fixture
def make(planted):
    def make(architecture="topk", **changes):
        recipe = Recipe(
            d_sae=64,
            k=3,
            architecture=architecture,
            batch_size=256,
            site=SITE,
            model="org/m",
            **changes,
        )
        trainer = Trainer(recipe, 24)
        trainer.start(planted.sample(500))
        for seed in range(30):
            trainer.step(planted.sample(256, seed))
        return trainer.sae()

    return make


class TestRoundTrip:
    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
    def test_what_is_loaded_is_what_was_saved(self, make, planted, tmp_path, architecture, dtype):
        sae = make(architecture, dtype=dtype)
        loaded = load_sae(save_checkpoint(sae, tmp_path / "a"))
        x = planted.sample(200)
        assert torch.equal(loaded.encode(x), sae.encode(x))
        assert torch.equal(loaded(x), sae(x))
        assert loaded.cfg.architecture == architecture
        assert (loaded.cfg.k, loaded.cfg.dtype) == (3, dtype)
        assert (loaded.cfg.site, loaded.cfg.model) == (SITE, "org/m")

    def test_matrices_are_stored_in_16_bits_and_vectors_in_32(self, make, tmp_path):
        folder = save_checkpoint(make("batchtopk", dtype="bfloat16"), tmp_path / "a")
        dtypes = {
            name: t.dtype for name, t in load_file(folder / "sae_weights.safetensors").items()
        }
        assert dtypes == {
            "W_enc": torch.bfloat16,
            "W_dec": torch.bfloat16,
            "b_enc": torch.float32,
            "b_dec": torch.float32,
            "threshold": torch.float32,
        }

    def test_provenance_and_history_lie_beside_the_weights(self, make, tmp_path):
        rows = [{"step": 1, "fve": 0.5}, {"step": 2, "fve": None}]
        folder = save_checkpoint(
            make(), tmp_path / "a", provenance={"seeds": {"weights": 7}}, history=rows
        )
        config = json.loads((folder / "cfg.json").read_text())
        assert config["saebench"]["seeds"] == {"weights": 7}
        assert config["saebench"]["version"]
        lines = (folder / "training.jsonl").read_text().splitlines()
        assert [json.loads(line) for line in lines] == rows
        assert load_sae(folder).cfg.provenance["saebench"]["seeds"] == {"weights": 7}

    def test_attention_heads_are_declared_as_saelens_has_them(self, make, tmp_path):
        sae = make()
        sae.cfg = replace(sae.cfg, site="blocks.1.attn.hook_z")
        config = json.loads((save_checkpoint(sae, tmp_path / "a") / "cfg.json").read_text())
        assert config["reshape_activations"] == "hook_z"


class TestTheFolder:
    def test_an_existing_checkpoint_is_kept_unless_told_otherwise(self, make, tmp_path):
        first, second = make(), make(seed=1)
        folder = save_checkpoint(first, tmp_path / "a")
        with pytest.raises(OutputError, match="it exists") as raised:
            save_checkpoint(second, folder)
        assert "overwrite = true in the recipe" in str(raised.value)
        assert "--overwrite on the command line" in str(raised.value)
        assert torch.equal(load_sae(folder).W_dec, first.W_dec)
        save_checkpoint(second, folder, overwrite=True)
        assert torch.equal(load_sae(folder).W_dec, second.W_dec)

    def test_overwriting_keeps_the_files_that_are_not_ours(self, make, tmp_path):
        folder = save_checkpoint(make(), tmp_path / "a", history=[{"step": 1}])
        (folder / "README.md").write_text("mine")
        (folder / "plots").mkdir()
        (folder / "plots" / "a.png").write_text("png")
        save_checkpoint(make(seed=1), folder, overwrite=True)
        assert (folder / "README.md").read_text() == "mine"
        assert (folder / "plots" / "a.png").read_text() == "png"
        assert not (folder / "training.jsonl").exists()

    def test_a_folder_that_is_no_checkpoint_is_never_overwritten(self, make, tmp_path):
        (tmp_path / "thesis").mkdir()
        (tmp_path / "thesis" / "chapter.tex").write_text("…")
        with pytest.raises(OutputError, match="no checkpoint"):
            save_checkpoint(make(), tmp_path / "thesis", overwrite=True)
        (tmp_path / "file").write_text("…")
        with pytest.raises(OutputError, match="a file of that name"):
            save_checkpoint(make(), tmp_path / "file", overwrite=True)

    def test_an_empty_folder_and_missing_parents_are_fine(self, make, tmp_path):
        (tmp_path / "empty").mkdir()
        save_checkpoint(make(), tmp_path / "empty")
        save_checkpoint(make(), tmp_path / "x" / "y" / "z")
        assert load_sae(tmp_path / "x" / "y" / "z").cfg.d_sae == 64

    @pytest.mark.parametrize("failing", ["saebench.train.save.save_file", "pathlib.Path.rename"])
    def test_a_failure_leaves_the_old_checkpoint_and_nothing_else(
        self, make, tmp_path, monkeypatch, failing
    ):
        sae, other = make(), make(seed=1)
        folder = save_checkpoint(sae, tmp_path / "a")
        real_rename = Path.rename

        def fail(*args, **kwargs):
            if failing.endswith("rename") and Path(args[0]).name != "new":
                return real_rename(*args, **kwargs)
            raise OSError("disk full")

        with monkeypatch.context() as patch:
            patch.setattr(failing, fail)
            with pytest.raises(OutputError, match="disk full"):
                save_checkpoint(other, folder, overwrite=True)
        assert torch.equal(load_sae(folder).W_dec, sae.W_dec)
        assert [path.name for path in tmp_path.iterdir()] == ["a"]

    @pytest.mark.parametrize(
        "place", ["file/a", "x" * 400, "x" * 250, "null\0byte", "/proc/x", "/proc/x/y"]
    )
    def test_a_place_that_cannot_be_written_is_refused_and_left_as_it_was(self, tmp_path, place):
        (tmp_path / "file").write_text("")
        with pytest.raises(OutputError, match="cannot be written"):
            check_folder(tmp_path / place)
        assert [path.name for path in tmp_path.iterdir()] == ["file"]

    def test_a_place_without_the_space_is_refused_and_left_as_it_was(self, tmp_path, small_files):
        with small_files(2**22), pytest.raises(OutputError, match="has the space"):
            check_folder(tmp_path / "a", n_bytes=2**22 + 1)
        assert not any(tmp_path.iterdir())
        with small_files(2**22):
            check_folder(tmp_path / "new" / "a", n_bytes=2**22)
        assert not any(tmp_path.iterdir())

    def test_a_link_leads_to_the_folder_that_is_written(self, make, tmp_path):
        (tmp_path / "empty").mkdir()
        for name in ("empty", "absent"):
            (tmp_path / f"to-{name}").symlink_to(tmp_path / name)
            assert save_checkpoint(make(), tmp_path / f"to-{name}") == tmp_path / f"to-{name}"
            assert load_sae(tmp_path / name).cfg.d_sae == 64
        assert (tmp_path / "to-absent").is_symlink()

    def test_a_mount_point_is_refused(self, tmp_path, monkeypatch):
        monkeypatch.setattr(Path, "is_mount", lambda path: path == tmp_path)
        with pytest.raises(OutputError, match="mount point"):
            check_folder(tmp_path)

    def test_what_the_format_cannot_express_is_refused(self, make, tmp_path):
        sae = make()
        gated = SAE(
            sae.cfg,
            Gated(*(torch.zeros(64) for _ in range(3))),
            W_enc=sae.W_enc,
            W_dec=sae.W_dec,
            b_dec=sae.b_dec,
        )
        with pytest.raises(OutputError, match="Gated"):
            save_checkpoint(gated, tmp_path / "a")
        assert not (tmp_path / "a").exists()


@pytest.mark.oracle
@pytest.mark.skipif(
    oracle_python() is None,
    reason="set SAEBENCH_ORACLE_PYTHON to a Python with the peers (pip install saebench-suites[oracles])",
)
def test_saelens_loads_what_is_saved_and_computes_the_same(make, planted, tmp_path):
    cases = [
        ("topk", "float32"),
        ("topk", "bfloat16"),
        ("batchtopk", "float32"),
        ("batchtopk", "float16"),
    ]
    saes = {tmp_path / f"{name}-{dtype}": make(name, dtype=dtype) for name, dtype in cases}
    for folder, sae in saes.items():
        provenance = {"recipe": {"context_size": 64}, "final": {"fve": 0.5}}
        save_checkpoint(sae, folder, provenance=provenance, history=[{"step": 1}])
    x = planted.sample(300)
    save_file({"x": x}, tmp_path / "x.safetensors")
    script = [
        str(oracle_python()),
        str(ORACLES / "load_saelens.py"),
        str(tmp_path / "x.safetensors"),
    ]
    done = subprocess.run([*script, *map(str, saes)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    described = json.loads(done.stdout.strip().splitlines()[-1])
    for folder, sae in saes.items():
        topk = sae.cfg.architecture == "topk"
        assert described[str(folder)] == {
            "architecture": "topk" if topk else "jumprelu",
            "k": 3 if topk else None,
            "hook_name": SITE,
            "model_name": "org/m",
            "trained_as": sae.cfg.architecture,
            "details": None if topk else {"k": 3},
        }
        theirs = load_file(f"{folder}.safetensors")
        codes = sae.encode(x)
        assert torch.equal(codes != 0, theirs["codes"] != 0), folder.name
        ours = {"codes": codes, "decoded": sae.decode(theirs["codes"]), "output": sae(x)}
        for name, found in ours.items():
            worst = (found - theirs[name]).abs().max() / theirs[name].abs().max()
            assert worst <= 1e-5, f"{folder.name}: {name}"


def _signed(sae):
    sae.activation = AbsTopK(3)


def _unrectified(sae):
    sae.activation = TopK(3, rectify=False)


def _weighted(sae):
    sae.activation = TopK(3, weight=torch.ones(64))


def _unknown_scale(sae):
    sae.normalization = AverageNorm(1)


@pytest.mark.parametrize("change", [_signed, _unrectified, _weighted, _unknown_scale])
def test_what_the_layout_has_no_place_for_is_refused_rather_than_lost(make, tmp_path, change):
    sae = make()
    change(sae)
    with pytest.raises(OutputError, match="in the format it came in"):
        save_checkpoint(sae, tmp_path / "a")
    assert not (tmp_path / "a").exists()
