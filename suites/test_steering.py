"""Steering: does what a model writes follow the strength of a direction, more than chance has it?"""

import pytest


@pytest.mark.saebench(suite="steering")
def test_steering(measured, gate):
    """The measured value, or the bound of its interval, is within the limit."""
    passed, message = measured.check(gate)
    assert passed, message
