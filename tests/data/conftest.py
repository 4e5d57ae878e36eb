import json

import pyarrow
import pyarrow.parquet
import pytest

from saebench.data.concepts import open_concept
from saebench.protocols import Concept
from tests.data.words import BOS, EOS, PAD, word_tokenizer, write_rows

LABEL_RULES = """
[[class]]
name = "low"
any = ["one", "two"]
[[class]]
name = "high"
any = ["eight", "nine"]
"""
OPENING = (  # keywords of open_concept, not of a concept
    "length",
    "seed",
    "held_out",
    "max_texts",
    "vocab_size",
    "mask",
)


@pytest.fixture(scope="session")
def full():
    return word_tokenizer(bos_token=BOS, eos_token=EOS, pad_token=PAD)


@pytest.fixture(scope="session")
def gpt2_like():
    """BOS, EOS and padding are one token, as in GPT-2 with the usual padding."""
    return word_tokenizer(bos_token=EOS, eos_token=EOS, pad_token=EOS)


@pytest.fixture
def texts(tmp_path):
    def write(*rows, name="data.jsonl", column="text"):
        return write_rows(tmp_path / name, *rows, column=column)

    return write


@pytest.fixture
def write(tmp_path):
    def put(items, name="data.jsonl"):
        path = tmp_path / name
        if path.suffix == ".parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(items), path)
        else:
            path.write_text("".join(json.dumps(item) + "\n" for item in items))
        return str(path)

    return put


@pytest.fixture
def rules(tmp_path):
    path = tmp_path / "rules.toml"
    path.write_text(LABEL_RULES)
    return str(path)


@pytest.fixture
def opened(write, full):
    """Open rows as a concept; keywords of the concept and of opening it are told apart."""

    def make(items, **more):
        given = {"length": 8, "seed": 0, **{k: more.pop(k) for k in OPENING if k in more}}
        data = items if isinstance(items, str) else write(items)
        return open_concept(Concept("c", data, **more), full, **given)

    return make
