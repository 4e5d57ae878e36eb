"""Our part of a card lies between markers: what people wrote around it stays, and damage is refused."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from saebench.errors import OutputError
from saebench.report.splice import BEGIN, END, existing_front, splice

FRONT = {"tags": ["saebench"]}


def test_a_new_card_has_front_matter_a_title_and_the_marked_part():
    assert splice(None, FRONT, "body", title="A name") == (
        f"---\ntags:\n- saebench\n---\n\n# A name\n\n{BEGIN}\nbody\n{END}\n"
    )


def test_only_what_is_between_the_markers_changes():
    old = splice(None, FRONT, "old body", title="t")
    edited = old.replace("# t", "# My title\n\nWritten by hand.") + "\n## Citation\n\nby hand\n"
    new = splice(edited, FRONT, "new body", title="t")
    assert new == edited.replace("old body", "new body")


def test_regenerating_changes_no_byte():
    text = splice("---\nlicense: mit\n---\nintro\n", FRONT, "body")
    assert splice(text, FRONT, "body") == text


def test_a_card_without_markers_gets_them_at_its_end():
    assert splice("# Mine\n\ntext", {}, "body").endswith(
        f"# Mine\n\ntext\n\n{BEGIN}\nbody\n{END}\n"
    )


def test_a_card_without_front_matter_gets_some_and_one_with_it_keeps_its_keys():
    assert splice("text\n", FRONT, "b").startswith("---\ntags:\n- saebench\n---\ntext\n")
    assert splice("---\nlicense: mit # x\n---\ntext\n", FRONT, "b").startswith(
        "---\nlicense: mit # x\ntags:\n- saebench\n---\ntext\n"
    )


def test_windows_line_ends_stay():
    old = f"---\r\nlicense: mit\r\n---\r\ntext\r\n\r\n{BEGIN}\r\nold\r\n{END}\r\nend\r\n"
    new = splice(old, FRONT, "one\ntwo")
    assert new.count("\n") == new.count("\r\n")
    assert "one\r\ntwo" in new
    assert new.endswith(f"{END}\r\nend\r\n")
    assert splice(new, FRONT, "one\ntwo") == new


def test_markers_in_other_spelling_are_still_markers():
    old = "a\n\n<!--saebench:begin-->\nold\n  <!--  SAEBENCH:END  -->\nz\n"
    new = splice(old, {}, "new")
    assert "old" not in new
    assert new.endswith(f"{END}\nz\n")


def test_markers_that_are_only_talked_about_are_left_alone():
    text = f"Between `{BEGIN}` and `{END}` is generated.\n"
    assert text in splice(text, {}, "body")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        (f"a\n{BEGIN}\nb\n", "there is no <!-- saebench:end -->"),
        (f"a\n{END}\nb\n", "there is no <!-- saebench:begin -->"),
        (f"{END}\n{BEGIN}\n", "the end comes before the begin"),
        (f"{BEGIN}\n{BEGIN}\n{END}\n{END}\n", "a begin inside another block"),
        (f"{BEGIN}\na\n{END}\n{BEGIN}\nb\n{END}\n", "more than one block"),
        (f"{BEGIN}\na\n{END}\n{END}\n", "more than one block"),
        (f"{BEGIN} text\n{END}\n", "shares line 1 with other text"),
        (f"{BEGIN}\na {END}\n", "shares line 2 with other text"),
    ],
)
def test_damaged_markers_are_refused_with_the_way_to_repair_them(text, complaint):
    with pytest.raises(OutputError, match=complaint) as caught:
        splice(text, FRONT, "body")
    assert "each alone on its line" in caught.value.next_step
    assert "was not changed" in caught.value.next_step


def test_front_matter_that_is_never_closed_is_refused():
    with pytest.raises(OutputError, match="never closed"):
        splice("---\nlicense: mit\n\n# Title\n", FRONT, "body")


def test_the_front_matter_of_a_card_can_be_read_before_anything_is_written():
    assert existing_front("---\nlicense: mit\n---\n# t\n") == {"license": "mit"}
    assert existing_front("# t\n\n---\nnot: front\n---\n") == {}
    assert existing_front(None) == {}


lines = st.lists(
    st.sampled_from(["", "text", "# head", "- item", "---", "```", "<b>", "| a |", "\ttab", "x  "]),
    max_size=8,
).map("\n".join)


@given(lines, lines, lines, lines)
@settings(deadline=None)
def test_hand_written_parts_survive_any_number_of_regenerations(above, below, first, second):
    around = f"# t\n{above}\n{BEGIN}\nold\n{END}\n{below}"
    once = splice(around, FRONT, first)
    twice = splice(once, FRONT, second)
    assert splice(twice, FRONT, first) == once
    assert once.startswith(f"---\ntags:\n- saebench\n---\n# t\n{above}\n{BEGIN}\n")
    assert once.endswith(f"\n{END}\n{below}")
