"""References: the grammar, and what is at a local one."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saebench.errors import BadReferenceError, HubError
from saebench.reference import Reference, fetch, parse_reference, resolve

WORD = st.text(string.ascii_letters + string.digits + "_", min_size=1, max_size=8)
NAME = st.builds(lambda start, rest: start + rest, WORD, st.sampled_from(["", "-1b", ".v2", "_x"]))
PATH_PART = st.text(string.ascii_letters + string.digits + " @:+=,~", min_size=1, max_size=8)
HUB = st.builds(
    Reference,
    st.just("hub"),
    st.builds("{}/{}".format, NAME, NAME),
    st.none() | st.sampled_from(["main", "refs/pr/1", "v1.0", "0" * 40]),
    st.lists(PATH_PART, max_size=3).map("/".join),
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf:org/repo", Reference("hub", "org/repo", None, "")),
        ("hf:org/repo@v1", Reference("hub", "org/repo", "v1", "")),
        ("hf:org/repo:layer_13", Reference("hub", "org/repo", None, "layer_13")),
        ("hf:org/repo@refs/pr/2:a/b.pt", Reference("hub", "org/repo", "refs/pr/2", "a/b.pt")),
        ("hf:org/repo:a:b@c", Reference("hub", "org/repo", None, "a:b@c")),
        ("hf:org/repo:layer_13/", Reference("hub", "org/repo", None, "layer_13")),
        ("runs/trainer_0", Reference("local", None, None, "runs/trainer_0")),
        ("./runs//trainer_0/", Reference("local", None, None, "runs/trainer_0")),
        ("./hf:odd", Reference("local", None, None, "hf:odd")),
    ],
)
def test_a_reference_names_a_repository_or_a_local_path(text: str, expected: Reference) -> None:
    assert parse_reference(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "hf:",
        "hf:repo",
        "hf:org/repo/more",
        "hf:../repo",
        "hf:org/..",
        "hf:org/repo@",
        "hf:org/repo:",
        "hf:org/repo@a b",
        "hf:org/repo@../x",
        "hf:org/repo@--upload-pack",
        "hf:org/repo:../other",
        "hf:org/repo:/etc/passwd",
        "hf:org/repo:a//b",
        "hf:org/repo:a\\b",
        "hf:org/repo:a\x1b[31m",
        "https://example.org/org/repo",
        "a\0b",
    ],
)
def test_a_malformed_reference_is_refused_with_the_grammar(text: str) -> None:
    with pytest.raises(BadReferenceError, match="Write hf:org/repo"):
        parse_reference(text)


@given(HUB)
def test_hub_references_survive_the_round_trip_through_text(reference: Reference) -> None:
    assert parse_reference(str(reference)) == reference


@given(st.text(min_size=1, max_size=30))
def test_any_text_is_a_reference_that_survives_or_is_refused(text: str) -> None:
    try:
        reference = parse_reference(text)
    except BadReferenceError:
        return
    assert parse_reference(str(reference)) == reference


def test_a_reference_below_another_keeps_the_repository_and_pins_the_commit() -> None:
    whole = parse_reference("hf:org/repo@main:saes")
    assert str(whole.within("layer_1", "a" * 40)) == f"hf:org/repo@{'a' * 40}:saes/layer_1"
    assert str(parse_reference("runs").within("a/b")) == "runs/a/b"
    assert parse_reference("runs").within("") == parse_reference("runs")


def test_a_local_folder_is_listed_without_what_no_checkpoint_is_made_of(tmp_path: Path) -> None:
    for name in ("a/cfg.json", "a/w.safetensors", "a/README.md", "b/ae.pt", ".git/x.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    found = resolve(parse_reference(str(tmp_path)))
    assert found.names == ("a/cfg.json", "a/w.safetensors", "b/ae.pt")
    assert (found.commit, found.file) == (None, None)
    assert fetch(found, found.names) == tmp_path


def test_a_local_file_is_referenced_with_the_files_beside_it(tmp_path: Path) -> None:
    for name in ("cfg.json", "a.safetensors", "notes.txt"):
        (tmp_path / name).touch()
    found = resolve(parse_reference(str(tmp_path / "a.safetensors")))
    assert (found.file, found.names) == ("a.safetensors", ("a.safetensors", "cfg.json"))


def test_a_missing_path_that_looks_like_a_repository_says_how_to_write_one() -> None:
    with pytest.raises(BadReferenceError, match=r"no such file or folder.*hf:org/no-such-repo"):
        resolve(parse_reference("org/no-such-repo"))


@pytest.mark.parametrize(
    ("message", "found"),
    [
        ("Network is blocked.", "RuntimeError: Network is blocked. Check the network"),
        ("", "RuntimeError: no message. Check the network"),
        ("word " * 100, "RuntimeError: word word"),
    ],
)
def test_a_message_of_the_hub_is_relayed_in_whole_words_with_one_full_stop(
    monkeypatch: pytest.MonkeyPatch, message: str, found: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError(message)

    monkeypatch.setattr("huggingface_hub.HfApi.model_info", refuse)
    with pytest.raises(HubError) as error:
        resolve(parse_reference("hf:org/repo"))
    assert found in str(error.value)
    assert ".." not in str(error.value)
    assert len(message) < 200 or "word …. Check the network" in str(error.value)
