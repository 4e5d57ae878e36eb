"""From a recipe over two models to saved checkpoints, read back and described."""

import json
from dataclasses import replace

import pytest
import torch

from saebench.errors import OutputError
from saebench.loading import load_sae
from saebench.sae import SAE, Crosscoder
from saebench.train import train, train_many, train_recipes
from tests.tiny_models import WIDTH
from tests.train.two_models import SITES


@pytest.fixture(scope="module")
def recipes(pair):
    difference = pair.recipe(reads="difference_ftb", normalization="standardize", target_rms=10)
    models = pair.recipe(reads="models", k_start=8, k_anneal=0.5)
    layers = pair.recipe(reads="layers", site="", sites=list(SITES), normalization="centre")
    return {
        "difference": difference,
        "sweep": replace(difference, site=SITES[0], k=2, normalization="scale", target_rms=None),
        "models": models,
        "layers": layers,
        "hub-difference": replace(difference, layout="dictionary_learning"),
        "hub-models": replace(models, layout="dictionary_learning"),
        "two": replace(models, layout="open_interp"),
        "ft": pair.recipe(read_model=1),
    }


@pytest.fixture(scope="module")
def results(pair, recipes, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saes")
    placed = [replace(recipe, out=str(folder / name)) for name, recipe in recipes.items()]
    found = train_many(placed, model=pair.base, others=[pair.ft], progress=False)
    return dict(zip(recipes, found, strict=True))


@pytest.mark.parametrize(
    "name",
    ["difference", "sweep", "models", "layers", "hub-difference", "hub-models", "two", "ft"],
)
def test_a_checkpoint_of_every_kind_and_layout_is_read_back_as_it_was_trained(results, name):
    result = results[name]
    loaded = load_sae(result.folder)
    assert isinstance(loaded, Crosscoder if result.sae.cfg.n_sources > 1 else SAE)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(200, result.sae.cfg.width_in, generator=generator)
    assert loaded.codes(x).counts().float().mean() > 0.5
    torch.testing.assert_close(
        loaded.reconstruct(x)[1], result.sae.reconstruct(x)[1], rtol=1e-3, atol=1e-3
    )
    if not name.startswith(("hub", "two")):
        assert loaded.cfg.reads == result.sae.cfg.reads


def test_every_kind_is_better_than_the_mean(results):
    assert all(result.history[-1]["fve"] > 0 for result in results.values())


def test_provenance_names_all_models_sources_scales_and_the_schedule_of_k(results):
    found = results["models"].provenance
    assert json.loads(json.dumps(found)) == found
    assert [model["id"] for model in (found["model"], *found["model"]["others"])] == ["model", "ft"]
    assert found["sources"] == [
        {"site": SITES[1], "model": m, "minus": None, "centred": False} for m in (0, 1)
    ]
    assert found["normalization"]["kind"] == "scale"
    assert len(found["normalization"]["sources"]) == 2
    assert found["k_schedule"] == {"start": 8, "end": 4, "steps": 5}
    assert found["input_scale"] is None
    last = results["models"].history[-1]
    assert found["final"]["fve_1"] == last["fve_1"]
    # rows of steps 5 and 10: k of the step that was taken, which for the fifth is 8 − 4 · 4/5, rounded
    assert [row["k"] for row in results["models"].history] == [5, 4]
    assert results["difference"].provenance["sources"][0]["minus"] == 0
    assert results["sweep"].provenance["input_scale"] > 0


def test_what_reads_one_model_names_that_one_alone(results):
    found = results["ft"]
    assert (found.provenance["model"]["id"], "others" in found.provenance["model"]) == ("ft", False)
    assert found.sae.cfg.model.endswith("ft")
    assert found.sae.cfg.models == ()
    assert "others" not in results["layers"].provenance["model"]


def test_a_recipe_file_says_how_well_each_source_is_explained(pair, tmp_path):
    settings = pair.recipe(reads="models", out=str(tmp_path / "cc")).to_json()
    lines = [f"{key} = {json.dumps(v)}" for key, v in settings.items() if v is not None]
    (tmp_path / "recipe.toml").write_text("\n".join(lines))
    (line,) = train_recipes([tmp_path / "recipe.toml"], progress=False)
    final = load_sae(tmp_path / "cc").cfg.provenance["saebench"]["final"]
    shown = f"held-out FVE {final['fve']:.4f}, FVE of model 0 {final['fve_0']:.4f}"
    assert f"{shown}, of model 1 {final['fve_1']:.4f}, L0 " in line
    assert f"cc: crosscoder of models 0 and 1 at {settings['site']}, batchtopk, k " in line


def test_a_layout_without_a_place_for_the_site_is_refused_before_training(pair, tmp_path):
    recipe = pair.recipe(
        reads="models",
        layout="open_interp",
        site="blocks.1.hook_mlp_out",
        out=str(tmp_path / "cc"),
    )
    before = pair.base.calls["prefix"]
    with pytest.raises(OutputError, match="hook_mlp_out"):
        train(recipe, model=pair.base, others=[pair.ft])
    assert pair.base.calls["prefix"] == before


def test_a_crosscoder_needs_the_space_of_all_its_sources(pair, tmp_path, small_files):
    n_bytes = 2 * 2 * WIDTH * 2**15 * 4
    recipe = pair.recipe(reads="models", d_sae=2**15, out=str(tmp_path / "cc"))
    with small_files(n_bytes - 1), pytest.raises(OutputError, match=f"{n_bytes:,}"):
        train(recipe, model=pair.base, others=[pair.ft], progress=False)
