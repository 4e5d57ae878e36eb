"""What a checkpoint is: every fact about it, and what each fact was read from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from saebench.errors import CheckpointError

How = Literal["file", "user", "assumed"]
Difference = Literal["1-0", "0-1"]


@dataclass(frozen=True)
class Fact:
    """One thing known about a checkpoint, and what it was read from.

    ``how`` is ``file`` (a config key or a tensor), ``user`` (an option) or ``assumed`` (neither:
    the format's documented default, or a hint such as a folder's name).
    """

    value: Any
    source: str
    how: How = "file"


class Source(NamedTuple):
    """One activation that is read or written: a hook point of one of the models of a run.

    ``model`` counts the models in the order given; ``minus`` is the model whose activation at the
    same hook point is subtracted (of a difference SAE), or None. ``centred`` asks for the mean over
    dimensions to be taken out of each token, where the model itself does not see that mean.
    """

    site: str | None
    model: int = 0
    minus: int | None = None
    centred: bool = False


@dataclass(frozen=True)
class SAEConfig:
    """What a checkpoint is. ``facts`` says for each field where the value was read.

    ``d_in``, ``d_out`` are widths of one activation read and written, ``d_sae`` the number of
    latents (of all layers together in a cross-layer transcoder), ``k`` the number of active latents
    per token asked for in training (None where there is none), ``dtype`` the precision the file
    stores. ``site``/``site_out`` are hook points as the files name them; what reads several layers of
    one model has ``sites``/``sites_out`` instead, one name each. ``n_sources``, ``n_targets`` count
    the activations read and written side by side: several models, unless ``sites`` are named.
    ``models`` are the models the files name, in the order of the sources. ``difference`` is
    ``"1-0"`` where model 1 minus model 0 is read, as a difference SAE does. ``centred`` is true where
    the activations came from a model whose weights TransformerLens had centred, so that what is
    written to the residual stream has mean zero over dimensions. ``normalization`` names
    what is done to the input, and ``undo_normalization`` is whether decoding undoes it (a
    transcoder's output is at another site, so its decoder does not).
    """

    architecture: str
    d_in: int
    d_sae: int
    d_out: int
    k: int | None = None
    site: str | None = None
    site_out: str | None = None
    sites: tuple[str, ...] = ()
    sites_out: tuple[str, ...] = ()
    n_sources: int = 1
    n_targets: int = 1
    model: str | None = None
    models: tuple[str, ...] = ()
    difference: Difference | None = None
    centred: bool = False
    dtype: str = "float32"
    normalization: str = "none"
    undo_normalization: bool = True
    format: str = ""
    facts: Mapping[str, Fact] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise :class:`CheckpointError` for a size of zero, which tensors without values would give."""
        for name in ("d_in", "d_sae", "d_out", "n_sources", "n_targets"):
            if getattr(self, name) < 1:
                source = self.facts[name].source if name in self.facts else "the files"
                raise CheckpointError(
                    f"{name} of at least 1 ({source})",
                    str(getattr(self, name)),
                    "The weights are incomplete; fetch them again.",
                )

    @property
    def width_in(self) -> int:
        """The width of everything read side by side: ``n_sources · d_in``."""
        return self.n_sources * self.d_in

    @property
    def width_out(self) -> int:
        """The width of everything written side by side: ``n_targets · d_out``."""
        return self.n_targets * self.d_out

    @property
    def reads(self) -> tuple[Source, ...]:
        """The activations read, in order."""
        return self._sources(self.site, self.sites, self.n_sources)

    @property
    def writes(self) -> tuple[Source, ...]:
        """The activations written, in order: those read, unless other sites are named."""
        site = self.site_out or self.site
        return self._sources(site, self.sites_out or self.sites, self.n_targets)

    @property
    def is_transcoder(self) -> bool:
        """Whether what is written differs from what is read."""
        return self.reads != self.writes

    @property
    def n_models(self) -> int:
        """How many language models its activations come from."""
        return 1 + max(max(source.model, source.minus or 0) for source in self.reads)

    def describe(self, sources: tuple[Source, ...]) -> list[str]:
        """Activations in words: ``blocks.3.hook_resid_post``, with the model where there are several."""

        def name(model: int) -> str:
            return self.models[model] if model < len(self.models) else f"model {model}"

        if self.n_models == 1:
            return [str(source.site) for source in sources]
        minus = ["" if s.minus is None else f" − {name(s.minus)}" for s in sources]
        return [f"{s.site} of {name(s.model)}{m}" for s, m in zip(sources, minus, strict=True)]

    def _sources(self, site: str | None, sites: tuple[str, ...], count: int) -> tuple[Source, ...]:
        if self.difference is not None:
            model, minus = map(int, self.difference.split("-"))
            return (Source(site, model, minus, self.centred),)
        if sites:
            return tuple(Source(name, centred=self.centred) for name in sites)
        return tuple(Source(site, model, None, self.centred) for model in range(count))
