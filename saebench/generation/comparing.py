"""Generated text beside a reference: the same statistics, and the distance between their unigrams."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from saebench.generation.card import write_card
from saebench.generation.statistics import describe_ids, unigram_distances
from saebench.generation.writing import Generated, writer

# what depends on where sequences begin and end, which says nothing of documents that were joined
_OF_WHOLE_SEQUENCES = ("eos_share", "first_entropy", "first_distinct_share")


def add_reference(
    generated: Generated, sequences: Iterable[np.ndarray], *, spec: str, cut: str, packed: bool
) -> bool:
    """Put the statistics of a reference's ``sequences`` (ids without start tokens) on the card.

    ``spec`` names the reference, ``cut`` says how its documents became sequences, ``packed`` whether
    they were joined. Returns false where the folder's card is not ours to change; the numbers are in
    ``generation.json`` in any case. Raises :class:`DataError` for an empty reference.
    """
    manifest = generated.manifest
    eos_id = manifest.vocabulary["eos_id"]
    own = describe_ids(generated.sequences(), vocab_size=generated.vocab_size, eos_id=eos_id)
    other = describe_ids(sequences, vocab_size=generated.vocab_size, eos_id=eos_id)
    statistics = other.to_json()
    if packed:
        statistics |= dict.fromkeys(_OF_WHOLE_SEQUENCES)
    manifest.statistics = own.to_json()
    manifest.reference = {
        "spec": spec,
        "cut": cut,
        "statistics": statistics,
        "distances": unigram_distances(own.counts, other.counts).to_json(),
    }
    with writer(generated.folder):
        manifest.write(generated.folder)
        return write_card(generated.folder, manifest)
