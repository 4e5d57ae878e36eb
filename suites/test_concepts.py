"""Concepts: does a latent tell two classes of texts apart, on texts it was not chosen on?"""

import pytest


@pytest.mark.saebench(suite="concepts")
def test_concepts(measured, gate):
    """The measured value, or the bound of its interval, is within the limit."""
    passed, message = measured.check(gate)
    assert passed, message
