"""Fake features: how many latents fire on random tokens?"""

import pytest


@pytest.mark.saebench(suite="fake_features")
def test_fake_features(measured, gate):
    """The measured value, or the bound of its interval, is within the limit."""
    passed, message = measured.check(gate)
    assert passed, message
