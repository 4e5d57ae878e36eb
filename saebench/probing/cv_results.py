"""From the arms of one checkpoint on one concept to measurements and tables."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from saebench.metrics.catalogue.cv_probing import SHOWN_KS
from saebench.metrics.estimates import estimate
from saebench.probing.cv_arms import Arm
from saebench.probing.cv_folds import Folds
from saebench.probing.cv_scores import SCORES, Scores, chance
from saebench.record import Measurement

ARMS = ("raw", "latents", "other", "reconstruction", "random")
GAPS = {"cv_gap": "raw", "cv_over_other": "other", "cv_over_random": "random"}


@dataclass(frozen=True)
class CaseProbes:
    """All arms of one checkpoint on one concept; ``facts`` are plain values about texts and protocol."""

    folds: Folds
    arms: Mapping[str, Arm]
    n_tokens: int
    facts: Mapping[str, Any] = field(default_factory=dict)

    def measurements(self) -> dict[str, Measurement]:
        """Every metric of the part by metric id."""
        found = [
            self._score(f"cv_{score}_{name}", self.arms[name], self.arms[name].scores, score)
            for score in SCORES
            for name in ARMS
        ]
        latents = self.arms["latents"]
        for metric, name in GAPS.items():
            gap = self.minus(name)
            lacking = latents if latents.scores is None else self.arms[name]
            found.append(self._score(metric, lacking, gap, "auroc"))
        found.append(self._p(latents))
        for k in SHOWN_KS:
            reason = (
                f"no probe on k = {k} latents was asked for, or there are fewer latents: see ks"
            )
            few = latents.by_k.get(k)
            found.append(self._score(f"cv_k{k}_auroc", latents, few, "auroc", reason))
        return {item.metric: item for item in found}

    def minus(self, name: str) -> Scores | None:
        """The latents' scores less those of an arm, in pairs; None where one has none."""
        ours, theirs = self.arms["latents"].scores, self.arms[name].scores
        return None if ours is None or theirs is None else ours.minus(theirs)

    def to_json(self) -> dict[str, Any]:
        """The tables of the case."""
        folds = self.folds
        differences = {name: self.minus(name) for name in ARMS if name != "latents"}
        return {
            **self.facts,
            "n_texts": folds.n_texts,
            "n_units": folds.n_units,
            "unit": folds.unit,
            "folds": folds.n_folds,
            "repeats": folds.n_repeats,
            "shuffling": shuffling(folds),
            "chance": chance(folds),
            "arms": {name: self.arms[name].to_json() for name in ARMS},
            "latents_minus": {
                name: None if found is None else found.to_json()
                for name, found in differences.items()
            },
        }

    def _score(
        self, metric: str, arm: Arm, scores: Scores | None, score: str, reason: str = ""
    ) -> Measurement:
        if scores is None:
            return self._estimate(metric, None, reason=arm.reason or reason)
        spread = scores.by_repeat[score]
        detail = {"by_repeat": [round(value, 6) for value in spread.tolist()]}
        return self._estimate(
            metric, scores.values[score], bounds=scores.interval(score), detail=detail
        )

    def _p(self, arm: Arm) -> Measurement:
        if arm.null is None:
            reason = arm.reason or "no shuffles were asked for: set n_permutations"
            return self._estimate("cv_p", None, reason=reason)
        null = arm.null
        detail = {
            "n_permutations": null.n_permutations,
            "smallest_p": null.smallest_p,
            "balanced_accuracy_p": null.p("balanced_accuracy"),
        }
        return self._estimate("cv_p", null.p("auroc"), detail=detail)

    def _estimate(self, metric: str, value: float | None, **parts: Any) -> Measurement:
        if parts.get("reason") is None:
            parts["n_tokens"] = self.n_tokens
        else:  # the reason stands, whatever was read
            parts["n_tokens"] = max(self.n_tokens, 1)
        bounds = parts.pop("bounds", None)
        return estimate(metric, value, bounds, n_sequences=self.folds.n_texts, **parts)


def shuffling(folds: Folds) -> str:
    """How labels are shuffled, in words."""
    if folds.mixed:
        return "within documents, and between documents of one size, inside the folds of the first repeat"
    return f"between {folds.unit}, inside the folds of the first repeat"
