"""The pass: one stream of tokens through the model feeds every checkpoint and every metric.

Per batch the model runs once up to the last site anybody asked for and stops there. Where predictions
are wanted it is resumed from the site: clean, once per ablation of a site, once per checkpoint. What is
observed is handed to *observers*: one set per site, shared by all checkpoints there, and one per
checkpoint. Observers keep sums; nothing here grows with the number of tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Protocol

import torch
from torch import Tensor

from saebench.codes import SparseCodes
from saebench.errors import DataError, ModelError
from saebench.metrics.prediction import Losses
from saebench.models import LanguageModel, Prefix
from saebench.predictions import Continuation, Scored, continue_from, score, spliced
from saebench.sae import Dictionary
from saebench.sites import Site
from saebench.tokens import Batch

CALIBRATION_SEQUENCES = 32


@dataclass(frozen=True)
class Subject:
    """A checkpoint at the site it reads and the site it writes (the same one, but for transcoders)."""

    name: str
    sae: Dictionary
    site: Site
    site_out: Site


@dataclass(frozen=True)
class Predictions:
    """Next-token losses at the scored positions of a batch, ``[m]`` each; ``sequence_ids[m]``."""

    sequence_ids: Tensor
    ce_clean: Tensor
    losses: Losses


@dataclass(frozen=True)
class SiteView:
    """One site on one batch: counted activations ``x[n, width]`` with their ``sequence_ids[n]``.

    ``zero`` and ``mean`` are the predictions with the site ablated (None when nobody needs logits).
    """

    site: Site
    x: Tensor
    sequence_ids: Tensor
    zero: Predictions | None = None
    mean: Predictions | None = None


@dataclass(frozen=True)
class SubjectView:
    """One checkpoint on one batch: what it read, what it should give, its codes, what it gave.

    ``x[n, d_in]``, ``target[n, d_out]`` (the same activations but for transcoders), ``codes`` of n
    tokens, ``x_hat[n, d_out]``, ``sequence_ids[n]``; ``spliced`` the predictions with ``x_hat`` in
    place of the target (None when nobody needs logits).
    """

    x: Tensor
    target: Tensor
    codes: SparseCodes
    x_hat: Tensor
    sequence_ids: Tensor
    spliced: Predictions | None = None


class SiteObserver(Protocol):
    """Keeps sums over one site; told the calibration before the first batch."""

    def begin(self, calibration: Calibration) -> None:
        """Make the sums."""

    def update(self, view: SiteView) -> None:
        """Take in one batch."""


class SubjectObserver(Protocol):
    """Keeps sums over one checkpoint, fed after those of the sites on the same batch.

    ``needs_predictions`` makes the pass compute logits.
    """

    needs_predictions: bool

    def update(self, view: SubjectView) -> None:
        """Take in one batch."""


@dataclass(frozen=True)
class Calibration:
    """The mean activation ``[width]`` (float64) of each site over the first sequences of the stream.

    Fixed before anything is measured, so that what is ablated to the mean, and the definitions that
    centre token by token, do not depend on the batch size. Shards of one stream must share it.
    """

    means: Mapping[Site, Tensor]
    n_sequences: int
    n_tokens: int


@dataclass(frozen=True)
class PassRequest:
    """Who is measured, and by whom: observers by site, and by name of the subject."""

    subjects: Sequence[Subject]
    site_observers: Mapping[Site, Sequence[SiteObserver]]
    subject_observers: Mapping[str, Sequence[SubjectObserver]]

    @property
    def sites(self) -> list[Site]:
        """Every site that is read, written or observed, in the order a forward reaches them."""
        used = {site for subject in self.subjects for site in (subject.site, subject.site_out)}
        return sorted(used | set(self.site_observers))

    def predicts(self, subject: Subject) -> bool:
        """Whether a subject has to be spliced in and continued."""
        return any(o.needs_predictions for o in self.subject_observers.get(subject.name, ()))

    def begin(self, calibration: Calibration) -> None:
        """Tell the sites' observers what the activations are centred on."""
        for observers in self.site_observers.values():
            for observer in observers:
                observer.begin(calibration)


@torch.inference_mode()
def run_pass(
    model: LanguageModel,
    batches: Iterable[Batch],
    request: PassRequest,
    *,
    calibration: Calibration | None = None,
) -> Calibration:
    """Read every batch once and feed the observers; returns the calibration that was used.

    Without one given, the batches that hold the first sequences are kept (prefix only) until their
    mean is known, then continued like all others: no token passes the prefix twice.
    Raises :class:`DataError` when no position of the stream counts, and :class:`ModelError` when not
    even a single sequence fits into memory.
    """
    held: list[tuple[Batch, Prefix]] = []
    known = calibration
    if known is not None:
        request.begin(known)
    for whole in batches:
        for batch, prefix in _prefixes(model, _on(model.device, whole), request.sites):
            if known is not None:
                _observe(model, batch, prefix, request, known)
                continue
            held.append((batch, prefix))
            if sum(int(_first(part).sum()) for part, _ in held) >= CALIBRATION_SEQUENCES:
                known = _flush(model, held, request)
    return known if known is not None else _flush(model, held, request)


def _on(device: torch.device, batch: Batch) -> Batch:
    return Batch(*(getattr(batch, item.name).to(device) for item in fields(Batch)))


def _rows(batch: Batch, rows: slice) -> Batch:
    return Batch(*(getattr(batch, item.name)[rows] for item in fields(Batch)))


