"""The grammar of precision regimes."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saebench.errors import ConfigError
from saebench.precision import Precision, parse_precision

CANONICAL = {
    "fp32": "float32",
    "BF16": "bfloat16",
    " float16 ": "float16",
    "nf4": "nf4",
    "nf4+fp32": "nf4",
    "nf4+bf16+double": "nf4+double+bfloat16",
    "fp4 + Reference": "fp4+reference",
    "int8+fp16+bitsandbytes": "int8+float16+bitsandbytes",
    "rtn4": "rtn4",
    "rtn8+bf16": "rtn8+bfloat16",
    "fp8+e4m3fn": "fp8",
    "fp8+e5m2+act": "fp8+act+e5m2",
}


@pytest.mark.parametrize(("text", "canonical"), CANONICAL.items())
def test_a_regime_has_one_canonical_name(text, canonical):
    assert str(parse_precision(text)) == canonical
    assert parse_precision(canonical) == parse_precision(text)


def test_the_parts_of_a_regime_are_read():
    assert parse_precision("nf4+double+bf16+reference") == Precision(
        base="nf4", compute="bfloat16", double=True, backend="reference"
    )
    assert parse_precision("rtn3") == Precision(base="rtn", bits=3)
    assert parse_precision("fp8+act+e5m2") == Precision(base="fp8", activations=True, float8="e5m2")
    assert parse_precision("bf16") == Precision(base="bfloat16", compute="bfloat16")
    assert not parse_precision("fp16").is_quantised
    assert parse_precision("fp8").is_quantised


@given(
    base=st.sampled_from(["nf4", "fp4", "int8", "fp8", *(f"rtn{bits}" for bits in range(2, 9))]),
    modifiers=st.permutations(["double", "act", "e5m2", "bf16", "reference"]),
    n=st.integers(0, 5),
)
def test_canonical_names_read_back_and_the_order_of_modifiers_is_no_matter(base, modifiers, n):
    text = "+".join([base, *modifiers[:n]])
    try:
        found = parse_precision(text)
    except ConfigError:
        return
    assert parse_precision(str(found)) == found
    assert parse_precision("+".join([base, *reversed(modifiers[:n])])) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("int3", "no regime 'int3'.*Did you mean int8.*float32, bfloat16, float16"),
        ("fp34", "Did you mean fp"),
        ("", "no regime ''"),
        ("rtn1", "no regime 'rtn1'"),
        ("rtn9", "no regime 'rtn9'"),
        ("rtn", "no regime 'rtn'"),
        ("nf4+dubble", "no modifier 'dubble'.*Did you mean double"),
        ("nf4+", "no modifier ''"),
        ("bf16+fp32", r"\+float32 goes with a quantised regime"),
        ("int8+double", r"\+double goes with nf4 or fp4.*Use int8"),
        ("nf4+act", r"\+act goes with fp8"),
        ("nf4+e5m2", r"\+e5m2 goes with fp8"),
        ("rtn4+bitsandbytes", r"\+bitsandbytes goes with nf4, fp4 or int8"),
        ("nf4+bf16+fp16", "names a compute type more than once"),
        ("nf4+bf16+bfloat16", "names a compute type more than once"),
        ("nf4+reference+bitsandbytes", "names a backend more than once"),
        ("nf4+double+double", "names a modifier double more than once"),
    ],
)
def test_what_means_nothing_is_refused_with_what_is_known(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_precision(text)


def test_it_is_read_without_torch():
    code = (
        "import sys; from saebench.precision import parse_precision as p; p('nf4+double');"
        "print([m for m in ('torch', 'transformers', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
