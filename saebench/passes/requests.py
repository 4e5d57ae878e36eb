"""What a pass is asked for, and what it shows to those who asked: plain frozen dataclasses.

A *reading* is one activation: a site of one of the models, or the difference of two models there. A
*stack* is several of them side by side, as a crosscoder reads; one alone is the common case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from saebench.codes import SparseCodes
from saebench.metrics.prediction import Losses
from saebench.sae import Dictionary
from saebench.sites import Site

CALIBRATION_SEQUENCES = 32


class Reading(NamedTuple):
    """An activation of the run: ``site`` of ``model``, less that of the model ``minus`` if one is named.

    Models are counted in the order given to the pass. ``centred`` takes the mean over dimensions out
    of each token; it is put back before the model goes on from a replacement.
    """

    site: Site
    model: int = 0
    minus: int | None = None
    centred: bool = False

    def __str__(self) -> str:
        minus = "" if self.minus is None else f" − model {self.minus}"
        centred = " (centred)" if self.centred else ""
        model = f", model {self.model}{minus}" if self.model or minus else ""
        return f"{self.site}{model}{centred}"

    @property
    def is_whole(self) -> bool:
        """Whether it is the activation itself, from which nothing was taken."""
        return self.minus is None and not self.centred

    @property
    def models(self) -> tuple[int, ...]:
        """The models that have to run for it."""
        return (self.model,) if self.minus is None else (self.model, self.minus)


Stack = tuple[Reading, ...]
ModelPair = tuple[int, int]


def as_stack(where: Site | Reading | Stack) -> Stack:
    """A stack from what it is short for: a site of the first model, or one reading."""
    if isinstance(where, Site):
        return (Reading(where),)
    return (where,) if isinstance(where, Reading) else tuple(where)


@dataclass(frozen=True)
class Subject:
    """A checkpoint with what it reads and what it writes (the same, but for transcoders)."""

    name: str
    sae: Dictionary
    reads: Stack
    writes: Stack

    @classmethod
    def at(
        cls, name: str, sae: Dictionary, reads: Site | Reading, writes: Site | Reading | None = None
    ) -> Subject:
        """A checkpoint that reads one activation and writes one (by default the same)."""
        return cls(name, sae, as_stack(reads), as_stack(reads if writes is None else writes))


@dataclass(frozen=True)
class Predictions:
    """Next-token losses at the scored positions of a batch, ``[m]`` each; ``sequence_ids[m]``."""

    sequence_ids: Tensor
    ce_clean: Tensor
    losses: Losses


@dataclass(frozen=True)
class SiteView:
    """A stack on one batch: counted activations ``x[n, width]`` with their ``sequence_ids[n]``.

    ``zero`` and ``mean`` are the predictions with each reading ablated, one at a time (empty when
    nobody needs logits).
    """

    stack: Stack
    x: Tensor
    sequence_ids: Tensor
    zero: tuple[Predictions, ...] = ()
    mean: tuple[Predictions, ...] = ()


@dataclass(frozen=True)
class SubjectView:
    """One checkpoint on one batch: what it read, what it should give, its codes, what it gave.

    ``x[n, width_in]``, ``target[n, width_out]`` (the same activations but for transcoders), ``codes``
    of n tokens, ``x_hat[n, width_out]``, ``sequence_ids[n]``; ``spliced`` the predictions with its
    part of ``x_hat`` in place of each reading written, one at a time (empty when nobody needs logits).
    ``x_hat`` is there unless no observer of the checkpoint needs it. ``positions[n]`` is the place of each
    token in its sequence; the pass always says it.
    """

    x: Tensor
    target: Tensor
    codes: SparseCodes
    x_hat: Tensor | None
    sequence_ids: Tensor
    spliced: tuple[Predictions, ...] = ()
    positions: Tensor | None = None


class ModelPairObserver(Protocol):
    """Keeps sums over what two models predict for the same tokens, neither of them changed."""

    def update(self, view: Predictions) -> None:
        """Take in one batch: ``ce_clean`` of the first model, ``losses`` of the second against it."""


class SiteObserver(Protocol):
    """Keeps sums over one stack; told the calibration before the first batch."""

    def begin(self, calibration: Calibration) -> None:
        """Make the sums."""

    def update(self, view: SiteView) -> None:
        """Take in one batch."""


class SubjectObserver(Protocol):
    """Keeps sums over one checkpoint, fed after those of the stacks on the same batch.

    ``needs_predictions`` makes the pass compute logits; where no observer of a checkpoint
    ``needs_reconstruction``, its codes are not decoded.
    """

    needs_predictions: bool
    needs_reconstruction: bool

    def update(self, view: SubjectView) -> None:
        """Take in one batch."""


@dataclass(frozen=True)
class Calibration:
    """What is fixed on the first sequences of the stream before anything is measured.

    ``means`` is the mean activation ``[width]`` (float64) of each reading, so that what is ablated to
    the mean, and the definitions that centre token by token, do not depend on the batch size. Shards
    of one stream must share it. ``estimated`` holds, by the name of the checkpoint, the numbers that
    its files lack.
    """

    means: Mapping[Reading, Tensor]
    n_sequences: int
    n_tokens: int
    estimated: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def mean(self, stack: Stack) -> Tensor:
        """The mean of a stack, ``[width]``."""
        return torch.cat([self.means[reading] for reading in stack])


@dataclass(frozen=True)
class PassRequest:
    """Who is measured, and by whom: observers by stack, by name of the subject, and by pair of models.

    The clean predictions of the second model of a pair are set against those of the first; both have
    vocabularies of one size.
    """

    subjects: Sequence[Subject]
    site_observers: Mapping[Stack, Sequence[SiteObserver]]
    subject_observers: Mapping[str, Sequence[SubjectObserver]]
    pair_observers: Mapping[ModelPair, Sequence[ModelPairObserver]] = field(default_factory=dict)

    @property
    def stacks(self) -> list[Stack]:
        """Every stack that is read, written or observed, without repetitions."""
        used = [stack for subject in self.subjects for stack in (subject.reads, subject.writes)]
        return list(dict.fromkeys([*used, *self.site_observers]))

    @property
    def readings(self) -> list[Reading]:
        """Every reading of a stack, without repetitions."""
        return list(dict.fromkeys(reading for stack in self.stacks for reading in stack))

    def sites(self, model: int) -> list[Site]:
        """The sites needed of one model, in the order in which a forward reaches them."""
        return sorted({item.site for item in self.readings if model in item.models})

    def predicts(self, subject: Subject) -> bool:
        """Whether a subject has to be spliced in and continued."""
        return any(o.needs_predictions for o in self.subject_observers.get(subject.name, ()))

    def reconstructs(self, subject: Subject) -> bool:
        """Whether the codes of a subject have to be decoded."""
        return any(o.needs_reconstruction for o in self.subject_observers.get(subject.name, ()))

    def begin(self, calibration: Calibration) -> None:
        """Tell the stacks' observers what the activations are centred on."""
        for observers in self.site_observers.values():
            for observer in observers:
                observer.begin(calibration)
