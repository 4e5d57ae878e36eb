"""What the sources of a fork's crosscoder are: two models at one layer, or several layers of one model.

The tensors say how many sources there are. The trainer's config names layers, or one layer and both
models in one text; their order in the files is base first, then fine-tuned.
"""

from __future__ import annotations

from saebench.adapters.dictionary_learning.difference import run_fields
from saebench.adapters.dictionary_learning.files import CONFIG_FILE, config_of
from saebench.adapters.dictionary_learning.trainer import hinted_site, hook_point, names_in
from saebench.adapters.reading.choices import Choices
from saebench.adapters.reading.fields import Fields
from saebench.errors import CheckpointError
from saebench.files import CheckpointFiles
from saebench.sae import Fact

PAIR = 2


def config_fields(files: CheckpointFiles) -> list[Fields]:
    """``config.json`` (empty where there is none), then the files that say how the run was made."""
    return [config_of(files) or Fields(CONFIG_FILE, {}), *run_fields(files)]


def source_facts(
    files: CheckpointFiles, fields: list[Fields], choices: Choices, n_sources: int
) -> tuple[dict[str, Fact], list[str]]:
    """The hook points and models of the sources, with notes on what is not known.

    Raises :class:`CheckpointError` where neither files nor user say what the sources are.
    """
    sites = _sites(fields, n_sources)
    kind = _kind(fields, choices, sites, n_sources)
    if kind.value == "layers":
        sites = choices.names("sites") or sites
        if sites is None:
            raise CheckpointError(
                f"the {n_sources} hook points that the sources are",
                "they are not in the files",
                "Give --set sites=NAME,NAME,… in the order of the sources.",
            )
        facts = {"sources": kind, "sites": sites}
        model = _name(fields)
        return (facts if model is None else {**facts, "model": model}), []
    return _models(files, fields, kind, n_sources)


def _kind(fields: list[Fields], choices: Choices, sites: Fact | None, n_sources: int) -> Fact:
    given = choices.text("sources", ("models", "layers"))
    if given is not None:
        return given
    if sites is not None:
        return Fact("layers", sites.source)
    if choices.names("sites") is not None:
        return Fact("layers", "--set sites", "user")
    if models := _listed_models(fields, n_sources):
        return Fact("models", models.source)
    if n_sources == PAIR:
        source = "two sources, and no list of layers: the base model and the fine-tuned one"
        return Fact("models", source, "assumed")
    raise CheckpointError(
        f"what the {n_sources} sources are",
        "neither layers nor models are in the files",
        "Give --set sources=models, or --set sources=layers with --set sites=NAME,NAME,….",
    )


def _sites(fields: list[Fields], n_sources: int) -> Fact | None:
    """The hook points of a list of layers as long as there are sources; None without one."""
    for run in fields:
        layers = names_in(run.value("trainer.layer", "layer"))
        modules = names_in(run.value("trainer.submodule_name"))
        if len(layers) != n_sources or n_sources == 1:
            continue
        modules = modules if len(modules) == n_sources else modules[:1] * n_sources
        sites = tuple(map(hook_point, layers, modules))
        if None not in sites and len(set(sites)) == n_sources:
            source = f"{run.file}: trainer.layer, of which the outputs are read"
            return Fact(sites, source, "assumed")
    return None


def _name(fields: list[Fields]) -> Fact | None:
    """The one text in which the trainer names what it was run on."""
    return next(
        (
            Fact(name, f"{run.file}: trainer.lm_name")
            for run in fields
            if isinstance(name := run.value("trainer.lm_name"), str)
        ),
        None,
    )


def _listed_models(fields: list[Fields], n_sources: int) -> Fact | None:
    """As many models as there are sources, where a config lists them; None where none does."""
    for run in fields:
        listed = names_in(run.value("trainer.lm_name"))
        if len(listed) == n_sources > 1 and all(isinstance(name, str) for name in listed):
            return Fact(listed, f"{run.file}: trainer.lm_name")
    return None


def _models(
    files: CheckpointFiles, fields: list[Fields], kind: Fact, n_sources: int
) -> tuple[dict[str, Fact], list[str]]:
    facts, notes = {"sources": kind}, []
    site = next(filter(None, map(_site, fields)), None) or hinted_site(files.hint)
    if site is None:
        notes.append("neither files nor path say which layer it was trained on: give --set site=…")
    else:
        facts["site"] = site
    if models := _listed_models(fields, n_sources):
        return {**facts, "models": models}, notes
    name = _name(fields)
    if name is not None:
        facts["lm_name"] = name  # both ids joined by a hyphen, which ids contain as well
    order = "base, then fine-tuned; " if n_sources == PAIR else ""
    notes.append(f"the files do not list the models of the sources ({order}give --set models=A,B)")
    return facts, notes


def _site(run: Fields) -> Fact | None:
    """The output of the one layer that a config names."""
    for key in ("trainer.layer", "layer"):
        layers, module = names_in(run.value(key)), run.value("trainer.submodule_name")
        sites = {hook_point(layer, module) for layer in layers}
        if len(sites) == 1 and (site := sites.pop()) is not None:
            return Fact(site, f"{run.file}: {key}, of which the output is read", "assumed")
    return None
