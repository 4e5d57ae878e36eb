"""The oracle for capture and splice: a model's full forward, watched and changed by plain hooks.

Where an activation is in each tiny model is written here by hand, apart from how saebench finds it.
"""

from contextlib import contextmanager

import torch
from torch import nn

from saebench.sites import Site
from tests.tiny_models import shared_model

_GPT2 = {
    "blocks": "transformer.h",
    "attention": "attn",
    "projection": "attn.c_proj",
    "before_mlp": "ln_2",
}
_NEOX = {
    "blocks": "gpt_neox.layers",
    "attention": "attention",
    "projection": "attention.dense",
    "before_mlp": "post_attention_layernorm",
}
_LLAMA = {
    "blocks": "model.layers",
    "attention": "self_attn",
    "projection": "self_attn.o_proj",
    "before_mlp": "post_attention_layernorm",
}
_GEMMA = _LLAMA | {
    "before_mlp": "pre_feedforward_layernorm",
    "after_attention": "post_attention_layernorm",
    "after_mlp": "post_feedforward_layernorm",
}
MODULES = {
    "gpt2": _GPT2,
    "gpt_neox": _NEOX,
    "gpt_neox_sequential": _NEOX,
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen3": _LLAMA,
    "gemma2": _GEMMA,
    "gemma3": _GEMMA,
    "gemma4": _GEMMA,
    "gemma4_per_layer_inputs": _GEMMA,
}


def port_of(name: str, site: Site) -> tuple[nn.Module, str]:
    """The module whose input or output is the activation at a site."""
    roles = MODULES[name]
    path, end = {
        "resid_pre": ("", "in"),
        "resid_post": ("", "out"),
        "attn_z": (roles["projection"], "in"),
        "attn_module_out": (roles["attention"], "out"),
        "attn_out": (roles.get("after_attention", roles["attention"]), "out"),
        "resid_mid": (roles["before_mlp"], "in"),
        "mlp_normalized": (roles["before_mlp"], "out"),
        "mlp_in": ("mlp", "in"),
        "mlp_module_out": ("mlp", "out"),
        "mlp_out": (roles.get("after_mlp", "mlp"), "out"),
    }[site.kind]
    path = f"{roles['blocks']}.{site.layer}.{path}".rstrip(".")
    return shared_model(name).model.get_submodule(path), end


@contextmanager
def plain_hook(module, end, change=None):
    """Notes the activation at one end of a module, and changes it where told to."""
    seen = []

    def before(module, args, kwargs):
        tensor = args[0] if args else kwargs["hidden_states"]
        seen.append(tensor)
        if change is None:
            return None
        if args:
            return (change(tensor), *args[1:]), kwargs
        return args, kwargs | {"hidden_states": change(tensor)}

    def after(module, args, output):
        tensor = output[0] if isinstance(output, tuple) else output
        seen.append(tensor)
        if change is None:
            return None
        return (change(tensor), *output[1:]) if isinstance(output, tuple) else change(tensor)

    if end == "in":
        handle = module.register_forward_pre_hook(before, with_kwargs=True)
    else:
        handle = module.register_forward_hook(after)
    try:
        yield seen
    finally:
        handle.remove()


@torch.no_grad()
def full_logits(name, ids, mask=None):
    return shared_model(name).model(input_ids=ids, attention_mask=mask).logits


def spliced_logits(name, site, replacement, ids, mask=None):
    """Logits of a whole forward in which hooks put the replacement in."""
    if site.kind == "resid_mid":
        # it is read by a norm and added to by the MLP: make the attention add what is missing
        with plain_hook(*port_of(name, Site(site.layer, "resid_pre"))) as seen:
            full_logits(name, ids, mask)
        module, end = port_of(name, Site(site.layer, "attn_out"))
        with plain_hook(module, end, lambda _: replacement - seen[0]):
            return full_logits(name, ids, mask)
    module, end = port_of(name, site)
    with plain_hook(module, end, lambda _: replacement):
        return full_logits(name, ids, mask)
