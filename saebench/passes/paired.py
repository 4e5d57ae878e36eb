"""Clean predictions of one model against those of another, on the same tokens of a batch.

The hidden states of both are there anyway where their predictions are scored: the logits of one more
run are all that a pair costs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from saebench.models import LanguageModel, Prefix
from saebench.passes.requests import ModelPair
from saebench.predictions import Continuation


def clean_hidden(
    models: Sequence[LanguageModel], prefixes: Mapping[int, Prefix], wanted: Iterable[int]
) -> dict[int, Tensor]:
    """Hidden states ``[b, t, d]`` of each of the ``wanted`` models, gone on with from its last site."""
    found = {}
    for number in sorted(set(wanted)):
        prefix = prefixes[number]
        last = prefix.sites[-1]
        found[number] = models[number].resume(prefix, last, prefix.at(last))
    return found


def others(
    models: Sequence[LanguageModel],
    number: int,
    clean: Mapping[int, Tensor],
    pairs: Iterable[ModelPair],
) -> dict[int, Continuation]:
    """The clean runs of the models that are set against model ``number``, by their number."""
    return {
        second: Continuation(clean[second], reverse=True, model=models[second])
        for first, second in pairs
        if first == number
    }
