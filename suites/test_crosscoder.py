"""Crosscoders: which latents belong to both models, and which to one?"""

import pytest


@pytest.mark.saebench(suite="crosscoder")
def test_crosscoder(measured, gate):
    """The measured value, or the bound of its interval, is within the limit."""
    passed, message = measured.check(gate)
    assert passed, message
