"""Dictionaries with an encoder per layer whose latents write to several layers.

A cross-layer transcoder reads the MLP input of each layer and writes the MLP output of that layer
and all later ones; a weakly causal crosscoder reads and writes residual streams the same way. Source
``s`` has latents of its own, ``f_s = act_s(x_s W_enc_s + b_enc_s)``, and
``x̂_t = Σ_s f_s W_dec_s[:, t] + b_dec_t`` over the sources that write to ``t``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from saebench.codes import SparseCodes, side_by_side
from saebench.errors import CheckpointError
from saebench.sae.config import SAEConfig
from saebench.sae.dictionary import Dictionary
from saebench.sae.model import SAE
from saebench.sae.normalization import Normalization


class CrossLayerTranscoder(Dictionary):
    """Latents of every source layer in one numbering: those of source 0 first.

    Parameters
    ----------
    cfg : ``n_sources`` layers read, ``n_targets`` written, ``d_sae`` latents of all sources together.
    layers : for each source the SAE that encodes it; its decoder ``W_dec[d_sae_s, T_s · d_out]``
        writes ``T_s`` targets side by side and its ``b_dec`` is zero.
    targets : for each source which targets those are, ascending.
    b_dec : ``[n_targets, d_out]``.
    skips : for each source ``[d_out, d_in]``, added to one target without an encoder, or None.
    skip_targets : for each source the target of its skip; by default the first that it writes.
    normalization : of all sources side by side, undone on all targets side by side with one factor
        for each; by default none, and layers may have their own.

    Raises
    ------
    CheckpointError : the parts contradict the configuration.
    """

    b_dec: Tensor

    def __init__(
        self,
        cfg: SAEConfig,
        layers: Sequence[SAE],
        targets: Sequence[Sequence[int]],
        b_dec: Tensor,
        skips: Sequence[Tensor | None] = (),
        skip_targets: Sequence[int] = (),
        normalization: Normalization | None = None,
    ) -> None:
        super().__init__()
        self.cfg = cfg
        self.normalization = Normalization() if normalization is None else normalization
        self.layers = nn.ModuleList(layers)
        self.targets = [list(item) for item in targets]
        self.register_buffer("b_dec", b_dec)
        self.n_skips = len(skips)
        self.skip_targets = list(skip_targets) or [next(iter(item), 0) for item in self.targets]
        for s, skip in enumerate(skips):
            self.register_buffer(f"W_skip_{s}", skip)
        self._check_parts()

    @property
    def device(self) -> torch.device:
        """The device the weights are on."""
        return self.b_dec.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype the products are computed in."""
        return self.b_dec.dtype

    @property
    def pending(self) -> tuple[str, ...]:
        """What some layer lacks, or what is done to all of them."""
        names = {name for layer in self._layers for name in layer.pending}
        return tuple(sorted(names | ({"input_scale"} if self.normalization.pending else set())))

    def calibrate(self, x: Tensor) -> dict[str, Any]:
        """Estimate what layers lack, each on its own source; lists with one entry per layer."""
        flat, shared = self._check_width(x), {}
        if self.normalization.pending:
            self.normalization.estimate(flat)
            assert isinstance(self.normalization.scale, Tensor)
            shared["input_scale"] = self.normalization.scale.tolist()
        parts = self._by_source(self.normalization(flat))
        found = [layer.calibrate(part) for layer, part in zip(self._layers, parts, strict=True)]
        names = {name for values in found for name in values}
        return {name: [values.get(name) for values in found] for name in sorted(names)} | shared

    def encode(self, x: Tensor) -> Tensor:
        """Codes ``f[..., d_sae]`` of ``x[..., n_sources, d_in]``, those of source 0 first."""
        flat, lead = self._flatten(x)
        parts = zip(self._layers, self._inputs(flat), strict=True)
        return torch.cat([layer.encode(part) for layer, part in parts], -1).reshape(*lead, -1)

    def decode(self, f: Tensor, x: Tensor | None = None) -> Tensor:
        """Reconstruction ``[..., n_targets, d_out]`` of codes ``f[..., d_sae]``, without skips.

        Raises :class:`CheckpointError` where ``x``, what was encoded, is needed and missing.
        """
        rows = f.reshape(-1, self.cfg.d_sae)
        widths = [layer.cfg.d_sae for layer in self._layers]
        flat = None if x is None else self._flatten(x)[0]
        inputs = [None] * len(widths) if flat is None else self._inputs(flat)
        written = [
            layer.decode(part, like).reshape(rows.shape[0], -1)
            for layer, part, like in zip(self._layers, rows.split(widths, -1), inputs, strict=True)
        ]
        return self._unflatten(self._summed(written, flat), tuple(f.shape[:-1]))

    def forward(self, x: Tensor) -> Tensor:
        """What is written, ``[..., n_targets, d_out]``, for ``x[..., n_sources, d_in]``."""
        flat, lead = self._flatten(x)
        decoded = self.decode(self.encode(x), x).reshape(-1, self.cfg.width_out)
        return self._unflatten(self._with_skips(decoded, flat), lead)

    def codes(self, x: Tensor) -> SparseCodes:
        """The non-zero codes of flat ``x[n, width_in]``."""
        return side_by_side(self._codes_by_layer(x))

    def decode_codes(self, codes: SparseCodes, x: Tensor | None = None) -> Tensor:
        """Flat reconstruction ``[n, width_out]`` of sparse codes, without skips."""
        start, parts = 0, []
        for layer in self._layers:
            parts.append(codes.between(start, start + layer.cfg.d_sae))
            start += layer.cfg.d_sae
        return self._decode_parts(parts, x)

    def reconstruct(self, x: Tensor) -> tuple[SparseCodes, Tensor]:
        """``(codes, x̂[n, width_out])`` of flat ``x[n, width_in]``."""
        parts = self._codes_by_layer(x)
        return side_by_side(parts), self._with_skips(self._decode_parts(parts, x), x)

    def decoder_norms(self) -> Tensor:
        """``[d_sae, n_targets]``: zero where a latent does not write to a target."""
        blocks = []
        for layer, targets in zip(self._layers, self.targets, strict=True):
            norms = layer.decoder_norms()
            block = norms.new_zeros(layer.cfg.d_sae, self.cfg.n_targets)
            block[:, targets] = norms
            blocks.append(block)
        return torch.cat(blocks) * self._unit()

    @property
    def _layers(self) -> list[SAE]:
        return list(self.layers)  # type: ignore[arg-type]

    def _unit(self) -> Tensor:
        """What a direction of norm 1 becomes in each target, ``[n_targets]``."""
        ones = self.b_dec.new_ones(1, self.cfg.width_out)
        return self.normalization.directions(ones).view(self.cfg.n_targets, -1)[:, 0]

    def _inputs(self, x: Tensor) -> list[Tensor]:
        """What each layer encodes, of flat ``x[n, width_in]``."""
        return self._by_source(self._ready().normalization(self._check_width(x)))

    def _by_source(self, x: Tensor) -> list[Tensor]:
        flat = self._check_width(x)
        return list(flat.reshape(-1, self.cfg.n_sources, self.cfg.d_in).unbind(1))

    def _codes_by_layer(self, x: Tensor) -> list[SparseCodes]:
        parts = zip(self._layers, self._inputs(x), strict=True)
        return [layer.codes(part) for layer, part in parts]

    def _decode_parts(self, parts: Sequence[SparseCodes], x: Tensor | None) -> Tensor:
        inputs = [None] * len(parts) if x is None else self._inputs(x)
        written = [
            layer.decode_codes(part, like)
            for layer, part, like in zip(self._layers, parts, inputs, strict=True)
        ]
        return self._summed(written, x)

    def _summed(self, written: Sequence[Tensor], x: Tensor | None) -> Tensor:
        """``[n, width_out]`` from what each layer writes of ``x``, ``[n, T_s · d_out]``, and the bias."""
        total = self.b_dec.repeat(written[0].shape[0], 1, 1)
        for part, targets in zip(written, self.targets, strict=True):
            total[:, targets] += part.reshape(-1, len(targets), self.cfg.d_out)
        return self._denormalize(total.reshape(-1, self.cfg.width_out), x)

    def _with_skips(self, written: Tensor, x: Tensor) -> Tensor:
        if not self.n_skips:
            return written
        out = written.reshape(-1, self.cfg.n_targets, self.cfg.d_out)
        for s, part in enumerate(self._by_source(x)):
            skip = getattr(self, f"W_skip_{s}")
            if skip is not None:
                out[:, self.skip_targets[s]] += part @ skip.T
        return out.reshape(-1, self.cfg.width_out)

    def _check_parts(self) -> None:
        cfg = self.cfg
        expected = {
            "sources": (len(self.layers), cfg.n_sources),
            "lists of targets": (len(self.targets), cfg.n_sources),
            "targets of skips": (len(self.skip_targets), cfg.n_sources),
            "skips": (self.n_skips, self.n_skips and cfg.n_sources),
            "latents": (sum(layer.cfg.d_sae for layer in self._layers), cfg.d_sae),
            "bias": (tuple(self.b_dec.shape), (cfg.n_targets, cfg.d_out)),
        }
        for layer, targets in zip(self._layers, self.targets, strict=False):
            width = (layer.cfg.width_in, layer.cfg.width_out)
            expected["layer widths"] = (width, (cfg.d_in, len(targets) * cfg.d_out))
            if width != expected["layer widths"][1]:
                break
        for s in range(min(self.n_skips, cfg.n_sources)):
            skip = getattr(self, f"W_skip_{s}")
            if skip is not None:
                expected[f"skip of source {s}"] = (tuple(skip.shape), (cfg.d_out, cfg.d_in))
        for name, (found, wanted) in expected.items():
            if found != wanted:
                raise CheckpointError(
                    f"{name} of a cross-layer dictionary: {wanted}",
                    str(found),
                    "Check that all files of the checkpoint are there and belong together.",
                )
