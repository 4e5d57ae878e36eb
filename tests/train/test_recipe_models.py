"""Recipes over several models and sites: what they read, and what they cannot be."""

import json

import pytest

from saebench.errors import ConfigError
from saebench.sae import Source
from saebench.train import Recipe, load_recipes

SITE, DEEPER = "blocks.0.hook_resid_post", "blocks.3.hook_resid_post"
LAYERS = {"reads": "layers", "sites": [SITE, DEEPER], "architecture": "batchtopk"}
MODELS = {"reads": "models", "others": ["ft"], "site": SITE, "architecture": "batchtopk"}


def recipe(**changes):
    return Recipe(**{"model": "base", "d_sae": 64, "k": 4, **changes})


@pytest.mark.parametrize(
    ("changes", "sources"),
    [
        ({"site": SITE}, [Source(SITE, 0)]),
        ({"site": SITE, "others": ["a", "b"], "read_model": 2}, [Source(SITE, 2)]),
        ({"site": SITE, "others": ["a"], "reads": "difference_ftb"}, [Source(SITE, 1, 0)]),
        ({"site": SITE, "others": ["a"], "reads": "difference_bft"}, [Source(SITE, 0, 1)]),
        ({**MODELS, "others": ["a", "b"]}, [Source(SITE, 0), Source(SITE, 1), Source(SITE, 2)]),
        (LAYERS, [Source(SITE, 0), Source(DEEPER, 0)]),
        ({**LAYERS, "others": ["a"], "read_model": 1}, [Source(SITE, 1), Source(DEEPER, 1)]),
    ],
)
def test_its_sources_are_models_and_sites_in_order(changes, sources):
    assert list(recipe(**changes).sources) == sources


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"reads": "difference_ftb"}, "others"),
        ({"reads": "difference_bft"}, "others"),
        ({"reads": "models", "architecture": "batchtopk"}, "others"),
        ({"reads": "difference"}, "difference_ftb"),
        ({"others": "ft"}, "list of strings"),
        ({"others": [3]}, "list of strings"),
        ({"others": ["ft"], "other_revisions": ["a", "b"]}, "other_revisions"),
        ({"read_model": 1}, "read_model = 1"),
        ({"others": ["ft"], "read_model": 2}, "models 0 to 1"),
        ({**MODELS, "read_model": 1}, "read_model"),
        ({"read_model": -1}, "read_model"),
        ({**LAYERS, "sites": []}, "two or more"),
        ({**LAYERS, "sites": [SITE]}, "two or more"),
        ({**LAYERS, "sites": [SITE, SITE]}, "different sites"),
        ({**LAYERS, "site": SITE}, "sites alone"),
        ({"site": SITE, "sites": [SITE, DEEPER]}, 'reads = "layers"'),
        ({**MODELS, "architecture": "topk"}, "architecture"),
        ({**LAYERS, "architecture": "topk"}, "architecture"),
        ({"normalization": "none"}, "normalization"),
        ({"target_rms": 100}, "target_rms"),
        ({"target_rms": 0, "normalization": "centre"}, "target_rms"),
        ({"k_start": 8}, "k_anneal"),
        ({"k_anneal": 0.2}, "k_start"),
        ({"k_start": 3, "k_anneal": 0.2}, "at least k = 4"),
        ({"k_start": 8, "k_anneal": 1.5}, "k_anneal"),
        ({"layout": "saelens"}, "layout"),
        ({"layout": "dictionary_learning"}, "batchtopk"),
        ({"layout": "open_interp"}, "two models"),
        ({**MODELS, "layout": "open_interp", "others": ["a", "b"]}, "two models"),
        ({**LAYERS, "layout": "open_interp"}, "two models"),
        ({**MODELS, "layout": "open_interp", "normalization": "centre"}, "normalization"),
        (
            {**MODELS, "layout": "dictionary_learning", "normalization": "standardize"},
            "normalization",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_name(changes, complaint):
    with pytest.raises(ConfigError, match=complaint):
        recipe(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {**MODELS, "layout": "open_interp"},
        {**MODELS, "layout": "dictionary_learning", "normalization": "centre", "target_rms": 100},
        {
            **{"reads": "difference_ftb", "others": ["ft"], "architecture": "batchtopk"},
            **{"layout": "dictionary_learning", "normalization": "standardize"},
        },
        {**MODELS, "k": 100, "d_sae": 2000, "k_start": 1000, "k_anneal": 1},
    ],
)
def test_what_can_be_is_taken(changes):
    assert recipe(**changes).others == ("ft",)


def test_a_k_to_start_with_that_is_larger_than_the_dictionary_is_refused():
    with pytest.raises(ConfigError, match="k_start = 65"):
        recipe(k_start=65, k_anneal=0.5).width(16)


def test_it_is_plain_json():
    given = recipe(**LAYERS).to_json()
    assert json.loads(json.dumps(given)) == given


class TestAFile:
    BASE = f'model = "m"\nothers = ["ft"]\ndata = "d"\nd_sae = 64\nk = 4\nsite = "{SITE}"\n'
    BASE += 'architecture = "batchtopk"\n'

    def load(self, tmp_path, text, base=BASE):
        (tmp_path / "recipe.toml").write_text(base + text)
        return load_recipes(tmp_path / "recipe.toml")

    def test_may_read_other_things_at_other_sites_in_each_table(self, tmp_path):
        text = f'[[sae]]\nreads = "models"\n[[sae]]\nreads = "difference_ftb"\nsite = "{DEEPER}"\n'
        text += '[[sae]]\nread_model = 1\nnormalization = "standardize"\n'
        text += f'[[sae]]\nreads = "layers"\nsite = ""\nsites = ["{SITE}", "{DEEPER}"]\n'
        found = self.load(tmp_path, text)
        assert [len(one.sources) for one in found] == [2, 1, 1, 2]
        assert [one.site for one in found] == [SITE, DEEPER, SITE, ""]

    @pytest.mark.parametrize("line", ['others = ["a"]', 'model = "n"', 'other_revisions = ["x"]'])
    def test_has_the_same_models_for_all_tables(self, tmp_path, line):
        key = line.split()[0]
        text = '[[sae]]\nreads = "models"\n[[sae]]\nreads = "difference_ftb"\n'
        with pytest.raises(ConfigError, match=f"the same {key} "):
            self.load(tmp_path, text + line)

    def test_has_a_reader_for_every_model(self, tmp_path):
        with pytest.raises(ConfigError, match="reads model 1, 'ft'"):
            self.load(tmp_path, "")

    def test_has_sites_where_layers_are_read_and_a_site_elsewhere(self, tmp_path):
        base = self.BASE.replace(f'site = "{SITE}"\n', "")
        with pytest.raises(ConfigError, match="'site' is missing"):
            self.load(tmp_path, 'reads = "models"', base)
        base = base.replace('others = ["ft"]\n', "")
        text = f'reads = "layers"\nsites = ["{SITE}", "{DEEPER}"]'
        assert self.load(tmp_path, text, base)[0].sites == (SITE, DEEPER)
