"""Of several models, the one whose activations are not finite is named."""

from types import SimpleNamespace

import pytest
import torch

from saebench.errors import ModelError
from saebench.measure.jobs import check_finite
from saebench.passes import Calibration, Reading
from saebench.sites import Site

SITE = Site(1, "resid_post")
MODELS = [SimpleNamespace(id="base"), SimpleNamespace(id="tuned")]


def calibration(*broken: Reading) -> Calibration:
    readings = (Reading(SITE), Reading(SITE, 1), Reading(SITE, 1, 0))
    means = {one: torch.zeros(4) for one in readings} | {
        one: torch.full((4,), float("nan")) for one in broken
    }
    return Calibration(means, 32, 1000)


def test_the_model_is_named_and_the_other_is_not():
    broken = calibration(Reading(SITE, 1), Reading(SITE, 1, 0))
    with pytest.raises(ModelError, match=r"blocks\.1\.hook_resid_post of tuned") as raised:
        check_finite(MODELS, broken)
    assert "base" not in str(raised.value)
    assert "first 32 sequences" in str(raised.value)


def test_of_a_difference_alone_both_models_are_named():
    means = {Reading(SITE, 1, 0): torch.full((4,), float("nan"))}
    with pytest.raises(ModelError, match="of tuned or base"):
        check_finite(MODELS, Calibration(means, 32, 1000))


def test_of_a_difference_the_model_that_is_finite_alone_is_not_named():
    means = {Reading(SITE): torch.zeros(4), Reading(SITE, 1, 0): torch.full((4,), float("nan"))}
    with pytest.raises(ModelError, match="resid_post of tuned"):
        check_finite(MODELS, Calibration(means, 32, 1000))


def test_finite_activations_pass_and_one_model_is_measured_whatever_it_gives():
    check_finite(MODELS, calibration())
    check_finite(MODELS[:1], calibration(Reading(SITE)))
