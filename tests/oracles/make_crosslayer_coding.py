"""crosslayer-coding checkpoints, with its formulas written out in plain torch.

The library is in no package index. Options and output as in make_saelens.py: untied decoders with
and without standardised activations, in the names of tensors of the newer and the older version.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

LIBRARY = None
N = 3
NEW = ("encoder_module.encoders", "decoder_module.decoders", "theta_manager.log_threshold")
OLD = ("encoders", "decoders", "log_threshold")
CASES = {
    "jumprelu-mean-std": ("jumprelu", "mean_std", NEW),
    "relu-plain-old": ("relu", "none", OLD),
}


def weights(gate: str, names: tuple[str, str, str], d_in: int, d_sae: int) -> dict[str, Tensor]:
    encoders, decoders, threshold = names
    found = {}
    for s in range(N):
        found[f"{encoders}.{s}.weight"] = torch.randn(d_sae, d_in) * d_in**-0.5
        found[f"{encoders}.{s}.bias_param"] = torch.randn(d_sae) * 0.2
        for t in range(s, N):
            found[f"{decoders}.{s}->{t}.weight"] = torch.randn(d_in, d_sae) * d_in**-0.5
            found[f"{decoders}.{s}->{t}.bias_param"] = torch.randn(d_in) * 0.3
    if gate == "jumprelu":
        found[threshold] = torch.rand(N, d_sae) - 1.5
    return found


def statistics(d_in: int) -> dict[str, Any]:
    def side() -> dict[str, list[float]]:
        return {"mean": torch.randn(d_in).tolist(), "std": (torch.rand(d_in) + 0.5).tolist()}

    return {str(layer): {"inputs": side(), "targets": side()} for layer in range(N)}


def run(
    w: dict[str, Tensor], names: tuple[str, str, str], stats: dict[str, Any] | None, x: Tensor
) -> dict[str, Tensor]:
    """Standardise each layer's input, gate its pre-activations, sum decoders, scale back."""
    encoders, decoders, threshold = names

    def numbers(layer: int, side: str) -> tuple[Tensor | float, Tensor | float]:
        if stats is None:
            return 0.0, 1.0
        values = stats[str(layer)][side]
        return torch.tensor(values["mean"]), torch.tensor(values["std"]) + 1e-6

    codes, written = [], []
    for s in range(N):
        mean, std = numbers(s, "inputs")
        pre = (x[:, s] - mean) / std @ w[f"{encoders}.{s}.weight"].T
        pre = pre + w[f"{encoders}.{s}.bias_param"]
        codes.append(pre * (pre > (w[threshold][s].exp() if threshold in w else 0.0)))
    for t in range(N):
        total = torch.zeros_like(x[:, t])
        for s in range(t + 1):
            total += codes[s] @ w[f"{decoders}.{s}->{t}.weight"].T
            total += w[f"{decoders}.{s}->{t}.bias_param"]
        mean, std = numbers(t, "targets")
        written.append(total * std + mean)
    return {"codes": torch.cat(codes, -1), "decoded": torch.stack(written, 1)}


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
    for seed, (name, (gate, method, names)) in enumerate(CASES.items()):
        torch.manual_seed(seed)
        folder = options.out / name
        folder.mkdir(parents=True, exist_ok=True)
        config = {"num_features": options.d_sae, "num_layers": N, "d_model": options.d_in}
        config |= {"activation_fn": gate, "normalization_method": method, "model_name": "gpt2"}
        config |= {"decoder_tying": "none", "skip_connection": False}
        config |= {"tl_input_template": "blocks.{}.hook_resid_mid"}
        config |= {"tl_output_template": "blocks.{}.hook_mlp_out"}
        (folder / "cfg.json").write_text(json.dumps(config))
        w = weights(gate, names, options.d_in, options.d_sae)
        save_file(w, folder / "clt_checkpoint_100.safetensors")
        stats = statistics(options.d_in) if method == "mean_std" else None
        if stats is not None:
            (folder / "norm_stats.json").write_text(json.dumps(stats))
        x = torch.randn(options.rows, N, options.d_in) * 2 + 0.5
        found = {"x": x, **run(w, names, stats, x)}
        found["output"] = found["decoded"].clone()
        save_file(found, options.out / "expected" / f"{name}.safetensors")


if __name__ == "__main__":
    main()
