"""Ablations where memory runs out: less at a time gives the same, and what does not fit at all is said."""

import numpy as np
import pytest
import torch

from saebench.causal import ablation, shifts
from saebench.causal.items import Items
from saebench.errors import ModelError
from saebench.models import LanguageModel, copies
from tests.causal.test_ablation import (
    CLOSE,
    a_stream,
    arm,
    both,
    other_model,
    same_shifts,
    some_probes,
)
from tests.tiny_models import tiny_model


def test_texts_are_halved_where_memory_runs_out(monkeypatch):
    model = tiny_model("gpt_neox")
    probes = some_probes()
    arms = [arm(probes, models=(0,))]
    expected = shifts([model], a_stream().batches(4), both(), probes, arms).kl["real"][0]
    prefix = LanguageModel.prefix

    def limited(self, ids, mask, sites):
        if ids.shape[0] > 1:
            raise torch.OutOfMemoryError("too much")
        return prefix(self, ids, mask, sites)

    monkeypatch.setattr(LanguageModel, "prefix", limited)
    monkeypatch.setattr(copies, "_TRIAL_ROWS", 1)
    found = shifts([model], a_stream().batches(4), both(), probes, arms).kl["real"][0]
    np.testing.assert_allclose(found, expected, **CLOSE)

    def none_at_all(self, ids, mask, sites):
        raise torch.OutOfMemoryError("too much")

    monkeypatch.setattr(LanguageModel, "prefix", none_at_all)
    with pytest.raises(ModelError, match="does not fit into memory"):
        shifts([model], a_stream().batches(4), both(), probes, arms)


def failing(real, fails, error=None):
    """The function, which runs out of memory at those calls (by number, from 0) that ``fails`` picks."""
    calls = []

    def limited(*args, **more):
        calls.append(args)
        if fails(len(calls) - 1, *args):
            raise error or torch.OutOfMemoryError("too much")
        return real(*args, **more)

    return limited, calls


def a_pair():
    probes = some_probes()
    return [tiny_model("gpt_neox"), other_model("gpt_neox")], probes, [arm(probes)]


@pytest.mark.parametrize("what", ["hidden_states", "compare", "way"])
def test_fewer_probes_are_ablated_at_a_time_where_memory_runs_out_once(what, monkeypatch):
    models, probes, arms = a_pair()
    expected = shifts(models, a_stream().batches(4), both(), probes, arms)
    limited, calls = failing(getattr(ablation, what), lambda i, *args: i == 0)
    monkeypatch.setattr(ablation, what, limited)
    same_shifts(shifts(models, a_stream().batches(4), both(), probes, arms), expected, **CLOSE)
    assert len(calls) > 1


def test_probes_that_fit_set_how_many_are_ablated_together_from_then_on(monkeypatch):
    models, probes, arms = a_pair()
    expected = shifts(models, a_stream().batches(4), both(), probes, arms)
    vectors = Items.vectors
    limited, calls = failing(vectors, lambda i, items, *args: len(items) > 6)
    monkeypatch.setattr(Items, "vectors", limited)
    same_shifts(shifts(models, a_stream().batches(4), both(), probes, arms), expected, **CLOSE)
    sizes = [len(items) for items, *_ in calls]
    first = next(i for i, size in enumerate(sizes) if size <= 6)
    assert max(sizes[first:]) <= 6 < sizes[0]


@pytest.mark.parametrize("what", ["hidden_states", "compare", "way"])
def test_without_memory_for_a_single_probe_it_is_said_what_to_do(what, monkeypatch):
    models, probes, arms = a_pair()
    monkeypatch.setattr(ablation, what, failing(None, lambda *args: True)[0])
    with pytest.raises(ModelError, match=r"does not fit into memory\. Lower context_size"):
        shifts(models, a_stream().batches(4), both(), probes, arms)


def test_other_errors_of_a_model_are_not_taken_for_a_lack_of_memory(monkeypatch):
    models, probes, arms = a_pair()
    refused = ModelError("a", "b", "c")
    limited, calls = failing(None, lambda *args: True, refused)
    monkeypatch.setattr(ablation, "hidden_states", limited)
    with pytest.raises(ModelError) as found:
        shifts(models, a_stream().batches(4), both(), probes, arms)
    assert found.value is refused
    assert len(calls) == 1


def test_fewer_logits_are_held_where_memory_runs_out(monkeypatch):
    models, probes, arms = a_pair()
    expected = shifts(models, a_stream().batches(4), both(), probes, arms)
    before = [dict(model.calls) for model in models]
    limited, _ = failing(LanguageModel.unembed, lambda i, model, hidden: hidden.shape[0] > 3)
    monkeypatch.setattr(LanguageModel, "unembed", limited)
    same_shifts(shifts(models, a_stream().batches(4), both(), probes, arms), expected, **CLOSE)
    for model, was in zip(models, before, strict=True):  # nothing is continued twice for that
        assert model.calls["suffix"] == 2 * was["suffix"]
    monkeypatch.setattr(LanguageModel, "unembed", failing(None, lambda *args: True)[0])
    with pytest.raises(ModelError, match="ablations of one probe"):
        shifts(models, a_stream().batches(4), both(), probes, arms)
