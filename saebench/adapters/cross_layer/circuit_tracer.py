"""Transcoders as circuit-tracer reads them: ``layer_<i>.safetensors``, or cross-layer ``W_enc_<i>`` files.

Both matrices have one row per latent, ``W_enc[d_sae, d_model]`` and ``W_dec[d_sae, d_model]``, unlike
in any other format. ``config.yaml`` beside them names model and hook points. A latent fires where its
pre-activation is above its threshold, or above zero where none is stored; b_dec is not subtracted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from saebench.activations import Activation, JumpReLU, ReLU
from saebench.adapters.cross_layer import circuit_tracer_layers
from saebench.adapters.reading.choices import Choices
from saebench.adapters.reading.claims import Claim
from saebench.adapters.reading.fields import Fields, config_from
from saebench.adapters.reading.readable import readable_headers
from saebench.adapters.reading.tensors import Tensors
from saebench.errors import CheckpointError
from saebench.files import CheckpointFiles
from saebench.sae import SAE, Dictionary, Fact
from saebench.sae.config import How
from saebench.weights import TensorInfo

FORMAT = "circuit_tracer"
CONFIG_FILE = "config.yaml"
RUN_CONFIGS = ("wandb-config.yaml", "wanb-config.yaml")
LAYER_FILE = re.compile(r"layer_(\d+)\.safetensors")
KEYS = ("W_enc", "W_dec", "b_enc", "b_dec")
THRESHOLD = "activation_function.threshold"
ORIENTATIONS = ("d_sae,d_in", "d_in,d_sae")
NOTES = (
    "circuit-tracer sets all latents of a sequence's first position to zero; here it counts as any",
    "activations are those of the model as it is published, with no layer norm folded into weights",
)


def sniff(files: CheckpointFiles) -> Claim | None:
    """A claim when a file has both matrices with one row per latent, or encoders numbered by layer."""
    if "cfg.json" in files.names and {"d_in", "d_sae"} <= set(files.json("cfg.json")):
        return None  # SAELens, if with an encoder the wrong way round
    configs = tuple(name for name in (CONFIG_FILE, *RUN_CONFIGS) if name in files.names)
    layers = circuit_tracer_layers.find_layers(files)
    if layers:
        return Claim(FORMAT, circuit_tracer_layers.evidence(files, layers), layers, configs)
    weights, evidence = [], []
    for name, header in readable_headers(files):
        if name.endswith(".safetensors") and (found := _evidence(name, header, files)):
            weights.append(name)
            evidence.append(found)
    if not weights:
        return None
    return Claim(FORMAT, tuple(evidence), tuple(weights), configs)


def _evidence(name: str, header: Mapping[str, TensorInfo], files: CheckpointFiles) -> str | None:
    """What shows that a file is one of these transcoders, or None where nothing does."""
    if not set(KEYS) <= set(header):
        return None
    d_sae, d_in = _length(header["b_enc"]), _length(header["b_dec"])
    shapes = header["W_enc"].shape, header["W_dec"].shape
    if shapes != ((d_sae, d_in), (d_sae, d_in)):
        return None
    square = d_sae == d_in
    if square and not (THRESHOLD in header or (LAYER_FILE.fullmatch(name) and _is_set(files))):
        return None
    return f"{name}: W_enc {list(shapes[0])} and W_dec {list(shapes[1])}, b_enc [{d_sae}]"


def _is_set(files: CheckpointFiles) -> bool:
    """Whether no config of another format lies beside the weights."""
    return not any(name.endswith(".json") for name in files.names)


def _length(info: TensorInfo) -> int | None:
    return info.shape[0] if len(info.shape) == 1 else None


def read(files: CheckpointFiles, claim: Claim, choices: Choices) -> Dictionary:
    """The transcoder; raises :class:`CheckpointError` where files are missing or contradict each other."""
    fields = _config(files, claim)
    if circuit_tracer_layers.find_layers(files):
        facts = {"model": fields.text("model_name")}
        return circuit_tracer_layers.read_layers(files, claim, fields, facts, NOTES)
    if len(claim.weights) > 1:
        raise CheckpointError(
            f"one transcoder in {files.root}",
            f"{len(claim.weights)}, one per layer: {', '.join(claim.weights[:6])}",
            "Reference the file of one layer.",
        )
    tensors = Tensors(claim.weight, files.state_dict(claim.weight))
    return _read_one(fields, tensors, claim, choices)


def _config(files: CheckpointFiles, claim: Claim) -> Fields:
    """``config.yaml``, empty where there is none."""
    if CONFIG_FILE not in claim.configs:
        return Fields(CONFIG_FILE, {})
    fields = Fields(CONFIG_FILE, files.yaml(CONFIG_FILE))
    fields.one_of(("transcoder_set", "cross_layer_transcoder"), "model_kind")
    return fields


def _read_one(fields: Fields, tensors: Tensors, claim: Claim, choices: Choices) -> SAE:
    refuse_log_thresholds(tensors, ("log_thresholds", "log_threshold"))
    d_sae, d_in = (tensors.shape(key)[0] for key in ("b_enc", "b_dec"))
    linear, orientation = _orientation(fields, tensors, choices, d_sae == d_in)
    has_skip = "W_skip" in tensors
    activation = _activation(tensors, THRESHOLD, d_sae)
    kind = "skip_transcoder" if has_skip else "transcoder"
    kind = f"jumprelu_{kind}" if isinstance(activation, JumpReLU) else kind
    source = f"{tensors.file}: {', '.join(key for key in (THRESHOLD, 'W_skip') if key in tensors)}"
    facts: dict[str, Fact | None] = {
        "architecture": Fact(kind, source if kind != "transcoder" else f"{tensors.file}: tensors"),
        "d_in": Fact(d_in, f"{tensors.file}: shape of b_dec"),
        "d_sae": Fact(d_sae, f"{tensors.file}: shape of b_enc"),
        "d_out": Fact(d_in, f"{tensors.file}: shape of b_dec"),
        "model": fields.text("model_name"),
        "dtype": Fact(tensors.dtype("W_enc"), f"{tensors.file}: W_enc"),
        "normalization": Fact("none", "definition of circuit-tracer's transcoders", "assumed"),
        "subtract_b_dec": Fact(False, "definition of circuit-tracer's transcoders", "assumed"),
        "orientation": orientation,
        **_sites(fields, claim),
    }
    W_dec = tensors.decoder("W_dec", d_sae=d_sae, d_out=d_in)
    parts: dict[str, Any] = {
        "W_enc": tensors.encoder("W_enc", d_in=d_in, d_sae=d_sae, linear=linear),
        "b_enc": tensors.take("b_enc", d_sae=d_sae),
        "b_dec": tensors.take("b_dec", d_out=d_in),
        "W_skip": tensors.take("W_skip", d_out=d_in, d_in=d_in) if has_skip else None,
    }
    unused = tensors.unused()
    notes = [f"tensors of {tensors.file} not used: {', '.join(unused)}"] if unused else []
    if facts.get("site") is None:
        notes.append("no config beside the file says which hook points it was trained on")
    provenance = {"config": dict(fields.data)} if fields.data else {}
    config = config_from(facts, format=FORMAT, notes=[*NOTES, *notes], provenance=provenance)
    return SAE(config, activation, W_dec=W_dec, **parts)


def _activation(tensors: Tensors, key: str, d_sae: int) -> Activation:
    """JumpReLU where thresholds are stored, one per latent or one for all, else ReLU."""
    if key not in tensors:
        return ReLU()
    if tensors.shape(key) in ((), (1,)):
        sizes = {"threshold": 1} if tensors.shape(key) else {}
        return JumpReLU(tensors.threshold(key, **sizes).reshape(()))
    return JumpReLU(tensors.threshold(key, d_sae=d_sae))


def refuse_log_thresholds(tensors: Tensors, keys: tuple[str, ...]) -> None:
    """Raise :class:`CheckpointError` where logarithms of thresholds are stored, as in unfinished runs."""
    for key in keys:
        if key in tensors:
            raise CheckpointError(
                f"thresholds in {tensors.file} under {THRESHOLD!r}",
                f"{key!r}, logarithms as in training",
                f"Store exp() of them as {THRESHOLD!r}.",
            )


def _orientation(
    fields: Fields, tensors: Tensors, choices: Choices, square: bool
) -> tuple[bool, Fact]:
    """Whether W_enc has one row per latent: settled by the biases, unless it is square."""
    if not square:
        return True, Fact(ORIENTATIONS[0], f"{tensors.file}: lengths of b_enc and b_dec")
    given = choices.text("orientation", ORIENTATIONS)
    if given is not None:
        return given.value == ORIENTATIONS[0], given
    if "model_kind" in fields:
        return True, Fact(ORIENTATIONS[0], f"{fields.file}: model_kind")
    raise CheckpointError(
        f"the orientation of W_enc in {tensors.file}",
        f"it is square, {list(tensors.shape('W_enc'))}, so that the biases do not settle it",
        f"Give --set orientation={ORIENTATIONS[0]} (circuit-tracer) or {ORIENTATIONS[1]}.",
    )


def _sites(fields: Fields, claim: Claim) -> dict[str, Fact]:
    """Hook points of the layer that the config lists the file for, or that its name says."""
    layer = _layer(fields, claim.weight)
    if layer is None:
        return {}
    names = []
    for key, default in (
        ("feature_input_hook", "mlp.hook_in"),
        ("feature_output_hook", "hook_mlp_out"),
    ):
        hook = fields.text(key)
        if hook is None and any(name in claim.configs for name in RUN_CONFIGS):
            hook = Fact(
                default, f"not in {fields.file}: {key} is {default} in such runs", "assumed"
            )
        if hook is None:
            return {}
        how: How = "assumed" if "assumed" in (hook.how, layer.how) else "file"
        source = f"{hook.source}; {layer.source}"
        names.append(Fact(f"blocks.{layer.value}.{hook.value}", source, how))
    return {"site": names[0], "site_out": names[1]}


def _layer(fields: Fields, file: str) -> Fact | None:
    """The layer: the place in the config's list of files, else the number in the file's name."""
    listed = fields.value("transcoders")
    if isinstance(listed, list):
        places = [i for i, uri in enumerate(listed) if _names(uri, file)]
        if len(places) == 1:
            return Fact(places[0], f"{fields.file}: transcoders, entry {places[0]}")
    match = LAYER_FILE.fullmatch(file)
    return Fact(int(match[1]), f"the file name {file}", "assumed") if match else None


def _names(uri: Any, file: str) -> bool:
    return isinstance(uri, str) and uri.partition("?")[0].rpartition("/")[2] == file
