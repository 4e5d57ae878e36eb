"""The front matter is what the hub reads: its own parser reads ours, offline, and the author's keys stay."""

from __future__ import annotations

import pytest
import yaml
from huggingface_hub import ModelCard, ModelCardData
from huggingface_hub.repocard_data import model_index_to_eval_results
from hypothesis import given, settings
from hypothesis import strategies as st

from saebench.errors import OutputError
from saebench.report import render_card
from saebench.report.escape import terminal
from saebench.report.front_matter import card_name, front_matter, model_index
from saebench.report.yaml_front import dump_front, merge_front, read_front
from tests.report.records import make_checkpoint, make_record

HUB_MODEL = {"id": "EleutherAI/pythia-70m", "revision": "a" * 40, "dtype": "float32"}
HUB_DATA = {
    "spec": "hf:org/text/en@main#test:text",
    "dataset": "org/text",
    "config": "en",
    "commit": "b" * 40,
    "split": "test",
    "n_sequences": 512,
    "n_tokens_counted": 65_024,
}


def test_the_hub_parses_a_card_and_finds_every_number_with_its_definition():
    record = make_record(model=HUB_MODEL, data=HUB_DATA)
    card = ModelCard(render_card([record], [], command="saebench run"))
    assert card.data.base_model == "EleutherAI/pythia-70m"
    assert card.data.library_name == "saelens"
    assert card.data.tags == ["sparse-autoencoder", "mechanistic-interpretability", "saebench"]
    assert card.data.model_name == "topk-s0"
    fve = next(result for result in card.data.eval_results if result.metric_type == "fve")
    assert (fve.task_type, fve.task_name) == ("feature-extraction", "Sparse autoencoder evaluation")
    assert (fve.dataset_type, fve.dataset_config, fve.dataset_split) == ("org/text", "en", "test")
    assert fve.dataset_revision == "b" * 40
    assert (fve.metric_name, fve.metric_value) == ("FVE", 0.812346)
    assert fve.metric_args == {
        "definition": "fve@1",
        "sae_id": "topk-s0",
        "n_tokens": 65024,
        "n_sequences": 512,
        "low": 0.80611,
        "high": 0.81827,
        "seed": 0,
    }


def test_our_model_index_is_what_the_hub_itself_would_write():
    ours = model_index([make_record("a", data=HUB_DATA), make_record("b", data=HUB_DATA)])
    name, results = model_index_to_eval_results(ours)
    theirs = ModelCardData(model_name=name, eval_results=results).to_dict()["model-index"]
    assert theirs == ours
    assert {result.metric_args["sae_id"] for result in results} == {"a", "b"}


def test_several_checkpoints_make_one_model_entry_and_a_result_per_data_set():
    other = {**HUB_DATA, "dataset": "org/code"}
    records = [
        make_record("a", data=HUB_DATA),
        make_record("b", data=HUB_DATA),
        make_record("c", data=other),
    ]
    (entry,) = model_index(records)
    assert entry["name"] == "3 sparse autoencoders"
    assert [result["dataset"]["type"] for result in entry["results"]] == ["org/text", "org/code"]
    assert len(entry["results"][0]["metrics"]) == 2 * len(entry["results"][1]["metrics"])


def test_a_local_text_is_told_apart_by_its_digest_and_shows_no_folder():
    data = {**make_record().data, "spec": "/home/someone/private/heldout.jsonl", "digest": "9" * 64}
    (entry,) = model_index([make_record(data=data)])
    assert entry["results"][0]["dataset"] == {
        "type": "text",
        "name": "heldout.jsonl",
        "revision": "9" * 64,
    }


def test_what_was_not_measured_is_not_claimed():
    (entry,) = model_index([make_record(missing={"fve": "no token was counted"})])
    assert "fve" not in {metric["type"] for metric in entry["results"][0]["metrics"]}


def test_a_card_is_named_after_the_checkpoint_or_the_one_repository():
    hub = [
        make_record(name, checkpoint={"reference": f"hf:org/saes@{'c' * 40}:{name}"})
        for name in "ab"
    ]
    assert card_name(hub[:1]) == "a"
    assert card_name(hub) == "org/saes"
    assert card_name([*hub, make_record("c")]) == "3 sparse autoencoders"


def test_a_set_of_crosscoders_is_called_so_and_a_mixed_set_checkpoints():
    cfg = make_record().checkpoint["cfg"]
    crossed = {"cfg": {**cfg, "n_sources": 2}}
    across = {"cfg": {**cfg, "n_sources": 2, "sites": ["a", "b"], "sites_out": ["c", "d"]}}
    subtracted = {"cfg": {**cfg, "difference": "1-0"}}

    def name(*parts):
        return card_name([make_record(f"r{n}", checkpoint=part) for n, part in enumerate(parts)])

    assert name(crossed, crossed, crossed) == "3 crosscoders"
    assert name(subtracted, subtracted) == "2 sparse autoencoders"
    assert name(crossed, subtracted) == "2 checkpoints"
    assert "crosscoders" not in name(across, across)


def test_every_model_that_was_run_is_a_base_model():
    tuned = {"id": "google/gemma-2-2b-it", "revision": "b" * 40}
    pair = make_record(model={**HUB_MODEL, "others": [tuned]})
    assert front_matter([pair], {})["base_model"] == [HUB_MODEL["id"], tuned["id"]]
    card = ModelCard(render_card([pair], [], command="saebench run"))
    assert card.data.base_model == [HUB_MODEL["id"], tuned["id"]]
    local = make_record(model={**HUB_MODEL, "others": [{**tuned, "revision": None}, "?"]})
    assert front_matter([local], {})["base_model"] == HUB_MODEL["id"]


