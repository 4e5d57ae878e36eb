"""A folder of generated text without a model: given ids, and a ``generation.json`` that is true of them."""

import numpy as np

from saebench.generation.manifest import FINISHED, Manifest, vocabulary
from saebench.generation.settings import GenerationSettings
from saebench.generation.shards import DATA_FOLDER, write_shard
from saebench.generation.statistics import describe_ids


def write_generated(folder, tokenizer, *shards, status=FINISHED, length=16, tokens=None):
    """Write ``shards``, lists of sequences with their start token; returns the folder."""
    (folder / DATA_FOLDER).mkdir(parents=True, exist_ok=True)
    entries = [
        write_shard(folder, i, [np.array(row, dtype=np.int32) for row in rows], tokenizer)
        for i, rows in enumerate(shards)
    ]
    sampled = [np.array(row[1:]) for rows in shards for row in rows]
    tokens = sum(map(len, sampled)) if tokens is None else tokens
    manifest = Manifest(
        settings=GenerationSettings(tokens=tokens, length=length).to_json(),
        model={"digest": "0" * 64, "id": "tiny"},
        vocabulary=vocabulary(tokenizer, 10, 11),
        status=status,
        shards=entries,
        versions=[{"saebench": "0"}],
    )
    if status == FINISHED:
        largest = max(int(row.max()) for row in sampled) + 1
        manifest.statistics = describe_ids(sampled, vocab_size=max(14, largest)).to_json()
    manifest.write(folder)
    return folder
