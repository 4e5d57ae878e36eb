"""The ablations of some texts as one list: an item for every arm and probe, in the order of the tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from saebench.causal.probes import Arm, Probes


@dataclass(frozen=True)
class Items:
    """Ablations: ``arm[n]``, ``probe[n]`` (places among all) and ``token[n]``, ascending in the token.

    ``row[c]`` and ``place[c]`` say where the distinct tokens are in the texts. All are int64.
    """

    arms: Sequence[Arm]
    arm: np.ndarray
    probe: np.ndarray
    token: np.ndarray
    row: np.ndarray
    place: np.ndarray

    @classmethod
    def of(cls, arms: Sequence[Arm], probes: Probes, chosen: np.ndarray, rows: np.ndarray) -> Items:
        """The items of the probes ``chosen[n]`` (places among all), which are in ``rows[n]`` of the texts."""
        places = probes.position[chosen]
        # Probes are sorted by sequence and position, so those on one token stand side by side.
        new = np.r_[True, (rows[1:] != rows[:-1]) | (places[1:] != places[:-1])]
        token = np.cumsum(new) - 1
        run = [np.ones(len(chosen), bool) if a.at is None else a.at[chosen] for a in arms]
        arm = np.repeat(np.arange(len(arms)), [int(at.sum()) for at in run])
        probe = np.concatenate([chosen[at] for at in run])
        tokens = np.concatenate([token[at] for at in run])
        order = np.argsort(tokens, kind="stable")
        return cls(arms, arm[order], probe[order], tokens[order], rows[new], places[new])

    def __len__(self) -> int:
        """How many there are."""
        return len(self.arm)

    def in_model(self, number: int) -> np.ndarray:
        """The items (int64) of the arms that have directions in a model."""
        has = np.array([number in arm.directions for arm in self.arms], bool)
        return np.flatnonzero(has[self.arm])

    def vectors(self, number: int, clean: Tensor) -> tuple[np.ndarray, Tensor, Tensor]:
        """The items ``[m]`` of one model, what the activation becomes, and whether it stays the same.

        ``clean[b, t, d]`` is the activation. The vectors are ``[m, d]``, and so the flags ``[m]``: true where
        the dtype of the model holds no difference.
        """
        mine = self.in_model(number)
        device = clean.device
        row, place = (torch.from_numpy(x[self.token[mine]]) for x in (self.row, self.place))
        before = clean[row.to(device), place.to(device)]
        taken = before.new_empty(
            before.shape, dtype=torch.promote_types(clean.dtype, torch.float32)
        )
        for index, arm in enumerate(self.arms):
            if number not in arm.directions:
                continue
            here = np.flatnonzero(self.arm[mine] == index)
            probe = self.probe[mine[here]]
            rows = arm.directions[number][torch.from_numpy(arm.rows[probe]).to(device)]
            codes = torch.from_numpy(arm.codes[probe]).to(device, rows.dtype)
            taken[torch.from_numpy(here).to(device)] = (codes[:, None] * rows).to(taken)
        after = (before.to(taken.dtype) - taken).to(clean.dtype)
        return mine, after, (after == before).all(1)
