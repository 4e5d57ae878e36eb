"""``saebench generate``: what it prints and writes, and how it refuses."""

import argparse
import json
from pathlib import Path

import pytest

from saebench.cli.generate import declare
from saebench.errors import ConfigError, DataError, SaebenchError

FIXTURES = Path(__file__).parents[2] / "fixtures"
MODEL = str(FIXTURES / "model")


def run(*arguments):
    parser = argparse.ArgumentParser()

    def command(places, name, handler, summary, epilog):
        made = places.add_parser(name, help=summary, epilog=epilog)
        made.set_defaults(handler=handler)
        return made

    declare(parser.add_subparsers(), command)
    values = parser.parse_args(["generate", *map(str, arguments)])
    return values.handler(values)


def test_it_writes_a_folder_and_prints_the_table_with_the_reference(tmp_path, capsys):
    out = tmp_path / "own"
    options = ["--length", 16, "--batch-size", 8, "--seed", 3, "--device", "cpu"]
    text = FIXTURES / "text" / "heldout.jsonl"
    arguments = [MODEL, "--out", out, "--tokens", 300, *options]
    assert run(*arguments, "--reference", text) == 0
    printed = capsys.readouterr().out
    assert "| tokens | 300 |" in printed
    assert "total variation" in printed
    assert f"300 tokens in {sum(1 for _ in rows(out))} sequences: {out}" in printed
    assert printed.splitlines()[1] in (out / "README.md").read_text()
    reference = manifest(out)["reference"]
    assert reference["statistics"]["eos_share"] is None
    # the reference has as many tokens, in sequences cut at the same length
    assert 300 - 16 < reference["statistics"]["n_tokens"] <= 300 + 16
    assert reference["statistics"]["mean_length"] == 15
    assert run(*arguments, "--reference", text, "--reference-documents") == 0
    reference = manifest(out)["reference"]
    assert reference["statistics"]["first_entropy"] > 0
    assert "one sequence per document" in reference["cut"]
    # the data set may be published: the folders of this machine are in none of its files
    assert reference["spec"] == "heldout.jsonl"
    for name in ("README.md", "generation.json"):
        assert str(FIXTURES.parent) not in (out / name).read_text()


def manifest(out):
    return json.loads((out / "generation.json").read_text())


def rows(out):
    import pyarrow.parquet

    for path in sorted((out / "data").glob("*.parquet")):
        yield from pyarrow.parquet.read_table(path)["input_ids"]


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--tokens", 0], ConfigError),
        (["--tokens", 10, "--temperature", 0], ConfigError),
        (["--tokens", 10, "--length", 257], SaebenchError),
        (["--tokens", 10, "--device", "cpu", "--reference", "no-such-file.jsonl"], DataError),
    ],
)
def test_what_is_wrong_is_refused_before_anything_is_written(tmp_path, options, error):
    with pytest.raises(error):
        run(MODEL, "--out", tmp_path / "out", *options)
    assert not (tmp_path / "out").exists()
