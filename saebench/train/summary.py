"""One line about a trained SAE: what it reads, how sparse it is, how well it does on held-out tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from saebench.sae import Source
from saebench.train.outcome import fault
from saebench.train.recipe import Recipe

Row = Mapping[str, Any]


def summary(
    recipe: Recipe,
    provenance: Mapping[str, Any],
    last: Row,
    *,
    folder: str,
    d_sae: int,
    tokens_per_second: float,
) -> str:
    """The line; ``last`` is the last row of history, and hook points are as ``provenance`` names them."""
    final = provenance["final"]
    sources = [Source(**source) for source in provenance["sources"]]
    kind = "crosscoder" if recipe.is_crosscoder else "SAE"
    start = "" if recipe.k_start is None else f" (k_start {recipe.k_start})"
    parts = [
        f"{recipe.architecture}, k {recipe.k}{start}, {d_sae} latents",
        f"held-out FVE {_figure(final['fve'])}{_by_source(final, sources)}",
        f"L0 {final['l0']:.1f}",
        _dead(final["dead_share"], recipe.dead_window) + _warnings(last, provenance, d_sae),
        f"{tokens_per_second:,.0f} tokens/s",
    ]
    read = what_is_read(sources, 1 + len(recipe.others))
    return f"{folder}: {kind} of {read}, {', '.join(parts)}"


def what_is_read(sources: Sequence[Source], n_models: int) -> str:
    """The activations of an SAE in words; models have numbers where the run has several.

    ``model 1 − model 0 at blocks.1.hook_resid_post``, ``models 0 and 1 at …``, ``model 0 at … and …``.
    """
    sites = _listed(list(dict.fromkeys(str(source.site) for source in sources)))
    first = sources[0]
    if first.minus is not None:
        return f"model {first.model} − model {first.minus} at {sites}"
    models = list(dict.fromkeys(source.model for source in sources))
    if n_models == 1:
        return sites
    noun = "model" if len(models) == 1 else "models"
    return f"{noun} {_listed([str(number) for number in models])} at {sites}"


def _by_source(final: Row, sources: Sequence[Source]) -> str:
    """The FVE of each source of several, with its model, or its site where they are of one model."""
    if len(sources) == 1:
        return ""
    of_models = len({source.model for source in sources}) > 1
    names = [f"of model {s.model}" if of_models else f"at {s.site}" for s in sources]
    values = [_figure(final.get(f"fve_{number}")) for number in range(len(sources))]
    pairs = [f"{name} {value}" for name, value in zip(names, values, strict=True)]
    return f", FVE {', '.join(pairs)}"


def _dead(share: float | None, window: int) -> str:
    if share is None:
        return f"dead latents not known (fewer than {window:,} tokens)"
    return f"dead {100 * share:.1f} %"


def _warnings(last: Row, provenance: Mapping[str, Any], d_sae: int) -> str:
    """What makes the figures worth little, each in parentheses."""
    broken = fault(last)
    found = f" ({broken}: not usable)" if broken else ""
    samples = provenance["training_samples"]
    if samples < d_sae:
        found += f" (only {samples:,} different activations: figures on them say nothing)"
    return found


def _listed(names: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    *rest, last = names
    return f"{', '.join(rest)} and {last}" if rest else last


def _figure(fve: float | None) -> str:
    return "not evaluable" if fve is None else f"{fve:.4f}"
