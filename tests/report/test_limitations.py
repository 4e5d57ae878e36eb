"""What a reader must know before the numbers: another model than in training, few documents."""

from __future__ import annotations

from dataclasses import replace

import pytest

from saebench.report import render_card
from tests.report.records import make_provenance, make_record, make_verdicts, section

OTHER_MODEL = {"id": "/home/someone/gpt", "digest": "0123456789ab" + "c" * 52}


def card_of(*records, verdicts=()):
    return render_card(records, verdicts, command="saebench run saes")


def test_another_model_than_in_training_is_the_first_limitation():
    record = make_record(checkpoint={"provenance": make_provenance(model=OTHER_MODEL)})
    verdicts = make_verdicts(record, fve=">= 0.85")
    first, second, *_ = section(card_of(record, verdicts=verdicts), "Limitations").splitlines()
    assert first == (
        "- **Measured on another model than it was trained on: trained on gpt (digest 0123456789ab), "
        "measured on fixtures/model (digest 5f5f5f5f5f5f)**"
    )
    assert second.startswith("- FVE 0.812")
    together = section(card_of(make_record("a"), replace(record)), "Limitations")
    assert together.startswith("- **topk-s0**: **measured on another model")


@pytest.mark.parametrize(
    "provenance",
    [
        make_provenance(),
        make_provenance(model={"id": "elsewhere", "digest": "5f" * 32}),
        make_provenance(model={"id": "gpt"}),
        make_provenance(model="gpt"),
        {"saebench": "gpt"},
        {},
        None,
    ],
)
def test_the_same_or_an_unknown_model_is_not_mentioned(provenance):
    card = card_of(make_record(checkpoint={"provenance": provenance}))
    assert "another model" not in card


def test_digests_of_files_and_of_tensors_are_not_compared():
    model = {**make_record().model, "digest_of": "tensors"}
    for kind, times in (("files", 0), ("tensors", 1)):
        trained = make_provenance(model={**OTHER_MODEL, "digest_of": kind})
        card = card_of(make_record(checkpoint={"provenance": trained}, model=model))
        assert card.count("on another model") == times


def test_documents_are_counted_and_said_to_make_intervals_narrow():
    data = {**make_record().data, "n_documents": 97}
    card = card_of(make_record(data=data))
    assert "512 sequences of up to 128 tokens from 97 documents, 65,024 tokens counted" in card
    line = (
        "- The 512 sequences are cut from 97 documents; pieces of one document resemble each other, "
        "so the intervals are narrower than a new set of documents would give"
    )
    assert line in section(card, "Limitations").splitlines()
    assert "from 1 document, " in card_of(make_record(data={**data, "n_documents": 1}))


@pytest.mark.parametrize("change", [{"n_documents": None}, {"n_documents": 97, "pack": False}, {}])
def test_without_packing_or_a_count_nothing_is_said_of_pieces(change):
    card = card_of(make_record(data={**make_record().data, **change}))
    assert "resemble" not in card
    assert ("from 97 documents" in card) == (change.get("n_documents") is not None)
