"""One encoder and one decoder: the canonical SAE, transcoder and crosscoder.

``f = act((n(x) − b_in) W_enc + b_enc)`` and ``x̂ = n⁻¹(f W_dec + b_dec) [+ x W_skip ᵀ]``, where ``n``
is the input normalisation. An SAE reads and writes one site; a transcoder reads one site and writes
another through the same surface; a crosscoder reads and writes several activations side by side, so
that its matrices are those of an SAE of the summed width. Weights are held in float32 whatever the
file stored, because a 16-bit product alone can move the explained variance by a tenth.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from saebench.activations import Activation
from saebench.codes import SparseCodes
from saebench.errors import CheckpointError
from saebench.sae.config import SAEConfig
from saebench.sae.dictionary import Dictionary
from saebench.sae.normalization import Normalization, by_name

CHUNK_BYTES = (
    32 * 2**20
)  # pre-activations of a row chunk: above this, fresh pages cost more than they save
MIN_CHUNK_ROWS = 256  # below this the encoder product itself slows down


class SAE(Dictionary):
    """A sparse autoencoder or transcoder ready to encode and decode.

    Parameters
    ----------
    cfg : what the checkpoint is.
    activation : selects which latents fire.
    W_enc : ``[width_in, d_sae]``; W_dec : ``[d_sae, width_out]``; b_dec : ``[width_out]`` (widths of
        one activation for an SAE, of the sources and targets side by side for a crosscoder).
    b_enc : ``[d_sae]``, or None (gated encoders have their biases in the activation).
    b_in : ``[width_in]`` subtracted from the (normalised) input before the encoder, or None.
    latent_scale : ``[d_sae]`` multiplied into pre-activations and divided out before decoding, or None.
    W_skip : ``[width_out, width_in]`` of a skip transcoder, or None.
    normalization : of the input; by default the one that ``cfg.normalization`` names.

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
        normalization: Normalization | None = None,
    ) -> None:
        super().__init__()
        self.cfg = cfg
        self.activation = activation
        self.normalization = by_name(cfg.normalization) if normalization is None else normalization
        expected = {
            "W_enc": (W_enc, (cfg.width_in, cfg.d_sae)),
            "W_dec": (W_dec, (cfg.d_sae, cfg.width_out)),
            "b_dec": (b_dec, (cfg.width_out,)),
            "b_enc": (b_enc, (cfg.d_sae,)),
            "b_in": (b_in, (cfg.width_in,)),
            "latent_scale": (latent_scale, (cfg.d_sae,)),
            "W_skip": (W_skip, (cfg.width_out, cfg.width_in)),
        }
        for name, (tensor, shape) in expected.items():
            if tensor is not None and tuple(tensor.shape) != shape:
                raise CheckpointError(
                    f"{name} of shape {list(shape)} (width_in {cfg.width_in}, d_sae {cfg.d_sae}, "
                    f"width_out {cfg.width_out})",
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

    @property
    def pending(self) -> tuple[str, ...]:
        """What has to be estimated on data: ``input_scale``, ``threshold``, both or nothing."""
        parts = {"input_scale": self.normalization.pending, "threshold": self.activation.pending}
        return tuple(name for name, missing in parts.items() if missing)

    @torch.no_grad()
    def calibrate(self, x: Tensor) -> dict[str, Any]:
        """Estimate what is pending on flat ``x[n, width_in]``; returns the values by name.

        Input scales are ``√d`` over the mean norm of each source. A BatchTopK threshold is the
        largest at which ``k`` latents per token pass on average over these tokens.
        """
        pending = self.pending
        if self.normalization.pending:
            self.normalization.estimate(self._check_width(x))
        if self.activation.pending:
            inputs = self.normalization(self._check_width(x))
            self.activation.estimate(self._pre_chunks(inputs), x.shape[0])
        return {name: self._estimated(name) for name in pending}

    def encode(self, x: Tensor) -> Tensor:
        """Codes ``f[..., d_sae]`` of activations ``x[..., d_in]`` (``[..., n_sources, d_in]``).

        Raises :class:`CheckpointError` when the shape is another, or when something has to be
        estimated first (see :meth:`calibrate`).
        """
        flat, lead = self._flatten(x)
        inputs = self._ready().normalization(flat)
        pre = self._pre(inputs, inputs.new_empty(inputs.shape[0], self.cfg.d_sae))
        return self.activation.dense(pre).reshape(*lead, self.cfg.d_sae)

    def decode(self, f: Tensor, x: Tensor | None = None) -> Tensor:
        """Reconstruction ``x̂[..., d_out]`` (``[..., n_targets, d_out]``) of codes ``f[..., d_sae]``.

        ``x`` is the input the codes came from: needed where each token was normalised before
        encoding (the statistics are undone here) and ignored elsewhere. The skip path of a
        transcoder belongs to :meth:`forward`, not to the codes, and is not added.
        Raises :class:`CheckpointError` when ``x`` is needed and missing.
        """
        scaled = f if self.latent_scale is None else f / self._units()
        flat = (scaled @ self.W_dec + self.b_dec).reshape(-1, self.cfg.width_out)
        inputs = None if x is None else self._flatten(x)[0]
        return self._unflatten(self._denormalize(flat, inputs), tuple(f.shape[:-1]))

    def forward(self, x: Tensor) -> Tensor:
        """Reconstruction or prediction of ``x``, in the shapes of :meth:`encode` and :meth:`decode`."""
        flat, lead = self._flatten(x)
        rebuilt = self.decode(self.encode(x), x).reshape(-1, self.cfg.width_out)
        return self._unflatten(self._with_skip(rebuilt, flat), lead)

    def encode_sparse(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(values[..., k], indices[..., k])`` of the active latents of ``x[..., d_in]``.

        ``k`` is the activation's own where it is fixed, else the largest number active on any token;
        unused places hold value 0 at index 0.
        """
        flat, lead = self._flatten(x)
        values, indices = self.codes(flat).padded(self.activation.k)
        shape = (*lead, values.shape[-1])
        return values.reshape(shape), indices.reshape(shape)

    def decode_sparse(self, values: Tensor, indices: Tensor, x: Tensor | None = None) -> Tensor:
        """Reconstruction ``[..., d_out]`` from ``(values[..., k], indices[..., k])``; see :meth:`decode`."""
        n, k = values.reshape(-1, values.shape[-1]).shape
        offsets = torch.arange(0, n * k + 1, k, dtype=torch.int32, device=values.device)
        flat = SparseCodes(values.reshape(-1), indices.reshape(-1).int(), offsets, self.cfg.d_sae)
        like = None if x is None else self._flatten(x)[0]
        return self._unflatten(self.decode_codes(flat, like), tuple(values.shape[:-1]))

    def codes(self, x: Tensor) -> SparseCodes:
        """The non-zero codes of ``x[n, width_in]``, in row chunks: ``[n, d_sae]`` is never held."""
        inputs = self._ready().normalization(self._check_width(x))
        parts = [self.activation.select(pre) for pre in self._pre_chunks(inputs)]
        counts = torch.cat([part.counts for part in parts])
        offsets = torch.zeros(counts.shape[0] + 1, dtype=torch.int32, device=counts.device)
        offsets[1:] = counts.cumsum(0)
        indices = torch.cat([part.indices for part in parts]).int()
        return SparseCodes(
            torch.cat([part.values for part in parts]), indices, offsets, self.cfg.d_sae
        )

    def decode_codes(self, codes: SparseCodes, x: Tensor | None = None) -> Tensor:
        """Reconstruction ``x̂[n, width_out]``: a gather-and-sum over the active decoder rows only."""
        values = codes.values
        if self.latent_scale is not None:
            values = values / self._units()[codes.indices.long()]
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
        """``(codes, x̂)`` of ``x[n, width_in]`` with one encoder product: :meth:`forward`, sparsely."""
        codes = self.codes(x)
        return codes, self._with_skip(self.decode_codes(codes, x), x)

    def decoder_norms(self) -> Tensor:
        """Norm of each latent's direction in each target, ``[d_sae, n_targets]``."""
        size = max(1, CHUNK_BYTES // (4 * self.cfg.width_out))  # no second decoder at once
        norms = torch.cat([self._norms(rows) for rows in self.W_dec.split(size)])
        return norms if self.latent_scale is None else norms / self._units()[:, None]

    def _units(self) -> Tensor:
        """``latent_scale`` as a divisor: a scale of zero makes zero codes, whatever divides them."""
        assert self.latent_scale is not None
        return self.latent_scale.masked_fill(self.latent_scale == 0, 1)

    def _norms(self, rows: Tensor) -> Tensor:
        """``[n, n_targets]`` of decoder rows ``[n, width_out]``."""
        directions = self.normalization.directions(rows) if self.cfg.undo_normalization else rows
        return directions.reshape(rows.shape[0], self.cfg.n_targets, -1).norm(dim=-1)

    def _estimated(self, name: str) -> Any:
        """The value of something that was pending, as plain numbers."""
        value = self.normalization.scale if name == "input_scale" else self.activation.threshold
        assert isinstance(value, Tensor)
        return value.tolist()

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
        """Pre-activations of normalised ``inputs[n, width_in]``, written into ``out[n, d_sae]``."""
        shifted = inputs if self.b_in is None else inputs - self.b_in
        if self.b_enc is None:
            torch.mm(shifted, self.W_enc, out=out)
        else:
            torch.addmm(self.b_enc, shifted, self.W_enc, out=out)
        return out if self.latent_scale is None else out.mul_(self.latent_scale)


class Crosscoder(SAE):
    """One set of latents read from, and written to, several activations side by side.

    ``encode(x[..., M, d]) -> [..., d_sae]`` and ``decode(f) -> [..., M, d]``: the sources are models
    (base, fine-tuned) or layers of one model, in the order of ``cfg.reads``. The weights are those
    of an SAE over the concatenation: ``W_enc[M · d, d_sae]``, ``W_dec[d_sae, M · d]``,
    ``b_dec[M · d]``.
    """
