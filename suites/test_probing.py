"""Probing: what of the labels of texts do latents and reconstructions keep?"""

import pytest


@pytest.mark.saebench(suite="probing")
def test_probing(measured, gate):
    """The measured value, or the bound of its interval, is within the limit."""
    passed, message = measured.check(gate)
    assert passed, message