def _halves(batch: Batch) -> tuple[slice, slice]:
    """The rows of a batch in two, after memory ran out; one sequence alone cannot be cut."""
    n_sequences, length = batch.ids.shape
    if n_sequences == 1:
        raise ModelError(
            f"a forward pass over one sequence of {length} tokens",
            "it does not fit into memory",
            "Lower context_size, or use a smaller dtype or another device.",
        )
    torch.cuda.empty_cache()
    return slice(0, n_sequences // 2), slice(n_sequences // 2, None)


def _first(batch: Batch) -> Tensor:
    """``[b]``: which sequences the calibration is made of."""
    return batch.sequence_ids < CALIBRATION_SEQUENCES


def _flush(
    model: LanguageModel, held: list[tuple[Batch, Prefix]], request: PassRequest
) -> Calibration:
    """Settle the calibration from the batches held back, then measure them."""
    known = _calibrate(held, request.sites)
    request.begin(known)
    while held:
        _observe(model, *held.pop(0), request, known)
    return known


def _calibrate(held: Sequence[tuple[Batch, Prefix]], sites: Sequence[Site]) -> Calibration:
    first = [(batch.counted & _first(batch)[:, None], prefix) for batch, prefix in held]
    n_tokens = sum(int(keep.sum()) for keep, _ in first)
    if not n_tokens:
        raise DataError(
            "activations at counted positions",
            "no position of the first sequences counts under the mask policy",
            "Check the text, or choose another mask policy (special, bos, none).",
        )
    n_sequences = sum(int(keep.any(1).sum()) for keep, _ in first)
    means = {
        site: torch.stack([p.at(site)[keep].double().sum(0) for keep, p in first]).sum(0) / n_tokens
        for site in sites
    }
    return Calibration(means, n_sequences, n_tokens)


def _prefixes(
    model: LanguageModel, batch: Batch, sites: Sequence[Site]
) -> Iterator[tuple[Batch, Prefix]]:
    """The prefix of a batch; of its halves, as often as it takes, when memory runs out."""
    unpadded = bool(batch.attention_mask.all())
    try:
        prefix = model.prefix(batch.ids, None if unpadded else batch.attention_mask, sites)
    except torch.OutOfMemoryError:
        prefix = None
    if prefix is not None:
        yield batch, prefix
        return
    for half in _halves(batch):
        yield from _prefixes(model, _rows(batch, half), sites)


def _observe(
    model: LanguageModel, batch: Batch, prefix: Prefix, request: PassRequest, known: Calibration
) -> None:
    """Measure one batch; on running out of memory, its halves, from the same prefix.

    Nothing is fed before all is computed.
    """
    try:
        views = _views(model, batch, prefix, request, known)
    except torch.OutOfMemoryError:
        views = None
    if views is None:
        for half in _halves(batch):
            _observe(model, _rows(batch, half), prefix.rows(half), request, known)
        return
    for site, site_view in views[0].items():
        for site_observer in request.site_observers.get(site, ()):
            site_observer.update(site_view)
    for name, subject_view in views[1].items():
        for observer in request.subject_observers.get(name, ()):
            observer.update(subject_view)


def _views(
    model: LanguageModel, batch: Batch, prefix: Prefix, request: PassRequest, known: Calibration
) -> tuple[dict[Site, SiteView], dict[str, SubjectView]]:
    counted = batch.counted
    ids = batch.sequence_ids[:, None].expand_as(counted)[counted]
    x = {site: prefix.at(site)[counted].float() for site in request.sites}
    outputs = {s.name: s.sae.reconstruct(x[s.site]) for s in request.subjects}
    predicting = [s for s in request.subjects if request.predicts(s)]
    continued = _continuations(model, prefix, predicting, known, counted, outputs)
    predictions = _predictions(model, batch, prefix, request.sites[-1], continued)
    site_views = {
        site: SiteView(
            site, x[site], ids, predictions.get(f"zero {site}"), predictions.get(f"mean {site}")
        )
        for site in request.sites
    }
    subject_views = {
        s.name: SubjectView(
            x[s.site], x[s.site_out], *outputs[s.name], ids, predictions.get(f"spliced {s.name}")
        )
        for s in request.subjects
    }
    return site_views, subject_views


def _continuations(
    model: LanguageModel,
    prefix: Prefix,
    subjects: Sequence[Subject],
    known: Calibration,
    counted: Tensor,
    outputs: Mapping[str, tuple[SparseCodes, Tensor]],
) -> dict[str, Continuation]:
    """``zero SITE`` and ``mean SITE`` once for each site, ``spliced NAME`` for each subject."""
    continued = {}
    for site in sorted({s.site_out for s in subjects}):
        clean = prefix.at(site)
        mean = known.means[site].to(clean)
        for kind, vector in (("zero", torch.zeros_like(mean)), ("mean", mean)):
            ablated = spliced(clean, counted, vector)
            continued[f"{kind} {site}"] = Continuation(continue_from(model, prefix, site, ablated))
    for s in subjects:
        replaced = spliced(prefix.at(s.site_out), counted, outputs[s.name][1])
        hidden = model.resume(prefix, s.site_out, replaced)
        continued[f"spliced {s.name}"] = Continuation(hidden, reverse=True)
    return continued


def _predictions(
    model: LanguageModel,
    batch: Batch,
    prefix: Prefix,
    last: Site,
    continued: Mapping[str, Continuation],
) -> dict[str, Predictions]:
    """The losses of every continuation against the clean one; nothing where there is none."""
    scored = Scored.of(batch)
    if not continued or not scored.targets.shape[0]:
        return {}
    clean = model.resume(prefix, last, prefix.at(last))
    ids = batch.sequence_ids[scored.rows]
    ce_clean, losses = score(model, scored, clean, continued)
    return {name: Predictions(ids, ce_clean, item) for name, item in losses.items()}
