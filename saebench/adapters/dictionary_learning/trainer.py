"""What a run of dictionary_learning says about itself: hook point, k, and how far it had come.

The trainer's settings lie under ``trainer`` of a config, those of the activation buffer under ``buffer``.
Activations are read from a module as it is called: ``io`` says from which end, ``out`` by default.
"""

from __future__ import annotations

import re
from typing import Any

from saebench.adapters.reading.fields import Fields
from saebench.adapters.reading.tensors import Tensors
from saebench.errors import CheckpointError, SiteError
from saebench.sae import Fact
from saebench.sites import parse_site

MAX_NAME = 200  # characters of a module's name that are looked at
ANNEALED = ("k_annealing_steps", "k_anneal_steps", "k_initial", "k_target")
_STEP = re.compile(r"(?:ae|checkpoint)_(\d+)\.(?:pt|safetensors)$")
_LAYER = re.compile(r"(?:^|[/_-])(?:layer[_-]?|L)(\d{1,3})(?=[/_.-]|$)")
_HOOKS = {
    ("resid", "out"): "hook_resid_post",
    ("resid", "in"): "hook_resid_pre",
    ("mlp", "out"): "mlp.hook_out",  # of the module, before any norm that follows it
    ("mlp", "in"): "mlp.hook_in",
    ("attn", "out"): "attn.hook_out",
}


def site_facts(fields: Fields) -> dict[str, Fact]:
    """The hook point read (``site``) and, of runs on inputs and outputs, the one predicted (``site_out``)."""
    io = fields.value("buffer.io") or "out"
    source = f"{fields.file}: trainer.layer, trainer.submodule_name and buffer.io"
    layer, submodule = _only(fields.value("trainer.layer")), fields.value("trainer.submodule_name")
    ends = {"site": "in", "site_out": "out"} if io == "in_and_out" else {"site": io}
    found = {name: hook_point(layer, _only(submodule), end) for name, end in ends.items()}
    if None in found.values():
        return {}
    return {name: Fact(site, source, "assumed") for name, site in found.items()}


def hook_point(layer: object, submodule: object = None, io: object = "out") -> str | None:
    """The hook point of a submodule of a layer; that of the layer itself unless one is named."""
    name = submodule[:MAX_NAME] if isinstance(submodule, str) else ""
    try:
        return parse_site(name).hook_name
    except SiteError:
        pass  # a label of the author's own, such as mlp_out_layer_3
    if not isinstance(layer, int) or isinstance(layer, bool) or layer < 0:
        return None
    if "resid_pre" in name.lower():
        io = "in"
    part = next((part for part in ("mlp", "attn", "resid") if part in name.lower()), "resid")
    hook = _HOOKS.get((part, str(io)))
    return None if hook is None else f"blocks.{layer}.{hook}"


def hinted_site(hint: str) -> Fact | None:
    """The output of the layer that the path names (``layer_13``, ``-L13-``); None where it names none."""
    found = list(_LAYER.finditer(hint))
    if not found or len({match[1] for match in found}) > 1:
        return None
    layer = int(found[-1][1])
    source = f"the path …{found[-1][0]}, of which the output is read"
    return Fact(f"blocks.{layer}.hook_resid_post", source, "assumed")


def settle_k(
    said: Fact | None, tensors: Tensors, fields: Fields, *, strict: bool = True
) -> tuple[Fact | None, list[str]]:
    """k by the config and the buffer stored; the buffer with a note where they differ for a reason.

    A run that lowers k step by step writes its config before the first step, and folders for the hub
    may keep a default of the class (not ``strict``). Raises :class:`CheckpointError` where they differ
    for no such reason.
    """
    if "k" not in tensors:
        return said, []
    value = tensors.scalar("k")
    if not 0 < value < 2**40 or value != int(value):
        raise CheckpointError(
            f"k of {tensors.file} (a positive integer)", f"{value:g}", "The file is damaged."
        )
    stored = Fact(int(value), f"{tensors.file}: k")
    if said is None:
        return stored, []
    if said.value == stored.value:
        return said, []
    if any(fields.value(f"trainer.{key}", key) is not None for key in ANNEALED):
        return stored, [f"{said.source} is {said.value}; training changed it to {stored.value}"]
    if not strict:
        return stored, [
            f"{said.source} is {said.value} and {stored.source} {stored.value}, used here"
        ]
    raise CheckpointError(
        f"k of {tensors.file} equal to {said.source} ({said.value})",
        str(stored.value),
        "Fetch the config that belongs to these weights.",
    )


def check_k(k: Fact | None, d_sae: int) -> None:
    """Raise :class:`CheckpointError` for a k above the number of latents."""
    if k is not None and k.value > d_sae:
        raise CheckpointError(
            f"{k.source} of at most d_sae = {d_sae}", str(k.value), "Correct the config."
        )


def step_of(name: str, fields: Fields) -> tuple[Fact | None, list[str]]:
    """The step of a checkpoint written while a run went on, by the name of its file, and a note."""
    match = _STEP.search(name)
    if match is None:
        return None, []
    step, steps = int(match[1]), fields.value("trainer.steps")
    of = f" of {steps:,}" if isinstance(steps, int) and steps > 0 else ""
    note = f"{name} was saved at step {step:,}{of} of its run: it is not the final dictionary"
    return Fact(step, f"the name {name}", "assumed"), [note]


def names_in(value: Any) -> tuple[Any, ...]:
    """The entries of a list, or the one value that there is."""
    return tuple(value) if isinstance(value, list) else (value,)


def _only(value: Any) -> Any:
    """The one entry of a list of one, the value itself, or None."""
    entries = names_in(value)
    return entries[0] if len(entries) == 1 else None
