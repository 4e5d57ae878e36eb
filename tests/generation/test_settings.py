"""Generation settings: what is refused, and that torch stays out of it."""

import subprocess
import sys

import pytest

from saebench.errors import ConfigError, ModelError
from saebench.generation.settings import GenerationSettings
from saebench.precision import FLOATS


def test_json_makes_the_same_settings_again():
    settings = GenerationSettings(tokens=7, top_p=0.5)
    assert GenerationSettings(**settings.to_json()) == settings


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
        {"precision": "int3"},
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
    assert GenerationSettings(precision="bf16").precision == "bfloat16"
    assert GenerationSettings(precision="nf4+bf16+double").precision == "nf4+double+bfloat16"
    assert all(GenerationSettings(precision=name).precision == name for name in FLOATS)


def test_settings_are_read_without_torch():
    code = (
        "import sys; from saebench.generation import GenerationSettings as G; G(tokens=2);"
        "print([m for m in ('torch', 'transformers', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
