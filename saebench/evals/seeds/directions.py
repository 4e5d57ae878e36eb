"""The direction of each latent as one flat vector: what it writes, and what it reads."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from saebench.sae import SAE, CrossLayerTranscoder, Dictionary, UntiedGatedSAE
from saebench.sae.normalization import Normalization, Whitening
from saebench.sae.pursuit import MatchingPursuit
from saebench.sae.tied import TiedSAE

Side = Literal["decoder", "encoder"]
SIDES: tuple[Side, ...] = get_args(Side)
MAX_WEIGHTS = 2**30  # of one matrix as flat vectors: 4 GiB in float32


def directions(sae: Dictionary, side: Side) -> Tensor | None:
    """``[d_sae, width]`` float32 on the CPU: rows of the decoder or columns of the encoder.

    Several activations stand side by side, with zeros where a latent neither reads nor writes. Rows are
    in the units of activations where those are fixed, so that checkpoints with normalisations of their
    own are compared in one space. None where there is no such matrix (see :func:`why_none`).
    """
    if why_none(sae, side) is not None:
        return None
    with torch.no_grad():
        rows = _decoder(sae) if side == "decoder" else _encoder(sae)
        return rows.to("cpu", torch.float32)


def why_none(sae: Dictionary, side: Side) -> str | None:
    """Why a dictionary has no matrix of that side to compare, or None where it has."""
    cfg = sae.cfg
    if not isinstance(sae, SAE | CrossLayerTranscoder):
        return f"a {type(sae).__name__} has no plain {side} matrix"
    width = cfg.width_out if side == "decoder" else cfg.width_in
    if cfg.d_sae * width > MAX_WEIGHTS:
        return f"{cfg.d_sae:,} vectors of {width:,} numbers are too many to hold"
    if side == "encoder" and isinstance(sae, UntiedGatedSAE):
        return "the gate and the magnitude have an encoder each: no single direction is read"
    if side == "encoder" and isinstance(sae, MatchingPursuit):
        return "codes are found by pursuit on the decoder: there is no encoder"
    return None


def units(sae: Dictionary, side: Side) -> str:
    """In which units :func:`directions` are, in words."""
    if side == "encoder" and isinstance(sae, TiedSAE) and sae.is_tied:
        return f"the decoder's own rows (tied), {_space(sae, side)}"
    return _space(sae, side)


def _space(sae: Dictionary, side: Side) -> str:
    parts = [sae.normalization]
    if isinstance(sae, CrossLayerTranscoder):
        parts += [layer.normalization for layer in _layers(sae)]
    undone = side == "encoder" or sae.cfg.undo_normalization
    if all(type(part) is Normalization for part in parts):
        return "units of activations"
    if not undone or any(part.needs_input or part.pending for part in parts):
        return f"units of the files ({sae.cfg.normalization})"
    return f"units of activations, {sae.cfg.normalization} undone"


def _decoder(sae: Dictionary) -> Tensor:
    """``[d_sae, width_out]``: what a code of one adds, up to a positive factor."""
    if isinstance(sae, CrossLayerTranscoder):
        return _cross_layer_decoder(sae)
    assert isinstance(sae, SAE)
    return _signed(sae, _written(sae, sae.W_dec))


def _encoder(sae: Dictionary) -> Tensor:
    """``[d_sae, width_in]``: the gradient of each pre-activation, up to a positive factor."""
    if isinstance(sae, CrossLayerTranscoder):
        return _cross_layer_encoder(sae)
    assert isinstance(sae, SAE)
    return _signed(sae, _read(sae.normalization, sae.W_enc.T))


def _cross_layer_decoder(sae: CrossLayerTranscoder) -> Tensor:
    cfg, blocks = sae.cfg, []
    for layer, targets in zip(_layers(sae), sae.targets, strict=True):
        rows = _decoder(layer)
        block = rows.new_zeros(rows.shape[0], cfg.n_targets, cfg.d_out)
        block[:, targets] = rows.reshape(rows.shape[0], len(targets), cfg.d_out)
        blocks.append(block.flatten(1))
    return _written(sae, torch.cat(blocks))


def _cross_layer_encoder(sae: CrossLayerTranscoder) -> Tensor:
    cfg, blocks = sae.cfg, []
    for source, layer in enumerate(_layers(sae)):
        rows = _encoder(layer)
        block = rows.new_zeros(rows.shape[0], cfg.n_sources, cfg.d_in)
        block[:, source] = rows
        blocks.append(block.flatten(1))
    return _read(sae.normalization, torch.cat(blocks))


def _layers(sae: CrossLayerTranscoder) -> list[SAE]:
    return list(sae.layers)  # type: ignore[arg-type]


def _signed(sae: SAE, rows: Tensor) -> Tensor:
    """Rows turned over where a negative scale turns the latent's pre-activation over."""
    if sae.latent_scale is None or bool((sae.latent_scale >= 0).all()):
        return rows
    return rows * torch.where(sae.latent_scale < 0, -1.0, 1.0)[:, None].to(rows)


def _written(sae: Dictionary, rows: Tensor) -> Tensor:
    """Decoder rows in the units of activations, as far as those are fixed."""
    return sae.normalization.directions(rows) if sae.cfg.undo_normalization else rows


def _read(normalization: Normalization, rows: Tensor) -> Tensor:
    """Encoder rows of normalised inputs as rows of activations, as far as those are fixed."""
    if normalization.needs_input or normalization.pending:
        return rows
    if isinstance(normalization, Whitening):
        return rows @ normalization.matrix.T
    if type(normalization) is Normalization:
        return rows
    zero = rows.new_zeros(
        1, rows.shape[1]
    )  # all others scale each dimension by a number of its own
    return rows * (normalization(zero + 1) - normalization(zero))
