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


COMMIT = "0123456789" * 4


def on_models(named, *ids, revision=COMMIT):
    """The card of a checkpoint whose files name a model or models, measured on those with these ids."""
    record = make_record(checkpoint={"provenance": {}})
    key = "models" if isinstance(named, list) else "model"
    cfg = {**record.checkpoint["cfg"], "model": None, key: named}
    first, *others = ({**record.model, "id": id, "revision": revision} for id in ids)
    model = {**first, "others": others} if others else first
    checkpoint = {**record.checkpoint, "cfg": cfg}
    return section(card_of(replace(record, checkpoint=checkpoint, model=model)), "Limitations")


def test_another_model_of_the_hub_than_the_files_name_is_told_by_its_id():
    start = "- **Measured on another model than it was trained on: trained on "
    found = on_models("google/gemma-2-2b", "google/gemma-2-2b-it")
    assert found.startswith(f"{start}google/gemma-2-2b, measured on google/gemma-2-2b-it**")
    swapped = on_models(["org/base", "org/tuned"], "org/tuned", "org/base")
    assert swapped.startswith(
        f"{start}org/base and org/tuned, measured on org/tuned and org/base**"
    )
    one = on_models(["org/base", "org/tuned"], "org/base", "org/other")
    assert one.startswith(f"{start}org/tuned, measured on org/other**")


@pytest.mark.parametrize(
    ("named", "ids", "revision"),
    [
        ("google/gemma-2-2b", ["Google/Gemma-2-2B"], COMMIT),
        ("google/gemma-2-2b", ["unsloth/gemma-2-2b"], COMMIT),
        ("openai-community/gpt2", ["gpt2"], COMMIT),
        ("hf:google/gemma-2-2b@main", ["google/gemma-2-2b"], COMMIT),
        ("meta-llama/Meta-Llama-3.1-8B", ["meta-llama/Llama-3.1-8B"], COMMIT),
        ("gpt2-small", ["openai-community/gpt2"], COMMIT),
        ("/home/someone/models/gpt", ["openai-community/gpt2"], COMMIT),
        ("google/gemma-2-2b", ["my-copy"], None),
        (["org/base", "org/tuned"], ["org/base", "org/tuned"], COMMIT),
        (["org/base", "org/tuned"], ["base-here", "tuned-here"], None),
        (None, ["openai-community/gpt2"], COMMIT),
        ([], ["openai-community/gpt2"], COMMIT),
    ],
)
def test_names_that_fit_or_that_say_nothing_are_not_mentioned(named, ids, revision):
    assert "another model" not in on_models(named, *ids, revision=revision)


def test_a_digest_says_more_than_a_name():
    provenance = make_provenance(model={"id": "org/one", "digest": "5f" * 32})
    record = make_record(checkpoint={"provenance": provenance})
    cfg = {**record.checkpoint["cfg"], "model": "org/one"}
    model = {**record.model, "id": "org/two", "revision": COMMIT}
    renamed = replace(record, checkpoint={**record.checkpoint, "cfg": cfg}, model=model)
    assert "another model" not in card_of(renamed)


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
