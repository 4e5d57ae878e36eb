"""Probes as columns, and arms that fit them or not."""

import numpy as np
import pytest
import torch

from saebench.causal import Arm, Probes
from saebench.errors import ConfigError


def test_probes_are_sorted_by_sequence_then_position_then_latent():
    probes = Probes.of([3, 1, 2, 0], [1, 0, 1, 1], [2, 9, 2, 0], [0.1, 0.2, 0.3, 0.4])
    assert probes.sequence.tolist() == [0, 1, 1, 1]
    assert probes.position.tolist() == [9, 0, 2, 2]
    assert probes.latent.tolist() == [1, 0, 2, 3]
    assert probes.code.tolist() == [0.2, 0.4, 0.3, 0.1]
    assert len(probes) == 4


def test_some_probes_keep_their_order():
    probes = Probes.of([0, 1, 2], [0, 1, 2], [0, 0, 0], [1.0, 2.0, 3.0])
    assert probes.where(np.array([True, False, True])).latent.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (([0, 1], [0], [0], [1.0]), "one length"),
        (([[0]], [[0]], [[0]], [[1.0]]), "one length"),
        (([0], [0], [-1], [1.0]), "position -1"),
    ],
)
def test_columns_that_do_not_fit_are_refused(columns, message):
    with pytest.raises(ConfigError, match=message):
        Probes.of(*columns)


def test_rows_of_an_arm_matter_only_where_it_runs():
    at = np.array([True, False])
    arm = Arm("one", {0: torch.zeros(2, 3)}, np.array([1, 99]), np.ones(2), at)
    arm.check(2)
    with pytest.raises(ConfigError, match="rows 1 to 99 of 2"):
        Arm("one", arm.directions, arm.rows, arm.codes).check(2)
    with pytest.raises(ConfigError, match="directions of shape"):
        Arm("one", {0: torch.zeros(3)}, arm.rows, arm.codes).check(2)
