"""Running a pass: the models once per batch, then everything that was asked for.

Per batch each model runs once up to the last site anybody asked for and stops there. Where predictions
are wanted it is resumed from the site: clean, once per ablation of a reading, once per checkpoint and
reading that it writes. What is observed is handed to *observers*: one set per stack, shared by all
checkpoints there, and one per checkpoint. Observers keep sums; nothing here grows with the number of
tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields

import torch
from torch import Tensor

from saebench.codes import SparseCodes
from saebench.data import Batch
from saebench.errors import DataError, ModelError
from saebench.models import LanguageModel, Prefix
from saebench.passes.paired import clean_hidden, others
from saebench.passes.requests import (
    CALIBRATION_SEQUENCES,
    Calibration,
    ModelPair,
    PassRequest,
    Predictions,
    Reading,
    SiteView,
    Stack,
    Subject,
    SubjectView,
)
from saebench.predictions import Continuation, Scored, continue_from, score, spliced

Prefixes = Mapping[int, Prefix]  # by model, of those that anything is read from


@torch.inference_mode()
def run_pass(
    models: LanguageModel | Sequence[LanguageModel],
    batches: Iterable[Batch],
    request: PassRequest,
    *,
    calibration: Calibration | None = None,
) -> Calibration:
    """Read every batch once and feed the observers; returns the calibration that was used.

    ``models`` are one model, or those that readings count. Without a calibration, the batches that
    hold the first sequences are kept (prefix only) until it is known, then continued like all others:
    no token passes the prefix twice. Raises :class:`DataError` when no position of the stream counts,
    and :class:`ModelError` when not even a single sequence fits into memory.
    """
    models = [models] if isinstance(models, LanguageModel) else list(models)
    held: list[tuple[Batch, Prefixes]] = []
    known = calibration
    if known is not None:
        request.begin(known)
    for whole in batches:
        for batch, prefixes in _prefixes(models, _on(models[0].device, whole), request):
            if known is not None:
                _observe(models, batch, prefixes, request, known)
                continue
            held.append((batch, prefixes))
            if sum(int(_first(part).sum()) for part, _ in held) >= CALIBRATION_SEQUENCES:
                known = _flush(models, held, request)
    return known if known is not None else _flush(models, held, request)


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
    models: Sequence[LanguageModel], held: list[tuple[Batch, Prefixes]], request: PassRequest
) -> Calibration:
    """Settle the calibration from the batches held back, then measure them."""
    known = _calibrate(held, request)
    request.begin(known)
    while held:
        _observe(models, *held.pop(0), request, known)
    return known


def _calibrate(held: Sequence[tuple[Batch, Prefixes]], request: PassRequest) -> Calibration:
    first = [(batch.counted & _first(batch)[:, None], prefixes) for batch, prefixes in held]
    n_tokens = sum(int(keep.sum()) for keep, _ in first)
    if not n_tokens:
        raise DataError(
            "activations at counted positions",
            "no position of the first sequences counts under the mask policy",
            "Check the text, or choose another mask policy (special, bos, none).",
        )
    n_sequences = sum(int(keep.any(1).sum()) for keep, _ in first)
    means = {
        reading: torch.stack([_read(p, reading)[keep].double().sum(0) for keep, p in first]).sum(0)
        / n_tokens
        for reading in request.readings
    }
    estimated = {
        subject.name: subject.sae.calibrate(
            torch.cat([_stacked(prefixes, subject.reads)[keep] for keep, prefixes in first])
        )
        for subject in request.subjects
        if subject.sae.pending
    }
    return Calibration(means, n_sequences, n_tokens, estimated)


def _prefixes(
    models: Sequence[LanguageModel], batch: Batch, request: PassRequest
) -> Iterator[tuple[Batch, Prefixes]]:
    """The prefixes of a batch; of its halves, as often as it takes, when memory runs out."""
    mask = None if bool(batch.attention_mask.all()) else batch.attention_mask
    found: dict[int, Prefix] | None = {}
    try:
        for number, model in enumerate(models):
            if sites := request.sites(number):
                assert found is not None
                found[number] = model.prefix(batch.ids, mask, sites)
    except torch.OutOfMemoryError:
        found = None
    if found is not None:
        yield batch, found
        return
    for half in _halves(batch):
        yield from _prefixes(models, _rows(batch, half), request)


def _read(prefixes: Prefixes, reading: Reading) -> Tensor:
    """The activation ``[b, t, width]`` of a reading, float32 where something was taken from it."""
    activation = prefixes[reading.model].at(reading.site)
    if reading.is_whole:
        return activation
    return activation.float() - _taken(prefixes, reading)


def _stacked(prefixes: Prefixes, stack: Stack) -> Tensor:
    """The activations ``[b, t, width]`` of a stack side by side, float32."""
    parts = [_read(prefixes, reading).float() for reading in stack]
    return parts[0] if len(parts) == 1 else torch.cat([p.to(parts[0].device) for p in parts], -1)


def _observe(
    models: Sequence[LanguageModel],
    batch: Batch,
    prefixes: Prefixes,
    request: PassRequest,
    known: Calibration,
) -> None:
    """Measure one batch; on running out of memory, its halves, from the same prefixes.

    Nothing is fed before all is computed.
    """
    try:
        views = _views(models, batch, prefixes, request, known)
    except torch.OutOfMemoryError:
        views = None
    if views is None:
        for half in _halves(batch):
            parts = {number: prefix.rows(half) for number, prefix in prefixes.items()}
            _observe(models, _rows(batch, half), parts, request, known)
        return
    for stack, site_view in views[0].items():
        for site_observer in request.site_observers.get(stack, ()):
            site_observer.update(site_view)
    for name, subject_view in views[1].items():
        for observer in request.subject_observers.get(name, ()):
            observer.update(subject_view)
    for pair, predictions in views[2].items():
        for pair_observer in request.pair_observers.get(pair, ()):
            pair_observer.update(predictions)


def _views(
    models: Sequence[LanguageModel],
    batch: Batch,
    prefixes: Prefixes,
    request: PassRequest,
    known: Calibration,
) -> tuple[dict[Stack, SiteView], dict[str, SubjectView], dict[ModelPair, Predictions]]:
    counted = batch.counted
    ids = batch.sequence_ids[:, None].expand_as(counted)[counted]
    places = torch.arange(counted.shape[1], device=counted.device).expand_as(counted)[counted]
    x = {stack: _stacked(prefixes, stack)[counted] for stack in request.stacks}
    outputs = {s.name: _output(s, prefixes, x, counted, request) for s in request.subjects}
    predictions, pairs = _predictions(models, batch, prefixes, request, known, outputs)

    def of(kind: str, name: str, stack: Stack) -> tuple[Predictions, ...]:
        found = [predictions.get((kind, name, reading)) for reading in stack]
        return tuple(item for item in found if item is not None)

    site_views = {
        stack: SiteView(stack, x[stack], ids, of("zero", "", stack), of("mean", "", stack))
        for stack in request.stacks
    }
    subject_views = {
        s.name: SubjectView(
            x[s.reads], x[s.writes], *outputs[s.name], ids, of("spliced", s.name, s.writes), places
        )
        for s in request.subjects
    }
    return site_views, subject_views, pairs


def _predictions(
    models: Sequence[LanguageModel],
    batch: Batch,
    prefixes: Prefixes,
    request: PassRequest,
    known: Calibration,
    outputs: Mapping[str, tuple[SparseCodes, Tensor | None]],
) -> tuple[dict[tuple[str, str, Reading], Predictions], dict[ModelPair, Predictions]]:
    """The losses of every continuation against the clean run of its model, and of pairs of clean runs."""
    predicting = [s for s in request.subjects if request.predicts(s)]
    predictions: dict[tuple[str, str, Reading], Predictions] = {}
    pairs: dict[ModelPair, Predictions] = {}
    scored, counted = Scored.of(batch), batch.counted
    paired = clean_hidden(models, prefixes, (n for pair in request.pair_observers for n in pair))
    for number in prefixes:
        continued = _continuations(models[number], number, prefixes, predicting, known, counted)
        continued |= _splices(models[number], number, prefixes, predicting, counted, outputs)
        beside = others(models, number, paired, request.pair_observers)
        if not (continued or beside) or not scored.targets.shape[0]:
            continue
        clean = paired if number in paired else clean_hidden(models, prefixes, [number])
        ids = batch.sequence_ids[scored.rows]
        ce, losses = score(models[number], scored, clean[number], {**continued, **beside})
        predictions |= {key: Predictions(ids, ce, losses[key]) for key in continued}
        pairs |= {(number, other): Predictions(ids, ce, losses[other]) for other in beside}
    return predictions, pairs


def _output(
    subject: Subject,
    prefixes: Prefixes,
    x: Mapping[Stack, Tensor],
    counted: Tensor,
    request: PassRequest,
) -> tuple[SparseCodes, Tensor | None]:
    """The codes and, where wanted, the reconstruction of one checkpoint at the counted positions."""
    if not (
        request.reconstructs(subject) or request.predicts(subject) or subject.sae.needs_sequences
    ):
        return subject.sae.codes(x[subject.reads]), None
    if subject.sae.needs_sequences:
        return subject.sae.reconstruct_sequences(_stacked(prefixes, subject.reads), counted)
    return subject.sae.reconstruct(x[subject.reads])


def _continuations(
    model: LanguageModel,
    number: int,
    prefixes: Prefixes,
    subjects: Sequence[Subject],
    known: Calibration,
    counted: Tensor,
) -> dict[tuple[str, str, Reading], Continuation]:
    """Zero and mean ablation of each reading of one model that is written, once for all subjects."""
    written = dict.fromkeys(r for s in subjects for r in s.writes if r.model == number)
    continued = {}
    for reading in written:
        clean = prefixes[number].at(reading.site)
        mean = known.means[reading].to(clean)
        for kind, vector in (("zero", torch.zeros_like(mean)), ("mean", mean)):
            given = vector if reading.is_whole else vector + _taken(prefixes, reading)[counted]
            ablated = spliced(clean, counted, given)
            hidden = continue_from(model, prefixes[number], reading.site, ablated)
            continued[kind, "", reading] = Continuation(hidden)
    return continued


def _splices(
    model: LanguageModel,
    number: int,
    prefixes: Prefixes,
    subjects: Sequence[Subject],
    counted: Tensor,
    outputs: Mapping[str, tuple[SparseCodes, Tensor | None]],
) -> dict[tuple[str, str, Reading], Continuation]:
    """Each subject's reconstruction in the place of each reading of one model that it writes."""
    continued = {}
    for s in subjects:
        widths = [prefixes[r.model].at(r.site).shape[-1] for r in s.writes]
        x_hat = outputs[s.name][1]
        assert x_hat is not None  # whoever predicts reconstructs
        parts = x_hat.split(widths, -1)
        for reading, part in zip(s.writes, parts, strict=True):
            if reading.model != number:
                continue
            if not reading.is_whole:
                part = part + _taken(prefixes, reading)[counted]
            replaced = spliced(prefixes[number].at(reading.site), counted, part)
            hidden = model.resume(prefixes[number], reading.site, replaced)
            continued["spliced", s.name, reading] = Continuation(hidden, reverse=True)
    return continued


def _taken(prefixes: Prefixes, reading: Reading) -> Tensor:
    """What a reading leaves out of its model's activation, ``[b, t, width]`` (or 1 wide), float32.

    Another model's activation, the mean over dimensions, or both.
    """
    activation = prefixes[reading.model].at(reading.site).float()
    if reading.minus is None:
        return activation.mean(-1, keepdim=True)
    other = prefixes[reading.minus].at(reading.site).to(activation)
    if not reading.centred:
        return other
    return other + (activation - other).mean(-1, keepdim=True)
