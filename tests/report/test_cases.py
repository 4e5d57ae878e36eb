"""What a card says of cases: sections, verdicts that count for their checkpoint, and no false alarms."""

from __future__ import annotations

from dataclasses import replace

from saebench.gates import Gate, Status, Verdict, parse_limit
from saebench.metrics.catalogue import FAMILIES
from saebench.record import Measurement
from saebench.report.base_model import other_model
from saebench.report.card import card_body
from saebench.report.sections import measured_on
from saebench.report.stored import dump_report, load_report
from saebench.report.table import terminal_table
from tests.report.records import make_record as record

NF4 = {"regime": "nf4", "backend": "bitsandbytes 0.50.2", "emulated": False}


def case(name: str, of: str = "a", value: float = 0.0):
    metric = "port_portable@1"
    base = record(of)
    return replace(
        base,
        part="portability",
        checkpoint={**base.checkpoint, "name": name, "of": of, "case": name.partition("@")[2]},
        measurements={metric: Measurement(metric, value)},
        details={"portability": {}},
    )


def failed(name: str) -> Verdict:
    gate = Gate("port_portable", parse_limit(">= 1"), False, "portability", "", "", shipped=True)
    return Verdict(Status.FAIL, gate, Measurement("port_portable@1", 0.0), "not portable", name)


def body(records, cases, verdicts):
    return card_body(records, verdicts, command="", images={}, cases=cases)


def test_a_limit_that_a_case_misses_counts_for_its_checkpoint():
    text = body([record("a"), record("b")], [case("a@nf4")], [failed("a@nf4")])
    assert "1 of 2 meets every limit" in text
    assert "| Verdict | **FAIL** | – |" in text


def test_a_case_stands_under_its_own_checkpoint():
    text = body([record("a"), record("b")], [case("b@nf4", "b")], [])
    assert text.index("## b") < text.index("### Portability")
    assert text.count("### Portability") == 1


def test_a_variant_is_not_reported_as_a_mistaken_model():
    trained = {"saebench": {"model": {"id": "m", "digest": "1" * 64}}}
    own = record("a")
    own = replace(own, checkpoint={**own.checkpoint, "provenance": trained})
    own = replace(own, model={**own.model, "digest": "2" * 64})
    assert "another model" in str(other_model(own))
    assert other_model(replace(own, checkpoint={**own.checkpoint, "of": "a"})) is None


def test_another_precision_than_in_training_is_said():
    trained = {"saebench": {"model": {"id": "m", "digest": "1" * 64, "precision": NF4}}}
    own = record("a")
    own = replace(own, checkpoint={**own.checkpoint, "provenance": trained})
    here = {**own.model, "digest": "1" * 64}
    plain = {"regime": "float32", "backend": "torch", "emulated": False}
    said = str(other_model(replace(own, model={**here, "precision": plain})))
    assert said.endswith("trained in nf4, measured in float32")
    assert other_model(replace(own, model={**here, "precision": NF4})) is None
    assert other_model(replace(own, model=here)) is None


def test_the_regime_and_who_ran_it_are_said_with_the_model():
    own = record("a")
    text = measured_on(replace(own, model={**own.model, "precision": NF4}))
    assert "in nf4 (run by bitsandbytes 0.50.2)" in text
    rounded = replace(own, policy={**own.policy, "sae_dtype": "bfloat16"})
    assert "the checkpoint in bfloat16" in measured_on(rounded)
    assert "the checkpoint in" not in measured_on(own)


def test_cases_are_stored_with_a_report(tmp_path):
    content = dump_report([record("a")], [], "saebench run", (), [case("a@nf4")])
    (tmp_path / "report.json").write_bytes(content)
    assert load_report(tmp_path).cases == (case("a@nf4"),)


def test_what_many_lack_for_one_reason_is_not_listed_again():
    metrics = [item.metric for item in FAMILIES["portability"]]
    reason = "not portable: 128 against 64"
    empty = {name: Measurement(name, None, reason=reason) for name in metrics}
    bare = replace(case("a@narrow"), measurements=empty)
    text = body([record("a")], [bare], [])
    assert text.count(reason) == 1  # under limitations
    few = replace(bare, measurements=dict(list(empty.items())[:3]))
    assert body([record("a")], [few], []).count(reason) > 3


def test_the_terminal_says_the_reason_of_an_unmeasured_case_once():
    metrics = [item.metric for item in FAMILIES["portability"]]
    empty = {name: Measurement(name, None, reason="was not found") for name in metrics}
    bare = replace(case("a@gone"), measurements=empty)
    missed = replace(failed("a@gone"), status=Status.NOT_EVALUABLE)
    assert terminal_table([bare], [missed]).count("was not found") == 1
    assert "was not found" in terminal_table([bare], [])
