"""BatchTopK checkpoints, and those of its forks matryoshka_sae and FaithfulSAE.

``config.json`` with ``sae_type``, ``act_size`` and ``dict_size`` beside ``sae.pt``; where the config was
left out, the run name of the folder may say the same. ``f = act((x' − b_dec) W_enc)`` and
``x̂' = f W_dec + b_dec``, where ``x'`` is the input, standardised token by token if ``input_unit_norm``.
Every file holds ``b_enc``, and only ``vanilla`` and ``jumprelu`` add it; ``jumprelu`` does not subtract
``b_dec``. Source: the classes of the three repositories (Bussmann et al. 2024, arXiv 2412.06410).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from saebench.activations import Activation, JumpReLU, ReLU, TopK
from saebench.adapters.batchtopk.config import (
    BATCH,
    CONFIG_FILE,
    GROUPED,
    JUMP,
    Description,
    is_config,
    run_name_of,
)
from saebench.adapters.reading.batch_gate import (
    ASK_ONE,
    ESTIMATE,
    batch_gate,
    estimated,
    given_threshold,
)
from saebench.adapters.reading.choices import Choices
from saebench.adapters.reading.claims import Claim
from saebench.adapters.reading.fields import Fields, config_from
from saebench.adapters.reading.readable import readable_headers
from saebench.adapters.reading.tensors import Tensors
from saebench.errors import CheckpointError
from saebench.files import CheckpointFiles
from saebench.sae import SAE, Fact
from saebench.weights import TensorInfo, is_weights

FORMAT = "BatchTopK"
WEIGHT_FILES = ("sae.pt", "sae.safetensors")
KEY_TENSORS = {"W_enc", "W_dec", "b_enc", "b_dec"}
LOG_THRESHOLD = "jumprelu.log_threshold"


def sniff(files: CheckpointFiles) -> Claim | None:
    """A claim on a config of this family, or on tensors that fit the run name of their folder."""
    weights = _weight_file(files.names)
    if weights is None:
        return None
    if CONFIG_FILE in files.names:
        data = files.json(CONFIG_FILE)
        if not is_config(data):
            return None
        said = Fields(CONFIG_FILE, data).value("sae_type")
        evidence = f"{CONFIG_FILE}: sae_type {said!r:.40} with act_size and dict_size"
        return Claim(FORMAT, (evidence, f"weights {weights}"), (weights,), (CONFIG_FILE,))
    name = run_name_of(files.hint)
    header = dict(readable_headers(files)).get(weights, {}) if name is not None else {}
    if name is None or _width(header) != name.dict_size:
        return None
    shapes = f"{weights}: W_enc {list(header['W_enc'].shape)}, W_dec, b_enc, b_dec"
    evidence = f"the folder's name is a run name with dict_size {name.dict_size}"
    return Claim(FORMAT, (shapes, evidence), (weights,))


def read(files: CheckpointFiles, claim: Claim, choices: Choices) -> SAE:
    """The SAE; raises :class:`CheckpointError` where config, name and tensors leave no formula."""
    tensors = Tensors(claim.weight, files.state_dict(claim.weight))
    said = Description.of(files, claim)
    kind = said.sae_type()
    _check_kind(kind, tensors)
    d_in, d_sae = said.sizes(tensors)
    k = _k(said, choices, kind, d_sae.value)
    normalization = said.normalization(choices)
    adds_b_enc = said.adds_encoder_bias(kind)
    activation, threshold = _activation(tensors, kind, k, d_sae.value, choices)
    subtract = kind.value != JUMP
    W_enc = tensors.encoder("W_enc", d_in=d_in.value, d_sae=d_sae.value)
    W_dec = tensors.decoder("W_dec", d_sae=d_sae.value, d_out=d_in.value)
    b_enc = tensors.take("b_enc", d_sae=d_sae.value)
    b_dec = tensors.take("b_dec", d_in=d_in.value)
    facts = {
        "architecture": kind,
        "d_in": d_in,
        "d_sae": d_sae,
        "d_out": d_in,
        "k": k,
        "site": said.site(),
        "model": said.text("model_name"),
        "model_processing": said.processing(kind),
        "centred": said.centred(kind),
        "dtype": Fact(tensors.dtype("W_dec"), f"{claim.weight}: W_dec"),
        "normalization": normalization,
        "subtract_b_dec": Fact(subtract, f"definition of sae_type {kind.value}", "assumed"),
        "adds_b_enc": adds_b_enc,
        "threshold": threshold,
    }
    unused = None if adds_b_enc.value else float(b_enc.abs().max())
    notes = said.notes(kind, normalization, d_sae) + _notes(tensors, kind, threshold, unused)
    config = config_from(facts, format=FORMAT, notes=notes, provenance=said.provenance())
    return SAE(
        config,
        activation,
        W_enc=W_enc,
        W_dec=W_dec,
        b_dec=b_dec,
        b_enc=b_enc if adds_b_enc.value else None,
        b_in=b_dec if subtract else None,
    )


def _weight_file(names: tuple[str, ...]) -> str | None:
    """The name that the repositories write, or the only weight file there is."""
    own = next((name for name in WEIGHT_FILES if name in names), None)
    weights = [name for name in names if is_weights(name)]
    return own or (weights[0] if len(weights) == 1 else None)


def _width(header: Mapping[str, TensorInfo]) -> int | None:
    """``d_sae`` of a header with exactly the tensors of this family, else None."""
    if not set(header) >= KEY_TENSORS:
        return None
    W_enc, W_dec = header["W_enc"].shape, header["W_dec"].shape
    if len(W_enc) != 2 or W_dec != W_enc[::-1]:
        return None
    biases = (header["b_dec"].shape, header["b_enc"].shape)
    return W_enc[1] if biases == ((W_enc[0],), (W_enc[1],)) else None


def _check_kind(kind: Fact, tensors: Tensors) -> None:
    """Refuse tensors of another class than the one named."""
    if (kind.value == JUMP) == (LOG_THRESHOLD in tensors):
        return
    found = "no such tensor" if kind.value == JUMP else f"{LOG_THRESHOLD!r}, that of jumprelu"
    raise CheckpointError(
        f"tensors of {tensors.file} for sae_type {kind.value!r} ({kind.source})",
        f"{found} ({LOG_THRESHOLD})" if kind.value == JUMP else found,
        "Fetch the config that belongs to these weights.",
    )


def _k(said: Description, choices: Choices, kind: Fact, d_sae: int) -> Fact | None:
    """The latents kept per token, where the class keeps a number of them."""
    if kind.value not in ("topk", *BATCH):
        return None
    k = choices.size("k") or said.size("top_k")
    if k.value > d_sae:
        raise CheckpointError(
            f"{k.source} of at most d_sae = {d_sae}", str(k.value), "Correct the config."
        )
    return k


def _activation(
    tensors: Tensors, kind: Fact, k: Fact | None, d_sae: int, choices: Choices
) -> tuple[Activation, Fact | None]:
    """The activation, and the threshold where the file is not what settles it."""
    if kind.value == "vanilla":
        return ReLU(), None
    if kind.value == JUMP:
        return JumpReLU(_exponential(tensors.take(LOG_THRESHOLD, d_sae=d_sae), tensors.file)), None
    assert k is not None
    if kind.value == "topk":
        return TopK(k.value), None
    given = given_threshold(choices)
    if given is None and "threshold" in tensors:
        return JumpReLU(_stored_threshold(tensors)), None
    threshold = given or estimated(tensors.file, k)
    return batch_gate(k.value, threshold), threshold


def _exponential(logarithms: Tensor, file: str) -> Tensor:
    values = logarithms.exp()
    if bool(torch.isfinite(values).all()):
        return values
    raise CheckpointError(
        f"logarithms of thresholds in {LOG_THRESHOLD!r} of {file}",
        f"a largest value of {float(logarithms.max()):.4g}, whose exponential is not finite",
        "The values may be thresholds already; store their logarithms.",
    )


def _stored_threshold(tensors: Tensors) -> Tensor:
    """The threshold that matryoshka_sae averages while it trains; 0, its initial value, is refused."""
    if math.isclose(tensors.scalar("threshold"), 0.0, abs_tol=0.0):
        raise CheckpointError(
            f"threshold of {tensors.file} with a value > 0",
            "0, the initial value: training never estimated it",
            ASK_ONE,
        )
    sizes = {f"dim {i}": n for i, n in enumerate(tensors.shape("threshold"))}
    return tensors.threshold("threshold", ASK_ONE, ASK_ONE, **sizes).reshape(())


def _notes(
    tensors: Tensors, kind: Fact, threshold: Fact | None, unused_bias: float | None
) -> list[str]:
    """What a reader should know about tensors; ``unused_bias`` is the largest value of ``b_enc``."""
    notes = []
    if unused_bias:
        notes.append(
            f"b_enc of {tensors.file} is not zero (largest value {unused_bias:.4g}), and sae_type "
            f"{kind.value} does not add it"
        )
    if threshold is not None and threshold.value == ESTIMATE:
        notes.append(
            "training kept the largest codes of a whole batch: one threshold, estimated on data, "
            "stands in for that rule"
        )
    if threshold is not None and threshold.how == "user" and "threshold" in tensors:
        notes.append(f"the threshold given overrules that of {tensors.file}")
        tensors.ignore({"threshold"})
    if kind.value in GROUPED:
        tensors.ignore({"group_sizes"})
    if tensors.unused():
        notes.append(f"tensors of {tensors.file} not used: {', '.join(tensors.unused())}")
    return notes
