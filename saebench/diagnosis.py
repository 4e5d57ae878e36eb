"""What the weights alone say about a checkpoint: findings with severity, figure and reason.

Everything is read in blocks of rows, so that a large checkpoint is never held twice.
Alignment is the cosine of a latent's encoder column and its decoder row: trained sparse autoencoders
of one activation have a mean far above that of random directions, 0 ± ``1 / √(d · d_sae)``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from saebench.activations import JumpReLU
from saebench.sae import SAE, CrossLayerTranscoder, Dictionary

Severity = Literal["error", "warning", "info"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "info")

BLOCK_BYTES = 2**25
PAIR_FLOPS = (
    2e11  # of comparing decoder rows pair by pair: seconds; beyond it, a sample is compared
)
DUPLICATE_COSINE = 0.99
UNIT_TOLERANCE = 1e-3
MIN_ALIGNMENT = 0.05  # and at least five standard errors of what chance gives
SEED = 0


@dataclass(frozen=True)
class Finding:
    """Something that the weights show: ``code`` is stable, ``text`` says what and why it matters."""

    severity: Severity
    code: str
    text: str
    figures: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class _Rows:
    """Per latent, ``[d_sae]``: norms and alignment of what is stored, and what holds of all of it.

    ``effective`` are the norms over all targets in the units of activations, as decoding writes them:
    a scale of the latents and the undoing of a normalisation are in these and not in ``norms``.
    """

    effective: Tensor
    norms: Tensor
    encoder_norms: Tensor
    alignment: Tensor
    tied: bool
    narrow: dict[str, bool]

    @property
    def is_written(self) -> bool:
        """Whether any decoder row is not zero; little else can be said of a decoder that is."""
        return bool(self.norms.any())


@torch.no_grad()
def diagnose(sae: Dictionary) -> list[Finding]:
    """Findings about a checkpoint, the most severe first; needs no model and no activations."""
    parts = list(sae._layers) if isinstance(sae, CrossLayerTranscoder) else [sae]
    norms = sae.decoder_norms().float().norm(dim=1).cpu()
    found: list[Finding] = []
    start = 0
    for number, part in enumerate(parts):
        if not isinstance(part, SAE):
            raise TypeError(f"no findings are known for a {type(part).__name__}")
        where = f"layer {number}: " if len(parts) > 1 else ""
        effective = norms[start : start + part.cfg.d_sae]
        start += part.cfg.d_sae
        for finding in _of_one(part, effective):
            text = where + finding.text
            found.append(Finding(finding.severity, finding.code, text, finding.figures))
    if sae.pending:
        missing = " and ".join(sae.pending)
        text = f"the files hold no {missing}: a run estimates it on its first sequences"
        found.append(Finding("warning", "pending", text, {"missing": list(sae.pending)}))
    return sorted(found, key=lambda item: SEVERITIES.index(item.severity))


def _of_one(sae: SAE, effective: Tensor) -> Iterator[Finding]:
    rows = _read_rows(sae, effective)
    yield from _norms(sae, rows)
    yield from _silent(sae, rows)
    yield from _alignment(sae, rows)
    yield from _threshold(sae)
    yield from _precision(sae, rows)
    yield from _duplicates(sae, rows)


def _read_rows(sae: SAE, effective: Tensor) -> _Rows:
    """One reading of both matrices."""
    n = sae.cfg.d_sae
    norms, encoder_norms, alignment = torch.empty(n), torch.empty(n), torch.zeros(n)
    same_width = sae.cfg.width_in == sae.cfg.width_out
    tied = same_width
    narrow = {"bfloat16": True, "float16": True}
    for rows in _blocks(n, max(sae.cfg.width_in, sae.cfg.width_out)):
        decoder, columns = sae.W_dec[rows].float(), sae.W_enc[:, rows].float()
        norms[rows], encoder_norms[rows] = decoder.norm(dim=1), columns.norm(dim=0)
        if same_width:
            encoder = (
                columns.T.contiguous()
            )  # once: each of its readers would stride over the block
            alignment[rows] = F.cosine_similarity(encoder, decoder, dim=1)
            tied = tied and torch.equal(encoder, decoder)
        for name, kept in narrow.items():
            dtype = getattr(torch, name)
            narrow[name] = kept and torch.equal(decoder, decoder.to(dtype).float())
    return _Rows(effective, norms, encoder_norms, alignment, tied, narrow)


def _blocks(n: int, width: int) -> Iterator[slice]:
    size = max(1, BLOCK_BYTES // (4 * width))
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


def _norms(sae: SAE, rows: _Rows) -> Iterator[Finding]:
    live = rows.effective[rows.effective > 0]
    if not live.numel():
        yield Finding("error", "zero_decoder", "every decoder direction is zero")
        return
    low, mean, high = float(live.min()), float(live.mean()), float(live.max())
    figures = {"min": low, "mean": mean, "max": high}
    shown = f"min {low:.4g}, mean {mean:.4g}, max {high:.4g}"
    if sae.cfg.n_targets > 1:
        shown += f", over all {sae.cfg.n_targets} targets together"
    if max(abs(low - 1), abs(high - 1)) <= UNIT_TOLERANCE:
        yield Finding("info", "unit_norms", f"decoder directions have unit norm ({shown})", figures)
        return
    text = (
        f"decoder directions do not have unit norm ({shown}): codes of different latents are in "
        "different units, and differ from those of a copy with folded norms"
    )
    yield Finding("info", "norms", text, figures)
    if high > 100 * mean:
        text = f"the longest decoder direction is {high / mean:.0f} times the mean: {shown}"
        yield Finding("warning", "norm_outlier", text, figures)


def _silent(sae: SAE, rows: _Rows) -> Iterator[Finding]:
    """Latents that cannot do anything, by the weights alone."""
    zero = int((rows.effective == 0).sum())
    if 0 < zero < sae.cfg.d_sae:
        text = (
            f"{_share(zero, sae)} have a decoder direction of zero: what fires there adds nothing"
        )
        yield Finding("warning", "zero_decoder_rows", text, {"latents": zero})
    if sae.b_enc is None:
        return
    floor = torch.zeros_like(sae.b_enc)
    if isinstance(sae.activation, JumpReLU):
        floor = sae.activation.threshold.clamp_min(0).expand_as(sae.b_enc)
    never = int(((rows.encoder_norms == 0) & (sae.b_enc.cpu() <= floor.cpu())).sum())
    if never:
        text = f"{_share(never, sae)} can never fire: encoder zero, bias not above the threshold"
        yield Finding("warning", "zero_encoder", text, {"latents": never})


def _alignment(sae: SAE, rows: _Rows) -> Iterator[Finding]:
    cfg = sae.cfg
    if cfg.width_in != cfg.width_out or cfg.is_transcoder or not rows.is_written:
        return
    if rows.tied:
        yield Finding(
            "info", "tied", "encoder and decoder are tied: W_enc is the transpose of W_dec"
        )
        return
    mean = float(rows.alignment.mean())
    chance = (cfg.width_in * cfg.d_sae) ** -0.5  # standard error of the mean of d_sae cosines
    figures = {"mean": mean, "chance": chance}
    text = (
        f"mean cosine of encoder and decoder of a latent is {mean:.3f} (chance: 0 ± {chance:.2g})"
    )
    other = _transposed_alignment(sae)
    if other is not None and other > max(2 * abs(mean), MIN_ALIGNMENT, 5 * chance):
        text += (
            f"; with the encoder transposed it is {other:.3f}: the matrix is the wrong way round"
        )
        yield Finding("error", "orientation", text, {**figures, "transposed": other})
    elif mean < max(MIN_ALIGNMENT, 5 * chance) and rows.alignment.numel() > 1:
        text += ": untrained, of another checkpoint, or an encoder in the wrong orientation"
        yield Finding("warning", "alignment", text, figures)
    else:
        yield Finding("info", "alignment", text, figures)


def _transposed_alignment(sae: SAE) -> float | None:
    """The mean alignment if the encoder were transposed; None where shapes settle that it is not."""
    if sae.cfg.width_in != sae.cfg.d_sae:
        return None
    total = 0.0
    for rows in _blocks(sae.cfg.d_sae, sae.cfg.width_in):
        total += float(F.cosine_similarity(sae.W_enc[rows], sae.W_dec[rows], dim=1).sum())
    return total / sae.cfg.d_sae


def _threshold(sae: SAE) -> Iterator[Finding]:
    if not isinstance(sae.activation, JumpReLU):
        return
    values = sae.activation.threshold.float().flatten()
    low, high = float(values.min()), float(values.max())
    figures = {"min": low, "max": high, "zero": int((values == 0).sum())}
    if figures["zero"]:
        text = (
            f"{figures['zero']:,} of {values.numel():,} thresholds are zero: these latents are plain "
            "ReLU, as where training never set them"
        )
        yield Finding("warning", "zero_threshold", text, figures)
    if values.numel() > 1 and low == high:
        text = f"all thresholds are {low:.4g}: trained with one threshold for all, as BatchTopK is"
        yield Finding("info", "one_threshold", text, figures)


def _precision(sae: SAE, rows: _Rows) -> Iterator[Finding]:
    stored = sae.cfg.dtype
    for name, fits in rows.narrow.items():
        if fits and rows.is_written and stored in ("float32", "float64"):
            text = (
                f"the decoder is stored as {stored} but every value is a {name}: precision was lost "
                "before it was saved"
            )
            yield Finding("warning", "dtype_loss", text, {"stored": stored, "fits": name})
            return
    if stored in ("bfloat16", "float16") or stored.startswith("float8"):
        text = (
            f"stored as {stored}: L0 can shift near thresholds; products here are made in float32"
        )
        yield Finding("info", "stored_16_bit", text, {"stored": stored})


def _duplicates(sae: SAE, rows: _Rows) -> Iterator[Finding]:
    """Latents whose decoder direction another latent has as well."""
    n, width = sae.W_dec.shape
    compared = min(n, max(1, int(PAIR_FLOPS / (2 * n * width))))
    chosen = torch.arange(n)
    if compared < n:
        chosen = (
            torch.randperm(n, generator=torch.Generator().manual_seed(SEED))[:compared]
            .sort()
            .values
        )
    twins = sum(
        int(((_closest(sae, rows, index) > DUPLICATE_COSINE) & (rows.norms[index] > 0)).sum())
        for index in (chosen[block] for block in _blocks(compared, width))
    )
    if twins:
        of = f"{compared:,} latents compared" if compared < n else f"{n:,} latents"
        text = (
            f"{twins:,} of {of} have a twin: another decoder direction at cosine above "
            f"{DUPLICATE_COSINE}"
        )
        figures = {"latents": twins, "compared": compared, "cosine": DUPLICATE_COSINE}
        yield Finding("warning", "duplicates", text, figures)


def _closest(sae: SAE, rows: _Rows, index: Tensor) -> Tensor:
    """The highest cosine of each of some latents' decoder rows with another latent's, ``[index]``.

    The whole decoder is read once, in blocks, whatever number of latents is compared with it.
    """
    n, width = sae.W_dec.shape
    lengths = rows.norms.clamp_min(1e-30)[:, None]
    chosen = sae.W_dec[index.to(sae.W_dec.device)].float().cpu() / lengths[index]
    best = torch.full((index.shape[0],), -1.0)
    for block in _blocks(n, max(width, index.shape[0])):
        cosine = (sae.W_dec[block].float().cpu() / lengths[block]) @ chosen.T
        itself = ((index >= block.start) & (index < block.stop)).nonzero()[:, 0]
        cosine[index[itself] - block.start, itself] = -1
        best = torch.maximum(best, cosine.amax(0))
    return best


def _share(count: int, sae: SAE) -> str:
    return f"{count:,} of {sae.cfg.d_sae:,} latents"
