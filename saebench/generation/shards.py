"""Sequences as parquet files that ``datasets.load_dataset`` reads: ids, text and number of tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from saebench.errors import OutputError
from saebench.whole_files import put

DATA_FOLDER = "data"
PATTERN = "train-*.parquet"


def shard_name(number: int) -> str:
    """The path of a shard in its folder. The number of shards, unknown before the end, is left out."""
    return f"{DATA_FOLDER}/train-{number:05d}.parquet"


def write_shard(
    folder: Path, number: int, sequences: Sequence[np.ndarray], tokenizer: Any
) -> dict[str, Any]:
    """Write int32 ``sequences`` with their start token; returns the shard's entry for the manifest.

    ``n_tokens`` of a row counts sampled tokens, without the start token. Raises :class:`OutputError`.
    """
    import pyarrow
    import pyarrow.parquet

    texts = tokenizer.batch_decode(
        [row.tolist() for row in sequences],
        skip_special_tokens=True,
        clean_up_tokenization_spaces=False,
    )
    sizes = np.array([len(row) for row in sequences], dtype=np.int32)
    offsets = np.concatenate([[0], sizes.cumsum()]).astype(np.int32)
    ids = pyarrow.ListArray.from_arrays(offsets, np.concatenate(sequences).astype(np.int32))
    table = pyarrow.table({"input_ids": ids, "text": texts, "n_tokens": sizes - 1})
    name = shard_name(number)
    put(folder / name, lambda place: pyarrow.parquet.write_table(table, place), alone=True)
    return {
        "file": name,
        "sha256": file_digest(folder / name),
        "n_sequences": len(sequences),
        "n_tokens": int((sizes - 1).sum()),
    }


def read_sequences(path: Path) -> Iterator[np.ndarray]:
    """The int32 ids of a shard, one row after another, with their start token."""
    import pyarrow.parquet

    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=1024, columns=["input_ids"]):
            column = batch.column(0)
            offsets = column.offsets.to_numpy()
            values = column.values.to_numpy()
            for low, high in pairwise(offsets):
                yield values[low:high]


def file_digest(path: Path) -> str:
    """SHA-256 of a file's content, which is read once as long as the file is the same.

    Raises :class:`OutputError` where it cannot be read.
    """
    try:
        found = path.stat()
        return _digest(str(path), found.st_ino, found.st_size, found.st_mtime_ns)
    except OSError as error:
        raise OutputError(
            f"the shard {path}", error.strerror or str(error), "Check its permissions"
        ) from error


@lru_cache(maxsize=2**14)
def _digest(path: str, *_same_file: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
