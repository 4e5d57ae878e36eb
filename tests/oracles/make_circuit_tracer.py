"""Transcoders as circuit-tracer saves them, with its own codes and reconstructions.

Run under the Python of an environment that has circuit-tracer (extra ``oracles``); options and output
as in make_saelens.py: single-layer transcoders with and without thresholds and skips, and cross-layer
transcoders. Codes of all positions are kept, also of the first, which attribution sets to zero.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import torch
import torchvision_guard  # noqa: F401  # first: the peers import torchvision
from circuit_tracer.transcoder.activation_functions import JumpReLU
from circuit_tracer.transcoder.cross_layer_transcoder import CrossLayerTranscoder, load_clt
from circuit_tracer.transcoder.single_layer_transcoder import (
    SingleLayerTranscoder,
    load_relu_transcoder,
)
from safetensors.torch import save_file
from torch import Tensor

LIBRARY = "circuit_tracer"
N_LAYERS = 3
CPU = torch.device("cpu")
CONFIG = """\
model_kind: {kind}
model_name: google/gemma-2-2b
feature_input_hook: ln2.hook_normalized
feature_output_hook: hook_mlp_out
scan: tiny
"""


def randomize(model: torch.nn.Module, d_in: int) -> None:
    """Weights far from their initial values, unequal decoder norms, biases and thresholds."""
    for name, weight in model.named_parameters():
        if "threshold" in name:
            weight.data.uniform_(0.2, 0.6)
        elif name.startswith("b_"):
            weight.data.normal_(0.0, 0.3)
        else:
            weight.data.normal_(0.0, d_in**-0.5)


def single(out: Path, d_in: int, d_sae: int, rows: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
    cases = {
        "relu": (False, False, d_sae),
        "relu-skip": (False, True, d_sae),
        "jumprelu": (True, False, d_sae),
        "jumprelu-skip-square": (True, True, d_in),
    }
    for seed, (name, (jumps, skip, width)) in enumerate(cases.items()):
        torch.manual_seed(seed)
        gate = JumpReLU(torch.zeros(width)) if jumps else torch.nn.functional.relu
        options = {"skip_connection": skip, "device": CPU, "dtype": torch.float32}
        made = SingleLayerTranscoder(d_in, width, gate, 5, **options)
        randomize(made, d_in)
        path = out / name / "layer_5.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        made.to_safetensors(str(path))
        (path.parent / "config.yaml").write_text(CONFIG.format(kind="transcoder_set"))
        loaded = load_relu_transcoder(str(path), 5, CPU, torch.float32, False, False)
        x = torch.randn(rows, d_in) * 2 + 0.5
        codes = loaded.encode(x)
        decoded = codes @ loaded.W_dec + loaded.b_dec
        yield name, {"x": x, "codes": codes, "decoded": decoded, "output": loaded(x)}


def cross(out: Path, d_in: int, d_sae: int, rows: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
    for seed, kind in enumerate(("relu", "jump_relu"), start=10):
        torch.manual_seed(seed)
        options = {"lazy_decoder": False, "device": CPU, "dtype": torch.float32}
        made = CrossLayerTranscoder(N_LAYERS, d_sae, d_in, kind, **options)
        randomize(made, d_in)
        name = f"clt-{kind.replace('_', '')}"
        made.to_safetensors(str(out / name))
        (out / name / "config.yaml").write_text(CONFIG.format(kind="cross_layer_transcoder"))
        loaded = load_clt(str(out / name), device=CPU, dtype=torch.float32, lazy_decoder=False)
        x = torch.randn(rows, N_LAYERS, d_in) * 2 + 0.5
        features = loaded.encode(x.transpose(0, 1))
        decoded = loaded.decode(features.to_sparse()).transpose(0, 1)
        output = loaded(x.transpose(0, 1)).transpose(0, 1)
        codes = features.transpose(0, 1).flatten(1)
        yield name, {"x": x, "codes": codes, "decoded": decoded, "output": output}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--d-in", type=int, default=16)
    parser.add_argument("--d-sae", type=int, default=64)
    parser.add_argument("--rows", type=int, default=12)
    parser.add_argument("--golden", action="store_true", help="every case is a golden one")
    options = parser.parse_args()
    torch.set_num_threads(1)
    (options.out / "expected").mkdir(parents=True, exist_ok=True)
    sizes = (options.out, options.d_in, options.d_sae, options.rows)
    with torch.no_grad():
        for name, found in (*single(*sizes), *cross(*sizes)):
            contiguous = {key: value.contiguous().clone() for key, value in found.items()}
            save_file(contiguous, options.out / "expected" / f"{name}.safetensors")


if __name__ == "__main__":
    main()
