"""From a recipe to a saved checkpoint, on a tiny model with a tokenizer and text of its own."""

import hashlib
import json
from dataclasses import replace

import pytest
import torch

from saebench.data import open_stream
from saebench.errors import ConfigError, DataError, ModelError, OutputError, SiteError
from saebench.loading import load_sae
from saebench.models import LanguageModel
from saebench.train import Recipe, train, train_many, train_recipes
from saebench.train.activity import Reading
from saebench.train.outcome import fault, may_save
from tests.small_world import make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def model(world):
    return LanguageModel.load(world.model, device="cpu")


@pytest.fixture
def recipe(world):
    return Recipe(
        model=str(world.model),
        data=str(world.data),
        site="model.layers.1",  # a module path: its output is the residual stream after the block
        d_sae=32,
        k=4,
        tokens=1000,
        batch_size=64,
        lr=5e-3,
        heldout_tokens=100,
        context_size=16,
        model_batch_size=4,
        buffer_size=256,
        log_every=5,
        device="cpu",
    )


def test_a_recipe_becomes_a_checkpoint_with_its_provenance(recipe, world, tmp_path):
    result = train(replace(recipe, out=str(tmp_path / "sae"), seed=3), progress=False)
    loaded = load_sae(tmp_path / "sae")
    assert torch.equal(loaded.W_dec, result.sae.W_dec)
    assert loaded.cfg.site == "blocks.1.hook_resid_post"
    ours = json.loads((tmp_path / "sae" / "cfg.json").read_text())["saebench"]
    assert ours["recipe"]["k"] == 4
    assert ours["seeds"] == {"weights": 3, "shuffle": 0}
    assert ours["tokens"] == 1000
    assert ours["final"]["fve"] == result.history[-1]["fve"]
    assert len(ours["model"]["digest"]) == len(ours["data"]["digest"]) == 64
    assert ours["environment"]["torch"] == torch.__version__
    rows = [
        json.loads(line) for line in (tmp_path / "sae" / "training.jsonl").read_text().splitlines()
    ]
    assert tuple(rows) == result.history
    assert result.tokens_per_second > 0


def test_held_out_sequences_of_the_same_text_are_not_trained_on(recipe, model):
    provenance = train(recipe, model=model, progress=False).provenance
    held = provenance["heldout"]
    assert held["tokens"] == 100
    first = provenance["data"]["first_sequence"]
    stream = open_stream(recipe.data, model.tokenizer, context_size=16)
    batches = list(stream.batches(1))
    counted = torch.tensor([int(batch.counted.sum()) for batch in batches]).cumsum(0)
    assert counted[first - 2] < 100 <= counted[first - 1]
    # what was trained on, as digested: every later sequence, epoch after epoch, until enough was read
    digest = hashlib.sha256()
    for i in range(provenance["data"]["sequences_read"]):
        later = batches[first:]
        digest.update(later[i % len(later)].ids[0].numpy().tobytes())
    assert provenance["data"]["digest"] == digest.hexdigest()
    assert provenance["data"]["epochs"] > 1


