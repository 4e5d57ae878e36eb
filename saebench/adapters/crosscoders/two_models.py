"""Tensors of crosscoders over two models: ``W_enc [2, d_in, d_sae]`` and ``W_dec [d_sae, 2, d_in]``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from saebench.adapters.native.marks import is_native
from saebench.adapters.reading.choices import Choices
from saebench.adapters.reading.readable import readable_headers
from saebench.adapters.reading.tensors import Tensors
from saebench.errors import CheckpointError
from saebench.files import CheckpointFiles
from saebench.sae import Fact
from saebench.weights import TensorInfo

N_MODELS = 2
MAX_FACTOR = 1e30  # in float32, activations scaled by it and back are still finite
KEY_TENSORS = {"W_enc", "W_dec", "b_enc", "b_dec"}


def headers(files: CheckpointFiles) -> Iterator[tuple[str, Mapping[str, TensorInfo]]]:
    """The weight files that hold a crosscoder over two models, with their tensors."""
    return (
        (name, header)
        for name, header in readable_headers(files)
        if _fits(header) and not is_native(files, header)
    )


def sizes(tensors: Tensors) -> tuple[Fact, Fact]:
    """``d_in`` and ``d_sae`` by the shape of the encoder."""
    source = f"{tensors.file}: shape of W_enc"
    _, d_in, d_sae = tensors.shape("W_enc")
    return Fact(d_in, source), Fact(d_sae, source)


def agreed(size: Fact, said: Fact | None) -> Fact:
    """A size that the config says as well; raises :class:`CheckpointError` where they differ."""
    if said is None or said.value == size.value:
        return said or size
    raise CheckpointError(
        f"{said.source} as in {size.source} ({size.value})",
        str(said.value),
        "Fetch the config that belongs to these weights.",
    )


def matrices(tensors: Tensors, d_in: int, d_sae: int) -> dict[str, Tensor]:
    """Encoder, decoder and biases of both models side by side, as the canonical crosscoder has them."""
    width = N_MODELS * d_in
    W_enc = tensors.take("W_enc", models=N_MODELS, d_in=d_in, d_sae=d_sae)
    W_dec = tensors.take("W_dec", d_sae=d_sae, models=N_MODELS, d_in=d_in)
    return {
        "W_enc": W_enc.reshape(width, d_sae),  # views: nothing is copied
        "W_dec": W_dec.reshape(d_sae, width),
        "b_enc": tensors.take("b_enc", d_sae=d_sae),
        "b_dec": tensors.take("b_dec", models=N_MODELS, d_in=d_in).reshape(width),
    }


def is_factor(value: Any) -> bool:
    """Whether a value can scale activations, and its reciprocal too."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 1 / MAX_FACTOR < value < MAX_FACTOR


def given_scale(choices: Choices, n_sources: int = N_MODELS) -> Fact | None:
    """The user's input scale of each source; raises :class:`CheckpointError` for other than positive."""
    given = choices.numbers("input_scale")
    if given is None or (len(given.value) == n_sources and all(map(is_factor, given.value))):
        return given
    raise CheckpointError(
        f"{given.source} ({n_sources} positive numbers, one per source)",
        f"{len(given.value)} numbers, the smallest {min(given.value):g}",
        "Give one factor per source, separated by commas, in the order of the sources.",
    )


def _fits(header: Mapping[str, TensorInfo]) -> bool:
    if not set(header) >= KEY_TENSORS:
        return False
    W_enc, W_dec = header["W_enc"].shape, header["W_dec"].shape
    if len(W_enc) != 3 or W_enc[0] != N_MODELS:
        return False
    return W_dec == (W_enc[2], N_MODELS, W_enc[1])
