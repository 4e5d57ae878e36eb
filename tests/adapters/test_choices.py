"""What a caller in Python may say of a checkpoint, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from saebench.adapters import Choices
from saebench.errors import ConfigError


def test_numbers_booleans_and_lists_are_what_the_command_line_would_take() -> None:
    choices = Choices({"k": 3, "relu": True, "threshold": 0.5, "sites": ["a", "b"], "x": "y"})
    found = [choices.size("k"), choices.flag("relu"), choices.number("threshold")]
    assert [fact.value for fact in found if fact is not None] == [3, True, 0.5]
    sites = choices.names("sites")
    assert sites is not None
    assert sites.value == ("a", "b")
    assert choices.given["settings"]["k"] == "3"
    assert choices.given["tensors"] == {}


@pytest.mark.parametrize("settings", ["k=3", ["k=3"], {"k": None}, {"k": {}}, {3: "k"}, 5, [], ""])
def test_anything_but_a_mapping_of_such_values_is_refused(settings: Any) -> None:
    with pytest.raises(ConfigError, match=r'settings as a mapping.*Give settings=\{"k": "10"\}'):
        Choices(settings)


def test_tensors_are_names_by_role() -> None:
    with pytest.raises(ConfigError, match=r'tensors as a mapping.*\{"encoder": "W_enc"\}'):
        Choices(None, "encoder=W")  # type: ignore[arg-type]
