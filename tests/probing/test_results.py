"""From probes to measurements: means over tasks, paired differences, and arms that have no value."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy import sparse

from saebench.metrics.catalogue import FAMILIES
from saebench.probing import TaskLabels, TaskProbes, details, measurements


def task(
    name: str,
    *,
    noise: dict[str, float],
    n: int = 160,
    seed: int = 0,
    dead: bool = False,
    documents: int = 0,
):
    """Probes of a task whose arms see the label through Gaussian noise of some size."""
    generator = np.random.default_rng(seed)
    labels = [generator.integers(0, 2, n) for _ in range(2)]
    of_text = np.arange(n) % documents if documents else None
    known = TaskLabels(
        name, ("no", "yes"), *labels, classifier="logistic", seed=0, documents=of_text
    )

    def features(size: float) -> list[np.ndarray]:
        return [
            (y[:, None] + size * generator.normal(size=(n, 2))).astype(np.float32) for y in labels
        ]

    arms = {arm: known.probe(*features(size)) for arm, size in noise.items()}
    if dead:
        arms["latents"] = known.probe(*(sparse.csr_array((n, 5)) for _ in range(2)))
    return TaskProbes(known, arms, n_tokens=3 * n)


NOISE = {"baseline": 0.4, "latents": 0.8, "reconstruction": 3.0}


def test_values_are_means_over_tasks():
    tasks = [task("a", noise=NOISE), task("b", noise=NOISE, n=60, seed=1)]
    found = {item.name: item for item in measurements(tasks).values()}
    for arm in NOISE:
        parts = [one.arms[arm].result for one in tasks]
        accuracy = found[f"probe_accuracy_{arm}"]
        assert accuracy.value == pytest.approx(np.mean([part.accuracy for part in parts]))
        by_task = {"a": parts[0].accuracy, "b": parts[1].accuracy}
        assert accuracy.detail["by_task"] == by_task
        macro_f1 = found[f"probe_f1_{arm}"]
        assert macro_f1.value == pytest.approx(np.mean([part.macro_f1 for part in parts]))
        assert accuracy.low < accuracy.value < accuracy.high
    gap = found["probe_accuracy_latents"].value - found["probe_accuracy_baseline"].value
    assert found["probe_accuracy_gap"].value == pytest.approx(gap)
    assert found["probe_accuracy_gap"].n_sequences == 220
    assert found["probe_accuracy_gap"].n_tokens == 660
    majority = np.mean([one.labels.majority.accuracy for one in tasks])
    assert found["probe_accuracy_majority"].value == pytest.approx(majority)


def test_every_definition_of_the_family_is_measured():
    found = measurements([task("a", noise=NOISE)])
    assert set(found) == {item.metric for item in FAMILIES["probing"]}


def test_differences_are_paired():
    same = task("a", noise=NOISE)
    arms = {**same.arms, "latents": same.arms["baseline"]}
    gap = measurements([TaskProbes(same.labels, arms, 1)])["probe_accuracy_gap@1"]
    assert (gap.value, gap.low, gap.high) == (0, 0, 0)


def test_the_interval_of_a_gap_is_that_of_paired_differences():
    one = task("a", noise=NOISE, n=400)
    test = one.labels.test
    right = [one.arms[arm].result.predictions == test for arm in ("latents", "baseline")]
    difference = right[0].astype(float) - right[1]
    expected = difference.std() / len(test) ** 0.5
    gap = measurements([one])["probe_accuracy_gap@1"]
    assert gap.value == pytest.approx(difference.mean())
    assert (gap.high - gap.low) / (2 * 1.96) == pytest.approx(expected, rel=0.1)


def test_more_tasks_narrow_the_interval():
    tasks = [task(name, noise=NOISE, n=200, seed=i) for i, name in enumerate("abcd")]
    widths = [
        (m := measurements(part)["probe_accuracy_latents@1"]).high - m.low
        for part in (tasks[:1], tasks)
    ]
    assert widths[1] == pytest.approx(widths[0] / 2, rel=0.2)


def test_the_order_of_tasks_does_not_matter():
    tasks = [task("a", noise=NOISE), task("b", noise=NOISE, n=60, seed=1)]
    forwards, backwards = measurements(tasks), measurements(tasks[::-1])
    for metric, one in forwards.items():
        if metric != "probes_collapsed@1":
            found = backwards[metric]
            assert (one.value, one.low, one.high) == pytest.approx(
                (found.value, found.low, found.high)
            )


def test_dead_latents_have_no_probe_and_the_other_arms_have():
    tasks = [task("a", noise=NOISE), task("b", noise=NOISE, dead=True)]
    found = {item.name: item for item in measurements(tasks).values()}
    for name in ("probe_accuracy_latents", "probe_f1_latents", "probe_f1_gap"):
        assert found[name].value is None
        assert found[name].reason == "no latent fires on a training text of b"
        assert found[name].detail["by_task"]["b"] is None
    assert found["probe_accuracy_latents"].detail["by_task"]["a"] is not None
    for arm in ("baseline", "reconstruction", "majority"):
        assert found[f"probe_accuracy_{arm}"].value is not None
    assert found["probes_collapsed"].detail["n_probes"] == 3


def test_collapsed_probes_are_named_and_the_baseline_is_not_among_them():
    one = task("a", noise=NOISE)
    nothing = one.labels.probe(*(np.ones((160, 2), dtype=np.float32) for _ in range(2)))
    arms = {"baseline": nothing, "latents": one.arms["latents"], "reconstruction": nothing}
    found = measurements([TaskProbes(one.labels, arms, 1)])["probes_collapsed@1"]
    assert found.value == 1
    assert found.detail["probes"] == ["a/reconstruction"]
    assert nothing.scores.values["accuracy"] == one.labels.majority.accuracy


def test_shuffled_labels_are_those_of_the_training_in_another_order():
    one = task("a", noise=NOISE)
    assert (one.labels.shuffled != one.labels.train).any()
    assert sorted(one.labels.shuffled) == sorted(one.labels.train)
    again = TaskLabels(
        "a", ("no", "yes"), one.labels.train, one.labels.test, classifier="logistic", seed=0
    )
    np.testing.assert_array_equal(again.shuffled, one.labels.shuffled)
    assert one.arms["baseline"].shuffled.accuracy < 0.75 < one.arms["baseline"].result.accuracy


def test_tables_are_strict_json_and_say_how_each_probe_went():
    tasks = [task("a", noise=NOISE), task("b", noise=NOISE, dead=True)]
    found = json.loads(json.dumps(details(tasks, protocol={"seed": 0}), allow_nan=False))
    assert found["protocol"] == {"seed": 0}
    arms = found["tasks"]["a"]["arms"]
    assert set(arms) == set(NOISE)
    low, high = arms["latents"]["accuracy_interval"]
    assert low < arms["latents"]["accuracy"] < high
    assert arms["latents"]["converged"] is True
    assert arms["latents"]["collapsed"] is False
    assert set(arms["latents"]["shuffled_labels"]) == {"accuracy", "macro_f1"}
    table = found["tasks"]["b"]
    assert table["arms"]["latents"] == {"reason": "no latent fires on a training text of b"}
    assert table["minus_baseline"]["latents"] is None
    difference = table["minus_baseline"]["reconstruction"]["accuracy"]
    values = [table["arms"][arm]["accuracy"] for arm in ("reconstruction", "baseline")]
    assert difference == pytest.approx(values[0] - values[1])
    assert table["majority"]["class"] in ("no", "yes")
    assert (table["n_train"], table["n_test"]) == (160, 160)


def test_intervals_say_what_was_drawn_and_how_many():
    texts, some = task("a", noise=NOISE), task("b", noise=NOISE, documents=20)
    others = task("c", noise=NOISE, documents=5, seed=2)
    for tasks, drawn in (
        ([texts], "160 test texts"),
        ([some], "20 test documents"),
        ([some, others], "25 test documents of 2 tasks"),
        ([texts, some], "20 test documents and 160 test texts of 2 tasks"),
    ):
        for name in ("probe_f1_latents", "probe_accuracy_gap", "probe_accuracy_majority"):
            assert f"over {drawn}," in measurements(tasks)[f"{name}@1"].interval
    assert some.to_json()["resampling"] == "20 test documents"


def test_texts_of_one_document_have_no_interval_and_say_why():
    tasks = [task("a", noise=NOISE, documents=20), task("b", noise=NOISE, documents=1)]
    found = measurements(tasks)["probe_f1_latents@1"]
    assert found.value is not None
    assert (found.low, found.high) == (None, None)
    assert "all test texts of b are of one document" in found.reason
    json.dumps(details(tasks), allow_nan=False)
