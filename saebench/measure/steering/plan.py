"""What is steered in one case: the direction, how much of it, and the changes at each strength."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from saebench.concepts import Columns, separate
from saebench.errors import CheckpointError, ConfigError
from saebench.measure.concepts.rows import ConceptRows
from saebench.models.steered import Change
from saebench.passes import Reading, Subject
from saebench.protocols import SteeringProtocol
from saebench.sae import SAE
from saebench.steering.directions import (
    Cosine,
    best_latent,
    decoded_difference,
    mean_difference,
    random_directions,
    random_latents,
)
from saebench.steering.interventions import Add, Clamp, latent_direction, linear_decoded, unit
from saebench.steering.sweep import Kind


@dataclass(frozen=True)
class Direction:
    """A direction ``vector[width]`` of one of the three kinds, and what is known of it.

    ``latent`` is its latent, where it has one, ``separation`` the latent's Cohen's d on training texts and
    ``largest`` its largest code there.
    """

    of: str
    vector: Tensor
    mean_difference: Tensor
    decoded_difference: Tensor
    alive: Any  # codes [n, d_sae] of the training texts
    latent: int | None = None
    separation: float | None = None
    largest: float | None = None

    @classmethod
    def choose(
        cls, sae: SAE, subject: Subject, rows: ConceptRows, asked: SteeringProtocol, firings: int
    ) -> Direction:
        """The direction asked for; of the training texts alone, prompts have no part in it."""
        train, positive = rows.train, rows.labels(rows.train)
        codes = train.subjects[subject.name].latents
        means = mean_difference(train.sites[subject.reads].x, positive)
        decoded = decoded_difference(sae, codes, positive)
        if asked.direction != "latent":
            vector = means if asked.direction == "mean_difference" else decoded
            return cls(asked.direction, vector, means, decoded, codes)
        columns = Columns.of(codes)
        separation = separate(columns, columns.ranks(), positive)
        latent = best_latent(separation, firings) if asked.latent is None else asked.latent
        if not 0 <= latent < sae.cfg.d_sae:
            raise ConfigError(
                f"latent = {latent} in [steering]",
                f"the checkpoint has latents 0 to {sae.cfg.d_sae - 1}",
                "Name one of those, or leave it out for the one that tells the classes apart best.",
            )
        found = float(separation.d[latent])
        peaks = train.peaks[subject.name].values[:, [latent]]
        return cls(
            "latent",
            latent_direction(sae, latent),
            means,
            decoded,
            codes,
            latent,
            found if np.isfinite(found) else None,
            float(peaks.max()) if peaks.nnz else None,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, without the vectors."""
        return {
            "of": self.of,
            "latent": self.latent,
            "separation": self.separation,
            "largest_code": self.largest,
            "norm": float(self.vector.norm()),
        }

    def cosines(self) -> dict[str, Cosine]:
        """With the difference of class means, decoded and as it is, by name."""
        return {
            "mean_difference": Cosine.of(self.vector, self.mean_difference),
            "decoded_difference": Cosine.of(self.vector, self.decoded_difference),
        }


