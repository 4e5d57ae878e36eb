"""The parts of a card on one checkpoint: what its facts are called, and how to load it."""

from __future__ import annotations

from saebench.report.sections import how_to_load, what_it_is
from tests.report.records import make_record


def facts_of(cfg: dict[str, object], **facts: object) -> str:
    """The part on facts of a card on a record with other fields and facts."""
    made = make_record().checkpoint
    said = {
        name: {"value": value, "source": "a file", "how": "file"} for name, value in facts.items()
    }
    changed = {"cfg": {**made["cfg"], **cfg}, "facts": {**made["facts"], **said}}
    return what_it_is(make_record(checkpoint=changed))


def test_every_rule_has_a_title_in_words():
    found = facts_of(
        {},
        orientation="d_in,d_sae",
        decoder_orientation="d_sae,d_in",
        adds_b_enc=False,
        centred=True,
        model_processing="none",
    )
    for row in (
        "| Orientation of the encoder in the file | `d_in,d_sae` | `a file` |",
        "| Orientation of the decoder in the file | `d_sae,d_in` | `a file` |",
        "| b_enc added before the activation | no | `a file` |",
        "| Activations centred in training | yes | `a file` |",
        "| Model processed in training | `none` | `a file` |",
    ):
        assert row in found


def test_a_difference_names_its_models():
    assert "| Difference read | `model 1 − model 0` |" in facts_of({"difference": "1-0"})
    assert "| Difference read | `model 0 − model 1` |" in facts_of({"difference": "0-1"})


def test_activations_read_side_by_side_are_counted_where_there_are_several():
    assert "| Activations read side by side | 2 |" in facts_of({"n_sources": 2})
    assert "side by side" not in facts_of({"n_sources": 1}, n_sources=1)


def test_the_snippet_says_where_the_run_centred_what_it_read():
    centring = "# x centred: x - x.mean(-1, keepdim=True), as the run did\nf = sae.encode(x)"
    assert centring in how_to_load(make_record(checkpoint={"centred": True}))
    assert "x centred" not in how_to_load(make_record(checkpoint={"centred": False}))
    assert "x centred" not in how_to_load(make_record())
