"""Which latents are ablated: all where affordable, else a stated random sample, the same for a seed."""

import numpy as np

from saebench.measure.causal.selection import select
from saebench.metrics.crosscoder.taxonomy import CLASSES
from saebench.protocols import CausalProtocol

ORDER = tuple(name for name in CLASSES if name != "dead")
NAMES = np.array(["shared"] * 100 + ["other"] * 20 + ["base_only"] * 3 + ["dead"] * 7)
N_SEQUENCES = np.concatenate([np.arange(100), np.full(20, 40), [29, 30, 500], np.zeros(7, int)])


def selected(**options):
    return select(NAMES, N_SEQUENCES, CausalProtocol(**options), "shared", ORDER)


def by_class(selection):
    return {row["class"]: row for row in selection.classes}


def test_every_latent_that_fired_often_enough_is_taken_where_that_is_affordable():
    found = selected()
    expected = [*range(30, 100), *range(100, 120), 121, 122]
    assert found.latents.tolist() == expected
    rows = by_class(found)
    assert rows["shared"] == {"class": "shared", "n": 100, "n_enough": 70, "n_tested": 70}
    assert rows["base_only"] == {"class": "base_only", "n": 3, "n_enough": 2, "n_tested": 2}
    assert rows["dead"] == {"class": "dead", "n": 7, "n_enough": 0, "n_tested": 0}
    assert sum(row["n"] for row in found.classes) == len(NAMES)


def test_more_than_are_affordable_become_a_random_sample_that_the_seed_fixes():
    found = selected(max_latents=10, n_controls=5)
    assert len(found.latents) == len(set(found.latents.tolist())) == 10 + 5 + 2
    assert (N_SEQUENCES[found.latents] >= 30).all()
    assert by_class(found)["shared"]["n_tested"] == 10
    np.testing.assert_array_equal(found.latents, selected(max_latents=10, n_controls=5).latents)
    other = selected(max_latents=10, n_controls=5, seed=1)
    assert found.latents.tolist() != other.latents.tolist()


def test_the_sample_of_one_class_does_not_depend_on_the_others():
    few, many = (selected(max_latents=10, n_controls=n).latents for n in (2, 15))
    assert few[few < 100].tolist() == many[many < 100].tolist()


def test_every_latent_of_a_class_is_as_likely_as_the_others():
    counts = np.zeros(130)
    for seed in range(400):
        counts[selected(max_latents=7, seed=seed).latents] += 1
    assert np.abs(counts[30:100] / 400 - 0.1).max() < 0.07


def test_without_controls_only_the_main_class_is_taken():
    assert (NAMES[selected(n_controls=0).latents] == "shared").all()


def test_nothing_that_fires_often_enough_leaves_nothing():
    assert selected(min_probes=64, max_latents=10).latents.min() >= 64
    found = select(NAMES, np.zeros(130, int), CausalProtocol(), "shared", ORDER)
    assert found.latents.tolist() == []
    assert found.latents.dtype == np.int64
