"""Steer a model while it runs: every forward goes on from a changed activation at one site.

Plain hooks on the module that holds the site, so that it works in any forward of the model: whole texts
at once, or token after token with a cache of keys and values. A model must not be used from two threads
at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from saebench.models.blocks import first_tensor
from saebench.models.language_model import LanguageModel
from saebench.protocols import Where
from saebench.sites import Site

Change = Callable[[Tensor], Tensor]
"""From the activation ``[b, t, width]`` at a site to what takes its place, of the same shape and dtype.

Returning the very tensor that was given changes nothing, to the bit.
"""


@contextmanager
def steered(
    model: LanguageModel, site: Site | str, change: Change, *, positions: Where = "all"
) -> Iterator[None]:
    """Within it, every forward of ``model`` goes on from ``change(activation)`` at ``site``.

    One context is one loop of generation: the first forward in it reads the prompts, those after it the
    completions, one token at a time. ``positions`` says which of the two are changed. For whole texts in
    one forward, restrict the change itself (see :func:`at_positions`).

    Raises
    ------
    SiteError : the model has no such activation.
    """
    key = model.site(site)
    change = _only(change, positions)
    handles = _hooks(model, key, change)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def at_positions(change: Change, where: Tensor) -> Change:
    """The change at the tokens where ``where[b, t]`` (bool) holds, and nowhere else."""

    def change_some(activation: Tensor) -> Tensor:
        changed = change(activation)
        if changed is activation:
            return activation
        return torch.where(where.to(activation.device)[..., None], changed, activation)

    return change_some


def _only(change: Change, positions: Where) -> Change:
    """The change in the first call alone (prompts), in all later ones (completions), or in every one."""
    if positions == "all":
        return change
    calls = 0

    def change_some(activation: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return change(activation) if (calls == 1) == (positions == "prompt") else activation

    return change_some


def _hooks(model: LanguageModel, site: Site, change: Change) -> list[Any]:
    block = model.blocks[site.layer]
    if site.kind == "resid_mid":
        return _in_the_middle(model, site, change)
    port = block.ports[site.kind]
    return [_on_input(port.module, change) if port.end == "in" else _on_output(port.module, change)]


def _in_the_middle(model: LanguageModel, site: Site, change: Change) -> list[Any]:
    """``resid_mid`` is read by a norm and added to by the MLP: the attention adds what is missing."""
    block = model.blocks[site.layer]
    added = block.ports["attn_out"]
    read: list[Tensor] = []

    def note(activation: Tensor) -> Tensor:
        read[:] = [activation]
        return activation

    def shift(output: Tensor) -> Tensor:
        middle = read[0] + output
        changed = change(middle)
        return output if changed is middle else output + (changed - middle)

    return [_on_input(block.module, note), _on_output(added.module, shift)]


def _on_input(module: nn.Module, change: Change) -> Any:
    def hook(module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict] | None:
        hidden = first_tensor(args, kwargs)
        assert hidden is not None  # the trace saw a tensor there
        changed = change(hidden)
        if changed is hidden:
            return None
        return (
            ((changed, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": changed})
        )

    return module.register_forward_pre_hook(hook, with_kwargs=True)


def _on_output(module: nn.Module, change: Change) -> Any:
    def hook(module: nn.Module, args: tuple, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        changed = change(hidden)
        if changed is hidden:
            return None
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    return module.register_forward_hook(hook)
