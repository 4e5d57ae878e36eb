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


def test_an_affine_normalisation_says_how_it_was_made_where_the_trainer_does():
    made = make_record().checkpoint
    cfg = {**made["cfg"], "normalization": "affine"}

    def shown(kind: object, **other: object) -> str:
        said = {"saebench": {"normalization": {"kind": kind}}}
        found = what_it_is(make_record(checkpoint={"cfg": cfg, "provenance": said, **other}))
        return next(line for line in found.splitlines() if "Input normalisation" in line)

    assert "| `affine`, trained with `scale`: mean norm scaled to √d |" in shown("scale")
    assert "`centre`: mean taken out" in shown("centre")
    assert "`standardize`: mean taken out, divided by the deviation" in shown("standardize")
    for unknown in ("<b>", None, ["scale"], {}):
        assert "| `affine` |" in shown(unknown)
    assert "| `affine` |" in shown("scale", provenance={"saebench": "x"})
    assert "| `none` |" in shown("scale", cfg=made["cfg"])


def test_the_snippet_says_which_model_is_subtracted_from_which():
    cfg = make_record().checkpoint["cfg"]

    def snippet(**fields: object) -> str:
        return how_to_load(make_record(checkpoint={"cfg": {**cfg, **fields}}))

    both = ["org/base", "/data/private/tuned"]
    assert (
        "# x = activations of model 1 (tuned) − those of model 0 (org/base)\nf = sae.encode(x)"
    ) in snippet(difference="1-0", models=both)
    assert "model 0 (org/base) − those of model 1 (tuned)" in snippet(difference="0-1", models=both)
    assert "model 1 − those of model 0 (fixtures/model)" in snippet(difference="1-0", models=[])
    assert "# x =" not in snippet(difference=None)
    hostile = snippet(difference="1-0", models=["a\nimport os", "b"])
    assert "\nimport os" not in hostile


def test_activations_read_side_by_side_are_counted_where_there_are_several():
    assert "| Activations read side by side | 2 |" in facts_of({"n_sources": 2})
    assert "side by side" not in facts_of({"n_sources": 1}, n_sources=1)


def test_the_snippet_says_where_the_run_centred_what_it_read():
    centring = "# x centred: x - x.mean(-1, keepdim=True), as the run did\nf = sae.encode(x)"
    assert centring in how_to_load(make_record(checkpoint={"centred": True}))
    assert "x centred" not in how_to_load(make_record(checkpoint={"centred": False}))
    assert "x centred" not in how_to_load(make_record())