@dataclass(frozen=True)
class Size:
    """What α = 1 is: ``value`` in units of the activation's norm (of the code, for a clamp), and in words."""

    value: float
    words: str

    @classmethod
    def of(cls, sae: SAE, direction: Direction, asked: SteeringProtocol, mean_norm: float) -> Size:
        """The size of a step; raises :class:`CheckpointError` where it is not fixed or nothing."""
        norm = float(direction.vector.norm())
        by_token = sae.normalization.needs_input and sae.cfg.undo_normalization
        clamped = asked.mode == "clamp"
        if by_token and direction.of == "latent" and clamped != (asked.scale == "max_activation"):
            raise CheckpointError(
                "the size of a code in the activations",
                f"with {sae.cfg.normalization} inputs it differs from token to token",
                'Steer with mode = "clamp" and scale = "max_activation", or with mode = "add" and '
                'scale = "residual_norm".',
            )
        if asked.scale == "residual_norm":
            words = "the mean norm of activations at the site, first tokens left out"
            if clamped:
                return cls._checked(mean_norm / norm, f"{words}, over the norm of the direction")
            return cls._checked(mean_norm, words)
        if direction.of != "latent":
            return cls._checked(norm, "the norm of the difference of class means itself")
        largest = direction.largest or 0.0
        if clamped:
            return cls._checked(largest, "the latent's largest code on training texts")
        words = "the latent's largest code on training texts times the norm of its direction"
        return cls._checked(largest * norm, words)

    @classmethod
    def _checked(cls, value: float, words: str) -> Size:
        if not 0 < value < float("inf"):
            raise CheckpointError(
                f"a step of {words}",
                f"its size is {value:g}",
                'Choose another latent, or scale = "residual_norm" in [steering].',
            )
        return cls(value, words)


@dataclass(frozen=True)
class Other:
    """A direction that serves as control."""

    name: str
    kind: Kind
    vector: Tensor


@dataclass(frozen=True)
class Plan:
    """The changes of one case: at each strength along its direction, or along another of equal norm."""

    sae: SAE
    reading: Reading
    direction: Direction
    size: Size
    asked: SteeringProtocol

    def change(self, alpha: float, along: Tensor | None = None) -> Change:
        """What is done to the activation at a strength; ``along[width]`` takes the direction's place."""
        step = alpha * self.size.value
        if self.asked.mode == "add":
            vector = self.direction.vector if along is None else along
            return Add(vector.to(self.sae.device), step)
        assert self.direction.latent is not None  # checked before
        return Clamp(
            self.sae, self.direction.latent, step, along=along, centred=self.reading.centred
        )

    @property
    def neutral(self) -> Change:
        """What has to change nothing: adding 0 times the direction, or clamping each code to itself."""
        if self.asked.mode == "add":
            return self.change(0.0)
        assert self.direction.latent is not None  # checked before
        return Clamp(self.sae, self.direction.latent, None, centred=self.reading.centred)

    @property
    def others(self) -> list[Other]:
        """The controls: random directions, and random latents that fire on training texts."""
        asked, width = self.asked, self.direction.vector.shape[0]
        drawn = random_directions(width, asked.n_random, asked.seed)
        latents = random_latents(
            self._with_directions(), asked.n_latents, asked.seed, without=self.direction.latent
        )
        return [
            *(Other(f"random {i}", "random", vector) for i, vector in enumerate(drawn)),
            *(
                Other(f"latent {latent}", "latent", latent_direction(self.sae, latent))
                for latent in latents
            ),
        ]

    def _with_directions(self) -> Any:
        """The codes of the training texts, those of latents without a direction left out."""
        norms = self.sae.decoder_norms()[:, 0].float().cpu().numpy()  # numpy has no bfloat16
        return self.direction.alive.multiply((norms > 0)[None]).tocsr()


def direction_of(
    subject: Subject, rows: ConceptRows, asked: SteeringProtocol, firings: int
) -> Direction:
    """The direction of a case; raises where the checkpoint or the protocol leaves none to steer along."""
    sae = linear_decoded(subject.sae)
    if len(set(asked.alphas)) < max(2, len(asked.alphas)):
        raise ConfigError(
            f"alphas = {list(asked.alphas)} in [steering]",
            "two that differ are the least, and none may be there twice",
            "Name five or more: a trend needs as many.",
        )
    if asked.mode == "clamp" and asked.direction != "latent":
        raise ConfigError(
            f'mode = "clamp" with direction = "{asked.direction}" in [steering]',
            "only a latent has a code that could be set",
            'Steer with mode = "add", or along a latent.',
        )
    direction = Direction.choose(sae, subject, rows, asked, firings)
    unit(direction.vector)  # raises where it has no length
    return direction
