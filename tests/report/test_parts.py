"""What a card says of groups, of fake features and of probes."""

import pytest

from saebench.gates import Gate, judge_record, parse_limit
from saebench.metrics.definitions import definition
from saebench.record import Measurement, Record
from saebench.report import render_card
from saebench.report.groups import group_section, groups_intro
from saebench.report.parts import fake_features, probing
from saebench.report.stored import dump_report, load_report
from saebench.report.table import describe_checkpoint, terminal_table
from tests.report.records import make_record

PAIR = {
    "a": "topk-s0",
    "b": "topk|s1",
    "decoder": {"shared": 0.25, "shared_alive": 0.26, "matched_cosine": 0.58, "certified": True},
    "encoder": {"shared": None, "matched_cosine": None},
    "functional": {"correlation": 0.41},
    "firing_jaccard": 0.3,
    "floor": {"matched_cosine": 0.27, "shared": 0.0},
}


def make_group(**pair):
    values = {"shared_decoder": 0.25, "matched_cosine_decoder": 0.58, "shared_floor": 0.0}
    found = [Measurement(definition(name).metric, value) for name, value in values.items()]
    return Record(
        "k" * 64,
        {"name": "topk", "members": ["topk-s0", "topk|s1"]},
        {"id": "m"},
        {"n_tokens": 100, "n_counted": 99, "n_sequences": 3},
        {},
        {item.metric: item for item in found},
        definitions={item.metric: definition(item.metric).to_json() for item in found},
        part="seeds",
        details={"seeds": {"threshold": 0.7, "pairs": [{**PAIR, **pair}]}},
    )


def test_a_group_shows_its_members_its_figures_and_every_pair():
    text = group_section(make_group(), [])
    assert text.startswith("2 checkpoints: `topk-s0`, `topk|s1`.")
    assert "| Shared latents (decoder) | 0.250 |" in text
    assert "by chance: 0" in text
    assert "| `topk-s0` and `topk\\|s1` | 0.250 | 0.260 | 0.580 | 0.270 | 0.410 | 0.300 |" in text


def test_a_column_that_no_pair_has_is_left_out():
    assert "Top-k overlap" not in group_section(make_group(), [])
    assert "Top-k overlap" in group_section(make_group(top_k_overlap=0.8), [])


def test_a_value_of_zero_is_a_value():
    text = group_section(make_group(firing_jaccard=0.0), [])
    assert "Firing Jaccard" in text
    (row,) = [line for line in text.splitlines() if line.startswith("| `topk-s0` and")]
    assert row.split("|")[-2].strip() == "0"


def test_a_matching_without_proof_is_said_to_be_one():
    text = group_section(make_group(decoder={"shared": 0.2, "certified": False}), [])
    assert "not proven to be the best one" in text
    assert "not proven" not in group_section(make_group(), [])


def test_the_threshold_of_the_groups_is_named():
    assert "above 0.700" in groups_intro([make_group()])


def test_a_card_holds_groups_with_their_verdicts_and_definitions():
    group = make_group()
    gate = Gate("shared_decoder", parse_limit(">= 0.5"), suite="seeds")
    text = render_card(
        [make_record()], judge_record([gate], group), command="saebench run", groups=[group]
    )
    assert "## Groups" in text
    assert "FAIL" in text
    assert "`shared_decoder@1`" in text
    assert "## Groups" not in render_card([make_record()], [], command="saebench run")


def test_groups_survive_the_report_file(tmp_path):
    group = make_group()
    (tmp_path / "report.json").write_bytes(dump_report([make_record()], [], "c", [group]))
    assert load_report(tmp_path).groups == (group,)


def test_a_report_from_before_there_were_groups_has_none(tmp_path):
    text = dump_report([make_record()], [], "c").replace(b',\n "groups": []', b"")
    assert b'"groups": []' not in text
    (tmp_path / "report.json").write_bytes(text)
    assert load_report(tmp_path).groups == ()


