"""Sparsity: how many latents fire per token, and how evenly?"""

import pytest


@pytest.mark.saebench(suite="sparsity")
def test_sparsity(measured, gate):
    """The measured value, or the bound of its interval, is within the limit."""
    passed, message = measured.check(gate)
    assert passed, message
