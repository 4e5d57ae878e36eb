"""JumpReLU thresholds as a file holds them, and what the user may say of them."""

from __future__ import annotations

import torch
from torch import Tensor

from saebench.activations import JumpReLU
from saebench.adapters.reading.batch_gate import ESTIMATE, given_threshold
from saebench.adapters.reading.choices import Choices
from saebench.adapters.reading.tensors import Tensors
from saebench.errors import CheckpointError
from saebench.sae import Fact

LOG, AS_STORED = "log", "stored"  # what a user may say of stored thresholds
HOW_STORED = (LOG, AS_STORED)
ASK_HOW = (
    f"Pass --set threshold={LOG} if these are logarithms, --set threshold={AS_STORED} to let "
    "negative ones pass what is positive, or --set threshold=NUMBER."
)
ASK_NUMBER = "Train until they are estimated and save again, or pass --set threshold=NUMBER."


def said_threshold(choices: Choices) -> Fact | None:
    """The user's threshold: a number, ``estimate``, or how those of the file are stored.

    ``log_threshold=true`` says the same as ``threshold=log``. Raises :class:`CheckpointError` for
    anything else.
    """
    logarithms = choices.flag("log_threshold")
    text = choices.text("threshold")
    if text is None:
        said = logarithms is not None and logarithms.value
        return Fact(LOG, logarithms.source, "user") if said and logarithms is not None else None
    return text if text.value in HOW_STORED else given_threshold(choices)


def stored_thresholds(
    tensors: Tensors, key: str, how: object = None, never: str = ASK_NUMBER, /, **sizes: int
) -> Tensor:
    """The thresholds of a file; ``how`` is ``log``, ``stored`` (negative ones too) or neither.

    ``never`` is the advice for −1, the initial value. Raises :class:`CheckpointError` for negative
    ones unless that was allowed, and for logarithms of numbers beyond float32.
    """
    if how not in HOW_STORED:
        return tensors.threshold(key, never, ASK_HOW, **sizes)
    values = tensors.numbers(key, **sizes)
    if how == AS_STORED:
        return values
    exponentials = values.exp()
    if bool(exponentials.isfinite().all()):
        return exponentials
    raise CheckpointError(
        f"logarithms of thresholds in {key!r:.80} of {tensors.file}",
        f"a largest value of {float(values.max()):.4g}, whose exponential is not finite",
        "The values may be thresholds already.",
    )


def not_estimated(said: Fact) -> Fact:
    """The fact itself; raises :class:`CheckpointError` where it asks for an estimate, which needs a k."""
    if said.value != ESTIMATE:
        return said
    raise CheckpointError(
        f"{said.source} for a batch top-k, whose k settles it",
        "a JumpReLU with a threshold for each latent",
        ASK_HOW,
    )


def jump_relu(
    tensors: Tensors, key: str, choices: Choices, **sizes: int
) -> tuple[JumpReLU, Fact | None]:
    """The JumpReLU of a file's thresholds, and what the user says of them.

    Raises what :func:`stored_thresholds` and :func:`not_estimated` raise.
    """
    said = said_threshold(choices)
    if said is not None:
        not_estimated(said)
    how = None if said is None else said.value
    if isinstance(how, float):
        tensors.ignore({key} if key in tensors else ())
        return JumpReLU(torch.tensor(how)), said
    return JumpReLU(stored_thresholds(tensors, key, how, **sizes)), said
