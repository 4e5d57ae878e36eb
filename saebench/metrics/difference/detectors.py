"""Which latents single out fire tokens: chosen on one half of the prompts, judged on the other.

A latent *fires* on a token where its code is above 0. As a detector it is right on fire tokens and wrong
on all other counted tokens, those of prompts with one trigger word or a mismatched pair included:
precision TP/(TP + FP), recall TP/(TP + FN), F1 their harmonic mean. A prompt counts as detected where the
latent fires before the answer: on tokens of the answer itself it says nothing that is not there to read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saebench.codes import SparseCodes
from saebench.metrics.difference.arms import Figure
from saebench.metrics.difference.sums import Groups
from saebench.metrics.estimates import ONE_GROUP, RESAMPLE_ROWS
from saebench.stats import Floats, Interval, jackknife

CHOOSING, JUDGING = 0, 1
SCORES = ("precision", "recall", "f1")
NO_FIRE = "the judging half has no fire token"
ALIKE = 1e-12  # estimates that differ by rounding alone are equal


@dataclass(frozen=True)
class Prompts:
    """Prompts and their tokens: which fire, what they are examples of, and which half they are in.

    ``of_token[n]`` numbers the prompt of each token, ``fire[n]`` marks fire tokens, ``answer[n]`` those of
    the answer, by which no prompt is detected; ``condition[p]`` numbers ``conditions``, ``half[p]`` is 0
    where latents are chosen and 1 where they are judged.
    """

    of_token: np.ndarray
    fire: np.ndarray
    answer: np.ndarray
    condition: np.ndarray
    conditions: tuple[str, ...]
    half: np.ndarray

    @classmethod
    def halved(
        cls,
        of_token: np.ndarray,
        fire: np.ndarray,
        condition: np.ndarray,
        conditions: Sequence[str],
        seed: int,
        documents: np.ndarray | None = None,
        answer: np.ndarray | None = None,
    ) -> Prompts:
        """With random halves in which conditions, and prompts with fire tokens, are as common.

        Prompts of one document, ``documents[p]``, stay in one half: nearly the same text is no test.
        """
        n = condition.shape[0]
        fires = np.bincount(of_token[fire], minlength=n) > 0
        said = np.zeros_like(fire) if answer is None else answer
        rng = np.random.default_rng(seed)
        if documents is not None:
            half = _halves_of(documents, fires, rng)
            return cls(of_token, fire, said, condition, tuple(conditions), half)
        strata = condition * 2 + fires
        half = np.full(n, JUDGING, dtype=np.int64)
        for number, stratum in enumerate(np.unique(strata)):
            members = rng.permutation(np.flatnonzero(strata == stratum))
            half[members[: (members.size + number % 2) // 2]] = CHOOSING
        return cls(of_token, fire, said, condition, tuple(conditions), half)

    @property
    def n(self) -> int:
        """How many prompts there are."""
        return int(self.condition.shape[0])

    @property
    def positive(self) -> np.ndarray:
        """``bool[p]``: the prompts with a fire token."""
        return np.bincount(self.of_token[self.fire], minlength=self.n) > 0

    def problem(self) -> str:
        """Why no latent can be chosen and judged; empty where it can."""
        fires = self.positive
        for half in (CHOOSING, JUDGING):
            inside = self.half == half
            if not (fires & inside).any() or not (~fires & inside).any():
                return "each half of the prompts needs some with and some without a fire token"
        return ""


def _halves_of(documents: np.ndarray, fires: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The half ``[p]`` of each prompt: documents in random order, to where there is less so far.

    First those with fire prompts, by how many of these there are, then the others by their prompts.
    """
    names, of = np.unique(documents, return_inverse=True)
    sizes = np.stack([np.bincount(of, weights=fires), np.bincount(of)], 1)
    order = rng.permutation(names.size)
    order = order[np.argsort(sizes[order, 0] == 0, kind="stable")]
    filled, half = np.zeros((2, 2)), np.zeros(names.size, dtype=np.int64)
    for number in order:
        by = slice(0, 2) if sizes[number, 0] else slice(1, 2)
        half[number] = min((CHOOSING, JUDGING), key=lambda side: tuple(filled[side, by]))
        filled[half[number]] += sizes[number]
    return half[of]


