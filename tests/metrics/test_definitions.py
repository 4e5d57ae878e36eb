"""The catalogue: complete, versioned, and helpful about names it does not know."""

import subprocess
import sys

import pytest

from saebench.errors import ConfigError
from saebench.metrics.definitions import DEFINITIONS, definition


@pytest.mark.parametrize("name", DEFINITIONS)
def test_every_definition_is_complete(name):
    one = DEFINITIONS[name]
    assert one.id == name
    assert one.metric == f"{name}@{one.version}"
    assert all((one.label, one.formula, one.unit, one.source, one.interval))
    low, high = one.range
    assert low is None or high is None or low <= high


def test_labels_are_unique():
    labels = [one.label for one in DEFINITIONS.values()]
    assert len(labels) == len(set(labels))


def test_a_definition_is_found_with_and_without_its_version():
    assert definition("fve") is definition("fve@1")
    assert definition("fve").label == "FVE"
    assert definition("ce_recovered").label == "CE recovered"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("fev", "'fve'"),
        ("FVE", "'fve'"),
        ("dead_fractoin", "'dead_fraction'"),
        ("fve@2", "'fve@1'"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest(name, nearest):
    with pytest.raises(ConfigError, match="no such definition") as caught:
        definition(name)
    assert f"Did you mean {nearest}?" in caught.value.next_step
    assert "ce_recovered" in caught.value.next_step


def test_a_name_like_no_other_gets_the_whole_list():
    with pytest.raises(ConfigError) as caught:
        definition("zzzzzz")
    assert "Did you mean" not in caught.value.next_step


def test_definitions_are_plain_data():
    assert definition("cosine").to_json()["range"] == [-1.0, 1.0]


def test_names_are_looked_up_without_importing_torch():
    code = "import saebench.metrics.definitions, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
