"""Prediction: what splicing the reconstruction does to the model's next-token distribution.

With clean logits ``a`` and other logits ``b``, ``P = softmax(a)`` and ``Q = softmax(b)``, in nats:

    CE       log Σ exp b − b[target]
    KL(P‖Q)  Σ P (a − b) + log Σ exp b − log Σ exp a
    KL(Q‖P)  Σ Q (b − a) + log Σ exp a − log Σ exp b

The difference of logits is taken before anything is summed, so that two nearly equal runs have an
error far below their divergence. CE recovered, ``(CE_ablated − CE_spliced)/(CE_ablated − CE_clean)``
of mean losses, means nothing where ablating the site does not hurt the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from saebench.metrics.estimates import Values, bootstrap, estimate
from saebench.metrics.sums import N_GROUPS, GroupSums, check_alike, row_chunks, wide
from saebench.record import Measurement
from saebench.stats import N_RESAMPLES, Interval

Floor = Literal["zero", "mean"]

# The lower end of (CE ablated − CE clean) must exceed this: a randomly initialised model, which
# ablation does not hurt, otherwise scores .97. In nats per token.
MIN_ABLATION_GAP = 0.1


@dataclass(frozen=True)
class CleanPart:
    """What all other runs share of the clean one.

    ``logits`` and ``probabilities [n, vocab]`` (float32), ``targets[n]``, and in float64 ``log_z[n]``
    and ``ce[n]``.
    """

    logits: Tensor
    probabilities: Tensor
    targets: Tensor
    log_z: Tensor
    ce: Tensor


class Losses(NamedTuple):
    """Per token, float64 ``[n]``: cross-entropy of another run, and its divergences in nats."""

    ce: Tensor
    kl: Tensor
    kl_reverse: Tensor | None


def clean_part(logits: Tensor, targets: Tensor, *, out: Tensor | None = None) -> CleanPart:
    """The clean run's share of every comparison, once per chunk ``logits[n, vocab]``.

    ``targets[n]`` are the next tokens. ``out[≥ n, vocab]`` (float32) is overwritten with the
    probabilities, to spare an allocation per chunk.
    """
    logits = _single(logits)
    probabilities = logits.new_empty(logits.shape) if out is None else out[: logits.shape[0]]
    parts = []
    for rows in row_chunks(logits.shape[0], 4 * logits.shape[1], logits.device):
        torch.softmax(logits[rows], dim=1, out=probabilities[rows])
        parts.append(_log_z(logits[rows], probabilities[rows]))
    log_z = torch.cat(parts) if parts else logits.new_empty(0, dtype=torch.float64)
    return CleanPart(logits, probabilities, targets, log_z, log_z - _at(logits, targets))


def against_clean(clean: CleanPart, logits: Tensor, *, reverse: bool = True) -> Losses:
    """Cross-entropy and divergences of another run's ``logits[n, vocab]`` from the clean one.

    Works through blocks of rows that stay in cache; ``reverse=False`` leaves out KL(other‖clean).
    """
    logits = _single(logits)
    n, vocab = logits.shape
    parts = [
        _block(clean, logits, rows, reverse) for rows in row_chunks(n, 4 * vocab, logits.device)
    ]
    if not parts:
        empty = clean.ce.new_empty(0)
        return Losses(empty, empty, empty if reverse else None)
    ce, kl = (torch.cat([part[i] for part in parts]) for i in (0, 1))
    backward = torch.cat([part[2] for part in parts]) if reverse else None
    return Losses(ce, kl, backward)


def continuation_losses(
    clean_logits: Tensor, other_logits: Tensor, targets: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """``(ce_clean, ce_other, kl_clean_other, kl_other_clean)`` per token, float64 ``[n]``.

    ``clean_logits`` and ``other_logits`` are ``[n, vocab]``, ``targets[n]`` the next tokens.
    """
    clean = clean_part(clean_logits, targets)
    losses = against_clean(clean, other_logits)
    assert losses.kl_reverse is not None
    return clean.ce, losses.ce, losses.kl, losses.kl_reverse


def floor_sums(floors: Sequence[Floor] = ("zero", "mean"), n_groups: int = N_GROUPS) -> GroupSums:
    """Sums that do not depend on the SAE: the clean run, and the site ablated to each floor."""
    names = [f"{loss}_{floor}" for floor in floors for loss in ("ce", "kl")]
    return GroupSums(n_groups, ("ce_clean", *names))


def spliced_sums(n_groups: int = N_GROUPS) -> GroupSums:
    """Sums of the run with one SAE's reconstruction spliced in."""
    return GroupSums(n_groups, ("ce_spliced", "kl", "kl_reverse"))


def add_clean(sums: GroupSums, clean: CleanPart, groups: Tensor) -> None:
    """Count the tokens of a chunk and add their clean losses to :func:`floor_sums`."""
    sums.count(groups)
    sums.add("ce_clean", clean.ce, groups)


def add_floor(sums: GroupSums, floor: Floor, losses: Losses, groups: Tensor) -> None:
    """Add the losses of an ablated run to :func:`floor_sums`; the clean run counts the tokens."""
    sums.add(f"ce_{floor}", losses.ce, groups)
    sums.add(f"kl_{floor}", losses.kl, groups)


