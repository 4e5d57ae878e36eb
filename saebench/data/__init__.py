"""Data: what a data spec names, as streams of token ids in batches with masks and sequence ids.

``documents`` reads text and token ids from files and the hub, ``packing`` cuts documents into sequences,
``stream`` makes batches of them and says what was read; ``random_ids`` draws token ids, ``shuffled``
permutes those of a text, ``opening`` turns any data spec into a stream.
"""

from saebench.data.opening import open_stream
from saebench.data.random_ids import random_stream, unigram_probabilities
from saebench.data.shuffled import shuffled_stream
from saebench.data.stream import (
    Batch,
    Counting,
    MaskPolicy,
    Row,
    Tally,
    TokenStream,
    stream_from_ids,
)

__all__ = [
    "Batch",
    "Counting",
    "MaskPolicy",
    "Row",
    "Tally",
    "TokenStream",
    "open_stream",
    "random_stream",
    "shuffled_stream",
    "stream_from_ids",
    "unigram_probabilities",
]
