"""Generation settings: what is refused, how a query is read, and that torch stays out of it."""

import subprocess
import sys

import pytest

from saebench.errors import ConfigError, ModelError
from saebench.generation.settings import DTYPES, GenerationSettings


def test_a_query_is_read_over_defaults():
    settings = GenerationSettings.parse(
        "tokens=1_000&temperature=0.7&top_p=0.9&seed=3&length=64&batch_size=8&dtype=bfloat16",
        seed=1,
    )
    assert settings == GenerationSettings(1000, 64, 0.7, 0.9, 3, 8, "bfloat16")
    assert GenerationSettings.parse("", tokens=5) == GenerationSettings(tokens=5)


def test_json_makes_the_same_settings_again():
    settings = GenerationSettings(tokens=7, top_p=0.5)
    assert GenerationSettings(**settings.to_json()) == settings


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("temprature=1", "temperature"),
        ("xyzzy=1", "Known: tokens"),
        ("tokens=1&tokens=2", "twice"),
        ("tokens", "no value"),
        ("tokens=1e6", "whole number"),
        ("temperature=hot", "a number"),
    ],
)
def test_a_query_that_means_nothing_is_refused(query, said):
    with pytest.raises(ConfigError, match=said):
        GenerationSettings.parse(query)


@pytest.mark.parametrize(
    "wrong",
    [
        {"tokens": 0},
        {"tokens": True},
        {"tokens": 1.5},
        {"length": 1},
        {"temperature": 0.0},
        {"temperature": float("nan")},
        {"temperature": float("inf")},
        {"top_p": 0.0},
        {"top_p": 1.01},
        {"seed": -1},
        {"seed": 2**63},
        {"batch_size": 0},
        {"dtype": "int8"},
    ],
)
def test_a_setting_that_cannot_be_sampled_is_refused(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        GenerationSettings(**wrong)


@pytest.mark.parametrize(("context", "length"), [(32, 32), (4096, 128), (None, 128)])
def test_the_length_is_the_context_or_128(context, length):
    assert GenerationSettings().resolved(context).length == length


def test_a_length_beyond_the_context_is_refused():
    assert GenerationSettings(length=32).resolved(32).length == 32
    with pytest.raises(ModelError, match="context is 32"):
        GenerationSettings(length=33).resolved(32)


def test_precisions_are_those_of_models():
    from saebench.models.pretrained import DTYPES as OF_MODELS

    assert set(DTYPES) == set(OF_MODELS)


def test_settings_are_read_without_torch():
    code = (
        "import sys; from saebench.generation import GenerationSettings as G; G.parse('tokens=2');"
        "print([m for m in ('torch', 'transformers', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
