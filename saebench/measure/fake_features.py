"""Fake features of a run: how often latents fire on random text, beside the run's own text as control.

The run's own text is counted in the pass that everything shares: it says which latents are alive and, where
its sequences are as long as the random ones, how often they fire on real text. Each other text is one
further pass for all checkpoints together: ids drawn uniformly, ids drawn with the frequencies of the real
text, and real sequences with their tokens permuted. A pass stops at the last site, and nothing is decoded.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from saebench.data import TokenStream
from saebench.evals.fake_features import FakeFeaturesEval
from saebench.measure.fake_features_texts import CONFIGURED, METRICS, REAL, Plan, texts
from saebench.measure.jobs import Pass, calls
from saebench.measure.progress import watched
from saebench.measure.records import identity as model_identity
from saebench.measure.records import make_record
from saebench.measure.run import SEED, Run, Target
from saebench.metrics.fake_features import results
from saebench.metrics.fake_features.counting import RESAMPLING_GROUPS
from saebench.passes import Calibration, PassRequest, Stack, run_pass
from saebench.passes.requests import SubjectObserver
from saebench.record import Measurement, Record

PART = "fake_features"


def identity(run: Run) -> dict[str, Any]:
    """The protocol, and the digests of texts that do not follow from the run's own and the protocol."""
    return Plan.of(run).identity(run)


@dataclass
class Findings:
    """What was found on one checkpoint so far; ``thresholds`` are relative ones, by latent."""

    real: results.Real
    thresholds: Tensor | None = None
    measurements: dict[str, Measurement] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)


class FakeFeaturesJob:
    """Fake features of every target, with their controls."""

    def __init__(self, run: Run, targets: Sequence[Target]) -> None:
        self.targets = targets
        self.plan = Plan.of(run)
        # before any pass, as texts may be unreadable
        self.control = self.plan.control(run)
        self.texts = texts(run, self.plan, self.control)
        self.subjects = [run.subject(target) for target in targets]
        self.device = run.models[0].device
        self.own = self._observers(REAL, rates=self.plan.rides, own=True)
        self.site_observers: Mapping[Stack, Sequence[Any]] = {}

    @property
    def subject_observers(self) -> Mapping[str, Sequence[SubjectObserver]]:
        """Who is alive on the run's own text, and the control where that text serves."""
        return {name: [item] for name, item in self.own.items()}

    def finish(self, run: Run, done: Pass) -> Iterator[Record]:
        """Read the other texts, then make the records."""
        before, started = calls(run.models), time.perf_counter()
        control = self.own
        if not self.plan.rides:
            control = self._observers(REAL)
            self._read(run, self.control, control, done.calibration)
        found = {name: self._on_real(item, control[name]) for name, item in self.own.items()}
        described = {REAL: self.control.describe()}
        for text, stream in self.texts.items():
            thresholds = {name: item.thresholds for name, item in found.items()}
            observers = self._observers(text, thresholds)
            self._read(run, stream, observers, done.calibration)
            described[text] = stream.describe()
            for name, item in observers.items():
                self._collect(text, item, found[name])
            del observers, item  # before the next text's are made
        passes, seconds = calls(run.models) - before, time.perf_counter() - started
        known = identity(run)
        for target, subject in zip(self.targets, self.subjects, strict=True):
            one = found[target.name]
            yield make_record(
                run.key(target, PART, known),
                target,
                subject,
                one.measurements,
                part=PART,
                details={PART: self._details(one, described)},
                model=model_identity(run.models),
                data=run.stream.describe(),
                policy={
                    **run.policy,
                    "calibration_tokens": done.calibration.n_tokens,
                    "resampling": f"sequences, in at most {RESAMPLING_GROUPS} groups",
                },
                passes=dict(passes),
                seconds=seconds,
                calibration=done.calibration,
            )

    def _observers(
        self,
        text: str,
        thresholds: Mapping[str, Tensor | None] | None = None,
        *,
        rates: bool = True,
        own: bool = False,
    ) -> dict[str, FakeFeaturesEval]:
        """Counters for a text; without ``rates`` of who fires at all, on the run's ``own`` of codes too."""
        protocols = self.plan.protocols_on(text) if rates else {}
        return {
            subject.name: FakeFeaturesEval(
                protocols,
                subject.sae.cfg.d_sae,
                self.device,
                grouped=self.plan.resampled_on(text),
                thresholds=(thresholds or {}).get(subject.name),
                quantiles=own and self.plan.protocol.relative,
            )
            for subject in self.subjects
        }

    def _read(
        self,
        run: Run,
        stream: TokenStream,
        observers: Mapping[str, FakeFeaturesEval],
        calibration: Calibration,
    ) -> None:
        """One pass over a text for all targets."""
        fed = {name: [item] for name, item in observers.items()}
        batches = watched(
            stream.batches(run.config.batch_size), stream.n_sequences, len(self.subjects)
        )
        run_pass(run.models, batches, PassRequest(self.subjects, {}, fed), calibration=calibration)

    def _on_real(self, own: FakeFeaturesEval, control: FakeFeaturesEval) -> Findings:
        found = Findings(results.Real.of(control.sums, own.sums))
        if own.quantiles is not None:
            found.thresholds = own.quantiles.thresholds(self.plan.protocol.threshold)
            found.details["relative_threshold"] = own.quantiles.describe()
            own.quantiles = None  # a table of every latent's codes, needed no more
        found.rows += results.table_rows(REAL, control.sums, found.real)
        return found

    def _collect(self, text: str, item: FakeFeaturesEval, found: Findings) -> None:
        """Add what one text says of one checkpoint."""
        found.rows += results.table_rows(text, item.sums, found.real)
        for protocol in self.plan.resampled_on(text):
            found.measurements |= results.measure(
                METRICS["" if protocol == CONFIGURED else text, protocol],
                item.sums.counts[protocol],
                item.sums,
                found.real,
                requested=self.plan.requested(text, protocol),
                seed=SEED,
            )
        if text == "uniform":
            found.details["rate_ratio"] = results.rate_ratios(item.sums, found.real)
            found.details["top"] = results.top_latents(item.sums.counts["token"], found.real)
        if found.thresholds is not None and text == self.plan.configured_on:
            found.details["without_threshold"] = results.without_threshold(
                found.thresholds, item.sums, self.plan.protocol
            )

    def _details(self, found: Findings, described: Mapping[str, Any]) -> dict[str, Any]:
        own = found.real.own
        return {
            "protocols": {name: one.to_json() for name, one in self.plan.protocols.items()},
            "length": self.plan.length,
            "alive": {
                "n": int(found.real.alive.sum()),
                "of": own.d_sae,
                "rule": "a code that is not zero on a counted token of the run's own text",
                "n_tokens": own.n_tokens,
                "n_sequences": own.n_sequences,
            },
            "texts": dict(described),
            "table": found.rows,
            **found.details,
        }
