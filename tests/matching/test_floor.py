"""Chance floors against values from independent computations at the same sizes."""

import numpy as np
import pytest

from saebench.matching import chance_floor
from saebench.matching.floor import _floor


@pytest.mark.parametrize(
    ("m", "d", "matched", "best", "absolute"),
    [
        (256, 64, 0.335, 0.352, 0.357),
        (1024, 64, 0.379, 0.394, 0.402),
        (1024, 128, 0.270, 0.282, 0.287),
        (2048, 256, 0.206, 0.214, 0.218),
        pytest.param(4096, 768, 0.126, 0.130, 0.133, marks=pytest.mark.slow),
    ],
)
def test_two_gaussian_dictionaries(m, d, matched, best, absolute):
    found = chance_floor(m, m, d)
    got = [found.mean_matched, found.mean_best, found.mean_absolute]
    np.testing.assert_allclose(got, [matched, best, absolute], rtol=0.02)
    assert found.share_matched == found.share_best == 0
    assert found.certified


def test_it_is_computed_once_and_says_how():
    one = chance_floor(64, 48, 8, threshold=0.5, seed=3)
    assert chance_floor(64, 48, 8, threshold=0.5, seed=3) is one
    assert _floor.cache_info().hits
    assert "full size" in one.how
    assert chance_floor(64, 48, 8, threshold=0.5, seed=4) != one


def test_the_share_above_a_low_threshold_is_that_of_the_matched_rows():
    found = chance_floor(64, 64, 4, threshold=0.0)
    assert found.share_best == 1
    assert 0.9 < found.share_matched <= 1
