"""What a run names, opened and checked: checkpoints, models, data and the key of every record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from saebench.config import Config, DataSpec, ModelSpec, SAESpec
from saebench.data import TokenStream, open_stream
from saebench.data.concepts import OpenConcept, open_concept
from saebench.data.labelled import LabelledText, open_task
from saebench.errors import ConfigError, ModelError, SaebenchError
from saebench.loading import Checkpoint, open_checkpoint
from saebench.metrics.catalogue import FAMILIES
from saebench.metrics.sums import N_GROUPS
from saebench.model_choice import (
    check_differences,
    locate_model,
    model_specs,
)
from saebench.models import LanguageModel, Located
from saebench.models.regimes import regime_identity
from saebench.models.tokens import check_same_depth, check_same_tokens
from saebench.passes import CALIBRATION_SEQUENCES, Reading, Subject
from saebench.precision import parse_precision
from saebench.sae import Dictionary, Source
from saebench.stats import N_RESAMPLES
from saebench.store import RecordStore, record_key

SEED = 0
ROUNDED = "float32, weights rounded to float16"
CENTRED = ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out")


@dataclass(frozen=True)
class Target:
    """A checkpoint that a run names, opened."""

    name: str
    checkpoint: Checkpoint


@dataclass(frozen=True)
class Run:
    """Everything a run needs, checked and cheap: no weights of the language model are in memory yet."""

    config: Config
    store: RecordStore
    specs: tuple[ModelSpec, ...]
    located: tuple[Located, ...]
    stream: TokenStream
    targets: tuple[Target, ...]
    shared: Mapping[str, Any]

    @cached_property
    def models(self) -> tuple[LanguageModel, ...]:
        """The language models, loaded on first use; raises :class:`ModelError`."""
        opened = zip(self.specs, self.located, strict=True)
        return tuple(_open_model(located, spec, self.config) for spec, located in opened)

    def key(self, target: Target, part: str, identity: Mapping[str, Any]) -> str:
        """The key of the record of one part: what its numbers depend on, ``identity`` included."""
        return record_key(checkpoint=contract(target.checkpoint), **self.common(part, identity))

    def common(self, part: str, identity: Mapping[str, Any]) -> dict[str, Any]:
        """What the keys of a part have in common: model, data, policy, definitions."""
        versions = {item.id: item.version for item in FAMILIES[part]}
        named = {"part": part} if part else {}
        return {**self.shared, "definitions": dict(sorted(versions.items())), **named, **identity}

    @property
    def policy(self) -> Mapping[str, Any]:
        """How its numbers are made, as in records."""
        return self.shared["policy"]

    @property
    def probe_length(self) -> int:
        """The tokens that labelled texts are cut to, BOS included."""
        return self.config.probing.length or self.stream.context_size

    @cached_property
    def tasks(self) -> Mapping[str, tuple[LabelledText, LabelledText]]:
        """The train and test texts of every task to probe, by name; read on first use."""
        assert self.config.data is not None  # checked when the run was prepared
        asked = self.config.probing
        return {
            task.name: open_task(
                task,
                self.tokenizer,
                length=self.probe_length,
                max_train=asked.max_train,
                max_test=asked.max_test,
                seed=asked.seed,
                vocab_size=self.vocab_size,
                model=self.located[0].id,
                mask=self.config.data.mask,  # type: ignore[arg-type]
            )
            for task in asked.tasks
        }

    @property
    def concept_length(self) -> int:
        """The tokens that texts of concepts are cut to, BOS included."""
        return self.config.concept_statistics.length or self.stream.context_size

    @cached_property
    def kept(self) -> dict[str, Any]:
        """What jobs of the run share once one of them has made it, by name."""
        return {}

    def concept(self, name: str) -> OpenConcept:
        """The texts of a concept, read on first use; raises :class:`DataError` where they do not serve."""
        opened: dict[str, OpenConcept | SaebenchError] = self.kept.setdefault("concepts", {})
        if name not in opened:
            assert self.config.data is not None  # checked when the run was prepared
            asked = self.config.concept_statistics
            wanted = next(item for item in self.config.concepts if item.name == name)
            try:
                opened[name] = open_concept(
                    wanted,
                    self.tokenizer,
                    length=self.concept_length,
                    seed=asked.seed,
                    held_out=asked.held_out,
                    max_texts=asked.max_texts,
                    vocab_size=self.vocab_size,
                    model=self.located[0].id,
                    mask=self.config.data.mask,  # type: ignore[arg-type]
                )
            except SaebenchError as error:
                opened[name] = error  # a file that does not serve is read once
        found = opened[name]
        if isinstance(found, SaebenchError):
            raise found
        return found

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the first model, which all of them share."""
        return self.located[0].tokenizer()

    @property
    def vocab_size(self) -> int:
        """How many token ids the first model takes."""
        return self.located[0].vocab_size

    def open(
        self,
        spec: str,
        *,
        context_size: int | None = None,
        n_sequences: int | None = None,
        n_tokens: int | None = None,
        pack: bool = True,
    ) -> TokenStream:
        """The tokens of a data spec as this run reads text: its tokenizer, mask and length."""
        own = self.config.data
        assert own is not None  # checked when the run was prepared
        other = DataSpec(
            spec, context_size or own.context_size, n_sequences, n_tokens, own.mask, pack
        )
        return _stream(other, self.located[0], self.config)

    def subject(self, target: Target) -> Subject:
        """What the pass needs of a target, its sites resolved and its widths checked against the model."""
        return subject_on(self.models, target)


