"""Dead latents: how many never fire in the tokens that were read?"""

import pytest


@pytest.mark.saebench(suite="dead_latents")
def test_dead_latents(measured, gate):
    """The measured value, or the bound of its interval, is within the limit."""
    passed, message = measured.check(gate)
    assert passed, message
