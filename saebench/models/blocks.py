"""Where the sites are in a model's decoder blocks, found by watching one small forward pass.

Names alone do not say it: ``post_attention_layernorm`` stands after the attention in Gemma 2 and
before the MLP in Llama, and a block may add its attention and its MLP one after the other or side
by side. So a few tokens go through the model, every module in a block notes what it read and wrote,
and the structure is what the tensors show: the norm that reads the attention's output, the module
that reads input plus attention output, and so on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from saebench.errors import ModelError
from saebench.precision import Precision
from saebench.sites import ATTENTION, HOOKS, MLP, OUT_PROJECTION, Kind

End = Literal["in", "out"]
_NORM_AFTER_MLP = "post_feedforward_layernorm"
_PASS_THROUGH = (nn.Dropout, nn.Identity)


@dataclass(frozen=True)
class Port:
    """The input or output of a module, and how many values wide it is."""

    module: nn.Module
    end: End
    width: int


@dataclass(frozen=True)
class Returns:
    """What a module's forward returns: a tensor alone, or a tuple with the tensor first."""

    length: int | None = None

    def wrap(self, tensor: Tensor) -> Any:
        """The tensor as the module would return it; nothing else that it returns is kept."""
        return tensor if self.length is None else (tensor, *[None] * (self.length - 1))


@dataclass(frozen=True)
class Part:
    """The attention or the MLP of a block, with the norm between it and the residual stream."""

    module: nn.Module
    returns: Returns
    norm_after: nn.Module | None = None


@dataclass(frozen=True)
class Block:
    """One decoder block: its modules, and the port of every kind of site that it has."""

    path: str
    module: nn.Module
    returns: Returns
    ports: Mapping[Kind, Port]
    attention: Part | None = None
    out_projection: nn.Module | None = None
    mlp: Part | None = None
    missing: Mapping[Kind, str] = field(default_factory=dict)


@dataclass
class _Call:
    """One call of a module: what its first tensors, in and out, held when it returned."""

    name: str
    module: nn.Module
    tensors: tuple[Tensor, Tensor]
    read: Tensor
    wrote: Tensor
    returns: Returns
    n_read: int

    @property
    def overwritten(self) -> tuple[bool, bool]:
        """Whether a later module has worked in place on what this one read, on what it wrote."""
        read, wrote = self.tensors
        return not torch.equal(read, self.read), not torch.equal(wrote, self.wrote)


def find_blocks(decoder: nn.Module, n_layers: int) -> dict[str, nn.Module]:
    """The decoder blocks by their path in ``decoder``: the outermost list with ``n_layers`` entries.

    Raises
    ------
    ModelError : there is no such list.
    """
    lists = {
        name: module
        for name, module in decoder.named_modules()
        if isinstance(module, nn.ModuleList)
    }
    fitting = [name for name, module in lists.items() if len(module) == n_layers]
    if not fitting:
        seen = ", ".join(f"{name} ({len(module)})" for name, module in lists.items())
        raise ModelError(
            f"decoder blocks of {type(decoder).__name__}",
            f"its config says {n_layers} layers and no module list has that many entries; "
            f"lists searched: {seen or 'there are none'}",
            "This architecture is not supported: decoder-only transformers models with one list of "
            "blocks are",
        )
    name = min(fitting, key=lambda path: path.count("."))
    return {f"{name}.{index}": block for index, block in enumerate(lists[name])}


def trace_blocks(
    blocks: Mapping[str, nn.Module], forward: Callable[[], object], precision: Precision
) -> list[Block]:
    """Watch one call of ``forward`` and say where the sites of each block are.

    Raises
    ------
    ModelError : activations are not finite in this ``precision``, or the blocks do not run once each,
        in order, on one ``[batch, token, width]`` stream.
    """
    calls: dict[str, list[_Call]] = {path: [] for path in blocks}
    outer: list[tuple[str, _Call]] = []
    handles = []
    for path, block in blocks.items():
        handles.append(_watch(block, path, lambda call: outer.append((call.name, call))))
        for name, module in _parts(block):
            handles.append(_watch(module, name, calls[path].append))
    try:
        forward()
    finally:
        for handle in handles:
            handle.remove()
    _check_finite(outer, precision)
    _check_stream(list(blocks), outer)
    return [_read_block(path, call, calls[path]) for path, call in outer]