class Firings:
    """Counts by latent: tokens of each half, condition and label on which it fires, and prompts.

    ``fired[d_sae]`` counts tokens with a code that is not 0. Without prompts it is all that is counted.
    """

    def __init__(self, d_sae: int, prompts: Prompts | None, device: torch.device) -> None:
        self.d_sae, self.prompts = d_sae, prompts
        self.fired = torch.zeros(d_sae, dtype=torch.int64, device=device)
        if prompts is None:
            return
        n = len(prompts.conditions)
        of_prompt = prompts.half * n + prompts.condition
        self.prompt_class = torch.from_numpy(of_prompt).to(device)
        of_token = of_prompt[prompts.of_token] * 2 + prompts.fire
        self.token_class = torch.from_numpy(of_token).to(device)
        self.of_token = torch.from_numpy(prompts.of_token).to(device)
        self.answer = torch.from_numpy(prompts.answer).to(device)
        self._tokens = torch.zeros(4 * n * d_sae, dtype=torch.int64, device=device)
        self._prompts = torch.zeros(2 * n * d_sae, dtype=torch.int64, device=device)

    @torch.inference_mode()
    def update(self, first: int, codes: SparseCodes) -> None:
        """Take in the codes of the tokens from ``first`` on, whole prompts."""
        latents = codes.indices.long()
        self.fired += torch.bincount(latents[codes.values != 0], minlength=self.d_sae)
        if self.prompts is None:
            return
        fires = codes.values > 0
        latents, tokens = latents[fires], codes.rows()[fires] + first
        places = self.token_class[tokens] * self.d_sae + latents
        self._tokens += torch.bincount(places, minlength=self._tokens.shape[0])
        before = ~self.answer[tokens]
        once = torch.unique(self.of_token[tokens[before]] * self.d_sae + latents[before])
        of_prompt = self.prompt_class[torch.div(once, self.d_sae, rounding_mode="floor")]
        places = of_prompt * self.d_sae + once % self.d_sae
        self._prompts += torch.bincount(places, minlength=self._prompts.shape[0])

    @property
    def tokens(self) -> np.ndarray:
        """Tokens on which each latent fires, ``[half, condition, not fire or fire, d_sae]``."""
        assert self.prompts is not None
        n = len(self.prompts.conditions)
        return self._tokens.reshape(2, n, 2, self.d_sae).cpu().numpy()

    @property
    def on_prompts(self) -> np.ndarray:
        """Prompts in which each latent fires outside the answer, ``[half, condition, d_sae]``."""
        assert self.prompts is not None
        return self._prompts.reshape(2, len(self.prompts.conditions), self.d_sae).cpu().numpy()

    def scores(self, half: int) -> dict[str, Floats]:
        """Precision, recall and F1 of every latent on one half, ``[d_sae]``; 0 where it never fires."""
        assert self.prompts is not None
        of_half = self.prompts.half[self.prompts.of_token] == half
        n_fire = int((self.prompts.fire & of_half).sum())
        wrong, right = self.tokens[half].sum(0)
        return scores(right, wrong, n_fire - right)

    def best(self, n: int) -> np.ndarray:
        """The ``n`` latents with the largest F1 on the choosing half, among those that fire on a fire token.

        Ties go to the larger precision, then to the smaller number.
        """
        found = self.scores(CHOOSING)
        order = np.lexsort((np.arange(self.d_sae), -found["precision"], -found["f1"]))[:n]
        return order[found["f1"][order] > 0]


def scores(right: Any, wrong: Any, missed: Any) -> dict[str, Floats]:
    """Precision, recall and F1 from true and false positives and false negatives; 0 where undefined."""
    right, wrong, missed = (np.asarray(value, dtype=np.float64) for value in (right, wrong, missed))
    return {
        "precision": _share(right, right + wrong),
        "recall": _share(right, right + missed),
        "f1": _share(2 * right, 2 * right + wrong + missed),
    }


def _share(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.zeros_like(whole), where=whole > 0)


