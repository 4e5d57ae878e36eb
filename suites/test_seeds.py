"""Seeds: do checkpoints that differ in their seed find the same latents?"""

import pytest


@pytest.mark.saebench(suite="seeds")
def test_seeds(measured, gate):
    """The group's figure, or the bound of its interval, is within the limit."""
    passed, message = measured.check(gate)
    assert passed, message
