"""Shipped limits are asked of the kinds of checkpoint that they are meant for; one's own of any."""

from types import SimpleNamespace

import pytest

from saebench.config import Config, gates_for
from saebench.config.defaults import default_rules, shipped_for
from saebench.gates import Gate, parse_limit
from saebench.session import Measured

SAE = {"k": 16, "n_sources": 1, "sites": [], "difference": None}
KINDS = {
    "sae": SAE,
    "difference": {**SAE, "difference": "1-0"},
    "crosscoder": {**SAE, "n_sources": 2},
    "layers": {**SAE, "n_sources": 2, "sites": ["a", "b"]},
}
SUITES = ("reconstruction", "sparsity", "dead_latents", "difference", "crosscoder", "causal")


def asked(kind: str) -> set[str]:
    """The metrics of the shipped limits that are asked of a kind of checkpoint."""
    record = SimpleNamespace(checkpoint={"cfg": KINDS[kind]}, name="any")
    measured = Measured(record, Config())
    gates = gates_for(Config(suites=SUITES), "any", 16)
    return {gate.metric for gate in gates if measured.applies(gate)}


def test_limits_on_pairs_of_models_are_asked_of_such_checkpoints_alone():
    common = {"fve", "l0", "dead_fraction", "causal_effect_over_random"}
    assert asked("sae") == common | {"ce_recovered"}
    assert asked("layers") == asked("sae")
    assert asked("difference") == common | {"diff_fve"}
    assert asked("crosscoder") == common | {"ce_recovered", "cc_fve_lowest"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_limit_of_ones_own_is_asked_of_every_kind(kind):
    record = SimpleNamespace(checkpoint={"cfg": KINDS[kind]}, name="any")
    for metric in ("ce_recovered", "diff_fve", "cc_fve_lowest"):
        assert Measured(record, Config()).applies(Gate(metric, parse_limit("> 0")))


def test_a_limit_that_names_no_kinds_is_meant_for_all():
    assert all(shipped_for("fve", kind) for kind in KINDS)
    assert not shipped_for("ce_recovered", "difference")
    assert set(default_rules()) >= {"fve", "ce_recovered", "diff_fve"}
