"""The one pass that all checkpoints of a run are measured in."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence

from saebench.evals import ReconstructionEval, SiteEval, SparsityEval
from saebench.evals.reconstruction import transcoder_baseline
from saebench.measure.progress import watched
from saebench.measure.records import identity, make_record
from saebench.measure.run import SEED, Run, Target, families, policy
from saebench.models import LanguageModel
from saebench.passes import PassRequest, Subject, run_pass
from saebench.record import Measurement, Record


def measure_pass(run: Run, targets: Sequence[Target]) -> Iterator[Record]:
    """One pass for all targets, then their records."""
    models, stream, config = run.models, run.stream, run.config
    subjects = [run.subject(target) for target in targets]
    for subject in subjects:
        subject.sae.to(models[0].device)
    predictions = "reconstruction" in families(config)
    sites = {subject.writes: SiteEval(subject.writes) for subject in subjects}
    firing = {s.name: SparsityEval(s.sae.cfg.d_sae, models[0].device) for s in subjects}
    rebuilt = {
        s.name: ReconstructionEval(sites[s.writes], s.sae.cfg.width_out, predictions=predictions)
        for s in subjects
    }
    request = PassRequest(
        subjects,
        {stack: [item] for stack, item in sites.items()},
        {s.name: [rebuilt[s.name], firing[s.name]] for s in subjects},
    )
    before, started = _calls(models), time.perf_counter()
    batches = watched(stream.batches(config.batch_size), stream.n_sequences, len(targets))
    calibration = run_pass(models, batches, request)
    seconds, passes = time.perf_counter() - started, _calls(models) - before
    n_sequences = stream.n_sequences or 0
    for target, subject in zip(targets, subjects, strict=True):
        found = rebuilt[target.name].measurements(n_sequences=n_sequences, seed=SEED)
        found |= firing[target.name].measurements(n_sequences=n_sequences, seed=SEED)
        found |= _baselines(subject, sites[subject.writes], found["l0@1"].value, n_sequences)
        yield make_record(
            target,
            subject,
            found,
            curves=firing[target.name].curves(),
            model=identity(models),
            data=stream.describe(),
            policy={**policy(config), "calibration_tokens": calibration.n_tokens},
            passes=dict(passes),
            seconds=seconds,
            calibration=calibration,
        )


def _calls(models: Sequence[LanguageModel]) -> Counter[str]:
    """How often each part of the models has run."""
    return sum((Counter(model.calls) for model in models), Counter())


def _baselines(
    subject: Subject, site: SiteEval, l0: float | None, n_sequences: int
) -> dict[str, Measurement]:
    if subject.reads != subject.writes or l0 is None:
        n_tokens = site.sums.sums.n_tokens
        names = ("fve_pca", "fve_random_init")
        found = [transcoder_baseline(n, n_tokens=n_tokens, n_sequences=n_sequences) for n in names]
        return {item.metric: item for item in found}
    random = site.random_baseline(subject.sae.cfg.d_sae, l0, seed=SEED)
    return {**site.baselines(l0, n_sequences=n_sequences), random.metric: random}
