"""Cross-validated probes: what of a concept do latents keep, beside what chance gives?"""

import pytest


@pytest.mark.saebench(suite="cv_probing")
def test_cv_probing(measured, gate):
    """The measured value, or the bound of its interval, is within the limit."""
    passed, message = measured.check(gate)
    assert passed, message
