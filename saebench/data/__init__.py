"""Data: what a data spec names, as streams of token ids in batches with masks and sequence ids.

``documents`` reads text and token ids from files and the hub, ``packing`` cuts documents into sequences,
``stream`` makes batches of them and says what was read.
"""

from saebench.data.stream import (
    Batch,
    Counting,
    MaskPolicy,
    Tally,
    TokenStream,
    open_stream,
    stream_from_ids,
)

__all__ = [
    "Batch",
    "Counting",
    "MaskPolicy",
    "Tally",
    "TokenStream",
    "open_stream",
    "stream_from_ids",
]
