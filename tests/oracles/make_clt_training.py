"""Checkpoints of the clt-training fork of sparsify, from its formulas written out.

The fork is not on the package index, so any Python with torch runs this. Options and output as in
make_saelens.py. A target gets ``((f + post_enc · [f > 0]) · post_enc_scale) W_dec + b_dec + x' W_skip``,
in normalised units where ``normalize_io`` is set.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

LIBRARY = None
K = 4
THRESHOLD = 0.4
DEFAULTS = {
    "dtype": "float32",
    "activation": "topk",
    "expansion_factor": 32,
    "normalize_decoder": True,
    "k": K,
    "multi_topk": False,
    "skip_connection": False,
    "transcode": True,
    "n_targets": 0,
    "n_sources": 0,
    "normalize_io": False,
    "divide_cross_layer": False,
    "train_post_encoder": True,
    "post_encoder_scale": False,
    "per_source_tied": False,
    "secondary_target_tied": False,
    "coalesce_topk": "none",
    "topk_coalesced": False,
}


def cases() -> Iterator[tuple[str, dict[str, Any]]]:
    yield "sae_normalized", {"transcode": False, "normalize_io": True}
    yield "transcoder_skip_scaled", {"skip_connection": True, "post_encoder_scale": True}
    yield "transcoder_skip_normalized", {"skip_connection": True, "normalize_io": True}
    yield "groupmax", {"activation": "groupmax"}
    yield "batchtopk", {"activation": "batchtopk"}
    yield "one_target", {"n_targets": 1}
    yield (
        "three_targets",
        {"n_targets": 3, "n_sources": 1, "skip_connection": True, "post_encoder_scale": True},
    )


def weights(cfg: dict[str, Any]) -> dict[str, Tensor]:
    """Random tensors under the names that the fork's state dict has."""
    d_in, d_sae, d_out = cfg["d_in"], cfg["num_latents"], cfg["d_out"]
    made = {"encoder.weight": torch.randn(d_sae, d_in) / d_in**0.5}
    made["encoder.bias"] = torch.randn(d_sae) * 0.2
    many = cfg["transcode"] and cfg["n_targets"] > 0
    for t in range(cfg["n_targets"] if many else 1):
        s, end = ("s", f".{t}") if many else ("", "")
        made[f"W_dec{s}{end}"] = torch.randn(d_sae, d_out) / d_in**0.5
        made[f"b_dec{s}{end}"] = torch.randn(d_out) * 0.3
        made[f"post_enc{s}{end}"] = torch.randn(d_sae) * 0.3
        if cfg["post_encoder_scale"]:
            made[f"post_enc_scale{s}{end}"] = torch.rand(d_sae) + 0.5
        if cfg["skip_connection"]:
            made[f"W_skip{s}{end}"] = torch.randn(d_out, d_in) * 0.3
    if many:  # the module names its first target twice
        made["W_dec"], made["b_dec"] = made["W_decs.0"].clone(), made["b_decs.0"].clone()
    if cfg["normalize_io"]:
        made |= {"in_norm": torch.tensor([7.5]), "out_norm": torch.tensor([3.25])}
    return made


def encoded(cfg: dict[str, Any], w: dict[str, Tensor], x: Tensor) -> Tensor:
    """Codes of normalised inputs."""
    x = x if cfg["transcode"] else x - w["b_dec"]
    pre = torch.relu(x @ w["encoder.weight"].T + w["encoder.bias"])
    if cfg["activation"] == "batchtopk":
        return pre * (pre > THRESHOLD)
    if cfg["activation"] == "groupmax":
        groups = pre.reshape(len(x), cfg["k"], -1)
        kept = torch.zeros_like(groups).scatter_(2, groups.argmax(2, keepdim=True), 1.0)
        return (groups * kept).reshape(len(x), -1)
    values, indices = pre.topk(cfg["k"])
    return torch.zeros_like(pre).scatter_(1, indices, values)


def written(
    cfg: dict[str, Any], w: dict[str, Tensor], x: Tensor, f: Tensor
) -> tuple[Tensor, Tensor]:
    """What each target gets, without skip and with it."""
    decoded, output = [], []
    many = "W_decs.0" in w
    for t in range(cfg["n_targets"] if many else 1):
        s, end = ("s", f".{t}") if many else ("", "")
        values = f + w[f"post_enc{s}{end}"] * (f > 0)
        if cfg["post_encoder_scale"]:
            values = values * w[f"post_enc_scale{s}{end}"]
        y = values @ w[f"W_dec{s}{end}"] + w[f"b_dec{s}{end}"]
        back = w["out_norm"] / cfg["d_out"] ** 0.5 if cfg["normalize_io"] else 1.0
        skip = x @ w[f"W_skip{s}{end}"].T if cfg["skip_connection"] else 0.0
        decoded.append(y * back)
        output.append((y + skip) * back)
    stack = (torch.stack(decoded, 1), torch.stack(output, 1))
    return stack if len(decoded) > 1 else (stack[0].squeeze(1), stack[1].squeeze(1))


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
    for seed, (name, changed) in enumerate(cases()):
        torch.manual_seed(seed)
        sizes = {"d_in": options.d_in, "d_out": options.d_in, "num_latents": options.d_sae}
        if name == "groupmax":
            sizes["d_out"] += 3
        cfg = DEFAULTS | changed | sizes
        w = weights(cfg)
        (options.out / name).mkdir(exist_ok=True)
        (options.out / name / "cfg.json").write_text(json.dumps(cfg, indent=4))
        save_file(w, options.out / name / "sae.safetensors")
        x = torch.randn(options.rows, options.d_in) * 2 + 0.5
        inner = x * (options.d_in**0.5 / w["in_norm"]) if cfg["normalize_io"] else x
        codes = encoded(cfg, w, inner)
        decoded, output = written(cfg, w, inner, codes)
        found = {"x": x, "codes": codes, "decoded": decoded, "output": output}
        save_file(
            {key: value.contiguous() for key, value in found.items()},
            options.out / "expected" / f"{name}.safetensors",
        )
    settings = {"batchtopk": {"settings": {"threshold": str(THRESHOLD)}}}
    (options.out / "settings.json").write_text(json.dumps(settings, indent=2))


if __name__ == "__main__":
    main()
