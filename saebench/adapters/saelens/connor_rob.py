"""SAEs of attention outputs by Kissane and Krzyzanowski: ``NAME.pt`` and ``NAME_cfg.json``.

``f = relu((x − b_dec) W_enc + b_enc)`` and ``x̂ = f W_dec + b_dec``, where x is the heads' outputs
(``attn.hook_z``) laid side by side. SAELens reads the same files by its loader ``connor_rob_hook_z``.
"""

from __future__ import annotations

from saebench.activations import ReLU
from saebench.adapters.reading.choices import Choices
from saebench.adapters.reading.claims import Claim
from saebench.adapters.reading.fields import Fields, config_from
from saebench.adapters.reading.processing import FOLDED_VALUES, is_of_heads
from saebench.adapters.reading.tensors import Tensors
from saebench.errors import CheckpointError
from saebench.files import CheckpointFiles
from saebench.sae import SAE, Fact
from saebench.weights import is_pickle, is_weights

FORMAT = "connor_rob"
CONFIG_END = "_cfg.json"
CONFIG_KEYS = frozenset({"act_size", "dict_size", "act_name"})
KEY_TENSORS = frozenset({"W_enc", "W_dec", "b_enc", "b_dec"})


def sniff(files: CheckpointFiles) -> Claim | None:
    """A claim when NAME_cfg.json with act_size, dict_size, act_name lies beside weights NAME."""
    pairs = [
        (name, config)
        for name in files.names
        if (config := f"{name.rpartition('.')[0]}{CONFIG_END}") in files.names
        and _fits(files, name, config)
    ]
    if not pairs:
        return None
    if len(pairs) > 1:
        names = ", ".join(name for name, _ in pairs[:12])
        raise CheckpointError(
            f"one weight file in {files.root}", names, "Reference one of the files."
        )
    name, config = pairs[0]
    evidence = (
        f"{config}: {', '.join(sorted(CONFIG_KEYS))}",
        f"{name}: W_enc, W_dec, b_enc, b_dec",
    )
    return Claim(FORMAT, evidence, (name,), (config,))


def read(files: CheckpointFiles, claim: Claim, choices: Choices) -> SAE:
    """The SAE; raises :class:`CheckpointError` where config and tensors contradict each other."""
    fields = Fields(claim.config, files.json(claim.config))
    tensors = Tensors(claim.weight, files.state_dict(claim.weight))
    d_in, d_sae = fields.size("act_size"), fields.size("dict_size")
    site = fields.text("act_name")
    defined = f"not in {claim.config}: definition of the format"
    subtract = choices.flag("subtract_b_dec") or Fact(True, defined, "assumed")
    facts = {
        "architecture": Fact("standard", defined, "assumed"),
        "d_in": d_in,
        "d_sae": d_sae,
        "d_out": d_in,
        "site": site,
        "model": fields.text("model_name"),
        "dtype": Fact(tensors.dtype("W_dec"), f"{claim.weight}: W_dec"),
        "normalization": Fact("none", defined, "assumed"),
        "subtract_b_dec": subtract,
        "reshape": Fact("hook_z", f"{claim.config}: act_name") if is_of_heads(site) else None,
    }
    sizes = {"d_in": d_in.value, "d_sae": d_sae.value}
    W_enc = tensors.encoder("W_enc", **sizes)
    W_dec = tensors.decoder("W_dec", d_sae=sizes["d_sae"], d_out=sizes["d_in"])
    b_enc = tensors.take("b_enc", d_sae=sizes["d_sae"])
    b_dec = tensors.take("b_dec", d_in=sizes["d_in"])
    unused = ", ".join(tensors.unused())
    notes = [f"tensors of {tensors.file} not used: {unused}"] if unused else []
    notes += [FOLDED_VALUES] if is_of_heads(site) else []
    return SAE(
        config_from(facts, format=FORMAT, notes=notes, provenance=dict(fields.data)),
        ReLU(),
        W_enc=W_enc,
        W_dec=W_dec,
        b_dec=b_dec,
        b_enc=b_enc,
        b_in=b_dec if subtract.value else None,
    )


def _fits(files: CheckpointFiles, name: str, config: str) -> bool:
    if not is_weights(name) or (is_pickle(name) and not files.allow_pickle):
        return False
    if not set(files.json(config)) >= CONFIG_KEYS:
        return False
    header = files.header(name)
    return set(header) >= KEY_TENSORS and len(header["W_enc"].shape) == 2
