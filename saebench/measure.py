"""The one place that wires references, a model and a token stream to a pass, and sums to records."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from saebench.config import Config, ModelSpec, SAESpec
from saebench.environment import environment
from saebench.errors import ConfigError, OutputError
from saebench.evals import ReconstructionEval, SiteEval, SparsityEval
from saebench.evals.reconstruction import transcoder_baseline
from saebench.loading import Checkpoint, open_checkpoint
from saebench.metrics.definitions import DEFINITIONS, definition
from saebench.metrics.sums import N_GROUPS
from saebench.model_choice import (
    check_differences,
    check_same_tokens,
    locate_model,
    model_specs,
    with_twins,
)
from saebench.models import LanguageModel, Located
from saebench.passes import (
    CALIBRATION_SEQUENCES,
    Calibration,
    PassRequest,
    Reading,
    Subject,
    run_pass,
)
from saebench.record import Measurement, Record
from saebench.sae import Fact, SAEConfig, Source
from saebench.stats import N_RESAMPLES
from saebench.store import RecordStore, record_key
from saebench.tokens import Batch, TokenStream, open_stream

SEED = 0
CENTRED = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")


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
    specs: tuple[ModelSpec, ...]
    located: tuple[Located, ...]
    stream: TokenStream
    targets: tuple[Target, ...]

    @cached_property
    def models(self) -> tuple[LanguageModel, ...]:
        """The language models, loaded on first use."""
        device = None if self.config.device == "auto" else self.config.device
        return tuple(
            LanguageModel.open(located, dtype=spec.dtype, device=device)
            for spec, located in zip(self.specs, self.located, strict=True)
        )

    def missing(self) -> list[Target]:
        """The targets without a record."""
        return [target for target in self.targets if self.store.read(target.key) is None]

    def subject(self, target: Target) -> Subject:
        """What the pass needs of a target, its sites resolved and its widths checked against the model."""
        cfg = target.checkpoint.sae.cfg
        reads = tuple(self._reading(source, cfg.d_in, target.name) for source in cfg.reads)
        writes = tuple(self._reading(source, cfg.d_out, target.name) for source in cfg.writes)
        return Subject(target.name, target.checkpoint.sae, reads, writes)

    def _reading(self, source: Source, width: int, name: str) -> Reading:
        """A source of a checkpoint as an activation of this run."""
        assert source.site is not None  # checked when the run was prepared
        model = self.models[source.model]
        site = model.site(source.site)
        # as TransformerLens: only what writes to the stream, and only where nothing depends on it
        centred = source.centred and site.kind in CENTRED and model.ignores_mean
        reading = Reading(site, source.model, source.minus, centred)
        for number in reading.models:
            self.models[number].check_width(reading.site, width, name)
        return reading


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
        name: open_checkpoint(
            ref,
            site=spec.site,
            allow_pickle=spec.allow_pickle,
            settings=spec.settings,
            tensors=spec.tensors,
        )
        for name, ref, spec in entries
    }
    for name, checkpoint in checkpoints.items():
        _check_sites(name, checkpoint)
    configs = {name: item.sae.cfg for name, item in checkpoints.items()}
    specs = model_specs(config, configs)
    located = tuple(locate_model(spec, from_checkpoints=config.model is None) for spec in specs)
    check_same_tokens(located)
    check_differences(located, configs)
    stream = _open_data(config, located[0])
    first = {"digest": located[0].digest, "dtype": specs[0].dtype}
    others = [
        {"digest": item.digest, "dtype": spec.dtype}
        for item, spec in zip(located[1:], specs[1:], strict=True)
    ]
    shared = {
        "model": {**first, "others": others} if others else first,
        "data": {"digest": stream.digest, "context_size": stream.context_size},
        "policy": policy(config),
        "definitions": {name: item.version for name, item in sorted(DEFINITIONS.items())},
        "suites": sorted(_families(config)),
    }
    targets = [
        Target(name, item, record_key(checkpoint=_contract(item), **shared))
        for name, item in checkpoints.items()
    ]
    return Run(config, store, specs, located, stream, tuple(targets))


def _check_sites(name: str, checkpoint: Checkpoint) -> None:
    cfg = checkpoint.sae.cfg
    for what, option, sources in (("read", "site", cfg.reads), ("written", "site_out", cfg.writes)):
        if any(source.site is None for source in sources):
            raise ConfigError(
                f"the hook point {what} by {name}",
                "its files do not say which activation it was trained on",
                f"Give --site, or {option} = in its [[sae]] table."
                if option == "site"
                else "Give --set site_out=SITE.",
            )


def _contract(checkpoint: Checkpoint) -> dict[str, Any]:
    """What identifies a checkpoint: its files, its sites, and every fact that is not from the files."""
    cfg = checkpoint.sae.cfg
    facts = {key: fact.value for key, fact in cfg.facts.items() if fact.how != "file"}
    return {
        "files": dict(checkpoint.digests),
        "facts": {**facts, "site": cfg.site, "site_out": cfg.site_out},
        **{
            name: given for name in ("settings", "tensors") if (given := checkpoint.given.get(name))
        },
    }


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
    models, stream, config = run.models, run.stream, run.config
    subjects = [run.subject(target) for target in targets]
    for subject in subjects:
        subject.sae.to(models[0].device)
    predictions = "reconstruction" in _families(config)
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
    batches = _watched(stream.batches(config.batch_size), stream.n_sequences, len(targets))
    calibration = run_pass(models, batches, request)
    seconds, passes = time.perf_counter() - started, _calls(models) - before
    n_sequences = stream.n_sequences or 0
    for target, subject in zip(targets, subjects, strict=True):
        found = rebuilt[target.name].measurements(n_sequences=n_sequences, seed=SEED)
        found |= firing[target.name].measurements(n_sequences=n_sequences, seed=SEED)
        found |= _baselines(subject, sites[subject.writes], found["l0@1"].value, n_sequences)
        yield _record(
            target,
            subject,
            found,
            curves=firing[target.name].curves(),
            model=_identity(models),
            data=stream.describe(),
            policy={**policy(config), "calibration_tokens": calibration.n_tokens},
            passes=dict(passes),
            seconds=seconds,
            calibration=calibration,
        )


def _calls(models: Sequence[LanguageModel]) -> Counter[str]:
    """How often each part of the models has run."""
    return sum((Counter(model.calls) for model in models), Counter())


def _identity(models: Sequence[LanguageModel]) -> dict[str, Any]:
    """The first model, with what the others are where there are several."""
    first = models[0].identity()
    return {**first, "others": [m.identity() for m in models[1:]]} if len(models) > 1 else first


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


def _record(
    target: Target,
    subject: Subject,
    measurements: dict[str, Measurement],
    *,
    seconds: float,
    calibration: Calibration,
    **parts: Any,
) -> Record:
    checkpoint = target.checkpoint
    cfg = with_estimates(
        checkpoint.sae.cfg, calibration.estimated.get(target.name, {}), calibration
    )
    cfg = with_twins(with_centring(cfg, subject), parts["model"])
    measured_with = [parts["model"], *parts["model"].get("others", ())]
    named = replace(cfg, models=cfg.models or tuple(str(item["id"]) for item in measured_with))
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
            "given": dict(checkpoint.given),
            "cfg": plain,
            "reads": named.describe(named.reads),
            "writes": named.describe(named.writes),
            "centred": any(reading.centred for reading in subject.reads),
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


def with_estimates(
    cfg: SAEConfig, estimated: Mapping[str, Any], calibration: Calibration
) -> SAEConfig:
    """The configuration with what was estimated on data because the files lack it."""
    if not estimated:
        return cfg
    source = (
        f"estimated on {calibration.n_tokens:,} tokens of the first "
        f"{calibration.n_sequences} sequences, since the files have none"
    )
    facts = {name: Fact(value, source, "assumed") for name, value in estimated.items()}
    notes = (*cfg.notes, f"{' and '.join(estimated)} {source}")
    return replace(cfg, facts={**cfg.facts, **facts}, notes=notes)


def with_centring(cfg: SAEConfig, subject: Subject) -> SAEConfig:
    """The configuration with what became of the centring that it asks for."""
    if not cfg.centred:
        return cfg
    note = "the mean over dimensions was taken out of each token, as TransformerLens does"
    if not any(reading.centred for reading in (*subject.reads, *subject.writes)):
        note = "nothing was centred: this model's norms, or this hook point, do not allow for it"
    return replace(cfg, notes=(*cfg.notes, note))


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
