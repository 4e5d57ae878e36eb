"""The weight files of a folder that may be opened, with what their headers declare."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from saebench.errors import CheckpointError
from saebench.files import CheckpointFiles
from saebench.weights import TensorInfo, is_pickle, is_weights


def readable_headers(files: CheckpointFiles) -> Iterator[tuple[str, Mapping[str, TensorInfo]]]:
    """Name and header of each weight file; those that are damaged or not allowed are left out.

    What lies beside a checkpoint may be anything, and whoever reads a damaged file says so.
    """
    for name in files.names:
        if not is_weights(name) or (is_pickle(name) and not files.allow_pickle):
            continue
        try:
            yield name, files.header(name)
        except CheckpointError:
            continue
