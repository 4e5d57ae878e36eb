"""Which activations a run reads, of which models, and where each SAE finds its own among them.

Per batch every model runs once, up to the last site that any SAE wants of it. The activations of a token
lie side by side in one row, each once, however many SAEs read it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from saebench.errors import ConfigError, ModelError, SiteError
from saebench.models import LanguageModel, locate
from saebench.models.tokens import check_same_depth, check_same_vocabulary
from saebench.sae import Source
from saebench.sites import Site, parse_site
from saebench.train.columns import Columns
from saebench.train.recipe import Recipe

Wanted = tuple[int, Site]  # of which model, and where


@dataclass(frozen=True)
class Rows:
    """The activations of a row in order, and the columns of each recipe; ``width`` of one activation."""

    wanted: tuple[Wanted, ...]
    columns: tuple[Columns, ...]
    widths: tuple[int, ...]


def open_models(
    recipe: Recipe, model: LanguageModel | None, others: Sequence[LanguageModel] | None
) -> list[LanguageModel]:
    """Model 0 and the others, those that were not given read from where the recipe names them.

    Raises :class:`ConfigError` when their tokenizers differ, before any weight is read of those that
    have to be, or when not as many are given as the recipe names.
    """
    given = [model, *(others if others is not None else [None] * len(recipe.others))]
    if len(given) != 1 + len(recipe.others):
        raise ConfigError(
            f"the {len(recipe.others)} other models of the recipe",
            f"{len(given) - 1} given",
            "Give others in the order in which the recipe names them.",
        )
    names = (recipe.model, *recipe.others)
    revisions = (recipe.revision, *(recipe.other_revisions or ("",) * len(recipe.others)))
    found = [
        locate(name, revision=revision or None) if one is None else one
        for one, name, revision in zip(given, names, revisions, strict=True)
    ]
    if len(found) > 1:
        tokenizers = [
            (one.id, one.tokenizer if isinstance(one, LanguageModel) else one.tokenizer())
            for one in found
        ]
        _check_tokens(tokenizers)
        check_same_depth([(one.id, one.n_layers) for one in found])
    return [
        one
        if isinstance(one, LanguageModel)
        else LanguageModel.open(one, precision=recipe.model_precision, device=recipe.device)
        for one in found
    ]


def _check_tokens(tokenizers: Sequence[tuple[str, object]]) -> None:
    for name, tokenizer in tokenizers:
        if tokenizer is None:
            raise ModelError(
                f"the tokenizer of model {name!r}, to see that all models read the same tokens",
                "it comes without one",
                "Put the tokenizer files that it was trained with into its folder.",
            )
    check_same_vocabulary(tokenizers)


def named(recipes: Sequence[Recipe], models: Sequence[LanguageModel]) -> list[Recipe]:
    """The recipes with hook points as checkpoints name them: ``blocks.2.hook_resid_post``."""

    def name(site: str, recipe: Recipe) -> str:
        model = models[recipe.sources[0].model]
        return parse_site(site, n_layers=model.n_layers).hook_name if site else ""

    return [
        replace(
            recipe,
            site=name(recipe.site, recipe),
            sites=tuple(name(site, recipe) for site in recipe.sites),
        )
        for recipe in recipes
    ]


def rows_of(recipes: Sequence[Recipe], models: Sequence[LanguageModel]) -> Rows:
    """Where the activations of the recipes lie in a row.

    Raises :class:`SiteError` where a model lacks a site, and :class:`ModelError` where activations that
    are subtracted or stand side by side have different widths.
    """
    places: dict[Wanted, tuple[int, int]] = {}
    columns, widths = [], []
    for recipe in recipes:
        parts, found = [], []
        for source in recipe.sources:
            spans = [
                None if number is None else _place(places, models, source, number)
                for number in (source.model, source.minus)
            ]
            assert spans[0] is not None
            parts.append((spans[0], spans[1]))
            numbers = (source.model,) if source.minus is None else (source.model, source.minus)
            found += [
                (source.site, models[n].id, models[n].width_at(str(source.site))) for n in numbers
            ]
        _check_widths(recipe, found)
        columns.append(Columns.joined(parts))
        widths.append(found[0][2])
    return Rows(tuple(places), tuple(columns), tuple(widths))


def _place(
    places: dict[Wanted, tuple[int, int]],
    models: Sequence[LanguageModel],
    source: Source,
    number: int,
) -> tuple[int, int]:
    """The columns of an activation, which are new ones where nobody asked for it before."""
    model = models[number]
    try:
        site = model.site(str(source.site))
    except SiteError as error:
        raise SiteError(
            f"{source.site} of model {number} ({model.id})", error.found, error.next_step
        ) from error
    if (number, site) not in places:
        start = max((stop for _, stop in places.values()), default=0)
        places[number, site] = (start, start + model.width_at(site))
    return places[number, site]


def _check_widths(recipe: Recipe, found: Sequence[tuple[str | None, str, int]]) -> None:
    if len({width for _, _, width in found}) > 1:
        listed = ", ".join(f"{width} at {site} of {name}" for site, name, width in found)
        raise ModelError(
            f'activations of one width for reads = "{recipe.reads}"',
            listed,
            "Read sites of one width, of models that are variants of one another.",
        )
