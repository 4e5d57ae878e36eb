"""Norm statistics and classes against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from saebench.errors import ConfigError
from saebench.metrics.crosscoder.taxonomy import (
    CLASSES,
    classify,
    counts,
    dec_norm_diff,
    delta_norm,
    relative_norm,
)

# (base, chat): Δ_norm, dec_norm_diff, relative norm
GOLDEN = {
    (1, 1): (0.5, 0.5, 0.5),
    (1, 0): (0, 1, 0),
    (0, 1): (1, 0, 1),
    (0.2, 1): (0.9, 0.1, 5 / 6),
    (1, 0.8): (0.4, 0.6, 4 / 9),
    (0.5, 1): (0.75, 0.25, 2 / 3),
}


@pytest.mark.parametrize("pair", GOLDEN)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_three_statistics_have_their_golden_values(pair, dtype):
    norms = torch.tensor([pair], dtype=dtype)
    found = [f(norms)[0] for f in (delta_norm, dec_norm_diff, relative_norm)]
    assert found == pytest.approx(GOLDEN[pair], abs=1e-7)


def test_a_latent_without_a_direction_in_either_model_has_no_statistic_and_no_class_of_its_own():
    norms = np.zeros((1, 2))
    assert all(np.isnan(f(norms)[0]) for f in (delta_norm, dec_norm_diff, relative_norm))
    for cut_offs in ("delta_norm", "dec_norm_diff", "relative_norm"):
        assert classify(norms, np.array([True]), cut_offs).tolist() == ["other"]


ON_AND_BESIDE = [  # norms, by delta_norm, by dec_norm_diff
    ((1, 1), "shared", "shared"),
    ((1, 0.8), "shared", "other"),  # exactly on .4 and .6
    ((0.8, 1), "shared", "other"),
    ((1, 0.801), "shared", "shared"),
    ((1, 0.799), "other", "other"),
    ((0.2, 1), "chat_only", "other"),  # exactly on .9 and .1
    ((0.199, 1), "chat_only", "chat_only"),
    ((0.201, 1), "other", "other"),
    ((1, 0.2), "base_only", "other"),
    ((1, 0.199), "base_only", "base_only"),
    ((1, 0.201), "other", "other"),
    ((0, 1), "chat_only", "chat_only"),
    ((1, 0), "base_only", "base_only"),
    ((0.5, 1), "other", "other"),
]


@pytest.mark.parametrize(("pair", "inclusive", "exclusive"), ON_AND_BESIDE)
@pytest.mark.parametrize("size", [1.0, 3.7, 1e-3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_bounds_belong_to_the_classes_of_one_rule_and_not_to_those_of_the_other(
    pair, inclusive, exclusive, size, dtype
):
    norms, fired = size * torch.tensor([pair], dtype=dtype), torch.tensor([True])
    assert classify(norms, fired, "delta_norm").tolist() == [inclusive]
    assert classify(norms, fired, "dec_norm_diff").tolist() == [exclusive]


@pytest.mark.parametrize(
    ("pair", "name"),
    [((7, 3), "shared"), ((3, 7), "shared"), ((7.01, 3), "other"), ((3, 7.01), "other")],
)
def test_the_band_of_relative_norms_knows_only_shared_latents(pair, name):
    assert classify(np.array([pair]), np.array([True]), "relative_norm").tolist() == [name]


norms_and_flags = st.integers(1, 40).flatmap(
    lambda n: st.tuples(
        arrays(np.float64, (n, 2), elements=st.sampled_from([0, 0.2, 0.5, 0.8, 1, 2.5]))
        | arrays(np.float64, (n, 2), elements=st.floats(0, 1e6)),
        arrays(np.bool_, n),
    )
)


@given(norms_and_flags)
def test_classes_add_up_and_the_dead_are_those_that_never_fired(drawn):
    norms, fired = drawn
    for cut_offs in ("delta_norm", "dec_norm_diff", "relative_norm"):
        found = counts(classify(norms, fired, cut_offs))
        assert tuple(found) == CLASSES
        assert sum(found.values()) == len(norms)
        assert found["dead"] == (~fired).sum()


@given(norms_and_flags)
def test_swapping_the_models_swaps_their_classes(drawn):
    norms, fired = drawn
    swap = {"base_only": "chat_only", "chat_only": "base_only"}
    for cut_offs in ("delta_norm", "dec_norm_diff"):
        one, other = (classify(x, fired, cut_offs) for x in (norms, norms[:, ::-1]))
        assert [swap.get(name, name) for name in one] == other.tolist()


def test_other_shapes_and_names_are_refused():
    with pytest.raises(ConfigError, match="two models"):
        classify(np.ones((4, 3)), np.ones(4, bool))
    with pytest.raises(ConfigError, match="one flag for each of 4"):
        classify(np.ones((4, 2)), np.ones(3, bool))
    with pytest.raises(ConfigError, match="cut-offs by one of"):
        classify(np.ones((4, 2)), np.ones(4, bool), "nothing")
