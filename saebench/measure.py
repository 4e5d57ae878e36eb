"""The one place that wires references, a model and a token stream to a pass, and sums to records."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from platform import python_version
from typing import Any

from saebench._version import __version__
from saebench.config import Config, ModelSpec, SAESpec
from saebench.errors import ConfigError
from saebench.evals import ReconstructionEval, SiteEval, SparsityEval
from saebench.evals.reconstruction import transcoder_baseline
from saebench.loading import Checkpoint, open_checkpoint
from saebench.metrics.definitions import DEFINITIONS, definition
from saebench.metrics.sums import N_GROUPS
from saebench.models import LanguageModel
from saebench.passes import CALIBRATION_SEQUENCES, PassRequest, Subject, run_pass
from saebench.record import Measurement, Record
from saebench.sites import Site
from saebench.stats import N_RESAMPLES
from saebench.store import RecordStore, record_key
from saebench.tokens import Batch, TokenStream, open_stream

SEED = 0
PACKAGES = ("torch", "transformers", "safetensors", "huggingface_hub", "datasets", "numpy", "pytest")


@dataclass(frozen=True)
class Target:
    """A checkpoint that a run names, opened; ``key`` addresses its record."""

    name: str
    checkpoint: Checkpoint
    site: Site
    site_out: Site
    key: str

    @property
    def subject(self) -> Subject:
        """What the pass needs of it."""
        return Subject(self.name, self.checkpoint.sae, self.site, self.site_out)


def measure(config: Config, entries: Sequence[tuple[str, str, SAESpec]]) -> dict[str, Record]:
    """The record of every checkpoint ``(name, reference, spec)``: kept ones, or else measured in one pass.

    The output folder is made and probed first. Only one process measures at a time; others wait and
    find the records. Raises the errors of whatever is missing or does not fit together.
    """
    store = RecordStore(config.out)
    checkpoints = {
        name: open_checkpoint(ref, site=spec.site, allow_pickle=spec.allow_pickle)
        for name, ref, spec in entries
    }
    model = open_model(config, list(checkpoints.values()))
    stream = open_data(config, model)
    targets = [_target(name, item, model, stream, config) for name, item in checkpoints.items()]
    with store.lock():
        kept = {target.name: store.read(target.key) for target in targets}
        missing = [target for target in targets if kept[target.name] is None]
        if missing:
            for record in _measure(missing, model, stream, config):
                store.write(record)
                kept[record.name] = record
    return {name: record for name, record in kept.items() if record is not None}


def open_model(config: Config, checkpoints: Sequence[Checkpoint]) -> LanguageModel:
    """The configured language model, or the one that all checkpoints say they were trained on."""
    spec = config.model
    if spec is None:
        stated = {item.sae.cfg.model for item in checkpoints} - {None}
        if len(stated) != 1:
            raise ConfigError(
                "the language model to measure with",
                f"none is configured, and the checkpoints name {sorted(map(str, stated)) or 'none'}",
                "Give --model, --saebench-model or model = in saebench.toml.",
            )
        spec = ModelSpec(str(stated.pop()))
    device = None if config.device == "auto" else config.device
    return LanguageModel.load(spec.ref, revision=spec.revision, dtype=spec.dtype, device=device)


def open_data(config: Config, model: LanguageModel) -> TokenStream:
    """The configured text as tokens of this model."""
    spec = config.data
    if spec is None:
        raise ConfigError(
            "text to measure on", "none", "Give --data, --saebench-data or data = in saebench.toml."
        )
    if model.context_size is not None and spec.context_size > model.context_size:
        raise ConfigError(
            f"sequences of context_size = {spec.context_size} tokens",
            f"the model {model.id} was made for at most {model.context_size}",
            "Lower context_size.",
        )
    return open_stream(
        spec.spec,
        model.tokenizer,
        context_size=spec.context_size,
        n_sequences=spec.n_sequences,
        n_tokens=spec.n_tokens,
        mask=spec.mask,  # type: ignore[arg-type]
        pack=spec.pack,
        vocab_size=model.vocab_size,
        model=model.id,
    )


def _target(
    name: str, checkpoint: Checkpoint, model: LanguageModel, stream: TokenStream, config: Config
) -> Target:
    cfg = checkpoint.sae.cfg
    if cfg.site is None:
        raise ConfigError(
            f"the hook point of {name}",
            "its files do not say which activation it was trained on",
            "Give --site, or site = in its [[sae]] table.",
        )
    site, site_out = model.site(cfg.site), model.site(cfg.site_out or cfg.site)
    model.check_width(site, cfg.d_in, name)
    model.check_width(site_out, cfg.d_out, name)
    facts = {key: fact.value for key, fact in cfg.facts.items() if fact.how != "file"}
    key = record_key(
        checkpoint=dict(checkpoint.digests),
        contract={**facts, "site": str(site), "site_out": str(site_out)},
        model={k: v for k, v in model.identity().items() if k != "device"},
        data={"digest": stream.digest, "context_size": stream.context_size},
        policy=policy(config),
        definitions={name: item.version for name, item in sorted(DEFINITIONS.items())},
        suites=sorted(_families(config)),
    )
    return Target(name, checkpoint, site, site_out, key)


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


def _measure(
    targets: Sequence[Target], model: LanguageModel, stream: TokenStream, config: Config
) -> Iterator[Record]:
    """One pass for all targets, then their records."""
    for target in targets:
        target.checkpoint.sae.to(model.device)
    predictions = "reconstruction" in _families(config)
    sites = {target.site_out: SiteEval(target.site_out) for target in targets}
    firing = {t.name: SparsityEval(t.checkpoint.sae.cfg.d_sae, model.device) for t in targets}
    rebuilt = {
        t.name: ReconstructionEval(
            sites[t.site_out], t.checkpoint.sae.cfg.d_out, predictions=predictions
        )
        for t in targets
    }
    request = PassRequest(
        [target.subject for target in targets],
        {site: [item] for site, item in sites.items()},
        {t.name: [rebuilt[t.name], firing[t.name]] for t in targets},
    )
    before, started = Counter(model.calls), time.perf_counter()
    calibration = run_pass(
        model, _watched(stream.batches(config.batch_size), stream.n_sequences, len(targets)), request
    )
    seconds, passes = time.perf_counter() - started, Counter(model.calls) - before
    n_sequences = stream.n_sequences or 0
    for target in targets:
        found = firing[target.name].measurements(n_sequences=n_sequences, seed=SEED)
        found |= rebuilt[target.name].measurements(n_sequences=n_sequences, seed=SEED)
        found |= _baselines(target, sites[target.site_out], found["l0@1"].value, n_sequences)
        yield _record(
            target,
            found,
            curves=firing[target.name].curves(),
            model=model,
            stream=stream,
            policy={**policy(config), "calibration_tokens": calibration.n_tokens},
            passes=dict(passes),
            seconds=seconds,
        )


def _baselines(
    target: Target, site: SiteEval, l0: float | None, n_sequences: int
) -> dict[str, Measurement]:
    if target.checkpoint.sae.cfg.is_transcoder or l0 is None:
        n_tokens = site.sums.sums.n_tokens
        names = ("fve_pca", "fve_random_init")
        found = [transcoder_baseline(n, n_tokens=n_tokens, n_sequences=n_sequences) for n in names]
        return {item.metric: item for item in found}
    random = site.random_baseline(target.checkpoint.sae.cfg.d_sae, l0, seed=SEED)
    return {**site.baselines(l0, n_sequences=n_sequences), random.metric: random}


def _record(
    target: Target,
    measurements: dict[str, Measurement],
    *,
    curves: dict[str, Any],
    model: LanguageModel,
    stream: TokenStream,
    policy: dict[str, Any],
    passes: dict[str, int],
    seconds: float,
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
        model=model.identity(),
        data=stream.describe(),
        policy=policy,
        measurements=measurements,
        definitions={metric: definition(metric).to_json() for metric in measurements},
        curves=curves,
        passes=passes,
        environment=environment(),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        seconds=round(seconds, 3),
    )


def environment() -> dict[str, str]:
    """Versions of Python, saebench and the packages that results depend on."""
    found = {"python": python_version(), "saebench": __version__}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


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
