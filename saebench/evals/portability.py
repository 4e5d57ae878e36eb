"""Portability: one checkpoint watched under a reference and, on the same batch, under variants of it.

A batch is shown to the reference's observer before it is shown to those of its variants, also where
memory ran out and halves of it are shown one after the other: all views of a batch, or of a half, are
made first and then fed in the order of the subjects. What the reference showed is kept until the next one.

Activations that are not finite poison every sum they enter. They are looked for before anything is added:
the batch is left out, the tokens are counted, and nothing of such a case is reported.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from saebench.evals.reconstruction import add_floors, pooled
from saebench.metrics import prediction
from saebench.metrics.portability.results import Both
from saebench.metrics.portability.sums import DivergenceSums, ModelSums, PairSums, SpreadSums
from saebench.metrics.sums import GroupSums, check_alike, group_of
from saebench.passes import Calibration, Predictions, SiteView, Stack, SubjectView


class NotFinite:
    """How many of the tokens shown had values that are no numbers, in activations and in predictions."""

    def __init__(self) -> None:
        self.tokens = self.shown = self.predictions = 0

    def found_in(self, *activations: Tensor) -> bool:
        """Whether any row of ``[n, width]`` tensors is not finite; counts the rows."""
        self.shown += activations[0].shape[0]
        if all(bool(x.isfinite().all()) for x in activations):
            return False
        rows = torch.stack([~x.isfinite().all(1) for x in activations]).any(0)
        self.tokens += int(rows.sum())
        return True

    def found_in_predictions(self, predictions: Sequence[Predictions]) -> bool:
        """Whether any loss is not finite; counts the positions."""
        lost = 0
        for item in predictions:
            parts = [item.ce_clean, item.losses.ce, item.losses.kl]
            lost = max(lost, int((~torch.stack(parts).isfinite()).any(0).sum()))
        self.predictions += lost
        return lost > 0


class SpreadEval:
    """What all checkpoints share that write one stack of one model: spread, clean and ablated losses."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.not_finite = NotFinite()
        self.floors_by_reading = [prediction.floor_sums() for _ in stack]

    def begin(self, calibration: Calibration) -> None:
        """Make the sums."""
        self.spread = SpreadSums(calibration.mean(self.stack).shape[0])

    def update(self, view: SiteView) -> None:
        """Take in one batch."""
        if not self.not_finite.found_in(view.x):
            self.spread.update(view.x, view.sequence_ids)
        if self.not_finite.found_in_predictions([*view.zero, *view.mean]):
            return
        add_floors(self.floors_by_reading, view)

    @property
    def floors(self) -> GroupSums:
        """The clean and ablated losses of all readings together."""
        return pooled(self.floors_by_reading)


class ModelEval:
    """What one checkpoint does under one model; ``shown`` is the batch it was shown last."""

    needs_reconstruction = True

    def __init__(self, spread: SpreadEval, *, predictions: bool = True) -> None:
        self.spread = spread
        self.needs_predictions = predictions
        self.not_finite = NotFinite()
        self.sums = ModelSums()
        self.spliced_by_reading = [prediction.spliced_sums() for _ in spread.stack]
        self.shown: SubjectView | None = None

    def update(self, view: SubjectView) -> None:
        """Take in one batch."""
        assert view.x_hat is not None  # asked for
        self.shown = None
        if self.not_finite.found_in(view.x, view.target, view.x_hat):
            return
        self.shown = view
        self.sums.update(view.target, view.x_hat, view.codes, view.sequence_ids)
        if self.not_finite.found_in_predictions(view.spliced):
            return
        for sums, found in zip(self.spliced_by_reading, view.spliced, strict=False):
            prediction.add_spliced(sums, found.losses, group_of(found.sequence_ids))

    @property
    def spliced(self) -> GroupSums:
        """The losses of all readings together."""
        return pooled(self.spliced_by_reading)


class VariantEval:
    """One checkpoint under a variant, against what the reference's observer has seen of the same batch."""

    needs_reconstruction = True

    def __init__(
        self,
        reference: ModelEval,
        spread: SpreadEval,
        *,
        d_sae: int,
        top_k: int,
        device: torch.device,
        predictions: bool = True,
    ) -> None:
        self.reference = reference
        self.variant = ModelEval(spread, predictions=predictions)
        self.needs_predictions = predictions
        self.pair = PairSums(d_sae, top_k, device=device)

    def update(self, view: SubjectView) -> None:
        """Take in one batch; raises :class:`ConfigError` where the reference has seen another."""
        self.variant.update(view)
        before, after = self.reference.shown, self.variant.shown
        if before is None or after is None:
            return
        ids = [one.sequence_ids for one in (before, after)]
        if not torch.equal(*ids):
            check_alike("tokens of a batch", *(item.tolist() for item in ids))
        same = before.x is before.target and after.x is after.target
        read = before.x, after.x
        written = read if same else (before.target, after.target)
        self.pair.update(read, written, (before.codes, after.codes), after.sequence_ids)
        self.variant.shown = None

    def both(self, native: ModelSums | None = None) -> Both:
        """The sums of both models; ``native`` those of a checkpoint trained on the variant."""
        sides = self.reference, self.variant
        spreads = sides[0].spread.spread, sides[1].spread.spread
        return Both(spreads, (sides[0].sums, sides[1].sums), self.pair, native)


class DivergenceEval:
    """Clean predictions of a variant against those of the reference."""

    def __init__(self) -> None:
        self.sums = DivergenceSums()
        self.not_finite = NotFinite()

    def update(self, view: Predictions) -> None:
        """Take in one batch."""
        if not self.not_finite.found_in_predictions([view]):
            self.sums.update(view.losses, view.sequence_ids)
