"""What all checkpoints that read one difference share: its norms, subsets, variances and components."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from saebench.evals.reconstruction import PCA_MAX_WIDTH
from saebench.measure.difference.rows import Rows
from saebench.metrics.baselines import Covariance
from saebench.metrics.difference.arms import Arm, Figure, figures
from saebench.metrics.difference.detectors import Prompts
from saebench.metrics.difference.floors import leading, pca_errors
from saebench.metrics.difference.subsets import Subset, subsets
from saebench.metrics.difference.sums import DifferenceSums, Groups, Spread, weights_of
from saebench.metrics.sums import group_of, wide
from saebench.passes import Reading
from saebench.protocols import DifferenceProtocol
from saebench.stats import Floats


@dataclass(frozen=True)
class Labels:
    """Masks ``[n]`` of the counted tokens by label, and of the tokens of each condition by name.

    ``unlabelled`` says for each label why no token carries it. ``prompts`` is None where the text has no
    labels at all, ``problem`` then says why. ``documents[sequences]`` number the document of each sequence,
    where they are known: those are resampled whole.
    """

    tokens: Mapping[str, np.ndarray] = field(default_factory=dict)
    conditions: Mapping[str, np.ndarray] = field(default_factory=dict)
    unlabelled: Mapping[str, str] = field(default_factory=dict)
    prompts: Prompts | None = None
    problem: str = ""
    documents: np.ndarray | None = None


class Place:
    """One difference on all kept tokens: ``δ[n, d]``, read from the rows of both models.

    ``numbers`` are the models whose rows lie side by side, ``reading`` what is taken from which. Whatever is
    drawn at random comes from the protocol's seed, resamples from ``seed``.
    """

    def __init__(
        self,
        rows: Rows,
        reading: Reading,
        labels: Labels,
        asked: DifferenceProtocol,
        device: torch.device,
        *,
        n_resamples: int,
        seed: int,
    ) -> None:
        self.rows, self.reading, self.labels = rows, reading, labels
        self.device, self.seed, self.n_resamples = device, seed, n_resamples
        self.draws = asked.seed
        self.numbers = [item.model for item in rows.stack]
        ids, self.unit = rows.sequences, "sequences"
        if labels.documents is not None:
            ids, self.unit = labels.documents[ids], "documents"
        self.group_ids = group_of(torch.from_numpy(ids)).numpy()
        self.groups = Groups.of(self.group_ids, self.unit)
        self.weights = weights_of(self.groups, n_resamples, seed)
        self._measure_norms()
        self.subsets = subsets(
            self.norms,
            labels.tokens,
            top=asked.top,
            bottom=asked.bottom,
            seed=asked.seed,
            unlabelled=labels.unlabelled,
        )
        self.conditions = [Subset(name, keep) for name, keep in labels.conditions.items()]

    @property
    def d(self) -> int:
        """The width of the difference."""
        return int(self.mean.shape[0])

    @property
    def everything(self) -> list[Subset]:
        """The subsets, then the conditions under names of their own."""
        return [*self.subsets, *(_condition(one) for one in self.conditions)]

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The activations ``[n, d]`` of the model read and of the one taken away, of kept rows ``x``."""
        assert self.reading.minus is not None
        width = x.shape[1] // len(self.numbers)
        first, second = (
            x[:, width * self.numbers.index(number) :][:, :width]
            for number in (self.reading.model, self.reading.minus)
        )
        return first, second

    def delta(self, x: Tensor) -> Tensor:
        """``δ[n, d]`` float32 of kept rows, centred over dimensions where the checkpoint asks for it."""
        first, second = self.parts(x)
        found = first - second
        return found - found.mean(1, keepdim=True) if self.reading.centred else found

    def chunks(self) -> Iterator[tuple[int, Tensor]]:
        """``(first token, δ)``, whole sequences at a time."""
        return ((first, self.delta(x)) for first, x in self.rows.chunks(self.device))

    def centred(self) -> Iterator[tuple[int, Tensor]]:
        """``(first token, δ − μ)`` float64, μ the mean of all tokens."""
        for first, delta in self.chunks():
            y = wide(delta)
            yield first, y - self.mean.to(y.device)

    @cached_property
    def spreads(self) -> dict[str, Spread]:
        """The variance of every subset and condition in every resample."""
        return self._sums.spreads(self.weights)

    @cached_property
    def total_by_group(self) -> dict[str, Floats]:
        """``Σ‖δ − μ‖²`` of every subset in each group of sequences, μ the mean of all tokens."""
        sums = self._sums
        return {one.name: sums.squares[i] for i, one in enumerate(self.everything)}

    @cached_property
    def _sums(self) -> DifferenceSums:
        mean_square = float((self.norms**2).mean())
        found = DifferenceSums(self.groups, self.everything, self.d, mean_square)
        for first, y in self.centred():
            found.update(first, y)
        return found

    @cached_property
    def covariance(self) -> Tensor | None:
        """``[d, d]`` float64 about the mean; None where it would be too large."""
        if self.d > PCA_MAX_WIDTH:
            return None
        found = Covariance(self.mean)
        for _, delta in self.chunks():
            found.update(delta)
        return found.products / max(found.n, 1)

    @cached_property
    def components(self) -> Tensor | None:
        """Principal components ``[d, d]``, columns by falling variance."""
        return None if self.covariance is None else leading(self.covariance)

    def pca(self, k: int) -> Arm | None:
        """PCA with ``k`` components as a reconstruction; None where there is no covariance."""
        if self.components is None:
            return None
        components = self.components[:, :k]
        errors = [pca_errors(y, components.to(y.device)).cpu() for _, y in self.centred()]
        return Arm(torch.cat(errors).numpy())

    def constant(self) -> Arm:
        """The mean of δ for every token, as a reconstruction."""
        return Arm(torch.cat([y.square().sum(1).cpu() for _, y in self.centred()]).numpy())

    def figures(self, arm: Arm) -> dict[str, dict[str, Figure]]:
        """What a reconstruction leaves of each subset and condition."""
        return figures(arm, self.everything, self.groups, self.spreads, self.weights)

    def _measure_norms(self) -> None:
        """The mean of δ and the norm of each token, and on how many tokens each model is not finite."""
        total: Tensor | None = None
        squares: list[np.ndarray] = []
        self.not_finite = dict.fromkeys(self.numbers, 0)
        for _, x in self.rows.chunks(self.device):
            for number, part in zip(self.numbers, x.chunk(len(self.numbers), 1), strict=True):
                self.not_finite[number] += int((~part.isfinite().all(1)).sum())
            y = wide(self.delta(x))
            total = y.sum(0).cpu() if total is None else total + y.sum(0).cpu()
            squares.append(y.square().sum(1).cpu().numpy())
        self.norms = np.sqrt(np.concatenate(squares)) if squares else np.zeros(0)
        self.mean = torch.zeros(1) if total is None else total / self.rows.n


def condition_name(name: str) -> str:
    """The key of a condition among subsets."""
    return f"condition {name}"


def _condition(one: Subset) -> Subset:
    return Subset(condition_name(one.name), one.keep, one.reason)