def test_a_held_out_text_of_its_own_leaves_all_data_to_training(recipe, model, world, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text(world.data.read_text())
    provenance = train(replace(recipe, held_out=str(other)), model=model, progress=False).provenance
    assert provenance["data"]["first_sequence"] == 0
    assert provenance["heldout"]["spec"] == str(other)


def test_activations_are_those_of_the_counted_tokens(recipe, model):
    stream = open_stream(recipe.data, model.tokenizer, context_size=16, mask="special")
    site = model.site(recipe.site)
    reading = Reading(recipe, [model], [(0, site)], stream)
    got = torch.cat([x for x, _ in reading.once()])
    expected = [
        model.model(batch.ids, output_hidden_states=True).hidden_states[2][batch.counted]
        for batch in stream.batches(4)
    ]
    torch.testing.assert_close(got, torch.cat(expected).detach(), atol=1e-5, rtol=1e-5)
    ids = torch.cat([ids for _, ids in reading.once()])
    assert ids.bincount().tolist() == [int(batch.counted.sum()) for batch in stream.batches(1)]


def test_the_model_runs_once_for_all_saes(recipe, model):
    def prefixes(recipes):
        before = model.calls["prefix"]
        train_many(recipes, model=model, progress=False)
        return model.calls["prefix"] - before

    several = [recipe, replace(recipe, seed=1), replace(recipe, architecture="batchtopk", k=2)]
    assert prefixes(several) == prefixes([recipe])


def test_recipe_files_train_together_and_report_a_line_each(recipe, world, tmp_path):
    path = tmp_path / "recipe.toml"
    lines = [f"model = '{world.model}'", f"data = '{world.data}'", "site = 'blocks.0.hook_mlp_out'"]
    lines += ["d_sae = 32", "k = 4", "tokens = 500", "batch_size = 64", "heldout_tokens = 50"]
    lines += ["context_size = 16", "buffer_size = 128", "device = 'cpu'"]
    for name in ("topk", "batchtopk"):
        lines += ["[[sae]]", f"architecture = '{name}'", f"out = '{tmp_path / name}'"]
    path.write_text("\n".join(lines))
    first, second = train_recipes([path], progress=False)
    assert "topk, k 4, 32 latents, held-out FVE" in first
    assert "tokens/s" in first
    assert str(tmp_path / "batchtopk") in second
    with pytest.raises(OutputError, match="it exists"):
        list(train_recipes([path], progress=False))
    assert len(list(train_recipes([path], overwrite=True, progress=False))) == 2


class TestARunThatDiverges:
    """With a learning rate of 1000 all figures stay finite and none is usable."""

    @pytest.fixture
    def diverging(self, recipe):
        return replace(recipe, lr=1000.0, d_sae=64, grad_clip=0.0)

    def test_does_not_replace_a_checkpoint_and_the_others_are_saved(
        self, recipe, diverging, model, tmp_path
    ):
        out = tmp_path / "sae"
        good = train(replace(recipe, d_sae=64, out=str(out)), model=model, progress=False)
        assert good.history[-1]["fve"] > 0
        bad = replace(diverging, out=str(out), overwrite=True)
        fine = replace(recipe, out=str(tmp_path / "fine"))
        with pytest.raises(ConfigError, match="worse than the mean") as raised:
            train_many([bad, fine], model=model, progress=False)
        for part in ("held-out FVE -", "L0", str(out), "1 other", "Lower lr", "lr of 1000"):
            assert part in str(raised.value)
        assert torch.equal(load_sae(out).W_dec, good.sae.W_dec)
        assert load_sae(tmp_path / "fine").cfg.d_sae == 32

    def test_is_saved_in_a_new_folder_and_said_to_be_unusable(self, diverging, world, tmp_path):
        path = tmp_path / "recipe.toml"
        out = tmp_path / "new"
        settings = {**diverging.to_json(), "out": str(out)}
        lines = [f"{key} = {json.dumps(v)}" for key, v in settings.items() if v is not None]
        path.write_text("\n".join(lines))
        (line,) = train_recipes([path], progress=False)
        assert "(worse than the mean: not usable)" in line
        assert load_sae(out).cfg.d_sae == 64


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ({"fve": 0.5, "l0": 3.0}, None),
        ({"fve": 0.0, "l0": 3.0}, None),
        ({"fve": None, "l0": 3.0}, None),
        ({"fve": -0.01, "l0": 3.0}, "worse than the mean"),
        ({"fve": 0.5, "l0": 0.0}, "no latent is active"),
        ({"fve": None, "l0": 0.0}, "no latent is active"),
        ({"fve": float("-inf"), "l0": 3.0}, "not finite"),
        ({"fve": 0.5, "l0": 3.0, "grad_norm": float("nan")}, "not finite"),
    ],
)
def test_an_sae_is_usable_if_it_beats_the_mean_with_latents(row, why):
    found = fault(row)
    assert found is None if why is None else why in str(found)


def test_figures_that_are_not_finite_are_saved_nowhere(recipe, tmp_path):
    new = replace(recipe, out=str(tmp_path / "new"))
    assert may_save(new, {"fve": -1.0, "l0": 3.0})
    assert not may_save(new, {"fve": float("nan"), "l0": 3.0})


class TestFoundBeforeTraining:
    def test_a_disk_without_the_space_for_all_saes(self, recipe, model, tmp_path, small_files):
        before = model.calls["prefix"]
        wide = [replace(recipe, d_sae=2**16, out=str(tmp_path / name)) for name in "ab"]
        n_bytes = 2 * model.d_model * 2**16 * 4
        with small_files(2 * n_bytes - 1), pytest.raises(OutputError, match=f"{2 * n_bytes:,}"):
            train_many(wide, model=model, progress=False)
        assert model.calls["prefix"] == before
        assert not any(tmp_path.iterdir())

    def test_a_file_system_that_takes_no_files(self, recipe, model):
        with pytest.raises(OutputError, match="cannot be written"):
            train(replace(recipe, out="/proc/x"), model=model)

    def test_a_folder_that_is_taken(self, recipe, model, tmp_path):
        (tmp_path / "notes.txt").write_text("")
        before = model.calls["prefix"]
        with pytest.raises(OutputError):
            train(replace(recipe, out=str(tmp_path)), model=model)
        assert model.calls["prefix"] == before

    def test_a_site_that_the_model_does_not_have(self, recipe, model):
        with pytest.raises(SiteError):
            train(replace(recipe, site="blocks.9.hook_resid_post"), model=model)

    def test_a_k_that_is_larger_than_the_dictionary(self, recipe, model):
        with pytest.raises(ConfigError, match="k = 40"):
            train(replace(recipe, k=40), model=model)

    def test_data_that_are_held_out_entirely(self, recipe, model):
        with pytest.raises(DataError, match="held out"):
            train(replace(recipe, heldout_tokens=10_000), model=model)

    def test_a_model_without_a_tokenizer(self, recipe, model):
        with pytest.raises(ModelError, match="no tokenizer"):
            train(recipe, model=LanguageModel(model.model, id="bare"))

    def test_activations_that_are_not_finite(self, recipe, world):
        broken = LanguageModel.load(world.model, device="cpu")
        with torch.no_grad():
            broken.model.get_input_embeddings().weight[5] = float("nan")
        with pytest.raises(ModelError, match=r"blocks\.1\.hook_resid_post"):
            train(recipe, model=broken)
