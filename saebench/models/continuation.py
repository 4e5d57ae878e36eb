"""Stop a forward pass at a site, and go on from it with another activation put in.

A continuation calls the model's own forward, so that its masks, its rotary embeddings and whatever
else it hands to its blocks are its own; the blocks before the site are replaced by a function which
returns what it was given, and the modules before the site in the site's own block by one which
returns what they returned before. Replacing is done on the module's instance and undone afterwards:
a model must not be used from two threads at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from saebench.errors import SiteError
from saebench.models.blocks import Block, first_tensor
from saebench.sites import Kind, Site

Rows = slice | Tensor
Forward = Callable[..., Any]

_BEFORE_ATTENTION: tuple[Kind, ...] = ("attn_z", "attn_module_out", "attn_out")
_AFTER_ATTENTION: tuple[Kind, ...] = ("mlp_in", "mlp_module_out", "mlp_out")
_SHARED = "shared_kv_states"  # Gemma 4 hands keys and values of early blocks to late ones in it


class _ReachedLastSiteError(BaseException):
    """Ends a prefix; no Exception, so that no handler in the model's own code can swallow it."""


@dataclass(frozen=True)
class Prefix:
    """A forward pass that stopped at its last site: activations by site, and what resuming needs.

    ``ids[b, t]`` and ``attention_mask[b, t]`` (or None) are the input. :meth:`at` gives the
    activations asked for.
    """

    ids: Tensor
    attention_mask: Tensor | None
    sites: tuple[Site, ...]
    activations: Mapping[Site, Tensor]
    resolve: Callable[[Site | str], Site] = field(repr=False)
    shared: Mapping[Any, tuple[Tensor, ...]] = field(default_factory=dict, repr=False)

    def at(self, site: Site | str) -> Tensor:
        """The activation ``[b, t, width]`` at a site that the prefix was asked for.

        Raises
        ------
        SiteError : the prefix was not asked for this site.
        """
        canonical = self.resolve(site)
        if canonical not in self.sites:
            raise SiteError(
                f"activation at {site}",
                f"this prefix holds {', '.join(map(str, self.sites))}",
                "Name the site when calling prefix()",
            )
        return self.activations[canonical]

    def rows(self, rows: Rows) -> Prefix:
        """The same prefix of some of the sequences; a slice copies nothing."""
        return replace(
            self,
            ids=self.ids[rows],
            attention_mask=None if self.attention_mask is None else self.attention_mask[rows],
            activations={site: value[rows] for site, value in self.activations.items()},
            shared={key: tuple(v[rows] for v in values) for key, values in self.shared.items()},
        )

    @property
    def is_unpadded(self) -> bool:
        """Whether every position of every sequence is a token."""
        return self.attention_mask is None or bool(self.attention_mask.all())


def port_key(blocks: Sequence[Block], site: Site) -> Site:
    """The first of the names that this model has for the activation at ``site``.

    Raises
    ------
    SiteError : the model has no such block, or the block no such activation.
    """
    if site.layer >= len(blocks):
        raise SiteError(
            f"site {site}",
            f"the model has {len(blocks)} layers, 0 to {len(blocks) - 1}",
            f"The last is {Site(len(blocks) - 1, site.kind)}",
        )
    block = blocks[site.layer]
    if site.kind not in block.ports:
        has = ", ".join(Site(site.layer, kind).hook_name for kind in block.ports)
        raise SiteError(f"site {site}", block.missing[site.kind], f"This block has {has}")
    same: dict[Kind, Kind] = {"mlp_normalized": "mlp_in"}
    if block.attention and not block.attention.norm_after:
        same["attn_module_out"] = "attn_out"
    if block.mlp and not block.mlp.norm_after:
        same["mlp_module_out"] = "mlp_out"
    return Site(site.layer, same.get(site.kind, site.kind)).canonical


def capture(
    blocks: Sequence[Block], sites: Iterable[Site], forward: Callable[[], object]
) -> tuple[dict[Site, Tensor], dict[Any, tuple[Tensor, ...]]]:
    """Run ``forward`` until every activation at (canonical) ``sites`` is there, and stop it.

    Returns the activations, those included which only resuming needs, and the keys and values that
    early blocks hand to late ones, in models that do so.
    """
    needed = {other for site in sites for other in (site, *_needs(site))}
    found: dict[Site, Tensor] = {}
    shared: dict[Any, tuple[Tensor, ...]] = {}
    handed_on: list[Any] = []

    def note(site: Site, tensor: Tensor) -> None:
        found[site] = tensor
        if len(found) == len(needed):
            raise _ReachedLastSiteError

    def look_for_shared(module: nn.Module, args: tuple, kwargs: dict) -> None:
        handed_on.append(kwargs.get(_SHARED))

    handles = [blocks[0].module.register_forward_pre_hook(look_for_shared, with_kwargs=True)]
    try:
        for site in needed:
            handles.append(_listen(blocks, site, note))
        forward()
    except _ReachedLastSiteError:
        pass
    finally:
        for handle in handles:
            handle.remove()
    if handed_on and handed_on[0] is not None:
        shared = dict(handed_on[0].items())
    return found, shared


