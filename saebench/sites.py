"""Hook-point names: TransformerLens ↔ module path ↔ hidden-state index, mapped to one ``Site``.

A site is a place in a decoder block where an activation ``[batch, token, width]`` is read or put in:

    resid_pre ─ norm ─ attention heads ─ attn_z ─ o_proj ─ attn_module_out ─ (norm) ─ attn_out ─ + ─
    resid_mid ─ norm ─ mlp_in ─ MLP ─ mlp_module_out ─ (norm) ─ mlp_out ─ + ─ resid_post

``attn_out`` and ``mlp_out`` are what is added to the residual stream. Where a norm stands between
a module and the addition (Gemma 2 and later, OLMo 2), the module's own output is another activation:
``attn_module_out``, ``mlp_module_out``. ``mlp_normalized`` is TransformerLens' ``ln2.hook_normalized``,
which is ``mlp_in`` for LayerNorm and lacks the gain for RMSNorm.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass
from functools import total_ordering
from typing import Literal, NoReturn

from saebench.errors import SiteError

Kind = Literal[
    "resid_pre",
    "attn_z",
    "attn_module_out",
    "attn_out",
    "resid_mid",
    "mlp_normalized",
    "mlp_in",
    "mlp_module_out",
    "mlp_out",
    "resid_post",
]

HOOKS: dict[Kind, str] = {  # in the order in which a block computes them
    "resid_pre": "hook_resid_pre",
    "attn_z": "attn.hook_z",
    "attn_module_out": "attn.hook_out",
    "attn_out": "hook_attn_out",
    "resid_mid": "hook_resid_mid",
    "mlp_normalized": "ln2.hook_normalized",
    "mlp_in": "mlp.hook_in",
    "mlp_module_out": "mlp.hook_out",
    "mlp_out": "hook_mlp_out",
    "resid_post": "hook_resid_post",
}
KINDS: tuple[Kind, ...] = tuple(HOOKS)
_KIND_OF_HOOK: dict[str, Kind] = {hook: kind for kind, hook in HOOKS.items()}
_KIND_OF_HOOK |= {"hook_in": "resid_pre", "hook_out": "resid_post"}  # TransformerBridge

_REFUSED_HOOKS = {
    "hook_mlp_in": "it is the residual stream before the norm (a copy that TransformerLens makes "
    "only when told to), not the MLP's input",
    "ln1.hook_normalized": "the input of the attention is not a site",
    "hook_attn_in": "the input of the attention is not a site",
    "mlp.hook_pre": "the neurons inside an MLP are not a site",
    "mlp.hook_post": "the neurons inside an MLP are not a site",
    "attn.hook_result": "the output of each head apart is not a site",
}

_CONTAINERS = "model|transformer|gpt_neox|backbone|decoder|language_model|text_model|module"
_PATH = re.compile(
    rf"(?:(?:{_CONTAINERS})\.)*(?:layers|h|blocks)\.(?P<layer>\d+)"
    r"(?:\.(?P<module>[\w.]+))?(?::(?P<end>\w+))?"
)
_HOOK = re.compile(r"blocks\.(?P<layer>\d+)\.(?P<hook>(?:\w+\.)*hook_\w+)")
_HIDDEN = re.compile(r"hidden_states\[\s*(?P<index>[+-]?\d+)\s*\]")

ATTENTION = ("self_attn", "attn", "attention", "self_attention", "linear_attn")
OUT_PROJECTION = ("o_proj", "c_proj", "dense", "out_proj")
MLP = ("mlp", "feed_forward", "ffn", "block_sparse_moe")
_DOWN_PROJECTION = ("down_proj", "c_proj", "dense_4h_to_h", "fc_out", "fc2")

_KIND_OF_PORT: dict[tuple[str, str], Kind] = {
    ("block", "in"): "resid_pre",
    ("block", "out"): "resid_post",
    ("attention norm", "in"): "resid_pre",
    ("attention", "out"): "attn_module_out",
    ("attention projection", "in"): "attn_z",
    ("attention projection", "out"): "attn_module_out",
    ("MLP norm", "in"): "resid_mid",
    ("MLP norm", "out"): "mlp_in",
    ("MLP", "in"): "mlp_in",
    ("MLP", "out"): "mlp_module_out",
    ("MLP projection", "out"): "mlp_module_out",
    ("norm after the MLP", "out"): "mlp_out",
}
_NORMS = {
    "ln_1": "attention norm",
    "input_layernorm": "attention norm",
    "ln_2": "MLP norm",
    "pre_feedforward_layernorm": "MLP norm",
    "post_feedforward_layernorm": "norm after the MLP",
}


@total_ordering
@dataclass(frozen=True)
class Site:
    """One kind of activation in one block; sites sort in the order in which a forward reaches them."""

    layer: int
    kind: Kind

    @property
    def hook_name(self) -> str:
        """The TransformerLens name: ``blocks.3.hook_resid_post``."""
        return f"blocks.{self.layer}.{HOOKS[self.kind]}"

    @property
    def canonical(self) -> Site:
        """``resid_post`` of the block before, for every ``resid_pre`` but the first: one activation."""
        if self.kind == "resid_pre" and self.layer > 0:
            return Site(self.layer - 1, "resid_post")
        return self

    @property
    def is_residual(self) -> bool:
        """Whether it is the residual stream itself, so that nothing else reaches what follows."""
        return self.kind in ("resid_pre", "resid_mid", "resid_post")

    def __lt__(self, other: Site) -> bool:
        return (self.layer, KINDS.index(self.kind)) < (other.layer, KINDS.index(other.kind))

    def __str__(self) -> str:
        return self.hook_name


def parse_site(text: str, *, n_layers: int | None = None) -> Site:
    """The site that a hook-point name means.

    ``text`` is a TransformerLens name (``blocks.3.hook_resid_post``), a module path with an optional
    end (``model.layers.3``, ``layers.3.mlp:in``; without one, the output), or an entry of the list
    that transformers returns (``hidden_states[4]``). ``n_layers`` lets layers out of range be
    refused, and is needed for negative indices.

    Raises
    ------
    SiteError : the name means no site, or a layer that is not there.
    """
    text = text.strip()
    if match := _HIDDEN.fullmatch(text):
        return _from_hidden_state(text, int(match["index"]), n_layers)
    if match := _HOOK.fullmatch(text):
        kind = _kind_of_hook(text, int(match["layer"]), match["hook"])
    elif match := _PATH.fullmatch(text):
        kind = _kind_of_path(text, int(match["layer"]), match["module"] or "", match["end"])
    else:
        number = re.search(r"\d+", text)
        _refuse(text, "this is not a hook-point name", int(number[0]) if number else 0)
    layer = int(match["layer"])
    if n_layers is not None and layer >= n_layers:
        raise SiteError(
            f"site {text!r}",
            f"the model has {n_layers} layers, 0 to {n_layers - 1}",
            f"The last is {Site(n_layers - 1, kind)}",
        )
    return Site(layer, kind)


def _from_hidden_state(text: str, index: int, n_layers: int | None) -> Site:
    """``hidden_states[i]`` is the input of block i; the last entry is after the final norm."""
    asked = f"site {text!r}"
    if n_layers is None:
        if index < 0:
            raise SiteError(
                asked,
                "counting from the end needs the number of layers, which is not known here",
                "Write the index from the start, or a name such as blocks.3.hook_resid_post",
            )
        return Site(index, "resid_pre")
    if not -(n_layers + 1) <= index <= n_layers:
        raise SiteError(
            asked,
            f"a model of {n_layers} layers has hidden_states[0] to hidden_states[{n_layers}]",
            f"The input of the last block is hidden_states[{n_layers - 1}]",
        )
    layer = index % (n_layers + 1)
    if layer == n_layers:
        raise SiteError(
            asked,
            f"the last of the {n_layers + 1} hidden states is taken after the final norm, so it is "
            "not the residual stream",
            f"The output of the last block is {Site(n_layers - 1, 'resid_post')}",
        )
    return Site(layer, "resid_pre")


def _kind_of_hook(text: str, layer: int, hook: str) -> Kind:
    if hook in _KIND_OF_HOOK:
        return _KIND_OF_HOOK[hook]
    _refuse(text, _REFUSED_HOOKS.get(hook, "no site has this name"), layer)


def _kind_of_path(text: str, layer: int, module: str, end: str | None) -> Kind:
    end = end or "out"
    if end not in ("in", "out"):
        _refuse(text, f"a module has the ends :in and :out, not :{end}", layer)
    if module == "post_attention_layernorm":
        _refuse(
            text,
            "this module stands after the attention in some architectures (Gemma 2, OLMo 2) and "
            "before the MLP in others (Llama, Qwen, GPT-NeoX)",
            layer,
        )
    role = _role(module)
    kind = _KIND_OF_PORT.get((role, end))
    if kind is None:
        what = (
            f"the {'input' if end == 'in' else 'output'} of {role or 'this module'} is not a site"
        )
        _refuse(text, what, layer)
    return kind


def _role(module: str) -> str:
    """What a module inside a block is for, judged by its path; empty where that is not known."""
    if not module:
        return "block"
    if module in _NORMS:
        return _NORMS[module]
    parent, _, name = module.partition(".")
    if parent in ATTENTION:
        name = name.removeprefix("attention.")  # GPT-Neo wraps it once more
        return {"": "attention"}.get(name, "attention projection" if name in OUT_PROJECTION else "")
    if parent in MLP:
        return {"": "MLP"}.get(name, "MLP projection" if name in _DOWN_PROJECTION else "")
    return ""


def _refuse(text: str, found: str, layer: int) -> NoReturn:
    hooks = [Site(layer, kind).hook_name for kind in KINDS]
    tails = ("", ":in", ".mlp:in", ".mlp:out", ".self_attn:out", ".self_attn.o_proj:in")
    names = [*hooks, *(f"layers.{layer}{tail}" for tail in tails), f"hidden_states[{layer}]"]
    if "hook_mlp_in" in text:
        near = [Site(layer, "mlp_in").hook_name, Site(layer, "resid_mid").hook_name]
    elif "post_attention_layernorm" in text:
        near = [Site(layer, "attn_out").hook_name, Site(layer, "mlp_in").hook_name]
    else:
        inner = re.sub(r"^.*?\b(layers|h)\.(?=\d)", "layers.", text)
        near = difflib.get_close_matches(inner, names, n=3, cutoff=0.5) or [hooks[0], hooks[-1]]
    raise SiteError(f"site {text!r}", found, f"Near it: {', '.join(near)}")