def test_the_authors_tags_and_base_model_come_first_and_stay():
    existing = {"tags": ["my-tag", "saebench"], "base_model": "org/base", "license": "mit"}
    front = front_matter([make_record(model=HUB_MODEL)], existing)
    assert front["tags"] == [
        "my-tag",
        "saebench",
        "sparse-autoencoder",
        "mechanistic-interpretability",
    ]
    assert "base_model" not in front
    assert "license" not in front


def test_a_model_from_local_files_is_not_given_a_hub_id():
    assert "base_model" not in front_matter([make_record()], {})
    two = [make_record(model=HUB_MODEL), make_record(model={**HUB_MODEL, "id": "gpt2"})]
    assert front_matter(two, {})["base_model"] == ["EleutherAI/pythia-70m", "gpt2"]


@pytest.mark.parametrize(
    "part",
    [{"format": "dictionary_learning"}, {"files": {"cfg.json": "a", "other.safetensors": "b"}}],
)
def test_saelens_is_named_only_when_it_can_load_every_file(part):
    assert front_matter([make_record()], {})["library_name"] == "saelens"
    assert "library_name" not in front_matter([make_record(), make_record(checkpoint=part)], {})


def test_results_of_other_evaluations_survive_regeneration():
    foreign = {
        "task": {"type": "text-generation"},
        "dataset": {"type": "org/other", "name": "Other"},
        "metrics": [{"type": "accuracy", "value": 0.5}],
    }
    existing = [{"name": "author-name", "results": [foreign]}]
    once = model_index([make_record()], existing)
    assert once[0]["name"] == "author-name"
    assert once[0]["results"][0] == foreign
    assert model_index([make_record()], once) == once


@given(st.text(max_size=80))
@settings(deadline=None, max_examples=60)
def test_no_name_breaks_the_yaml(name):
    checkpoint = {**make_checkpoint("x"), "name": name}
    front = front_matter([make_record(checkpoint=checkpoint)], {})
    assert yaml.safe_load(dump_front(front)) == front
    assert front["model-index"][0]["name"] == terminal(name, 120)


AUTHORS = """\
# kept comment
license: mit  # why
language: no
date: 2024-01-01
tags:
- mine
# about the description
description: |
  two
  lines

version: 1.10
"""


def test_keys_that_are_not_ours_keep_their_text_comments_and_order():
    merged = merge_front(AUTHORS, {"tags": ["mine", "saebench"], "model-index": [{"name": "x"}]})
    assert (
        merged == AUTHORS.replace("- mine\n", "- mine\n- saebench\n") + "model-index:\n- name: x\n"
    )


def test_a_key_that_has_its_value_already_is_not_rewritten():
    assert merge_front("tags: [a, b]  # flow\n", {"tags": ["a", "b"]}) == "tags: [a, b]  # flow\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", "k: 1\n"),
        ("k: 0", "k: 1\n"),
        ("k:\n- a\n- b\nother: 2\n", "k: 1\nother: 2\n"),
        ("k: {a: 1,\n  b: 2}\nother: 2\n", "k: 1\nother: 2\n"),
        ("k:\nother: 2\n", "k: 1\nother: 2\n"),
        ("k: >\n  folded\n  text\n# comment\nother: 2\n", "k: 1\n# comment\nother: 2\n"),
        ("'k': \"quoted: #\"\nother: 2\n", "k: 1\nother: 2\n"),
        ("other: 2\nk:\n  deep:\n    deeper: [1]\n", "other: 2\nk: 1\n"),
        ("k: plain\n  continued\nother: 2\n", "k: 1\nother: 2\n"),
    ],
)
def test_one_key_is_replaced_whatever_form_its_value_had(before, after):
    assert merge_front(before, {"k": 1}) == after


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("key: [unclosed", "expected"),
        ("- a\n- b\n", "not a mapping"),
        ("just text", "not a mapping"),
        ("{a: 1}", "in braces"),
        ("a: 1\na: 2\n", "twice"),
        ("a: &x [1]\nb: *x\n", "aliases"),
        ("a: !!python/object/apply:os.system ['true']\n", "could not determine a constructor"),
        ("1: a\n", "not a mapping"),
    ],
)
def test_front_matter_that_cannot_be_edited_is_refused_with_a_reason(text, complaint):
    with pytest.raises(OutputError, match=complaint) as caught:
        merge_front(text, {"k": 1})
    assert "was not changed" in str(caught.value)


yaml_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=12),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(
    st.dictionaries(st.text(min_size=1, max_size=6), yaml_values, max_size=4),
    st.dictionaries(st.sampled_from(["tags", "k", "model-index"]), yaml_values, min_size=1),
    st.booleans(),
)
@settings(deadline=None, max_examples=150)
def test_merging_sets_our_keys_and_nothing_else(theirs, ours, flow):
    text = yaml.safe_dump(theirs, default_flow_style=None if flow else False) if theirs else ""
    try:
        merged = merge_front(text, ours)
    except OutputError:
        return  # refused, which leaves the file as it is
    assert read_front(merged) == {**theirs, **ours}
    assert merge_front(merged, ours) == merged
