"""One arm of the comparison: its probe out of fold, its null, its sparse probes, its transfer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import sparse

from saebench.errors import DataError
from saebench.probing.cv_design import scaled
from saebench.probing.cv_fit import decide
from saebench.probing.cv_folds import Folds
from saebench.probing.cv_null import Null, null_of
from saebench.probing.cv_scores import Resampled, Scores
from saebench.probing.cv_selected import PathPoint, l1_path, single_null, sparse_probes
from saebench.probing.scaling import Matrix
from saebench.protocols import CrossValidation


@dataclass(frozen=True)
class Arm:
    """What cross-validation shows of one set of features; or the ``reason`` why nothing.

    ``transfer`` are scores on held-out texts of a probe fitted to all texts. ``single`` is the null of the
    1-sparse probe, ``by_k`` the k-sparse probes.
    """

    scores: Scores | None
    null: Null | None = None
    transfer: Scores | None = None
    by_k: dict[int, Scores] = field(default_factory=dict)
    single: Null | None = None
    path: Sequence[PathPoint] = ()
    n_features: int = 0
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        if self.scores is None:
            return {"reason": self.reason}
        return {
            **self.scores.to_json(),
            "n_features": self.n_features,
            "shuffled_labels": self.null.to_json() if self.null else None,
            "transfer": self.transfer.to_json() if self.transfer else None,
            "k_sparse": {str(k): one.to_json() for k, one in self.by_k.items()},
            "k_sparse_shuffled": {"1": self.single.to_json()} if self.single else {},
            "l1_path": [point.to_json() for point in self.path],
        }


@dataclass(frozen=True)
class HeldOut:
    """Resamples of held-out texts, whose rows all arms are judged on after they were fitted to the rest.

    Each probe is fitted once and intervals are of it as fitted: no correction for folds applies.
    """

    resampled: Resampled

    @classmethod
    def of(cls, labels: np.ndarray, documents: np.ndarray | None, seed: int) -> HeldOut:
        """``labels[n]`` bool of the held-out texts; ``documents[n]`` numbers their documents."""
        grouped = np.arange(len(labels)) if documents is None else documents
        unit_of = np.unique(grouped, return_inverse=True)[1]
        fold = np.zeros((1, len(labels)), dtype=np.int64)
        positive = np.bincount(unit_of, weights=labels)
        mixed = bool(((positive > 0) & (positive < np.bincount(unit_of))).any())
        return cls(Resampled(Folds(labels, unit_of, fold, mixed, 1, seed)))


class Comparison:
    """All arms on the same folds, shuffles and resamples.

    ``held_out`` are texts that no fold holds, where the concept names some.
    """

    def __init__(
        self, folds: Folds, asked: CrossValidation, held_out: HeldOut | None = None
    ) -> None:
        self.folds, self.asked, self.held_out = folds, asked, held_out
        self.resampled = Resampled(folds)

    def arm(
        self,
        features: Matrix,
        held_out: Matrix | None = None,
        *,
        k_sparse: bool = False,
        path: bool = False,
    ) -> Arm:
        """The arm on ``features[n, d]``, and on the ``held_out[n_held_out, d]`` rows of the same features.

        ``k_sparse`` adds probes on few columns, ``path`` the L1 path. Features that cannot be probed give
        a reason.
        """
        try:
            _check(features)
            if held_out is not None:
                _check(held_out, "held-out ")
        except DataError as error:
            return Arm(None, reason=str(error))
        asked, folds = self.asked, self.folds
        decisions = np.empty(folds.of_text.shape)
        for repeat in range(folds.n_repeats):
            for train, test in folds.splits(repeat):
                design = scaled(features, train, test)
                decisions[repeat, test] = decide(design, folds.labels[train], asked.c)
        ks = [k for k in asked.ks if k <= features.shape[1]] if k_sparse else []
        shuffles = asked.n_permutations
        return Arm(
            self.resampled.scores(decisions),
            null_of(features, folds, shuffles, asked.c) if shuffles else None,
            self._transfer(features, held_out),
            sparse_probes(features, folds, ks, asked.c, self.resampled) if ks else {},
            single_null(features, folds, shuffles) if 1 in ks and shuffles else None,
            l1_path(features, folds, asked.n_path) if path and asked.n_path else (),
            features.shape[1],
        )

    def _transfer(self, features: Matrix, held_out: Matrix | None) -> Scores | None:
        """Scores on the held-out rows of the probe that is fitted to all rows."""
        if held_out is None or self.held_out is None:
            return None
        stack = sparse.vstack if sparse.issparse(features) else np.concatenate
        both = stack([features, held_out])
        if sparse.issparse(both):
            both = sparse.csr_array(both)
        n = features.shape[0]
        design = scaled(both, np.arange(n), np.arange(n, both.shape[0]))
        return self.held_out.resampled.scores(decide(design, self.folds.labels, self.asked.c)[None])


def _check(features: Matrix, which: str = "") -> None:
    """Refuse rows that no probe can read."""
    is_sparse = sparse.issparse(features)
    finite = np.isfinite(features.data if is_sparse else features)
    if not finite.all():
        bad = int((~finite).sum()) if is_sparse else int((~finite.all(axis=1)).sum())
        what = "codes" if is_sparse else f"of {len(features)} rows"
        raise DataError(
            f"finite values in {which}features",
            f"{bad:,} {what} are infinite or not a number",
            "Run the model in a precision of wider range: bfloat16 or float32 instead of float16.",
        )
    if not (features.nnz if is_sparse else np.any(features)):
        raise DataError(
            f"{which}features that differ between texts",
            "all of them are zero on all texts",
            "Check the site and the scale of activations that the SAE expects, or pool by max.",
        )
