import pytest

from tests.data.words import BOS, EOS, PAD, word_tokenizer, write_rows


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