def _parts(block: nn.Module) -> list[tuple[str, nn.Module]]:
    """The modules of a block that say where its sites are: its children, and output projections."""
    found = list(block.named_children())
    for name, child in block.named_children():
        if name in ATTENTION:
            found += [
                (f"{name}.{path}", module)
                for path, module in child.named_modules()
                if path.rpartition(".")[2] in OUT_PROJECTION
            ]
    return found


def _watch(module: nn.Module, name: str, note: Callable[[_Call], None]) -> Any:
    def hook(module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        hidden = first_tensor(args, kwargs)
        parts = output if isinstance(output, tuple) else (output,)
        if hidden is None or not parts or not isinstance(parts[0], Tensor):
            return
        returns = Returns(len(output) if isinstance(output, tuple) else None)
        read = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        alike = sum(value.shape == hidden.shape for value in read)
        both = (hidden, parts[0])
        note(_Call(name, module, both, hidden.clone(), parts[0].clone(), returns, alike))

    return module.register_forward_hook(hook, with_kwargs=True)


def first_tensor(args: tuple, kwargs: Mapping[str, Any]) -> Tensor | None:
    """The hidden state among a module's arguments: the first positional one, or the named one."""
    value = args[0] if args else kwargs.get("hidden_states")
    return value if isinstance(value, Tensor) else None


def _check_finite(calls: list[tuple[str, _Call]], precision: Precision) -> None:
    """Name the first block whose input or output is not finite: too large, or damaged weights."""
    for path, call in calls:
        for where, value in (("input", call.read), ("output", call.wrote)):
            if not bool(value.isfinite().all()):
                raise not_finite("activations", precision, f"the {where} of {path}")


def not_finite(what: str, precision: Precision, where: str) -> ModelError:
    """The error for values that are not finite, with what to do about it in this precision."""
    return ModelError(
        f"finite {what} from the model in {precision}",
        f"{where} holds NaN or infinity",
        "float16 ends at 65,504: load it in bfloat16 or float32"
        if precision.compute == "float16"
        else "Check that its weights are whole",
    )


def _check_stream(paths: list[str], calls: list[tuple[str, _Call]]) -> None:
    found = None
    if [path for path, _ in calls] != paths:
        found = "the blocks do not run once each, in the order of the list"
    elif any(call.read.ndim != 3 or call.read.shape != call.wrote.shape for _, call in calls):
        found = f"a block reads a tensor of shape {list(calls[0][1].read.shape)}, not [b, t, width]"
    elif any(any(call.overwritten) for _, call in calls):
        found = "a block overwrites what it was given"
    else:
        for (_, before), (path, after) in pairwise(calls):
            if not torch.equal(before.wrote, after.read):
                found = f"the input of {path} is not the output of the block before it"
    if found:
        raise ModelError(
            "residual stream of the model",
            found,
            "This architecture is not supported: its blocks must pass on one residual stream",
        )


def _read_block(path: str, block: _Call, calls: list[_Call]) -> Block:
    reader = _Reader(path, block, calls)
    reader.read_attention()
    reader.read_mlp()
    return reader.block()


class _Reader:
    """Turns the calls seen inside one block into a :class:`Block`."""

    def __init__(self, path: str, outer: _Call, calls: list[_Call]) -> None:
        self.path, self.outer, self.calls = path, outer, calls
        self.ports: dict[Kind, Port] = {
            "resid_pre": Port(outer.module, "in", outer.read.shape[-1]),
            "resid_post": Port(outer.module, "out", outer.wrote.shape[-1]),
        }
        self.missing: dict[Kind, str] = {}
        self.attention: Part | None = None
        self.out_projection: nn.Module | None = None
        self.mlp: Part | None = None

    def block(self) -> Block:
        return Block(
            self.path,
            self.outer.module,
            self.outer.returns,
            self.ports,
            self.attention,
            self.out_projection,
            self.mlp,
            self.missing,
        )

    def read_attention(self) -> None:
        call = self._only(ATTENTION)
        if call is None or call.n_read > 1:
            reason = (
                "the block has no attention module which only reads and writes its own activation"
            )
            self._lacks(reason, "attn_z", "attn_module_out", "attn_out", "resid_mid")
            return
        after = self._norm_after(call)
        self.attention = Part(call.module, call.returns, after.module if after else None)
        self._port("attn_module_out", call, "out")
        self._port("attn_out", after or call, "out")
        self._read_projection(call)
        self._read_middle(call, (after or call).wrote)

    def _read_projection(self, attention: _Call) -> None:
        for call in self.calls:
            inside = call.name.startswith(f"{attention.name}.")
            if inside and torch.equal(call.wrote, attention.wrote):
                self.out_projection = call.module
                self._port("attn_z", call, "in")
                return
        self._lacks("no projection inside the attention writes the attention's output", "attn_z")

    def _read_middle(self, attention: _Call, added: Tensor) -> None:
        if added.shape == self.outer.read.shape:
            middle = self.outer.read + added
            for call in self._following(attention):
                if torch.equal(call.read, middle):
                    self._port("resid_mid", call, "in")
                    return
        reason = (
            "no module in the block reads its input plus its attention's output (the MLP may stand "
            "beside the attention)"
        )
        self._lacks(reason, "resid_mid")

    def read_mlp(self) -> None:
        call = self._only(MLP)
        if call is None or call.n_read > 1 or "attn_out" not in self.ports:
            reason = "the block has no MLP module which only reads and writes its own activation"
            self._lacks(reason, "mlp_normalized", "mlp_in", "mlp_module_out", "mlp_out")
            return
        after = self._norm_after(call)
        self.mlp = Part(call.module, call.returns, after.module if after else None)
        self._port("mlp_in", call, "in")
        self._port("mlp_module_out", call, "out")
        self._port("mlp_out", after or call, "out")
        earlier = self.calls[: self.calls.index(call)]
        before = [other.module for other in earlier if torch.equal(other.wrote, call.read)]
        if before and isinstance(before[-1], nn.LayerNorm):
            self._port("mlp_normalized", call, "in")
        else:
            reason = (
                "TransformerLens takes it before the gain of the RMS norm, where no module here "
                f"reads or writes it; the MLP's input is {HOOKS['mlp_in']}"
            )
            self._lacks(reason, "mlp_normalized")

    def _only(self, names: tuple[str, ...]) -> _Call | None:
        found = [call for call in self.calls if call.name in names]
        return found[0] if len(found) == 1 else None

    def _following(self, call: _Call) -> list[_Call]:
        """The modules of the block that ran after ``call``, those that change nothing left out."""
        later = self.calls[self.calls.index(call) + 1 :]
        return [other for other in later if not isinstance(other.module, _PASS_THROUGH)]

    def _norm_after(self, call: _Call) -> _Call | None:
        """The norm between a module and the residual stream, where there is one."""
        later = self._following(call)
        if call.name in MLP:  # an MoE beside the MLP (Gemma 4) has norms of its own before this one
            for other in later:
                if other.name == _NORM_AFTER_MLP:
                    return other
        for other in later:
            if torch.equal(other.read, call.wrote):
                return other
        return None

    def _port(self, kind: Kind, call: _Call, end: End) -> None:
        if call.overwritten[end == "out"]:
            self._lacks("the block overwrites it before it returns", kind)
            return
        tensor = call.read if end == "in" else call.wrote
        self.ports[kind] = Port(call.module, end, tensor.shape[-1])

    def _lacks(self, reason: str, *kinds: Kind) -> None:
        self.missing.update(dict.fromkeys(kinds, reason))