def add_spliced(sums: GroupSums, losses: Losses, groups: Tensor) -> None:
    """Count the tokens of a chunk and add the losses of a spliced run to :func:`spliced_sums`."""
    sums.count(groups)
    sums.add("ce_spliced", losses.ce, groups)
    sums.add("kl", losses.kl, groups)
    if losses.kl_reverse is not None:
        sums.add("kl_reverse", losses.kl_reverse, groups)


def values(floor: GroupSums, spliced: GroupSums, weights: Tensor | None = None) -> Values:
    """Every prediction metric, ``[1]``, or ``[R]`` under resampling ``weights[R, groups present]``.

    The gaps that the recovered scores divide by are there too, as ``gap_*``.
    """
    found = {name: floor.mean(name, weights) for name in floor.sums}
    found |= {name: spliced.mean(name, weights) for name in spliced.sums}
    found["ce_delta"] = found["ce_spliced"] - found["ce_clean"]
    for name, suffix in (("zero", ""), ("mean", "_mean")):
        if f"ce_{name}" in found:
            gap = found[f"ce_{name}"] - found["ce_clean"]
            found[f"gap_ce_recovered{suffix}"] = gap
            found[f"ce_recovered{suffix}"] = (found[f"ce_{name}"] - found["ce_spliced"]) / gap
    if "kl_zero" in found:
        found["gap_kl_recovered"] = found["kl_zero"]
        found["kl_recovered"] = (found["kl_zero"] - found["kl"]) / found["kl_zero"]
    return found


def measurements(
    floor: GroupSums,
    spliced: GroupSums,
    *,
    n_sequences: int,
    n_resamples: int = N_RESAMPLES,
    seed: int = 0,
    n_readings: int = 1,
) -> dict[str, Measurement]:
    """Every prediction metric with its interval, by metric id.

    ``n_readings`` is how many activations were replaced, one at a time, and pooled in the sums.

    A recovered score has no value unless the lower end of the interval of its gap exceeds
    ``MIN_ABLATION_GAP``. Raises :class:`ConfigError` when the two did not see the same tokens.
    """
    check_alike("tokens in each group", floor.n.tolist(), spliced.n.tolist())
    n_groups = floor.present.shape[0]
    points, intervals = bootstrap(partial(values, floor, spliced), n_groups, n_resamples, seed)
    measure = partial(estimate, n_tokens=floor.n_tokens // n_readings, n_sequences=n_sequences)
    found = []
    for name, value in points.items():
        if name.startswith("gap_"):
            continue
        gap = f"gap_{name}"
        reason = _unharmed(name, points[gap], intervals[gap]) if gap in points else None
        bounds = intervals[name]
        detail = {"gap": points[gap], "gap_low": intervals[gap].low} if gap in points else None
        shown = None if reason else value
        found.append(measure(name, shown, bounds, reason=reason, detail=detail))
    return {measured.metric: measured for measured in found}


def _unharmed(name: str, gap: float, bounds: Interval) -> str | None:
    """Why a recovered score means nothing here, or None where it does."""
    if bounds.low is None:
        return f"whether ablation hurts this model cannot be told: {bounds.reason}"
    if bounds.low > MIN_ABLATION_GAP:
        return None
    what = "the divergence is" if name.startswith("kl") else "the loss rises by"
    return (
        f"ablation does not hurt this model: {what} {gap:.3g} nats "
        f"[{bounds.low:.3g}, {bounds.high:.3g}], and must be more than {MIN_ABLATION_GAP}"
    )


def _block(
    clean: CleanPart, logits: Tensor, rows: slice, reverse: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """CE, KL(P‖Q) and KL(Q‖P) of a block of rows; the last is empty unless ``reverse``."""
    other = logits[rows]
    probabilities = torch.softmax(other, dim=1)
    log_z = _log_z(other, probabilities)
    rise = log_z - clean.log_z[rows]
    difference = other - clean.logits[rows]
    backward = rise.new_empty(0)
    if reverse:
        backward = (wide(probabilities.mul_(difference).sum(1)) - rise).clamp_min_(0)
    forward = rise - wide(difference.mul_(clean.probabilities[rows]).sum(1))
    # A divergence is never negative; rounding of 1e-7 around zero is.
    return log_z - _at(other, clean.targets[rows]), forward.clamp_min_(0), backward


def _single(logits: Tensor) -> Tensor:
    """Logits in float32, or float64 where they already are."""
    return logits if logits.dtype == torch.float64 else logits.float()


def _log_z(logits: Tensor, probabilities: Tensor) -> Tensor:
    """``log Σ exp`` of each row: the largest logit less the log of its probability, in float64.

    The largest probability is at least 1/vocab, so nothing underflows, and the sum of exponentials
    that the softmax made is not made again.
    """
    return wide(logits.amax(1)) - wide(probabilities.amax(1)).log()


def _at(logits: Tensor, targets: Tensor) -> Tensor:
    """The logit of each row's target, float64."""
    return wide(logits.gather(1, targets[:, None]).squeeze(1))
