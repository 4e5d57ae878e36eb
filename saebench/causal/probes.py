"""What is ablated and where: probes, arms, and the shifts of predictions that they give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from saebench.errors import ConfigError


@dataclass(frozen=True)
class Probes:
    """Tokens on which latents fire: one row for each pair of a latent and a token.

    ``latent[n]``, ``sequence[n]`` (its number in the stream) and ``position[n]`` (in the sequence, from 0)
    are int64, ``code[n]`` float64 is the latent's code there. Sorted by sequence, position and latent.
    """

    latent: np.ndarray
    sequence: np.ndarray
    position: np.ndarray
    code: np.ndarray

    @classmethod
    def of(
        cls,
        latent: np.ndarray | Sequence[int],
        sequence: np.ndarray | Sequence[int],
        position: np.ndarray | Sequence[int],
        code: np.ndarray | Sequence[float],
    ) -> Probes:
        """Probes from columns of equal length, in any order.

        Raises
        ------
        ConfigError : the columns differ in length, or a position is negative.
        """
        columns = [np.asarray(column, np.int64) for column in (latent, sequence, position)]
        codes = np.asarray(code, np.float64)
        lengths = {column.shape for column in (*columns, codes)}
        if len(lengths) != 1 or codes.ndim != 1:
            raise ConfigError(
                "probes from columns of one length",
                f"columns of shapes {sorted(lengths)}",
                "Give a latent, a sequence, a position and a code for each probe",
            )
        if (columns[2] < 0).any():
            raise ConfigError(
                f"a probe at position {columns[2].min()}",
                "positions of a sequence count from 0",
                "Count positions from the first token",
            )
        order = np.lexsort((columns[0], columns[2], columns[1]))
        latent, sequences, positions = (column[order] for column in columns)
        return cls(latent, sequences, positions, codes[order])

    def __len__(self) -> int:
        """How many probes there are."""
        return len(self.latent)

    def where(self, keep: np.ndarray) -> Probes:
        """The probes that ``keep[n]`` (bool) selects, in the same order."""
        columns = (self.latent, self.sequence, self.position, self.code)
        return Probes(*(column[keep] for column in columns))


@dataclass(frozen=True)
class Arm:
    """One thing that is done at every probe: what is subtracted from the activation of each model.

    At probe ``i`` the activation of model ``m`` loses ``codes[i] · directions[m][rows[i]]``, so
    ``directions[m][n_rows, d]`` are decoder rows in units of the activation (normalisation undone).
    ``rows[n]`` are int64 and ``codes[n]`` float64. ``at[n]`` (bool) restricts the arm to some of the probes,
    None takes all; elsewhere its shifts are NaN.
    """

    name: str
    directions: Mapping[int, Tensor]
    rows: np.ndarray
    codes: np.ndarray
    at: np.ndarray | None = None

    def check(self, n_probes: int) -> None:
        """Raise :class:`ConfigError` unless the arm fits so many probes."""
        columns = [self.rows, self.codes, *([] if self.at is None else [self.at])]
        if any(np.shape(column) != (n_probes,) for column in columns):
            self._refuse(
                f"rows, codes (and at) of shapes {[np.shape(column) for column in columns]}",
                f"Give one of each for every one of the {n_probes} probes",
            )
        if not self.directions:
            self._refuse("directions in no model", "Give directions in one model or more")
        used = self.rows if self.at is None else self.rows[self.at]
        for number, rows in self.directions.items():
            if rows.ndim != 2:
                self._refuse(
                    f"directions of shape {list(rows.shape)} in model {number}", "Give rows"
                )
            if used.size and not 0 <= used.min() <= used.max() < rows.shape[0]:
                self._refuse(
                    f"rows {used.min()} to {used.max()} of {rows.shape[0]} in model {number}",
                    "Number the rows of the directions from 0",
                )

    def _refuse(self, found: str, next_step: str) -> None:
        raise ConfigError(f"ablations of arm {self.name!r}", found, next_step)


@dataclass(frozen=True)
class Shifts:
    """How much each ablation changes the next-token distribution at its own token, in nats.

    ``kl[arm][model][n]`` is KL(clean‖ablated) and ``kl_reverse[arm][model][n]`` KL(ablated‖clean), float64:
    exactly 0 where nothing was subtracted. ``logit_cosine[arm][n]`` is the cosine between two models' changes
    of the logits, each centred over the vocabulary, NaN where one of them is zero; it is None for an arm in
    one model, and for models whose vocabularies differ in size. Shifts are NaN where an arm is not run.
    Equal models have equal shifts, to the bit where every arm is in both. ``how[model]`` says how the model
    was continued: "packed", or "rows" with the reason.
    """

    kl: Mapping[str, Mapping[int, np.ndarray]]
    kl_reverse: Mapping[str, Mapping[int, np.ndarray]]
    logit_cosine: Mapping[str, np.ndarray | None]
    how: Mapping[int, str] = field(default_factory=dict)