def test_a_terminal_names_the_members_of_a_group():
    assert describe_checkpoint(make_group()) == "2 checkpoints: topk-s0 + topk|s1"
    assert "topk  (2 checkpoints" in terminal_table([make_group()], [])


# --- other texts -------------------------------------------------------------------------------------


def with_details(**details):
    return make_record(details=details)


def test_fake_features_are_a_row_for_each_text_and_rule():
    rows = [
        {"text": "real", "protocol": "token", "n_units": 1000, "mean_share": 0.01, "fake": 1,
         "fake_over_latents": 0.001, "fake_over_alive": None},
        {"text": "uniform", "protocol": "sequence", "n_units": 20, "mean_share": 0.02, "fake": 0,
         "fake_over_latents": 0.0, "fake_over_alive": 0.0},
    ]  # fmt: skip
    protocols = {
        "token": {"threshold": 1.0, "unit": "token", "share": 0.1},
        "sequence": {"threshold": 0.9, "relative": True, "unit": "sequence", "aggregate": "max",
                     "share": 0.05},
    }  # fmt: skip
    text = fake_features(
        with_details(fake_features={"table": rows, "protocols": protocols, "length": 64})
    )
    assert "64 tokens long" in text
    first, second = text.splitlines()[-2:]
    assert first == (
        "| the run's own text | code > 1 on > 10 % of tokens | 1,000 | 0.0100 | 1 | 0.00100 | – |"
    )
    assert "largest code > its own 0.900 quantile on > 5 % of sequences" in second


@pytest.mark.parametrize(("real", "said"), [(0.97, True), (0.5, False)])
def test_a_rule_that_finds_as_many_on_real_text_is_said_to_tell_nothing(real, said):
    rows = [
        {"text": text, "protocol": "sequence", "fake_over_latents": share}
        for text, share in (("real", real), ("uniform", 0.97))
    ]
    text = fake_features(with_details(fake_features={"table": rows, "protocols": {}}))
    assert ("does not tell them apart" in text) == said


def test_probes_are_a_row_for_each_task_with_collapsed_ones_marked():
    arms = {
        "baseline": {"accuracy": 0.8, "macro_f1": 0.79},
        "latents": {"accuracy": 0.5, "macro_f1": 0.33, "collapsed": True},
        "reconstruction": {"reason": "all latents are dead"},
    }
    task = {
        "classes": ["a|b", "c"],
        "n_train": 10,
        "n_test": 4,
        "majority": {"accuracy": 0.5, "macro_f1": 0.33},
        "arms": arms,
    }
    asked = {"classifier": "one_epoch", "pooling": "mean"}
    text = probing(with_details(probing={"protocol": asked, "tasks": {"bad|name": task}}))
    assert "one epoch probes on mean pooling" in text
    assert text.splitlines()[-1] == (
        "| `bad\\|name` | 2 | 10 | 4 | 0.500 / 0.330 | 0.800 / 0.790 | "
        "0.500 / 0.330 (**collapsed**) | – |"
    )


def test_without_the_parts_nothing_is_said():
    assert fake_features(make_record()) == probing(make_record()) == ""


@pytest.mark.parametrize(
    "details",
    [
        {"fake_features": {"table": [{"text": "real", "protocol": "token", "fake": "many"}],
                           "protocols": {"token": {"share": "abc", "unit": 3}}}},
        {"fake_features": {"table": "rows"}},
        {"fake_features": ["x"]},
        {"probing": {"tasks": {"t": "x"}}},
        {"probing": {"tasks": ["a"], "protocol": 3}},
        {"probing": {"tasks": {"t": {"arms": [], "classes": 3, "n_train": "x"}}}},
    ],
)  # fmt: skip
def test_a_stored_report_that_holds_something_else_is_shown_as_far_as_it_goes(details):
    record = make_record(details=details)
    assert isinstance(fake_features(record) + probing(record), str)
