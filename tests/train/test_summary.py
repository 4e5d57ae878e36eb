"""The line about a trained SAE."""

import pytest

from saebench.sae import Source
from saebench.train.recipe import Recipe
from saebench.train.summary import summary, what_is_read

A, B = "blocks.1.hook_resid_post", "blocks.2.hook_resid_post"


@pytest.mark.parametrize(
    ("sources", "n_models", "expected"),
    [
        ([Source(A, 0)], 1, A),
        ([Source(A, 1)], 2, f"model 1 at {A}"),
        ([Source(A, 1, 0)], 2, f"model 1 − model 0 at {A}"),
        ([Source(A, 0, 1)], 2, f"model 0 − model 1 at {A}"),
        ([Source(A, 0), Source(A, 1)], 2, f"models 0 and 1 at {A}"),
        ([Source(A, 0), Source(A, 1), Source(A, 2)], 3, f"models 0, 1 and 2 at {A}"),
        ([Source(A, 0), Source(B, 0)], 1, f"{A} and {B}"),
        ([Source(A, 1), Source(B, 1)], 2, f"model 1 at {A} and {B}"),
    ],
)
def test_what_is_read_is_said_in_words(sources, n_models, expected):
    assert what_is_read(sources, n_models) == expected


def line(recipe, **final):
    final = {"fve": 0.6875, "l0": 4.04, "loss": 1.0, "dead_share": 0.0213, **final}
    provenance = {
        "sources": [source._asdict() for source in recipe.sources],
        "final": final,
        "training_samples": 5000,
    }
    return summary(recipe, provenance, final, folder="out", d_sae=64, tokens_per_second=1234.5)


def test_a_crosscoder_names_the_model_of_each_figure():
    recipe = Recipe(
        model="a",
        others=("b",),
        site=A,
        reads="models",
        architecture="batchtopk",
        d_sae=64,
        k=4,
        k_start=40,
        k_anneal=0.2,
    )
    assert line(recipe, fve_0=0.684, fve_1=0.691) == (
        f"out: crosscoder of models 0 and 1 at {A}, batchtopk, k 4 (k_start 40), 64 latents, "
        "held-out FVE 0.6875, FVE of model 0 0.6840, of model 1 0.6910, L0 4.0, dead 2.1 %, "
        "1,234 tokens/s"
    )


def test_a_crosscoder_over_layers_names_the_hook_point_of_each_figure():
    recipe = Recipe(sites=(A, B), reads="layers", architecture="batchtopk", d_sae=64, k=4)
    found = line(recipe, fve_0=0.6, fve_1=None)
    assert f"out: crosscoder of {A} and {B}, " in found
    assert f"FVE at {A} 0.6000, at {B} not evaluable, " in found


def test_what_cannot_be_used_or_known_is_said():
    found = line(Recipe(site=A, d_sae=64, k=4), fve=-0.5, dead_share=None)
    assert "dead latents not known (fewer than 1,000,000 tokens)" in found
    assert "(worse than the mean: not usable)" in found
