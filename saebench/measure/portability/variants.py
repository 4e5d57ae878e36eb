"""The variants of a run: found, held against what checkpoints need, and opened; or why not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from saebench.config import ModelSpec
from saebench.errors import ConfigError, SaebenchError, SiteError
from saebench.loading import Checkpoint, open_checkpoint
from saebench.measure.cases import reason_of
from saebench.measure.portability.failures import is_of_loading
from saebench.measure.run import Run, Target, device_of, model_key, place, sae_dtype_used
from saebench.measure.run import subject_on as subject_on_models
from saebench.model_choice import locate_model
from saebench.models import LanguageModel, Located
from saebench.models.failures import first_line
from saebench.models.tokens import check_same_tokens
from saebench.models.weights import ran_out_of_memory
from saebench.passes import Stack, Subject
from saebench.protocols import Variant
from saebench.sae import SAEConfig
from saebench.sites import parse_site


@dataclass(frozen=True)
class Refusal:
    """Why a case has no numbers; ``is_result`` where that itself says that nothing can be carried over."""

    reason: str
    is_result: bool = False


@dataclass(frozen=True)
class FoundVariant:
    """A variant as far as it is known before any weight is read, and the checkpoint trained on it."""

    variant: Variant
    spec: ModelSpec
    located: Located | None
    refusal: Refusal | None = None
    native: Checkpoint | None = None
    native_refusal: str | None = None

    @property
    def label(self) -> str:
        """Name and regime, for messages: ``nf4 (nf4+double)``."""
        name, precision = self.variant.name, self.spec.precision
        return name if name == precision else f"{name} ({precision})"


def find_variant(run: Run, name: str) -> FoundVariant:
    """The variant of that name, looked for once in a run; nothing is raised for one that is not there."""
    kept: dict[str, FoundVariant] = run.kept.setdefault("variants", {})
    if name not in kept:
        kept[name] = _find(run, next(item for item in run.config.variants if item.name == name))
    return kept[name]


def identity(run: Run, found: FoundVariant) -> dict[str, Any]:
    """What tells one variant from another, before it is in memory."""
    if found.located is None:
        assert found.refusal is not None
        return {"failed": found.refusal.reason}
    try:
        known = model_key(found.located, found.spec, device_of(run.config))
    except SaebenchError as error:  # the regime is not to be had here
        known = {"digest": found.located.digest, "failed": reason_of(error)}
    if found.native is not None:
        known["sae"] = dict(found.native.digests)
    return known


def open_variant(run: Run, found: FoundVariant) -> LanguageModel | Refusal:
    """The model of a variant, in memory; raises :class:`torch.OutOfMemoryError`.

    What its files, the device or a package do not allow is a refusal; a mistake of this package is raised.
    """
    assert found.located is not None
    try:
        return LanguageModel.open(
            found.located, precision=found.spec.precision, device=device_of(run.config)
        )
    except SaebenchError as error:
        return Refusal(f"the variant {found.label} could not be opened: {reason_of(error)}")
    except Exception as error:  # a package or damaged file raises whatever it has
        if ran_out_of_memory(error):
            raise torch.OutOfMemoryError(first_line(error)) from error
        if not is_of_loading(error):
            raise
        return Refusal(
            f"the variant {found.label} could not be opened: {first_line(error)}. Check its files, or choose "
            "another precision."
        )


def too_large(found: FoundVariant) -> Refusal:
    """The refusal of a variant for which there is no memory."""
    return Refusal(
        f"the variant {found.label} does not fit into memory beside the reference, or no sequence of it "
        "does. Choose a smaller precision, a smaller context_size or another device."
    )


def subject_on(model: LanguageModel, number: int, target: Target, name: str) -> Subject | Refusal:
    """A checkpoint on the activations of model ``number``, at the hook point it was trained on."""
    cfg = target.checkpoint.sae.cfg
    try:
        for sources, width in ((cfg.reads, cfg.d_in), (cfg.writes, cfg.d_out)):
            for source in sources:
                site = model.site(source.site or "")
                if (found := model.width_at(site)) != width:
                    return _other_width(width, found, str(site))
    except SiteError as error:
        return _no_site(error)
    return of_model(subject_on_models((model,), target), number, name)


def of_model(subject: Subject, number: int, name: str) -> Subject:
    """A subject of one model as that of model ``number`` among others, under another name."""

    def moved(stack: Stack) -> Stack:
        return tuple(reading._replace(model=number) for reading in stack)

    return replace(subject, name=name, reads=moved(subject.reads), writes=moved(subject.writes))


def misfit(cfg: SAEConfig, located: Located) -> Refusal | None:
    """What the config of a model says against a checkpoint, before the weights are read."""
    if _reads_several(cfg):
        return Refusal(
            "it reads activations of several models: portability sets one model against variants of it. "
            "Measure it with other models as the run's own."
        )
    config = located.config.get_text_config()
    width, n_layers = getattr(config, "hidden_size", None), int(config.num_hidden_layers)
    for source, d in [
        *((one, cfg.d_in) for one in cfg.reads),
        *((one, cfg.d_out) for one in cfg.writes),
    ]:
        try:
            site = parse_site(source.site or "", n_layers=n_layers)
        except SiteError as error:
            return _no_site(error)
        if site.is_residual and width is not None and width != d:
            return _other_width(d, width, str(site))
    return None


def place_native(run: Run, found: FoundVariant, device: torch.device) -> Target | None:
    """The checkpoint that was trained on a variant, on its device."""
    if found.native is None:
        return None
    place(found.native.sae, device, sae_dtype_used(run.config))
    return Target(f"the checkpoint trained on {found.variant.name}", found.native)


def take_off(found: FoundVariant) -> None:
    """Take the checkpoint that was trained on a variant off the device: nothing else of a run reads it."""
    if found.native is not None:
        found.native.sae.to(torch.device("cpu"))


def _reads_several(cfg: SAEConfig) -> bool:
    sources = (*cfg.reads, *cfg.writes)
    return any(source.model or source.minus is not None for source in sources)


def _other_width(d: int, width: int, site: str) -> Refusal:
    return Refusal(
        f"not portable: {d} against {width}. The checkpoint has width {d} and the variant {width} at {site}",
        is_result=True,
    )


def _no_site(error: SiteError) -> Refusal:
    return Refusal(
        f"not portable: the variant has no such activation ({error.asked}: {error.found})",
        is_result=True,
    )


def _find(run: Run, variant: Variant) -> FoundVariant:
    own = run.specs[0]
    spec = ModelSpec(
        variant.ref or own.ref,
        variant.revision or (None if variant.ref else own.revision),
        variant.precision or own.precision,
    )
    native, said = _native(variant)
    try:
        same = not variant.ref and not variant.revision
        located = run.located[0] if same else locate_model(spec, from_checkpoints=False)
    except SaebenchError as error:
        refusal = Refusal(f"the variant {variant.name} was not found: {reason_of(error)}")
        return FoundVariant(variant, spec, None, refusal, native, said)
    refused = None if same else _other_tokens(run.located[0], located)
    return FoundVariant(variant, spec, located, refused, native, said)


def _other_tokens(reference: Located, other: Located) -> Refusal | None:
    """Why tokens of two models cannot be aligned, or None where they can.

    Of a folder without a tokenizer only the size of the vocabulary is known; it has to be the same.
    """
    if reference.tokenizer() is None or other.tokenizer() is None:
        if reference.vocab_size == other.vocab_size:
            return None
        found = f"vocabularies of {reference.vocab_size:,} and {other.vocab_size:,} tokens"
    else:
        try:
            check_same_tokens((reference, other))
            return None
        except ConfigError as error:
            found = error.found
    return Refusal(
        f"not portable: tokens of {reference.id} and {other.id} cannot be aligned: {found}",
        is_result=True,
    )


def _native(variant: Variant) -> tuple[Checkpoint | None, str | None]:
    """The checkpoint trained on a variant, or why there is none."""
    if not variant.sae:
        return (
            None,
            "no checkpoint trained on the variant is named (sae = in its [[variant]] table)",
        )
    try:
        found = open_checkpoint(variant.sae)
    except SaebenchError as error:
        return None, f"the checkpoint trained on the variant cannot be read: {reason_of(error)}"
    if any(source.site is None for source in (*found.sae.cfg.reads, *found.sae.cfg.writes)):
        return (
            None,
            "the files of the checkpoint trained on the variant do not say which activation it reads",
        )
    if _reads_several(found.sae.cfg):
        return None, "the checkpoint trained on the variant reads activations of several models"
    return found, None
