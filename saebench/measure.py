"""The one place that wires references, a model and a token stream to a pass, and sums to records."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from saebench.config import Config, ModelSpec, SAESpec
from saebench.environment import environment
from saebench.errors import ConfigError, ModelError, OutputError
from saebench.evals import ReconstructionEval, SiteEval, SparsityEval
from saebench.evals.reconstruction import transcoder_baseline
from saebench.loading import Checkpoint, open_checkpoint
from saebench.metrics.definitions import DEFINITIONS, definition
from saebench.metrics.sums import N_GROUPS
from saebench.models import LanguageModel, Located, locate
from saebench.passes import CALIBRATION_SEQUENCES, PassRequest, Subject, run_pass
from saebench.record import Measurement, Record
from saebench.stats import N_RESAMPLES
from saebench.store import RecordStore, record_key
from saebench.tokens import Batch, TokenStream, open_stream

SEED = 0


@dataclass(frozen=True)
class Target:
    """A checkpoint that a run names, opened; ``key`` addresses its record."""

    name: str
    checkpoint: Checkpoint
    key: str


@dataclass(frozen=True)
class Run:
    """Everything a run needs, checked and cheap: no weights of the language model are in memory yet."""

    config: Config
    store: RecordStore
    located: Located
    stream: TokenStream
    targets: tuple[Target, ...]

    @cached_property
    def model(self) -> LanguageModel:
        """The language model, loaded on first use."""
        spec = _model_spec(self.config, [target.checkpoint for target in self.targets])
        device = None if self.config.device == "auto" else self.config.device
        return LanguageModel.open(self.located, dtype=spec.dtype, device=device)

    def missing(self) -> list[Target]:
        """The targets without a record."""
        return [target for target in self.targets if self.store.read(target.key) is None]

    def subject(self, target: Target) -> Subject:
        """What the pass needs of a target, its sites resolved and its widths checked against the model."""
        cfg = target.checkpoint.sae.cfg
        assert cfg.site is not None
        site, site_out = self.model.site(cfg.site), self.model.site(cfg.site_out or cfg.site)
        self.model.check_width(site, cfg.d_in, target.name)
        self.model.check_width(site_out, cfg.d_out, target.name)
        return Subject(target.name, target.checkpoint.sae, site, site_out)


def measure(config: Config, entries: Sequence[tuple[str, str, SAESpec]]) -> dict[str, Record]:
    """The record of every checkpoint ``(name, reference, spec)``: kept ones, or else measured in one pass.

    Only one process measures at a time; others wait and find the records. Raises the errors of whatever
    is missing or does not fit together.
    """
    run = prepare(config, entries)
    if run.missing():
        with run.store.lock():
            if missing := run.missing():  # another process may have measured them meanwhile
                for record in _measure(run, missing):
                    run.store.write(record)
    return {target.name: _kept(run.store, target) for target in run.targets}


def _kept(store: RecordStore, target: Target) -> Record:
    """The record of a target, under the name and reference that it goes by in this run."""
    record = store.read(target.key)
    if record is None:
        raise OutputError(
            f"the record of {target.name} in {store.out}",
            "it was written and is gone",
            "Check that nothing else cleans that folder, and run again.",
        )
    here = {"name": target.name, "reference": str(target.checkpoint.reference)}
    return replace(record, checkpoint={**record.checkpoint, **here})


def prepare(config: Config, entries: Sequence[tuple[str, str, SAESpec]]) -> Run:
    """Open what a run names and find the key of every record.

    The output folder is made and probed first.
    """
    store = RecordStore(config.out)
    checkpoints = {
        name: open_checkpoint(ref, site=spec.site, allow_pickle=spec.allow_pickle)
        for name, ref, spec in entries
    }
    for name, checkpoint in checkpoints.items():
        if checkpoint.sae.cfg.site is None:
            raise ConfigError(
                f"the hook point of {name}",
                "its files do not say which activation it was trained on",
                "Give --site, or site = in its [[sae]] table.",
            )
    spec = _model_spec(config, list(checkpoints.values()))
    located = _locate(spec, from_checkpoints=config.model is None)
    stream = _open_data(config, located)
    shared = {
        "model": {"digest": located.digest, "dtype": spec.dtype},
        "data": {"digest": stream.digest, "context_size": stream.context_size},
        "policy": policy(config),
        "definitions": {name: item.version for name, item in sorted(DEFINITIONS.items())},
        "suites": sorted(_families(config)),
    }
    targets = [
        Target(name, item, record_key(checkpoint=_contract(item), **shared))
        for name, item in checkpoints.items()
    ]
    return Run(config, store, located, stream, tuple(targets))


def _contract(checkpoint: Checkpoint) -> dict[str, Any]:
    """What identifies a checkpoint: its files, its sites, and every fact that is not from the files."""
    cfg = checkpoint.sae.cfg
    facts = {key: fact.value for key, fact in cfg.facts.items() if fact.how != "file"}
    return {
        "files": dict(checkpoint.digests),
        "facts": {**facts, "site": cfg.site, "site_out": cfg.site_out},
    }


def _model_spec(config: Config, checkpoints: Sequence[Checkpoint]) -> ModelSpec:
    """The configured language model, or the one that all checkpoints say they were trained on."""
    if config.model is not None:
        return config.model
    stated = sorted({item.sae.cfg.model for item in checkpoints if item.sae.cfg.model})
    if len(stated) != 1:
        raise ConfigError(
            "the language model to measure with",
            f"none is configured, and the checkpoints name {', '.join(stated) or 'none'}",
            "Give --model, --saebench-model or model = in saebench.toml.",
        )
    return ModelSpec(stated[0])


def _locate(spec: ModelSpec, *, from_checkpoints: bool) -> Located:
    """Find the model; when only the checkpoints name it, the way out is to name another one."""
    try:
        return locate(spec.ref, revision=spec.revision)
    except ModelError as error:
        if not from_checkpoints:
            raise
        raise ConfigError(
            f"the language model {spec.ref!r} that the checkpoints say they were trained on",
            error.found,
            "Name it as it is found here: --model, --saebench-model or model = in saebench.toml.",
        ) from error


def _open_data(config: Config, located: Located) -> TokenStream:
    """The configured text as tokens of the model's tokenizer."""
    spec = config.data
    if spec is None:
        raise ConfigError(
            "text to measure on", "none", "Give --data, --saebench-data or data = in saebench.toml."
        )
    if located.context_size is not None and spec.context_size > located.context_size:
        raise ConfigError(
            f"sequences of context_size = {spec.context_size} tokens",
            f"the model {located.id} was made for at most {located.context_size}",
            "Lower context_size.",
        )
    return open_stream(
        spec.spec,
        located.tokenizer(),
        context_size=spec.context_size,
        n_sequences=spec.n_sequences,
        n_tokens=spec.n_tokens,
        mask=spec.mask,  # type: ignore[arg-type]
        pack=spec.pack,
        vocab_size=located.vocab_size,
        model=located.id,
    )