def subject_on(models: Sequence[LanguageModel], target: Target) -> Subject:
    """A target on these models, its sites resolved and its widths checked.

    Raises
    ------
    SiteError : a model has no such activation.
    ModelError : it has another width.
    """
    cfg = target.checkpoint.sae.cfg
    reads = tuple(_reading(models, source, cfg.d_in, target.name) for source in cfg.reads)
    writes = tuple(_reading(models, source, cfg.d_out, target.name) for source in cfg.writes)
    return Subject(target.name, target.checkpoint.sae, reads, writes)


def _reading(models: Sequence[LanguageModel], source: Source, width: int, name: str) -> Reading:
    """A source of a checkpoint as an activation of the models."""
    assert source.site is not None  # checked when the run was prepared
    model = models[source.model]
    site = model.site(source.site)
    # as TransformerLens: only what writes to the stream, and only where nothing depends on it
    centred = source.centred and site.kind in CENTRED and model.ignores_mean
    reading = Reading(site, source.model, source.minus, centred)
    for number in reading.models:
        models[number].check_width(reading.site, width, name)
    return reading


def prepare(config: Config, entries: Sequence[tuple[str, str, SAESpec]]) -> Run:
    """Open what a run names and check that it fits together.

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
    check_same_depth([(one.id, one.n_layers) for one in located])
    check_differences(located, configs)
    stream = _open_data(config, located[0])
    first, *others = (
        model_key(item, spec, device_of(config)) for item, spec in zip(located, specs, strict=True)
    )
    shared = {
        "model": {**first, "others": others} if others else first,
        "data": {"digest": stream.digest, "context_size": stream.context_size},
        "policy": {**policy(sae_dtype_used(config)), "mask": stream.policy},
    }
    targets = tuple(Target(name, item) for name, item in checkpoints.items())
    return Run(config, store, specs, located, stream, targets, shared)


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


def contract(checkpoint: Checkpoint) -> dict[str, Any]:
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
    return _stream(spec, located, config)


def _open_model(located: Located, spec: ModelSpec, config: Config) -> LanguageModel:
    """A model of the run on its device; raises :class:`ModelError`, also where it does not fit."""
    try:
        return LanguageModel.open(located, precision=spec.precision, device=device_of(config))
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"the model {located.id} in {spec.precision}",
            "it does not fit into memory",
            "Choose a smaller precision or another device.",
        ) from error


def _stream(spec: DataSpec, located: Located, config: Config) -> TokenStream:
    """The tokens of some data under the tokenizer of a model, on the device of the run."""
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
        device=device_of(config),
    )


def model_key(located: Located, spec: ModelSpec, device: str | None) -> dict[str, Any]:
    """What tells one model in one precision regime from another, before any weight is in memory."""
    return {
        "digest": located.digest,
        "precision": regime_identity(parse_precision(spec.precision), device),
    }


def sae_dtype_used(config: Config) -> str:
    """The dtype of the checkpoints' weights and products.

    float16 products run natively on accelerators only: without native float16 a CPU falls into a
    loop hundreds of times slower. There the weights are rounded and products are in float32.
    """
    accelerated = torch.cuda.is_available() if config.device == "auto" else config.device != "cpu"
    if config.sae_dtype == "float16" and not accelerated:
        return ROUNDED
    return config.sae_dtype


def place(sae: Dictionary, device: torch.device, sae_dtype: str) -> None:
    """Move a checkpoint to its device, in the dtype that :func:`sae_dtype_used` names."""
    if sae_dtype == ROUNDED:
        sae.to(torch.float16)
        sae.to(device, torch.float32)
    else:
        sae.to(device, getattr(torch, sae_dtype))


def device_of(config: Config) -> str | None:
    """Where models run; None for wherever is best."""
    return None if config.device == "auto" else config.device


def policy(sae_dtype: str = "float32") -> dict[str, Any]:
    """How numbers are made: what ablation is, how intervals come about."""
    return {
        "uncounted_positions": "keep their clean activation in every continuation",
        "ablation": f"zero, and the mean over the first {CALIBRATION_SEQUENCES} sequences",
        "resampling": f"sequences, in at most {N_GROUPS} groups",
        "n_resamples": N_RESAMPLES,
        "level": 0.95,
        "seed": SEED,
        "sae_dtype": sae_dtype,
    }
