"""Every model runs once for all SAEs, on the same tokens, and each SAE finds its own columns."""

from dataclasses import replace

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from saebench.data import open_stream
from saebench.errors import ConfigError, ModelError
from saebench.models import LanguageModel
from saebench.train import train, train_many
from saebench.train.activity import Reading
from saebench.train.streams import open_models, rows_of
from tests.tiny_models import VOCAB, WIDTH
from tests.train.two_models import SITES


def other_model(pair, *, width=WIDTH, layers=3, words=None):
    """A model with another width, depth or vocabulary than the pair's."""
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=32,
    )
    tokenizer = pair.base.tokenizer
    if words is not None:
        inner = Tokenizer(WordLevel(words, unk_token="<pad>"))
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>")
    return LanguageModel(LlamaForCausalLM(config), tokenizer, id="other")


def reference(pair, recipe):
    """The residual streams ``[model][layer] -> [n, d]`` of all counted tokens, by transformers alone."""
    stream = open_stream(recipe.data, pair.base.tokenizer, context_size=16, mask="special")
    found = []
    for model in (pair.base, pair.ft):
        layers = [
            [h[batch.counted] for h in model.model(batch.ids, output_hidden_states=True)[-1]]
            for batch in stream.batches(4)
        ]
        found.append([torch.cat(layer).detach() for layer in zip(*layers, strict=True)])
    return found


def read(pair, recipes):
    """What each recipe gets of all tokens."""
    models = [pair.base, pair.ft]
    rows = rows_of(recipes, models)
    stream = open_stream(recipes[0].data, pair.base.tokenizer, context_size=16, mask="special")
    reading = Reading(recipes[0], models, rows.wanted, stream)
    whole = torch.cat([x for x, _ in reading.once()])
    return rows, [columns.of(whole) for columns in rows.columns]