def policy(config: Config) -> dict[str, Any]:
    """How numbers are made: which positions count, what ablation is, how intervals come about."""
    return {
        "mask": config.data.mask if config.data else "special",
        "uncounted_positions": "keep their clean activation in every continuation",
        "ablation": f"zero, and the mean over the first {CALIBRATION_SEQUENCES} sequences",
        "resampling": f"sequences, in at most {N_GROUPS} groups",
        "n_resamples": N_RESAMPLES,
        "level": 0.95,
        "seed": SEED,
        "sae_dtype": "float32",
    }


def _families(config: Config) -> set[str]:
    """What the suites asked for have to observe."""
    families = {"reconstruction": "reconstruction", "sparsity": "firing", "dead_latents": "firing"}
    return {families[suite] for suite in config.suites if suite in families}


def _measure(run: Run, targets: Sequence[Target]) -> Iterator[Record]:
    """One pass for all targets, then their records."""
    model, stream, config = run.model, run.stream, run.config
    subjects = [run.subject(target) for target in targets]
    for subject in subjects:
        subject.sae.to(model.device)
    predictions = "reconstruction" in _families(config)
    sites = {subject.site_out: SiteEval(subject.site_out) for subject in subjects}
    firing = {s.name: SparsityEval(s.sae.cfg.d_sae, model.device) for s in subjects}
    rebuilt = {
        s.name: ReconstructionEval(sites[s.site_out], s.sae.cfg.d_out, predictions=predictions)
        for s in subjects
    }
    request = PassRequest(
        subjects,
        {site: [item] for site, item in sites.items()},
        {s.name: [rebuilt[s.name], firing[s.name]] for s in subjects},
    )
    before, started = Counter(model.calls), time.perf_counter()
    batches = _watched(stream.batches(config.batch_size), stream.n_sequences, len(targets))
    calibration = run_pass(model, batches, request)
    seconds, passes = time.perf_counter() - started, Counter(model.calls) - before
    n_sequences = stream.n_sequences or 0
    for target, subject in zip(targets, subjects, strict=True):
        found = rebuilt[target.name].measurements(n_sequences=n_sequences, seed=SEED)
        found |= firing[target.name].measurements(n_sequences=n_sequences, seed=SEED)
        found |= _baselines(subject, sites[subject.site_out], found["l0@1"].value, n_sequences)
        yield _record(
            target,
            found,
            curves=firing[target.name].curves(),
            model=model.identity(),
            data=stream.describe(),
            policy={**policy(config), "calibration_tokens": calibration.n_tokens},
            passes=dict(passes),
            seconds=seconds,
        )


