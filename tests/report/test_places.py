"""Paths in a card can be used by others, and say nothing of the computer that measured."""

from __future__ import annotations

import pytest

from saebench.report import render_card
from saebench.report.places import portable_command, reference
from tests.report.records import make_record, section

COMMAND = "saebench run saes/topk-s0 --model ./model --data heldout.jsonl"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("fixtures/saes/topk-s0", "fixtures/saes/topk-s0"),
        ("./topk-s0", "./topk-s0"),
        ("/home/someone/saes/best/", "path/to/best"),
        ("~/saes/best", "path/to/best"),
        ("C:\\saes\\best", "path/to/best"),
        ("../saes/best", "path/to/best"),
        ("best", "path/to/best"),
        ("..", "path/to/topk-s0"),
        (".", "path/to/topk-s0"),
        ("hf:org/saes:l2/topk", "hf:org/saes@main:l2/topk"),
    ],
)
def test_a_reference_out_of_reach_becomes_a_path_to_its_name(text, shown):
    assert reference(make_record(checkpoint={"reference": text})) == shown


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("saebench run /home/a/saes/s0 --out o", "saebench run path/to/s0 --out o"),
        ("saebench run s0 --model='/home/a b/m x'", "saebench run s0 '--model=path/to/m x'"),
        (
            "saebench run ../saes/s0 --data ~/t.jsonl",
            "saebench run path/to/s0 --data path/to/t.jsonl",
        ),
        ("DIR=/home/a saebench run s0", "DIR=path/to/a saebench run s0"),
        ("saebench run '/home/a/s0", "saebench run path/to/s0"),
        ("saebench run / --out '~'", "saebench run path/to/folder --out path/to/folder"),
    ],
)
def test_paths_of_this_computer_are_placeholders_in_the_command(command, shown):
    assert portable_command(command) == (shown, True)
    found = section(render_card([make_record()], [], command=command), "Reproduce")
    assert found == f"```sh\n{shown}\n```\n\n`path/to/…` are placeholders."


@pytest.mark.parametrize(
    "command", [COMMAND, "saebench run  'a b' hf:org/saes:l2/x --limit 'fve>=1'"]
)
def test_a_command_without_such_paths_stays_as_it_was_typed(command):
    found = section(render_card([make_record()], [], command=command), "Reproduce")
    assert found == f"```sh\n{command}\n```"
