"""Files beside a report on several checkpoints: one for each, whatever the checkpoints are called."""

from saebench.record import Record
from saebench.report.causal_table import FILE
from saebench.report.model_diffing import diffing_sections, diffing_tables


def record(name: str, *, latents: bool = True) -> Record:
    """A record with one ablated latent, whose number is the length of the name."""
    columns = {"latent": [len(name)], "class": ["shared"], "pearson": [0.5]}
    found = {"latents": columns if latents else {}, "mode": "single", "reason": "none of it"}
    return Record(
        key=name,
        checkpoint={"name": name, "cfg": {}},
        model={},
        data={},
        policy={},
        measurements={},
        details={"causal": found},
    )


def test_one_checkpoint_has_the_plain_name():
    assert list(diffing_tables([record("a"), record("b", latents=False)])) == [FILE]


def test_names_that_differ_in_a_space_keep_a_file_each():
    names = ["a b", "a-b", "a/b", "c"]
    tables = diffing_tables([record(name) for name in names])
    assert len(tables) == len(names)
    found = {name: text.decode().splitlines()[1].split(",")[0] for name, text in tables.items()}
    assert found == {
        "causal_validation-a-b.csv": "3",
        "causal_validation-a-b-2.csv": "3",
        "causal_validation-a-b-3.csv": "3",
        "causal_validation-c.csv": "1",
    }


def test_the_card_links_the_file_that_is_about_its_checkpoint():
    both = [record("a b"), record("a-b")]
    assert "(causal_validation-a-b-2.csv)" in diffing_sections(both[1], "##", both)[-1]
    assert f"({FILE})" in diffing_sections(both[1], "##", both[1:])[-1]
    bare = record("bare", latents=False)
    assert FILE not in "".join(diffing_sections(bare, "##", [bare]))
