"""References: the grammar, and what is at a local one."""

from __future__ import annotations

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saebench.errors import BadReferenceError
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
    ("address", "meant"),
    [
        ("https://huggingface.co/org/repo", "hf:org/repo"),
        ("https://huggingface.co/org/repo/", "hf:org/repo"),
        ("https://huggingface.co/org/repo/tree/main", "hf:org/repo"),
        ("https://huggingface.co/org/repo/tree/main/layer_13", "hf:org/repo:layer_13"),
        ("https://hf.co/org/repo/tree/v1/a/b", "hf:org/repo@v1:a/b"),
        ("http://www.huggingface.co/org/repo/blob/v1/a/ae.pt?x=1#L3", "hf:org/repo@v1:a/ae.pt"),
        ("https://huggingface.co/org/repo/resolve/main/ae.pt?download=true", "hf:org/repo:ae.pt"),
        ("https://huggingface.co/org/repo/tree/refs%2Fpr%2F1/a%20b", "hf:org/repo@refs/pr/1:a b"),
        ("https://huggingface.co/org/repo/tree/refs/pr/1/a", "hf:org/repo@refs/pr/1:a"),
        ("https://huggingface.co/org/repo/discussions/3", "hf:org/repo"),
        ("hf:https://huggingface.co/org/repo", "hf:org/repo"),
        ("hf://org/repo", "hf:org/repo"),
    ],
)
def test_an_address_on_the_hub_is_answered_with_the_reference_to_write(
    address: str, meant: str
) -> None:
    with pytest.raises(BadReferenceError) as error:
        parse_reference(address)
    assert str(error.value).endswith(f"Write {meant}.")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("https://huggingface.co/datasets/org/data", "That is no model repository. Write hf:org/r"),
        ("https://huggingface.co/org", "Write hf:org/repo, "),
        ("https://huggingface.co/org/../repo/tree/main/../x", "Write hf:org/repo, "),
        ("https://user:secret@huggingface.co/org/repo?token=secret", "an address: "),
    ],
)
def test_other_addresses_are_refused_without_what_may_be_secret(address: str, message: str) -> None:
    with pytest.raises(BadReferenceError) as error:
        parse_reference(address)
    assert message in str(error.value)
    assert "secret" not in str(error.value)


def test_a_local_folder_of_steps_is_listed_with_the_config_of_its_run(tmp_path: Path) -> None:
    for name in ("config.json", "ae.pt", "checkpoints/ae_1.pt", "checkpoints/ae_2.pt"):
        (tmp_path / "run" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "run" / name).touch()
    steps = resolve(parse_reference(str(tmp_path / "run" / "checkpoints")))
    assert steps.names == ("checkpoints/ae_1.pt", "checkpoints/ae_2.pt", "config.json")
    assert (steps.root, steps.within) == (tmp_path / "run", "checkpoints")
    step = resolve(parse_reference(str(tmp_path / "run" / "checkpoints" / "ae_2.pt")))
    assert (step.file, step.root) == ("checkpoints/ae_2.pt", tmp_path / "run")
    assert str(step.pinned(step.file)) == str(step.reference)


def test_a_folder_that_may_not_be_listed_is_an_error_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.pt").touch()

    def gone(_: Path) -> None:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(Path, "iterdir", gone)  # between the look and the listing
    with pytest.raises(BadReferenceError, match=r"No such file or directory\. Check the path"):
        resolve(parse_reference(str(tmp_path / "a.pt")))