def _baselines(
    subject: Subject, site: SiteEval, l0: float | None, n_sequences: int
) -> dict[str, Measurement]:
    if subject.site != subject.site_out or l0 is None:
        n_tokens = site.sums.sums.n_tokens
        names = ("fve_pca", "fve_random_init")
        found = [transcoder_baseline(n, n_tokens=n_tokens, n_sequences=n_sequences) for n in names]
        return {item.metric: item for item in found}
    random = site.random_baseline(subject.sae.cfg.d_sae, l0, seed=SEED)
    return {**site.baselines(l0, n_sequences=n_sequences), random.metric: random}


def _record(
    target: Target,
    measurements: dict[str, Measurement],
    *,
    seconds: float,
    **parts: Any,
) -> Record:
    checkpoint = target.checkpoint
    cfg = checkpoint.sae.cfg
    plain = asdict(cfg)
    facts, provenance, notes = (plain.pop(name) for name in ("facts", "provenance", "notes"))
    return Record(
        key=target.key,
        checkpoint={
            "name": target.name,
            "reference": str(checkpoint.reference),
            "commit": checkpoint.commit,
            "files": dict(checkpoint.digests),
            "format": cfg.format,
            "evidence": list(checkpoint.claim.evidence),
            "cfg": plain,
            "facts": facts,
            "notes": list(notes),
            "provenance": dict(provenance),
        },
        measurements=measurements,
        definitions={metric: definition(metric).to_json() for metric in measurements},
        environment=environment(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(seconds, 3),
        **parts,
    )


def _watched(
    batches: Iterable[Batch], n_sequences: int | None, n_checkpoints: int
) -> Iterator[Batch]:
    """The same batches with a progress bar on stderr, where that is a terminal."""
    from tqdm import tqdm

    with tqdm(
        total=n_sequences,
        desc=f"measuring {n_checkpoints} checkpoint{'s' * (n_checkpoints != 1)}",
        unit="seq",
        file=sys.stderr,
        disable=not sys.stderr.isatty(),
    ) as bar:
        for batch in batches:
            yield batch
            bar.update(batch.ids.shape[0])
