"""What the crosscoding dimensions of a crosscode file are: models, hook points, or targets.

A file has any number of them, ``W_enc [*X_in, d_in, d_sae]`` and ``W_dec [d_sae, *X_out, d_out]``, and
does not name them in the tensors. A source here is one of several models at one hook point, or one
of several hook points of one model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from saebench.adapters.reading.choices import Choices
from saebench.adapters.reading.fields import Fields
from saebench.adapters.reading.tensors import Tensors
from saebench.errors import CheckpointError
from saebench.sae import Fact

W_ENC, W_DEC = "_W_enc_XiDiL", "_W_dec_LXoDo"
B_DEC = "_b_dec_XoDo"


@dataclass(frozen=True)
class Shape:
    """Sizes of a file, and the hook points that its config names."""

    dims_in: tuple[int, ...]
    dims_out: tuple[int, ...]
    d_in: int
    d_out: int
    d_sae: int
    site: Fact | None = None
    sites: Fact | None = None
    notes: list[str] = field(default_factory=list)

    @property
    def n_sources(self) -> int:
        """How many activations are read side by side."""
        return math.prod(self.dims_in)

    @property
    def n_targets(self) -> int:
        """How many activations are written side by side."""
        return math.prod(self.dims_out)

    @property
    def writes_what_it_reads(self) -> bool:
        """Whether it may be an autoencoder: a transcoder's output can have the same shape."""
        return (self.dims_in, self.d_in) == (self.dims_out, self.d_out)


def read_shape(fields: Fields, tensors: Tensors, choices: Choices) -> Shape:
    """Sizes from the tensors, sites from the config; raises where sources are of both kinds at once."""
    shape_in, shape_out = tensors.shape(W_ENC), tensors.shape(W_DEC)
    if min(len(shape_in), len(shape_out)) < 2 or shape_in[-1] != shape_out[0]:
        raise CheckpointError(
            f"{W_ENC} [*X, d_in, d_sae] and {W_DEC} [d_sae, *X, d_out] in {tensors.file}",
            f"shapes {list(shape_in)} and {list(shape_out)}",
            "Check that the file is one that crosscode wrote.",
        )
    shape = Shape(shape_in[:-2], shape_out[1:-1], shape_in[-2], shape_out[-1], shape_in[-1])
    _check_sizes(fields, shape)
    if shape.n_sources == 1:
        return _with_one_source(fields, shape)
    if not shape.writes_what_it_reads:
        raise CheckpointError(
            f"a model that reads one activation, or writes those that it reads ({tensors.file})",
            f"{W_ENC} over {list(shape.dims_in)}, {W_DEC} over {list(shape.dims_out)}",
            "Such a model cannot be evaluated here.",
        )
    return _with_sources(fields, shape, choices, tensors.file)


def _check_sizes(fields: Fields, shape: Shape) -> None:
    for key, size in (("d_model", shape.d_in), ("n_latents", shape.d_sae)):
        said = fields.optional_size(key)
        if said is not None and said.value != size:
            raise CheckpointError(
                f"{said.source} as in the shape of {W_ENC} ({size})",
                str(said.value),
                "Fetch the config that belongs to these weights.",
            )


def _with_one_source(fields: Fields, shape: Shape) -> Shape:
    names = _hook_points(fields)
    site = None
    if names is not None and len(names.value) == 1:
        site = Fact(names.value[0], names.source)
    if shape.n_targets > 1:
        note = "one source and several targets: the file does not name the hook points written"
    elif site is None:
        note = "an SAE or a transcoder: the file does not say which hook points it reads and writes"
    else:
        return replace(shape, site=site)
    return replace(shape, site=site, notes=[note])


def _with_sources(fields: Fields, shape: Shape, choices: Choices, file: str) -> Shape:
    """A crosscoder over models (one hook point) or over hook points (one model)."""
    kinds = [n for n in shape.dims_in if n > 1]
    if len(kinds) > 1:
        raise CheckpointError(
            f"sources of {file} that are several models or several hook points",
            f"both at once: {W_ENC} over {' × '.join(map(str, shape.dims_in))}",
            "Crosscoders over models and hook points together cannot be evaluated here.",
        )
    sources = _sources(fields, shape, choices, file)
    names = _hook_points(fields)
    if sources.value == "models":
        site = (
            None if names is None or len(names.value) != 1 else Fact(names.value[0], names.source)
        )
        return replace(shape, site=site)
    if names is not None and len(names.value) == shape.n_sources:
        return replace(shape, sites=names)
    note = f"{shape.n_sources} hook points of one model: name them in order, --set sites=…"
    return replace(shape, notes=[note])


def _sources(fields: Fields, shape: Shape, choices: Choices, file: str) -> Fact:
    """``models`` or ``layers``: from the user, the order of two dimensions, or the config."""
    given = choices.text("sources", ("models", "layers"))
    if given is not None:
        return given
    source = f"{file}: shape of {W_ENC} [models, hook points, d_in, d_sae]"
    if len(shape.dims_in) == 2:
        return Fact("models" if shape.dims_in[0] > 1 else "layers", source)
    names = _hook_points(fields)
    if names is not None and len(names.value) == shape.n_sources:
        return Fact("layers", names.source)
    models = fields.optional_size("n_models")
    if models is not None and models.value == shape.n_sources:
        return Fact("models", models.source)
    raise CheckpointError(
        f"what the {shape.n_sources} sources of {file} are",
        f"{W_ENC} over {list(shape.dims_in)}, and no config that names the dimension",
        "Give --set sources=models (one hook point) or --set sources=layers (one model).",
    )


def _hook_points(fields: Fields) -> Fact | None:
    """The hook points that newer configs list."""
    names = fields.value("hookpoints")
    if isinstance(names, list) and names and all(isinstance(name, str) for name in names):
        return Fact(tuple(names), f"{fields.file}: hookpoints")
    return None
