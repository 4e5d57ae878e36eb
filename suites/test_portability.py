"""Portability: does the checkpoint still serve under another form of the model it was trained on?"""

import pytest


@pytest.mark.saebench(suite="portability")
def test_portability(measured, gate):
    """The measured value, or the bound of its interval, is within the limit."""
    passed, message = measured.check(gate)
    assert passed, message
