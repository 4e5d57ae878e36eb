"""What TransformerLens does to a model when it loads it, as far as activations show it.

By default it centres what models with LayerNorm write to the residual stream, and moves the biases of
attention values behind the heads. Trainers differ in whether they load models so.
"""

from __future__ import annotations

import re

from saebench.sae import Fact

WRITTEN = re.compile(r"hook_(resid_(pre|mid|post)|attn_out|mlp_out)")
CENTRED_FAMILIES = ("gpt2", "distilgpt2", "pythia", "gpt-neo", "opt-")  # with LayerNorm throughout
FOLDED_VALUES = (
    "activations came from TransformerLens with its default processing, which moves the biases of "
    "attention values out of hook_z: in models that have them (GPT-2, Pythia) this dictionary was "
    "trained on values that are smaller by a constant than those here"
)


def is_written(*sites: Fact | None) -> bool:
    """Whether one of the hook points is the residual stream, or what is added to it."""
    return any(site is not None and WRITTEN.search(site.value) for site in sites)


def is_of_heads(site: Fact | None) -> bool:
    """Whether the hook point is the outputs of attention heads."""
    return site is not None and str(site.value).endswith("hook_z")


def may_be_centred(model: Fact | None) -> bool:
    """Whether a model's name is one of a family that TransformerLens centres by default."""
    if model is None:
        return False
    return str(model.value).rpartition("/")[2].lower().startswith(CENTRED_FAMILIES)
