"""The gate of BatchTopK dictionaries outside training: a threshold of the user, or one from data.

A rule that keeps the largest ``k · n`` codes of a batch makes a token's codes depend on the tokens it
is batched with. Where a file stores no threshold, one number stands in for the rule.
"""

from __future__ import annotations

import torch
from torch import Tensor

from saebench.activations import Activation, BatchTopK, JumpReLU
from saebench.adapters.reading.choices import Choices
from saebench.errors import CheckpointError
from saebench.sae import Fact

ESTIMATE = "estimate"
ASK_ONE = f"Give --set threshold=NUMBER, or --set threshold={ESTIMATE} to take it from the data."


def given_threshold(choices: Choices) -> Fact | None:
    """The user's threshold, a number or ``estimate``; None where the user says nothing.

    Raises :class:`CheckpointError` for anything else, and for a negative number.
    """
    text = choices.text("threshold")
    if text is None or text.value == ESTIMATE:
        return text
    number = choices.number("threshold")
    assert number is not None  # the same setting
    if number.value < 0:
        raise CheckpointError(
            number.source,
            "a negative threshold",
            f"Give a number >= 0, or --set threshold={ESTIMATE} to take it from the data.",
        )
    return number


def estimated(file: str, k: Fact) -> Fact:
    """The fact that a threshold is missing and will be taken from the data, on average ``k`` a token."""
    source = f"not in {file}: estimated on data so that {k.value} latents per token pass on average"
    return Fact(ESTIMATE, source, "assumed")


def batch_gate(k: int, threshold: Fact, weight: Tensor | None = None) -> Activation:
    """The gate for a threshold from :func:`given_threshold` or :func:`estimated`.

    ``weight[d_sae]`` ranks latents while the threshold is estimated, and is then part of its unit.
    """
    if threshold.value == ESTIMATE:
        return BatchTopK(k, weight)
    return JumpReLU(torch.tensor(float(threshold.value)))