def auroc(values: np.ndarray, positive: np.ndarray, weights: Floats | None = None) -> Floats:
    """``P(value of a positive > of a negative)``, ties ½: ``[1]``, or ``[R]`` under ``weights[R, n]``.

    Not a number where one class has no weight.
    """
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(values[order]) > 0])
    rows = np.ones((1, values.shape[0])) if weights is None else weights
    found = []
    for start in range(0, rows.shape[0], RESAMPLE_ROWS):
        drawn = rows[start : start + RESAMPLE_ROWS][:, order]
        above = np.add.reduceat(drawn * positive[order], starts, axis=1)
        below = np.add.reduceat(drawn * ~positive[order], starts, axis=1)
        won = (above * (below.cumsum(1) - below / 2)).sum(1)
        with np.errstate(invalid="ignore", divide="ignore"):
            found.append(won / (above.sum(1) * below.sum(1)))
    return np.concatenate(found) if found else np.zeros(0)


def prompt_maxima(codes: np.ndarray, prompts: Prompts) -> np.ndarray:
    """The largest code of each prompt outside the answer, ``[p]``, from ``codes[n]`` of one latent.

    0 where it does not fire there.
    """
    found = np.zeros(prompts.n)
    np.maximum.at(found, prompts.of_token[~prompts.answer], codes[~prompts.answer])
    return found


def judged(
    codes: np.ndarray, prompts: Prompts, group_ids: np.ndarray, unit: str = "sequences"
) -> dict[str, Figure]:
    """Scores of one latent on the judging half with intervals, from its ``codes[n]``.

    ``group_ids[p]`` are the groups of the prompts, ``unit`` names what they are. With the scores comes
    ``prompt_auroc``, of the largest code of each prompt. Intervals leave out one group at a time: half of the
    documents are few, and a percentile bootstrap over few is too narrow.
    """
    inside = prompts.half == JUDGING
    groups = Groups.of(group_ids[inside], unit)
    weights = np.concatenate([np.ones((1, groups.n)), 1 - np.eye(groups.n)])
    of_group = np.zeros(prompts.n, dtype=np.int64)
    of_group[inside] = groups.of_token
    keep = inside[prompts.of_token]
    fires, fire, group = codes[keep] > 0, prompts.fire[keep], of_group[prompts.of_token[keep]]

    def without(which: np.ndarray) -> Floats:
        counts = np.bincount(group[which], minlength=groups.n).astype(np.float64)
        return weights @ counts

    right, wrong, missed = without(fires & fire), without(fires & ~fire), without(~fires & fire)
    found = scores(right, wrong, missed)
    maxima, positive = prompt_maxima(codes, prompts)[inside], prompts.positive[inside]
    found["prompt_auroc"] = auroc(maxima, positive, weights[:, of_group[inside]])
    unseen = right + missed == 0  # without a fire token nothing is detected or missed
    return {name: _figure(np.where(unseen, np.nan, value), unit) for name, value in found.items()}


def _figure(values: Floats, unit: str) -> Figure:
    """The estimate and those without each group, ``[1 + groups]``, as a figure from 0 to 1."""
    value, left = float(values[0]), values[1:]
    if not np.isfinite(value):
        return Figure.of(values[:1], NO_FIRE)
    if left.size > 1 and np.ptp(left) <= ALIKE:
        why = f"it is the same without any one of {left.size} {unit}"
        return Figure(value, Interval(None, None, reason=why))
    bounds = jackknife(value, left, bounds=(0.0, 1.0))
    if bounds.reason:
        why = f"it takes fire tokens in two {unit}" if left.size > 1 else ONE_GROUP
        return Figure(value, Interval(None, None, reason=why))
    how = f"delete-one jackknife over {unit}, t with {left.size - 1} degrees of freedom, 95%"
    return Figure(value, replace(bounds, how=how))


def columns(codes: SparseCodes, latents: Tensor) -> Tensor:
    """The codes of the numbered ``latents[c]`` alone, ``[n, c]``."""
    slot = torch.full((codes.d_sae,), -1, dtype=torch.int64, device=codes.indices.device)
    slot[latents] = torch.arange(latents.shape[0], device=slot.device)
    places = slot[codes.indices.long()]
    known = places >= 0
    found = codes.values.new_zeros(codes.n_tokens, latents.shape[0])
    found[codes.rows()[known], places[known]] = codes.values[known]
    return found
