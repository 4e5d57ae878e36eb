"""The canonical SAE: one evaluation-time model behind every checkpoint format.

``f = act((n(x) − b_in) W_enc + b_enc)`` and ``x̂ = n⁻¹(f W_dec + b_dec) [+ x W_skip ᵀ]``, where ``n``
is the input normalisation. An SAE reads and writes one site; a transcoder reads one site and writes
another through the same surface. Weights are held in float32 whatever the file stored, because a
16-bit product alone can move the explained variance by a tenth.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from saebench.activations import Activation
from saebench.codes import SparseCodes
from saebench.errors import CheckpointError

How = Literal["file", "user", "assumed"]
Normalization = Literal["none", "layer_norm", "constant_norm_rescale"]

CHUNK_BYTES = (
    32 * 2**20
)  # pre-activations of a row chunk: above this, fresh pages cost more than they save
MIN_CHUNK_ROWS = 256  # below this the encoder product itself slows down
LAYER_NORM_EPS = 1e-5


@dataclass(frozen=True)
class Fact:
    """One thing known about a checkpoint, and what it was read from.

    ``how`` is ``file`` (a config key or a tensor), ``user`` (an option) or ``assumed`` (neither:
    the format's documented default).
    """

    value: Any
    source: str
    how: How = "file"


@dataclass(frozen=True)
class SAEConfig:
    """What a checkpoint is. ``facts`` says for each field where the value was read.

    ``d_in``, ``d_out`` are widths of the sites read and written, ``d_sae`` the number of latents,
    ``k`` the number of active latents per token asked for in training (None where there is none),
    ``dtype`` the precision the file stores, ``site``/``site_out`` hook points as the file names them,
    ``undo_normalization`` whether decoding undoes the normalisation of the input (a transcoder's
    output is at another site, so its decoder does not).
    """

    architecture: str
    d_in: int
    d_sae: int
    d_out: int
    k: int | None = None
    site: str | None = None
    site_out: str | None = None
    model: str | None = None
    dtype: str = "float32"
    normalization: Normalization = "none"
    undo_normalization: bool = True
    format: str = ""
    facts: Mapping[str, Fact] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def is_transcoder(self) -> bool:
        """Whether the site written differs from the site read."""
        return self.site_out is not None and self.site_out != self.site


class SAE(nn.Module):
    """A sparse autoencoder or transcoder ready to encode and decode.

    Parameters
    ----------
    cfg : what the checkpoint is.
    activation : selects which latents fire.
    W_enc : ``[d_in, d_sae]``; W_dec : ``[d_sae, d_out]``; b_dec : ``[d_out]``.
    b_enc : ``[d_sae]``, or None (gated encoders have their biases in the activation).
    b_in : ``[d_in]`` subtracted from the (normalised) input before the encoder, or None.
    latent_scale : ``[d_sae]`` multiplied into pre-activations and divided out before decoding, or None.
    W_skip : ``[d_out, d_in]`` of a skip transcoder, or None.

    Raises
    ------
    CheckpointError : a tensor's shape contradicts the configuration.
    """

    W_enc: Tensor
    W_dec: Tensor
    b_dec: Tensor
    b_enc: Tensor | None
    b_in: Tensor | None
    latent_scale: Tensor | None
    W_skip: Tensor | None

    def __init__(
        self,
        cfg: SAEConfig,
        activation: Activation,
        *,
        W_enc: Tensor,
        W_dec: Tensor,
        b_dec: Tensor,
        b_enc: Tensor | None = None,
        b_in: Tensor | None = None,
        latent_scale: Tensor | None = None,
        W_skip: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.cfg = cfg
        self.activation = activation
        expected = {
            "W_enc": (W_enc, (cfg.d_in, cfg.d_sae)),
            "W_dec": (W_dec, (cfg.d_sae, cfg.d_out)),
            "b_dec": (b_dec, (cfg.d_out,)),
            "b_enc": (b_enc, (cfg.d_sae,)),
            "b_in": (b_in, (cfg.d_in,)),
            "latent_scale": (latent_scale, (cfg.d_sae,)),
            "W_skip": (W_skip, (cfg.d_out, cfg.d_in)),
        }
        for name, (tensor, shape) in expected.items():
            if tensor is not None and tuple(tensor.shape) != shape:
                raise CheckpointError(
                    f"{name} of shape {list(shape)} (d_in {cfg.d_in}, d_sae {cfg.d_sae}, d_out {cfg.d_out})",
                    f"shape {list(tensor.shape)}",
                    "Check that the config belongs to these weights and that neither is transposed.",
                )
            self.register_buffer(name, tensor)

    @property
    def device(self) -> torch.device:
        """The device the weights are on."""
        return self.W_enc.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype the products are computed in."""
        return self.W_enc.dtype

    def encode(self, x: Tensor) -> Tensor:
        """Codes ``f[..., d_sae]`` of activations ``x[..., d_in]``.

        Raises :class:`CheckpointError` when the last dimension is not ``d_in``.
        """
        inputs, _ = self._normalize(self._checked(x).reshape(-1, self.cfg.d_in))
        pre = self._pre(inputs, inputs.new_empty(inputs.shape[0], self.cfg.d_sae))
        return self.activation.dense(pre).reshape(*x.shape[:-1], self.cfg.d_sae)

    def decode(self, f: Tensor, x: Tensor | None = None) -> Tensor:
        """Reconstruction ``x̂[..., d_out]`` of codes ``f[..., d_sae]``.

        ``x`` is the input the codes came from: needed where each token was normalised before
        encoding (the statistics are undone here) and ignored elsewhere. The skip path of a
        transcoder belongs to :meth:`forward`, not to the codes, and is not added.
        Raises :class:`CheckpointError` when ``x`` is needed and missing.
        """
        scaled = f if self.latent_scale is None else f / self.latent_scale
        return self._denormalize(scaled @ self.W_dec + self.b_dec, x)

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruction (SAE) or prediction (transcoder) ``[..., d_out]`` of ``x[..., d_in]``."""
        return self._with_skip(self.decode(self.encode(x), x), x)

    def encode_sparse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(values[..., k], indices[..., k])`` of the active latents of ``x[..., d_in]``.

        ``k`` is the activation's own where it is fixed, else the largest number active on any token;
        unused places hold value 0 at index 0.
        """
        values, indices = self.codes(x.reshape(-1, x.shape[-1])).padded(self.activation.k)
        shape = (*x.shape[:-1], values.shape[-1])
        return values.reshape(shape), indices.reshape(shape)

    def decode_sparse(self, values: Tensor, indices: Tensor, x: Tensor | None = None) -> Tensor:
        """Reconstruction ``[..., d_out]`` from ``(values[..., k], indices[..., k])``; see :meth:`decode`."""
        n, k = values.reshape(-1, values.shape[-1]).shape
        offsets = torch.arange(0, n * k + 1, k, dtype=torch.int32, device=values.device)
        flat = SparseCodes(values.reshape(-1), indices.reshape(-1).int(), offsets, self.cfg.d_sae)
        like = None if x is None else x.reshape(-1, x.shape[-1])
        return self.decode_codes(flat, like).reshape(*values.shape[:-1], self.cfg.d_out)

    def codes(self, x: Tensor) -> SparseCodes:
        """The non-zero codes of ``x[n, d_in]``, encoded in row chunks: ``[n, d_sae]`` is never held."""
        inputs, _ = self._normalize(self._checked(x))
        parts = [self.activation.select(pre) for pre in self._pre_chunks(inputs)]
        counts = torch.cat([part.counts for part in parts])
        offsets = torch.zeros(counts.shape[0] + 1, dtype=torch.int32, device=counts.device)
        offsets[1:] = counts.cumsum(0)
        indices = torch.cat([part.indices for part in parts]).int()
        return SparseCodes(
            torch.cat([part.values for part in parts]), indices, offsets, self.cfg.d_sae
        )

    def decode_codes(self, codes: SparseCodes, x: Tensor | None = None) -> Tensor:
        """Reconstruction ``x̂[n, d_out]``: a gather-and-sum over the active decoder rows only."""
        values = codes.values
        if self.latent_scale is not None:
            values = values / self.latent_scale[codes.indices.long()]
        total = F.embedding_bag(
            codes.indices,
            self.W_dec,
            codes.offsets,
            mode="sum",
            per_sample_weights=values,
            include_last_offset=True,
        )
        return self._denormalize(total.add_(self.b_dec), x)

    def reconstruct(self, x: Tensor) -> tuple[SparseCodes, Tensor]:
        """``(codes, x̂)`` of ``x[n, d_in]`` with one encoder product: :meth:`forward`, sparsely."""
        codes = self.codes(x)
        return codes, self._with_skip(self.decode_codes(codes, x), x)

    def _checked(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.cfg.d_in:
            raise CheckpointError(
                f"activations of width d_in = {self.cfg.d_in}",
                f"width {x.shape[-1]} (shape {list(x.shape)})",
                "Check the hook point and the model this SAE was trained on.",
            )
        return x.to(self.dtype)

    def _normalize(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor] | None]:
        """The normalised input and the ``(scale, shift)`` per token that undo it."""
        if self.cfg.normalization == "layer_norm":
            shift = x.mean(-1, keepdim=True)
            scale = x.std(-1, keepdim=True)
            return (x - shift) / (scale + LAYER_NORM_EPS), (scale, shift)
        if self.cfg.normalization == "constant_norm_rescale":
            norm = x.norm(dim=-1, keepdim=True)
            scale = torch.where(norm > 0, norm, 1) / self.cfg.d_in**0.5  # zero stays zero
            return x / scale, (scale, torch.zeros_like(scale))
        return x, None

    def _denormalize(self, reconstruction: Tensor, x: Tensor | None) -> Tensor:
        if self.cfg.normalization == "none" or not self.cfg.undo_normalization:
            return reconstruction
        if x is None:
            raise CheckpointError(
                f"decoding codes of an SAE with {self.cfg.normalization} inputs",
                "codes without the activations they came from",
                "Pass them as x: their statistics, taken before encoding, have to be undone.",
            )
        undo = self._normalize(x.to(self.dtype))[1]
        assert undo is not None
        return reconstruction * undo[0] + undo[1]

    def _with_skip(self, reconstruction: Tensor, x: Tensor) -> Tensor:
        return (
            reconstruction
            if self.W_skip is None
            else reconstruction + x.to(self.dtype) @ self.W_skip.T
        )

    def _pre_chunks(self, inputs: Tensor) -> Iterator[Tensor]:
        """Pre-activations of consecutive row chunks, all in one buffer that the next chunk overwrites."""
        rows = max(MIN_CHUNK_ROWS, CHUNK_BYTES // (self.cfg.d_sae * inputs.element_size()))
        buffer = inputs.new_empty(min(rows, max(inputs.shape[0], 1)), self.cfg.d_sae)
        for chunk in inputs.split(rows):
            yield self._pre(chunk, buffer[: chunk.shape[0]])

    def _pre(self, inputs: Tensor, out: Tensor) -> Tensor:
        """Pre-activations of normalised ``inputs[n, d_in]``, written into ``out[n, d_sae]``."""
        shifted = inputs if self.b_in is None else inputs - self.b_in
        if self.b_enc is None:
            torch.mm(shifted, self.W_enc, out=out)
        else:
            torch.addmm(self.b_enc, shifted, self.W_enc, out=out)
        return out if self.latent_scale is None else out.mul_(self.latent_scale)
