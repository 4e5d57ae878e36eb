"""Whatever a value holds, it comes out as itself on one line: no markup, no HTML, no control, no break."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from saebench.report.escape import code_block, code_span, markdown_cell, markdown_text, terminal

MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
HOSTILE = (
    "a | b | c",
    "a \\| b",
    "a \\\\| b",
    "back\\",
    "`code` ``more`` `",
    "`|`",
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    "<!-- saebench:end -->",
    "</details>",
    "[text](https://evil.example)",
    "![pixel](https://evil.example/p.png)",
    "[ref]: https://evil.example",
    "https://evil.example/a?b=c&d=e",
    "www.evil.example",
    "&lt;b&gt; &#60;",
    "*bold* _em_ __strong__ ~~gone~~",
    "# heading",
    "- item",
    "1. item",
    "2) item",
    "+ item",
    "> quote",
    "---",
    "===",
    "```\nfence",
    "    indented",
    "line\nbreak\r\nand\u2028more",
    "$x^2$ @someone #12",
    "key: [value]\n---\n",
    "| --- |",
    "\ttab\x0bbed",
    "\x1b[31mred\x1b[0m",
    "\x1b]8;;https://evil.example\x07click\x1b]8;;\x07",
    "\u202egnp.exe\u202c",
)
hostile = st.lists(
    st.sampled_from([*HOSTILE, "|", "\\", "`", "<", ">", "[", "](", "!", "\n", "\x1b", " ", "&"])
    | st.text(max_size=6),
    max_size=8,
).map("".join)


def inline_of(markdown: str) -> list:
    return [token for token in MARKDOWN.parse(markdown) if token.type == "inline"]


def plain(children: list) -> str:
    assert {child.type for child in children} <= {"text", "text_special"}
    return "".join(child.content for child in children)


def table_cells(cell: str) -> list[list]:
    tokens = MARKDOWN.parse(f"| left | right |\n| --- | --- |\n| {cell} | next |\n\nafter\n")
    assert [token.type for token in tokens].count("tr_open") == 2
    assert tokens[-2].content == "after"
    return [token.children for token in tokens if token.type == "inline"][2:-1]


@pytest.mark.parametrize("text", HOSTILE)
def test_text_renders_as_one_paragraph_of_itself(text):
    (inline,) = inline_of(markdown_text(text))
    assert plain(inline.children) == terminal(text)


@given(hostile)
@settings(deadline=None)
def test_any_text_renders_as_itself(text):
    shown = [plain(inline.children) for inline in inline_of(markdown_text(text))]
    assert shown == ([terminal(text)] if terminal(text) else [])


@given(hostile)
@settings(deadline=None)
@example("\\|")
@example("|" * 40)
def test_no_text_breaks_out_of_its_table_cell(text):
    own, following = table_cells(markdown_cell(text))
    assert plain(own) == (terminal(text, 160) or "–")
    assert plain(following) == "next"


@given(hostile)
@settings(deadline=None)
@example("a\\|b")
@example("`a` | ``b``")
def test_no_code_span_breaks_out_of_its_table_cell(text):
    own, following = table_cells(code_span(text, cell=True))
    if terminal(text):
        (code,) = own
        assert code.type == "code_inline"
        assert "<!--" not in code.content
        expected = (
            terminal(text, 240)
            .replace("\\|", "\\¦")
            .replace("<!--", "< !--")
            .replace("-->", "-- >")
        )
        assert code.content.strip() == expected
    assert plain(following) == "next"


@given(hostile)
@settings(deadline=None)
def test_a_code_block_holds_its_lines_and_ends_where_it_ends(text):
    tokens = MARKDOWN.parse(code_block([text, "second"], "sh") + "\n\nafter\n")
    assert [token.type for token in tokens] == [
        "fence",
        "paragraph_open",
        "inline",
        "paragraph_close",
    ]
    assert len(tokens[0].content.splitlines()) == 2
    assert tokens[0].info == "sh"


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_renders_to_html_that_was_in_the_value(text):
    for markdown in (markdown_text(text), f"x {code_span(text)} y", code_block([text])):
        html = MARKDOWN.render(markdown)
        assert "<script" not in html
        assert "<img" not in html
        assert "<a " not in html
        assert "<!--" not in html


def test_code_keeps_indentation_and_runs_of_spaces():
    assert code_block(["if x:", "    f = 1  # two"]) == "```\nif x:\n    f = 1  # two\n```"


@given(st.text(max_size=60) | hostile)
@settings(deadline=None)
def test_terminal_text_is_one_visible_line(text):
    shown = terminal(text, 40)
    assert len(shown) <= 40
    assert not any(
        unicodedata.category(c) in {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"} for c in shown
    )
    assert terminal(shown, 40) == shown


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07name", "name"),
        ("\x1b]8;;https://evil.example\x1b\\click\x1b]8;;\x1b\\", "click"),
        ("\x9b2Jgone", "gone"),
        ("a\rb\nc\td", "a b c d"),
        ("abc\u202edef\u2066g", "abcdefg"),
        ("zero\u200bwidth\ufeff", "zerowidth"),
        ("a\u00a0\u3164b", "a b"),
        ("z" + "\u0301" * 50, "z\u0301\u0301\u0301"),
        ("naïve Ωμέγα 中文 ✓", "naïve Ωμέγα 中文 ✓"),
        (None, "None"),
        (0.5, "0.5"),
    ],
)
def test_what_a_terminal_obeys_or_a_reader_cannot_see_is_gone(text, expected):
    assert terminal(text) == expected


def test_long_values_are_cut_and_say_so():
    assert terminal("x" * 100, 10) == "x" * 9 + "…"
    assert len(markdown_cell("y" * 10_000)) == 160
    assert code_span("z" * 10_000, 20) == "`" + "z" * 19 + "…`"


def test_an_empty_value_becomes_a_dash_in_tables():
    assert markdown_cell("") == code_span("\u200b", cell=True) == "–"


def test_ordinary_text_stays_readable():
    assert markdown_text("CE recovered 0.964, of 512 sequences (65,024 tokens)") == (
        "CE recovered 0.964, of 512 sequences (65,024 tokens)"
    )
    assert markdown_cell("2026-05-30T12:00:00+00:00") == "2026-05-30T12:00:00+00:00"
    assert markdown_text("3.11.9") == "3.11.9"
