"""Llama Scope checkpoints, with the formulas of their own loader written out in plain torch.

The package they were made with is no longer installable beside current libraries. Options and output
as in make_saelens.py. Cases ``v1-*`` have ``hyperparams.json``, cases ``r1-*`` ``config.json``.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

LIBRARY = None
K = 4
RESID, MLP_IN, MLP_OUT = (
    f"blocks.15.{hook}" for hook in ("hook_resid_post", "ln2.hook_normalized", "hook_mlp_out")
)
AVERAGES = {"in": 3.7, "out": 5.2}


def cases(d_in: int, d_sae: int) -> Iterator[tuple[str, dict[str, Any]]]:
    base = {"d_model": d_in, "use_decoder_bias": True, "apply_decoder_bias_to_pre_encoder": False}
    base |= {"sparsity_include_decoder_norm": True, "norm_activation": "dataset-wise", "top_k": K}
    base |= {"hook_point_in": RESID, "hook_point_out": RESID, "expansion_factor": d_sae / d_in}
    v1 = base | {"d_sae": d_sae, "jump_relu_threshold": 0.6, "act_fn": "jumprelu"}
    v1 |= {"dataset_average_activation_norm": {"in": AVERAGES["in"], "out": AVERAGES["in"]}}
    yield "v1-jumprelu", v1
    yield "v1-plain-norm", v1 | {"sparsity_include_decoder_norm": False}
    yield "v1-topk-bias", v1 | {"act_fn": "topk", "apply_decoder_bias_to_pre_encoder": True}
    yield "v1-relu-unscaled", v1 | {"act_fn": "relu", "norm_activation": "inference"}
    sites = {"hook_point_in": MLP_IN, "hook_point_out": MLP_OUT}
    yield "v1-transcoder", v1 | sites | {"dataset_average_activation_norm": AVERAGES}
    r1 = base | {"act_fn": "jumprelu", "sae_type": "sae", "use_glu_encoder": False}
    yield "r1-jumprelu", r1
    yield "r1-no-bias", r1 | {"use_decoder_bias": False, "sparsity_include_decoder_norm": False}
    yield "r1-topk-transcoder", r1 | sites | {"act_fn": "topk"}


def gate(config: dict[str, Any], scores: Tensor, threshold: Tensor) -> Tensor:
    if config["act_fn"] == "relu":
        return scores > 0
    if config["act_fn"] == "jumprelu":
        return scores > threshold
    clamped = scores.clamp(min=0)
    return (clamped >= clamped.topk(K).values[..., -1:]) & (clamped > 0)


def folded(config: dict[str, Any], w: dict[str, Tensor], x: Tensor) -> dict[str, Tensor]:
    """``hyperparams.json``: parameters changed when loading, then used on raw activations."""
    d_in = config["d_model"]
    norms = config["dataset_average_activation_norm"]
    s_in, s_out = (math.sqrt(d_in) / norms[end] for end in ("in", "out"))
    if config["norm_activation"] == "inference":
        s_in = s_out = 1.0
    E, e = w["encoder.weight"], w["encoder.bias"] / s_in
    D, d = w["decoder.weight"] * s_in / s_out, w["decoder.bias"] / s_out
    if config["sparsity_include_decoder_norm"]:
        norm = D.norm(dim=0)
        E, e, D = E * norm[:, None], e * norm, D / norm
    shifted = x - d if config["apply_decoder_bias_to_pre_encoder"] else x
    pre = shifted @ E.T + e
    threshold = torch.tensor(config["jump_relu_threshold"])
    codes = pre * gate(config, pre, threshold)
    return {"codes": codes, "decoded": codes @ D.T + d}


def scaled(config: dict[str, Any], w: dict[str, Tensor], x: Tensor) -> dict[str, Tensor]:
    """``config.json``: activations scaled when encoding, outputs scaled back."""
    key = "dataset_average_activation_norm."
    s_in = math.sqrt(config["d_model"]) / w[key + config["hook_point_in"]]
    s_out = math.sqrt(config["d_model"]) / w[key + config["hook_point_out"]]
    pre = (x * s_in) @ w["encoder.weight"].T + w["encoder.bias"]
    D = w["decoder.weight"]
    scores = pre * D.norm(dim=0) if config["sparsity_include_decoder_norm"] else pre
    threshold = w.get("log_jumprelu_threshold", torch.zeros(())).exp()
    codes = pre * gate(config, scores, threshold)
    decoded = codes @ D.T + w.get("decoder.bias", torch.zeros(config["d_model"]))
    return {"codes": codes, "decoded": decoded / s_out}


def weights(config: dict[str, Any], d_sae: int) -> dict[str, Tensor]:
    d_in = config["d_model"]
    found = {
        "encoder.weight": torch.randn(d_sae, d_in) * d_in**-0.5,
        "encoder.bias": torch.randn(d_sae) * 0.2,
        "decoder.weight": torch.randn(d_in, d_sae) * d_in**-0.5,
    }
    if config["use_decoder_bias"]:
        found["decoder.bias"] = torch.randn(d_in) * 0.3
    return found


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
    for seed, (name, config) in enumerate(cases(options.d_in, options.d_sae)):
        torch.manual_seed(seed)
        old = name.startswith("v1")
        w = weights(config, options.d_sae)
        if not old:
            for i, hook in enumerate(
                dict.fromkeys((config["hook_point_in"], config["hook_point_out"]))
            ):
                w[f"dataset_average_activation_norm.{hook}"] = torch.tensor(3.5 + 2 * i)
            if config["act_fn"] == "jumprelu":
                w["log_jumprelu_threshold"] = torch.rand(options.d_sae) - 1.5
        folder = options.out / name
        path = folder / ("checkpoints/final.safetensors" if old else "sae_weights.safetensors")
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(w, path)
        (folder / ("hyperparams.json" if old else "config.json")).write_text(json.dumps(config))
        if old:
            (folder / "lm_config.json").write_text('{"model_name": "meta-llama/Llama-3.1-8B"}')
        x = torch.randn(options.rows, options.d_in) * 2 + 0.5
        found = (folded if old else scaled)(config, w, x)
        found |= {"x": x, "output": found["decoded"].clone()}
        save_file(found, options.out / "expected" / f"{name}.safetensors")


if __name__ == "__main__":
    main()
