"""Difference SAEs: what of the change that fine-tuning made is reconstructed, and on which tokens?"""

import pytest


@pytest.mark.saebench(suite="difference")
def test_difference(measured, gate):
    """The measured value, or the bound of its interval, is within the limit."""
    passed, message = measured.check(gate)
    assert passed, message
