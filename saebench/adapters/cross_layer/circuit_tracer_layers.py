"""Cross-layer transcoders in circuit-tracer's files: ``W_enc_<i>`` and ``W_dec_<i>`` for each layer.

Layer ``i`` has ``W_enc_<i> [d_sae, d_model]`` and writes to itself and all later layers through
``W_dec_<i> [d_sae, layers − i, d_model]``. Its biases and thresholds lie beside the encoder.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import torch

from saebench.activations import Activation, JumpReLU, ReLU
from saebench.adapters.reading.claims import Claim
from saebench.adapters.reading.fields import Fields, config_from
from saebench.adapters.reading.tensors import Tensors
from saebench.errors import CheckpointError
from saebench.files import CheckpointFiles
from saebench.sae import SAE, CrossLayerTranscoder, Fact
from saebench.weights import TensorInfo

FORMAT = "circuit_tracer"
FILE = re.compile(r"W_(enc|dec)_(\d+)\.safetensors")
MAX_LAYERS = 1000  # a file name with a larger number is no layer
DEFAULT_HOOKS = {"feature_input_hook": "hook_resid_mid", "feature_output_hook": "hook_mlp_out"}


def find_layers(files: CheckpointFiles) -> tuple[str, ...]:
    """The files of a cross-layer transcoder: numbered, with tensors of the same name inside."""
    named = [name for name in files.names if FILE.fullmatch(name)]
    encoders = [name for name in named if name.startswith("W_enc")]
    if not encoders:
        return ()
    stem = encoders[0].removesuffix(".safetensors")
    return tuple(named) if stem in files.header(encoders[0]) else ()


def evidence(files: CheckpointFiles, names: Sequence[str]) -> tuple[str, ...]:
    """What the first file shows, and how many there are."""
    first = next(name for name in names if name.startswith("W_enc"))
    key = first.removesuffix(".safetensors")
    shape = list(files.header(first)[key].shape)
    return (f"{first}: {key} {shape}", f"{len(names)} files W_enc_<i> and W_dec_<i>")


def read_layers(
    files: CheckpointFiles,
    claim: Claim,
    fields: Fields,
    facts: dict[str, Fact | None],
    notes: Sequence[str],
) -> CrossLayerTranscoder:
    """The transcoder; raises :class:`CheckpointError` naming the files that are missing."""
    n = _count(claim.weights)
    first = files.header("W_enc_0.safetensors")
    d_in, d_sae = _sizes(first)
    hooks = {key: _hook(fields, key) for key in DEFAULT_HOOKS}
    sites, sites_out = (
        Fact(tuple(f"blocks.{i}.{hook.value}" for i in range(n)), hook.source, hook.how)
        for hook in hooks.values()
    )
    layers, biases, unused, has_thresholds = [], [], [], []
    for i in range(n):
        encoder = Tensors(f"W_enc_{i}.safetensors", files.state_dict(f"W_enc_{i}.safetensors"))
        decoder = Tensors(f"W_dec_{i}.safetensors", files.state_dict(f"W_dec_{i}.safetensors"))
        for part in (encoder, decoder):
            _refuse(part, i)
        layers.append(_layer(encoder, decoder, i, n, (d_in, d_sae), sites.value[i]))
        biases.append(encoder.take(f"b_dec_{i}", d_out=d_in))
        has_thresholds.append(f"threshold_{i}" in encoder)
        unused += [f"{t.file}: {key}" for t in (encoder, decoder) for key in t.unused()]
    if len(set(has_thresholds)) > 1:
        lacking = [f"threshold_{i}" for i, has in enumerate(has_thresholds) if not has]
        raise CheckpointError(
            "thresholds in every layer or in none",
            f"{', '.join(lacking[:6])} missing",
            "Fetch the files again; they are of different checkpoints.",
        )
    source = "W_enc_0.safetensors: shapes of b_enc_0 and b_dec_0"
    count = Fact(n, f"{n} files W_enc_<i>.safetensors")
    gate = "threshold_<i>" if has_thresholds[0] else "no thresholds: ReLU"
    dtype = first["W_enc_0"].dtype
    all_facts = facts | {
        "architecture": Fact("cross_layer_transcoder", f"W_enc_<i>.safetensors: {gate}"),
        "d_in": Fact(d_in, source),
        "d_out": Fact(d_in, source),
        "d_sae": Fact(n * d_sae, f"{source}, in {n} layers"),
        "n_sources": count,
        "n_targets": count,
        "sites": sites,
        "sites_out": sites_out,
        "dtype": Fact(dtype, "W_enc_0.safetensors: W_enc_0"),
        "normalization": Fact("none", "definition of circuit-tracer's transcoders", "assumed"),
        "subtract_b_dec": Fact(False, "definition of circuit-tracer's transcoders", "assumed"),
    }
    more = [f"tensors not used: {', '.join(unused[:20])}"] if unused else []
    provenance = {"config": dict(fields.data)} if fields.data else {}
    config = config_from(all_facts, format=FORMAT, notes=[*notes, *more], provenance=provenance)
    targets = [range(i, n) for i in range(n)]
    return CrossLayerTranscoder(config, layers, targets, torch.stack(biases))


def _refuse(tensors: Tensors, i: int) -> None:
    """Raise :class:`CheckpointError` for tensors that change the codes or the output, unread."""
    logs = next(
        (key for key in (f"log_threshold_{i}", f"log_thresholds_{i}") if key in tensors), ""
    )
    if logs:
        raise CheckpointError(
            f"thresholds in {tensors.file} under 'threshold_{i}'",
            f"{logs!r}, logarithms as in training",
            f"Store exp() of them as 'threshold_{i}'.",
        )
    if f"W_skip_{i}" in tensors:
        raise CheckpointError(
            f"{tensors.file} without a skip connection, which circuit-tracer neither writes to nor "
            "reads from such files",
            f"'W_skip_{i}' {list(tensors.shape(f'W_skip_{i}'))}: nothing says which way round it is",
            "Only cross-layer transcoders without skips are read in this layout.",
        )


def _count(names: Sequence[str]) -> int:
    """The number of layers; raises :class:`CheckpointError` naming missing files."""
    found = [match for name in names if (match := FILE.fullmatch(name))]
    last = max(int(match[2][:6]) for match in found)
    if last >= MAX_LAYERS:
        raise CheckpointError(
            f"layers numbered below {MAX_LAYERS}",
            f"layer {last}",
            "Reference the folder of one cross-layer transcoder.",
        )
    wanted = [f"W_{part}_{i}.safetensors" for i in range(last + 1) for part in ("enc", "dec")]
    missing = [name for name in wanted if name not in names]
    if missing:
        raise CheckpointError(
            f"W_enc_<i>.safetensors and W_dec_<i>.safetensors for layers 0 to {last}",
            f"{', '.join(missing[:6])}{' and more' if len(missing) > 6 else ''} missing",
            "Fetch the missing files: every layer writes to all later ones.",
        )
    return last + 1


def _sizes(header: dict[str, TensorInfo]) -> tuple[int, int]:
    """d_model and the latents of one layer, from the lengths of the first layer's biases."""
    lengths = []
    for key in ("b_dec_0", "b_enc_0"):
        shape = getattr(header.get(key), "shape", None)
        if shape is None or len(shape) != 1 or shape[0] == 0:
            raise CheckpointError(
                f"tensor {key!r} in W_enc_0.safetensors with one dimension",
                "no such tensor" if shape is None else f"shape {list(shape)}",
                "Fetch the file again, or the one that belongs to these weights.",
            )
        lengths.append(shape[0])
    return lengths[0], lengths[1]


