"""What a Gemma Scope 2 checkpoint reads, writes and was trained on: its config.json, else its path."""

from __future__ import annotations

import re
from typing import Any

from saebench.adapters.gemma_scope.scope_1 import telling_part
from saebench.adapters.reading.fields import Fields
from saebench.errors import CheckpointError
from saebench.sae import Fact

CONFIG_FILE = "config.json"
MULTI_LAYER = ("crosscoder", "clt")

# For each folder of the release what is read and, where that differs, what is written.
HOOKS = {
    "resid_post": ("model.layers.{}.output", None),
    "attn_out": ("model.layers.{}.self_attn.o_proj.input", None),
    "mlp_out": ("model.layers.{}.post_feedforward_layernorm.output", None),
    "transcoder": (
        "model.layers.{}.pre_feedforward_layernorm.output",
        "model.layers.{}.post_feedforward_layernorm.output",
    ),
}
HOOKS |= {"crosscoder": HOOKS["resid_post"], "clt": HOOKS["transcoder"]}

_KIND = re.compile(rf"(?:^|/)({'|'.join(HOOKS)})(?:_all)?(?=/|$)")
_LAYERS = re.compile(r"(?:^|/)layer_(\d+(?:_\d+)*)(?=_|/|$)")
_REPOSITORY = re.compile(r"gemma-scope-2-(?P<size>270m|1b|4b|12b|27b)-(?P<kind>pt|it)")
_HOOK = re.compile(r"(?P<module>.*)\.(?P<end>input|output)")
_LAYER_OF_HOOK = re.compile(r"(?<=layers\.)\d+")


def config_of(names: tuple[str, ...]) -> tuple[str, ...]:
    """The config where there is one: the first releases have none."""
    return tuple(name for name in names if name == CONFIG_FILE)


def places(fields: Fields | None, hint: str, n_layers: int | None) -> dict[str, Fact | None]:
    """Facts ``model`` and ``site``, ``site_out``; of several layers ``sites``, ``sites_out``."""
    facts: dict[str, Fact | None] = {"model": _model(fields, hint)}
    if n_layers is None:
        ends = _ends(fields, hint, None)
        names = ("site", "site_out")
    else:
        ends = _ends(fields, hint, n_layers)
        names = ("sites", "sites_out")
    for name, fact in zip(names, ends, strict=True):
        if fact is not None and not (name.endswith("_out") and _same(fact, ends[0])):
            facts[name] = fact
    return facts


def check_affine(fields: Fields | None, stored: bool, file: str) -> None:
    """Raise :class:`CheckpointError` where the config and the tensors disagree about the skip."""
    if fields is None or "affine_connection" not in fields:
        return
    said = fields.flag("affine_connection", default=False)
    if said.value != stored:
        raise CheckpointError(
            f"affine_skip_connection in {file}" if said.value else f"{said.source} true",
            "no such tensor" if said.value else f"false, but {file} has affine_skip_connection",
            "Fetch the config that belongs to these weights.",
        )


def _same(fact: Fact, other: Fact | None) -> bool:
    return other is not None and fact.value == other.value


def _ends(
    fields: Fields | None, hint: str, n_layers: int | None
) -> tuple[Fact | None, Fact | None]:
    """What is read and what is written."""
    reads = _end(fields, "hf_hook_point_in", hint, n_layers, 0)
    writes = _end(fields, "hf_hook_point_out", hint, n_layers, 1)
    return reads, writes


def _end(
    fields: Fields | None, key: str, hint: str, n_layers: int | None, which: int
) -> Fact | None:
    """One end as the config has it, or else as the kind of folder in the path tells."""
    value = None if fields is None else fields.value(key)
    source = f"{CONFIG_FILE}: {key}"
    if isinstance(value, list):
        return _listed(value, source, n_layers)
    if value is not None and not isinstance(value, str):
        raise CheckpointError(f"{source} (a hook point)", repr(value)[:200], "Correct the config.")
    if value is not None and n_layers is None:
        return Fact(_site(value), source)
    if value is not None and not _LAYER_OF_HOOK.search(value):
        value = None  # a pattern for all layers: the kind of dictionary says the same
    kind, layers = _kind(fields, hint), _layers(fields, hint, n_layers)
    template = value if value is not None or kind is None else HOOKS[kind][which]
    if template is None or layers is None:
        return None
    names = tuple(_site(_LAYER_OF_HOOK.sub(str(n), template.replace("{}", str(n)))) for n in layers)
    where = f"{source} and {telling_part(hint)}" if value else telling_part(hint)
    return Fact(names[0] if n_layers is None else names, where, "assumed")


def _listed(values: list[Any], source: str, n_layers: int | None) -> Fact:
    """Hook points written out, one for each layer."""
    expected = 1 if n_layers is None else n_layers
    if len(values) != expected or not all(isinstance(value, str) for value in values):
        raise CheckpointError(
            f"{source}: {expected} hook points, one for each layer",
            repr(values)[:200],
            "Fetch the config that belongs to these weights.",
        )
    names = tuple(map(_site, values))
    return Fact(names[0] if n_layers is None else names, source)


def _kind(fields: Fields | None, hint: str) -> str | None:
    """The kind of dictionary: ``type`` of the config where it is one, else the folder's."""
    said = None if fields is None else fields.value("type")
    if isinstance(said, str) and said in HOOKS:
        return said
    found = _KIND.search(hint)
    return None if found is None else found[1]


def _layers(fields: Fields | None, hint: str, n_layers: int | None) -> tuple[int, ...] | None:
    """The layers that the path names; those of a cross-layer transcoder are all of the model's."""
    found = _LAYERS.search(hint)
    numbers = None if found is None else tuple(map(int, found[1].split("_")))
    expected = 1 if n_layers is None else n_layers
    if numbers is not None and len(numbers) == expected:
        return numbers
    return tuple(range(expected)) if _kind(fields, hint) == "clt" and n_layers else None


def _site(hook: str) -> str:
    """``model.layers.7.mlp:in`` for the ``model.layers.7.mlp.input`` of a config."""
    match = _HOOK.fullmatch(hook)
    if match is None:
        return hook
    return f"{match['module']}:{'in' if match['end'] == 'input' else 'out'}"


def _model(fields: Fields | None, hint: str) -> Fact | None:
    """The model's name on the hub: configs write some of them in another way."""
    said = None if fields is None else fields.text("model_name")
    if said is not None:
        name = _hub_name(said.value)
        if name == said.value:
            return said
        return Fact(name, f"{said.source} {said.value!r}", "assumed")
    found = _REPOSITORY.search(hint)
    if found is None:
        return None
    name = _hub_name(f"gemma-3-{found['size']}-{found['kind']}")
    return Fact(name, telling_part(hint), "assumed")


def _hub_name(name: str) -> str:
    name = name.replace("gemma-v3", "gemma-3")
    name = name.removesuffix("-pt") if "270m" in name else name  # the smallest has no suffix there
    return name if "/" in name else f"google/{name}"
