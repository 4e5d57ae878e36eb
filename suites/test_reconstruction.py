"""Reconstruction: does the SAE give back what it read, and does the model still predict with it?"""

import pytest


@pytest.mark.saebench(suite="reconstruction")
def test_reconstruction(measured, gate):
    """The measured value, or the bound of its interval, is within the limit."""
    passed, message = measured.check(gate)
    assert passed, message