def _hook(fields: Fields, key: str) -> Fact:
    default = DEFAULT_HOOKS[key]
    source = f"not in {fields.file}: {key} defaults to {default}"
    return fields.text(key) or Fact(default, source, "assumed")


def _layer(
    encoder: Tensors, decoder: Tensors, i: int, n: int, sizes: tuple[int, int], site: str
) -> SAE:
    d_in, d_sae = sizes
    activation: Activation = ReLU()
    if f"threshold_{i}" in encoder:
        activation = JumpReLU(encoder.threshold(f"threshold_{i}", d_sae=d_sae))
    source = f"{encoder.file}: shapes"
    values = {"d_in": d_in, "d_out": d_in, "d_sae": d_sae, "n_targets": n - i, "site": site}
    facts: dict[str, Fact | None] = {name: Fact(value, source) for name, value in values.items()}
    facts["architecture"] = Fact("transcoder", source)
    W_dec = decoder.take(f"W_dec_{i}", d_sae=d_sae, targets=n - i, d_out=d_in)
    return SAE(
        config_from(facts, format=FORMAT, notes=[], provenance={}),
        activation,
        W_dec=W_dec.reshape(d_sae, -1),
        W_enc=encoder.encoder(f"W_enc_{i}", d_in=d_in, d_sae=d_sae, linear=True),
        b_enc=encoder.take(f"b_enc_{i}", d_sae=d_sae),
        b_dec=torch.zeros((n - i) * d_in),
    )