def _needs(site: Site) -> tuple[Site, ...]:
    """The other activations that resuming at a site takes."""
    block_input = Site(site.layer, "resid_pre").canonical
    if site.kind in _BEFORE_ATTENTION:
        return (block_input,)
    if site.kind in _AFTER_ATTENTION:
        return (block_input, Site(site.layer, "attn_out"))
    return ()


def _listen(blocks: Sequence[Block], site: Site, note: Callable[[Site, Tensor], None]) -> Any:
    port = blocks[site.layer].ports[site.kind]

    def on_input(module: nn.Module, args: tuple, kwargs: dict) -> None:
        tensor = first_tensor(args, kwargs)
        assert tensor is not None  # the trace saw a tensor there
        note(site, tensor)

    def on_output(module: nn.Module, args: tuple, output: Any) -> None:
        note(site, output[0] if isinstance(output, tuple) else output)

    if port.end == "in":
        return port.module.register_forward_pre_hook(on_input, with_kwargs=True)
    return port.module.register_forward_hook(on_output)


def resumed(
    blocks: Sequence[Block], prefix: Prefix, site: Site, replacement: Tensor
) -> dict[nn.Module, Forward]:
    """The forwards to put in place of modules' own, so that a forward continues from the site.

    ``site`` is canonical; ``replacement[b, t, width]`` is what its activation becomes.
    """
    block = blocks[site.layer]
    forwards = {earlier.module: _skip(earlier) for earlier in blocks[: site.layer]}
    if site.kind == "resid_post":
        forwards[block.module] = _returning(block.returns.wrap(replacement))
    elif site.kind in ("resid_pre", "resid_mid"):
        forwards[block.module] = _reading(block.module, replacement)
    else:
        block_input = Site(site.layer, "resid_pre").canonical
        forwards[block.module] = _reading(block.module, prefix.activations[block_input])
    forwards |= _inside(block, site, replacement)
    if site.kind in _AFTER_ATTENTION:
        forwards |= _attention(block, prefix.activations[Site(site.layer, "attn_out")])
    if prefix.shared:
        first = blocks[0].module
        forwards[first] = _sharing(forwards[first], prefix.shared)
    return forwards


def _inside(block: Block, site: Site, replacement: Tensor) -> dict[nn.Module, Forward]:
    """The forwards of the modules in the site's own block that put the replacement in."""
    if site.kind == "resid_mid":
        # The block adds its input and its attention's output: the replacement, and nothing.
        return _attention(block, torch.zeros_like(replacement))
    if site.kind == "attn_z":
        assert block.attention
        assert block.out_projection
        output = block.out_projection(replacement)
        return {block.attention.module: _returning(block.attention.returns.wrap(output))}
    if site.kind == "attn_module_out":
        assert block.attention
        return {block.attention.module: _returning(block.attention.returns.wrap(replacement))}
    if site.kind == "attn_out":
        return _attention(block, replacement)
    if site.kind == "mlp_in":
        assert block.mlp
        return {block.mlp.module: _reading(block.mlp.module, replacement)}
    if site.kind in ("mlp_module_out", "mlp_out"):
        assert block.mlp
        forwards = {block.mlp.module: _returning(block.mlp.returns.wrap(replacement))}
        if site.kind == "mlp_out" and block.mlp.norm_after:
            forwards[block.mlp.norm_after] = _returning(replacement)
        return forwards
    return {}


def _attention(block: Block, output: Tensor) -> dict[nn.Module, Forward]:
    """Forwards with which ``output[b, t, d]`` is what the attention adds to the residual stream."""
    assert block.attention
    forwards = {block.attention.module: _returning(block.attention.returns.wrap(output))}
    if block.attention.norm_after:
        forwards[block.attention.norm_after] = _returning(output)
    return forwards


def _returning(value: Any) -> Forward:
    return lambda *args, **kwargs: value


def _reading(module: nn.Module, value: Tensor) -> Forward:
    """The module's own forward, reading ``value`` in place of the hidden state it is given."""
    forward = module.forward

    def read(*args: Any, **kwargs: Any) -> Any:
        if args:
            return forward(value, *args[1:], **kwargs)
        return forward(**{**kwargs, "hidden_states": value})

    return read


def _skip(block: Block) -> Forward:
    return lambda *args, **kwargs: block.returns.wrap(first_tensor(args, kwargs))  # type: ignore[arg-type]


def _sharing(forward: Forward, shared: Mapping[Any, tuple[Tensor, ...]]) -> Forward:
    """The first block's forward, handing on the keys and values of blocks that will not run.

    Those of blocks after the site come along and are overwritten when these blocks run.
    """

    def hand_on(*args: Any, **kwargs: Any) -> Any:
        kwargs[_SHARED].update(shared)
        return forward(*args, **kwargs)

    return hand_on


@contextmanager
def replaced(forwards: Mapping[nn.Module, Forward]) -> Iterator[None]:
    """Use these forwards in place of the modules' own, until the block ends, however it ends."""
    own: dict[nn.Module, Forward | None] = {
        module: module.__dict__.get("forward") for module in forwards
    }
    try:
        for module, forward in forwards.items():
            module.forward = forward
        yield
    finally:
        for module, previous in own.items():
            if previous is None:
                module.__dict__.pop("forward", None)
            else:  # accelerate keeps its own on the instance
                module.forward = previous
