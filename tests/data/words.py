"""A tokenizer with one id per word, and what streams of it hold."""

import json

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
BOS, EOS, PAD, UNK = "<bos>", "<eos>", "<pad>", "<unk>"


def word_tokenizer(**special):
    """One id per word: zero is 0 … nine is 9, then BOS 10, EOS 11, PAD 12, UNK 13."""
    vocabulary = {word: i for i, word in enumerate([*WORDS, BOS, EOS, PAD, UNK])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token=UNK, **special)


def write_rows(path, *texts, column="text"):
    path.write_text("".join(json.dumps({column: text}) + "\n" for text in texts))
    return str(path)


def rows_of(stream, batch_size=3):
    return [
        ids[mask].tolist()
        for batch in stream.batches(batch_size)
        for ids, mask in zip(batch.ids, batch.attention_mask, strict=True)
    ]


def counted_of(stream, batch_size=2):
    return [
        counted[mask].tolist()
        for batch in stream.batches(batch_size)
        for counted, mask in zip(batch.counted, batch.attention_mask, strict=True)
    ]
