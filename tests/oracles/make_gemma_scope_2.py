"""Checkpoints laid out as Gemma Scope 2 is published, from its formulas written out.

Any Python with torch runs this. Options and output as in make_saelens.py. In several layers
``y_t = Σ_s f_s w_dec_s[:, t] + b_dec_t + x_t A_t``, where layer s encodes ``x_s`` alone.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

LIBRARY = None
SITES = {
    "resid_post": ("output", None),
    "transcoder_affine": ("pre_feedforward_layernorm.output", "post_feedforward_layernorm.output"),
    "crosscoder": ("output", None),
    "clt_affine": ("pre_feedforward_layernorm.output", "post_feedforward_layernorm.output"),
}
LAYERS = {"crosscoder": 4, "clt_affine": 3}


def weights(d_in: int, d_sae: int, layers: int | None, affine: bool) -> dict[str, Tensor]:
    """The tensors of one file."""
    target = [d_in] if layers is None else [layers, d_in]
    made = {
        "w_enc": torch.randn(d_in, d_sae) / d_in**0.5,
        "w_dec": torch.randn(d_sae, *target) / d_in**0.5,
        "b_enc": torch.randn(d_sae) * 0.2,
        "b_dec": torch.randn(d_in) * 0.3,
        "threshold": torch.rand(d_sae) * 0.5,
    }
    if affine:
        made["affine_skip_connection"] = torch.randn(d_in, d_in) * 0.3
    return made


def encode(w: dict[str, Tensor], x: Tensor) -> Tensor:
    pre = x @ w["w_enc"] + w["b_enc"]
    return torch.relu(pre) * (pre > w["threshold"])


def with_skip(w: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    return y + x @ w["affine_skip_connection"] if "affine_skip_connection" in w else y


def one_layer(w: dict[str, Tensor], x: Tensor) -> dict[str, Tensor]:
    codes = encode(w, x)
    decoded = codes @ w["w_dec"] + w["b_dec"]
    return {"codes": codes, "decoded": decoded, "output": with_skip(w, x, decoded).clone()}


def several_layers(ws: list[dict[str, Tensor]], x: Tensor) -> dict[str, Tensor]:
    codes = [encode(w, x[:, s]) for s, w in enumerate(ws)]
    decoded, output = [], []
    for t, own in enumerate(ws):
        y = own["b_dec"] + sum(f @ w["w_dec"][:, t] for f, w in zip(codes, ws, strict=True))
        decoded.append(y)
        output.append(with_skip(own, x[:, t], y))
    found = {"decoded": torch.stack(decoded, 1), "output": torch.stack(output, 1)}
    return found | {"codes": torch.cat(codes, -1)}


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
    for seed, (name, (site, site_out)) in enumerate(SITES.items()):
        torch.manual_seed(seed)
        folder, layers, affine = options.out / name, LAYERS.get(name), name.endswith("_affine")
        folder.mkdir(exist_ok=True)
        config = {
            "hf_hook_point_in": f"model.layers.7.{site}",
            "hf_hook_point_out": f"model.layers.7.{site_out or site}",
            "width": options.d_sae,
            "model_name": "google/gemma-3-4b-it",
            "architecture": "jump_relu",
            "l0": 20,
            "affine_connection": affine,
            "type": name.removesuffix("_affine").replace("resid_post", "sae"),
        }
        (folder / "config.json").write_text(json.dumps(config, indent=2))
        x = torch.randn(options.rows, *([layers] if layers else []), options.d_in) * 2 + 0.5
        d_sae = options.d_sae // (layers or 1)
        made = [weights(options.d_in, d_sae, layers, affine) for _ in range(layers or 1)]
        files = [f"params_layer_{i}" for i in range(layers)] if layers else ["params"]
        for file, w in zip(files, made, strict=True):
            save_file(w, folder / f"{file}.safetensors")
        if name == "resid_post":  # texts that activate latents most, kept beside the weights
            save_file({"tokens": torch.zeros(2, 3)}, folder / "examples.safetensors")
        found = several_layers(made, x) if layers else one_layer(made[0], x)
        found = {key: value.contiguous() for key, value in (found | {"x": x}).items()}
        save_file(found, options.out / "expected" / f"{name}.safetensors")


if __name__ == "__main__":
    main()