class TestWhatARecipeReads:
    def test_equals_the_activations_that_transformers_gives(self, pair):
        kinds = [
            pair.recipe(),
            pair.recipe(read_model=1, site=SITES[0]),
            pair.recipe(reads="difference_ftb"),
            pair.recipe(reads="difference_bft", site=SITES[0]),
            pair.recipe(reads="models"),
            pair.recipe(reads="layers", site="", sites=list(SITES), read_model=1),
            pair.recipe(reads="layers", site="", sites=[SITES[1], SITES[0]]),
        ]
        base, ft = reference(pair, kinds[0])
        expected = [
            base[2],
            ft[1],
            ft[2] - base[2],
            base[1] - ft[1],
            torch.cat([base[2], ft[2]], 1),
            torch.cat([ft[1], ft[2]], 1),
            torch.cat([base[2], base[1]], 1),
        ]
        rows, got = read(pair, kinds)
        assert (got[2].norm(dim=1) > 0.01).all()
        for one, other in zip(got, expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
        assert len(rows.wanted) == 4  # two models, two layers: each once
        assert rows.widths == (WIDTH,) * len(kinds)

    def test_is_not_copied_where_it_lies_in_one_piece(self, pair):
        recipes = [pair.recipe(reads="models"), pair.recipe(read_model=1)]
        rows = rows_of(recipes, [pair.base, pair.ft])
        whole = torch.randn(5, 2 * WIDTH)
        for columns in rows.columns:
            assert columns.of(whole).untyped_storage().data_ptr() == whole.data_ptr()

    def test_is_the_same_whatever_other_saes_read(self, pair):
        recipe = pair.recipe(reads="difference_ftb")
        first = pair.recipe(site=SITES[0], read_model=1)
        (_, [alone]), (_, [_, beside]) = read(pair, [recipe]), read(pair, [first, recipe])
        assert torch.equal(alone, beside)


def test_each_model_runs_once_for_all_saes_of_a_run(pair):
    def prefixes(recipes):
        before = [model.calls["prefix"] for model in (pair.base, pair.ft)]
        train_many(recipes, model=pair.base, others=[pair.ft], progress=False)
        return [m.calls["prefix"] - n for m, n in zip((pair.base, pair.ft), before, strict=True)]

    difference = pair.recipe(reads="difference_ftb")
    several = [replace(difference, site=site, k=k) for site in SITES for k in (2, 4, 8)]
    several += [pair.recipe(reads="models", k_start=8, k_anneal=0.5)]
    several += [pair.recipe(reads="layers", site="", sites=list(SITES))]
    one = prefixes([difference])
    assert prefixes(several) == one
    assert one[0] == one[1] > 0


def test_a_model_that_one_sae_alone_reads_runs_no_further_than_it_wants(pair):
    rows = rows_of([pair.recipe(site=SITES[0]), pair.recipe(read_model=1)], [pair.base, pair.ft])
    assert [(number, str(site)) for number, site in rows.wanted] == [(0, SITES[0]), (1, SITES[1])]


class TestModelsThatDoNotFit:
    def test_have_other_tokens(self, pair, tmp_path):
        words = {"<pad>": 0, "<s>": 1} | {f"w{i}": VOCAB - i + 1 for i in range(2, VOCAB)}
        other = other_model(pair, words=words)
        with pytest.raises(ConfigError, match="different vocabularies"):
            train(pair.recipe(reads="models"), model=pair.base, others=[other])
        other.model.save_pretrained(tmp_path / "other")
        other.tokenizer.save_pretrained(tmp_path / "other")
        with pytest.raises(ConfigError, match="different vocabularies"):
            train(pair.recipe(reads="models", others=[str(tmp_path / "other")]), model=pair.base)

    def test_have_no_tokenizer_to_tell_by(self, pair):
        bare = LanguageModel(pair.ft.model, id="bare")
        with pytest.raises(ModelError, match=r"'bare'.*without one"):
            train(pair.recipe(reads="models"), model=pair.base, others=[bare])

    @pytest.mark.parametrize("reads", ["difference_ftb", "models"])
    def test_have_other_widths_and_both_are_said(self, pair, reads):
        other = other_model(pair, width=2 * WIDTH)
        with pytest.raises(ModelError, match="of one width") as raised:
            train(pair.recipe(reads=reads), model=pair.base, others=[other])
        for model, width in (("model", WIDTH), ("other", 2 * WIDTH)):
            assert f"{width} at {SITES[1]} of {model}" in raised.value.found

    def test_may_have_other_widths_where_they_are_read_apart(self, pair):
        other = other_model(pair, width=2 * WIDTH)
        recipes = [pair.recipe(), pair.recipe(read_model=1)]
        first, second = train_many(recipes, model=pair.base, others=[other], progress=False)
        assert (first.sae.cfg.d_in, second.sae.cfg.d_in) == (WIDTH, 2 * WIDTH)

    def test_have_other_depths_and_are_named(self, pair):
        other = other_model(pair, layers=1)
        with pytest.raises(ConfigError, match=r"one depth, .* and other at .*: 3 and 1 layers"):
            train(pair.recipe(reads="models"), model=pair.base, others=[other])

    def test_are_the_same_model_twice(self, pair):
        twin = LanguageModel(pair.base.model, pair.base.tokenizer, id="twin")
        with pytest.raises(ModelError, match="exactly zero"):
            train(pair.recipe(reads="difference_bft"), model=pair.base, others=[twin])

    def test_are_not_as_many_as_the_recipe_names(self, pair):
        with pytest.raises(ConfigError, match="0 given"):
            open_models(pair.recipe(reads="models"), pair.base, [])

    def test_are_read_by_no_sae(self, pair):
        with pytest.raises(ConfigError, match="reads model 1"):
            train_many([pair.recipe()], model=pair.base, others=[pair.ft])


def test_activations_that_are_not_finite_are_placed(pair):
    """Token 40 is broken in the second model only; every sequence that counts it is named."""
    broken = LanguageModel.load(pair.ft_path, device="cpu")
    with torch.no_grad():
        broken.model.get_input_embeddings().weight[40] = float("inf")
    recipe = pair.recipe(reads="difference_ftb", model_batch_size=64)
    stream = open_stream(recipe.data, pair.base.tokenizer, context_size=16)
    holding = [int(b.sequence_ids[0]) for b in stream.batches(1) if bool((b.ids == 40).any())]
    assert 1 < len(holding) < 40
    first = ", ".join(map(str, holding[:8]))
    with pytest.raises(ModelError, match=rf"resid_post of model 1 \(ft\).*sequences {first}"):
        train(recipe, model=pair.base, others=[broken])


def test_models_are_read_from_where_the_recipe_names_them(pair):
    result = train(pair.recipe(reads="difference_ftb"), progress=False)
    given = train(
        pair.recipe(reads="difference_ftb"), model=pair.base, others=[pair.ft], progress=False
    )
    assert torch.equal(result.sae.W_dec, given.sae.W_dec)
    models = result.provenance["model"]
    assert [models["id"], models["others"][0]["id"]] == ["model", "ft"]
