"""Causal effects: does ablating a latent change both models' predictions alike?"""

import pytest


@pytest.mark.saebench(suite="causal")
def test_causal(measured, gate):
    """The measured value, or the bound of its interval, is within the limit."""
    passed, message = measured.check(gate)
    assert passed, message
