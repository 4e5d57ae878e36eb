"""Checkpoints in the layouts of nanochat-SAE's classes, and their formulas in plain torch.

Options and output as in make_saelens.py; ``settings.json`` holds what a user may say.
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
K = 4
PARAMETERS = {
    "E": "W_enc",
    "D": "W_dec",
    "be": "b_enc",
    "bd": "b_dec",
    "G": "W_gate",
    "bg": "b_gate",
}
MODULES = {"E": "W_enc.weight", "D": "W_dec.weight", "be": "W_enc.bias", "bd": "W_dec.bias"}
LINEARS = {"E": "encoder.weight", "D": "decoder.weight", "be": "encoder.bias", "bd": "decoder.bias"}


def tensors(
    names: dict[str, str], w: dict[str, Tensor], *, gated: bool = False
) -> dict[str, Tensor]:
    found = {}
    for role, name in names.items():
        if role in ("G", "bg") and not gated:
            continue
        value = w[role]
        found[name] = value.T.contiguous() if name.endswith(".weight") else value.clone()
    return found


def config(w: dict[str, Tensor], activation: str, **more: Any) -> dict[str, Any]:
    d_in, d_sae = w["E"].shape
    return {"d_in": d_in, "d_sae": d_sae, "activation": activation, "k": K, **more}


def encode(
    x: Tensor, w: dict[str, Tensor], activation: str, *, relu: bool, subtract: bool
) -> Tensor:
    centred = x - w["bd"] if subtract else x
    pre = centred @ w["E"] + w["be"]
    if activation == "relu":
        return pre.relu()
    if activation == "gated":
        return pre * (centred @ w["G"] + w["bg"] > 0)
    if relu:
        pre = pre.relu()
    bound = pre.sort(dim=1, descending=True).values[:, K - 1 : K]
    return torch.where(pre >= bound, pre, torch.zeros_like(pre))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--d-in", type=int, default=16)
    parser.add_argument("--d-sae", type=int, default=64)
    parser.add_argument("--rows", type=int, default=12)
    parser.add_argument("--golden", action="store_true", help="every case is a golden one")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    d, f = options.d_in, options.d_sae
    w = {
        "E": torch.randn(d, f) / d**0.5,
        "D": torch.nn.functional.normalize(torch.randn(f, d), dim=1),
        "be": torch.randn(f) * 0.3 - 3.0,  # negative enough that the k-th largest may be negative
        "bd": torch.randn(d) * 0.5,
        "G": torch.randn(d, f) / d**0.5,
        "bg": torch.randn(f) * 0.3,
    }
    x = torch.randn(options.rows, d) * 2 + 0.5
    (options.out / "expected").mkdir(parents=True, exist_ok=True)
    said: dict[str, dict[str, Any]] = {}

    def case(
        name: str,
        file: str,
        content: Any,
        cfg: dict[str, Any] | None,
        activation: str = "topk",
        cfg_file: str = "cfg.json",
        **settings: str,
    ) -> None:
        folder = options.out / name
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(content, folder / file)
        if cfg is not None:
            (folder / cfg_file).write_text(json.dumps(cfg, indent=2))
        relu, subtract = (settings.get(key) == "true" for key in ("relu", "subtract_b_dec"))
        codes = encode(x, w, activation, relu=relu, subtract=subtract)
        output = codes @ w["D"] + w["bd"]
        found = {"x": x, "codes": codes, "decoded": output, "output": output.clone()}
        save_file(found, options.out / "expected" / f"{name}.safetensors")
        said[name] = {"settings": settings}

    topk = config(w, "topk", layer=25, model="google/gemma-4-E2B", quantization="bnb4bit")
    behaviour = "gemma4_e2b_gf1_behaviorSAE_topk_k16_L25_bnb4bit.pt"
    case("behaviour-parameters", behaviour, tensors(PARAMETERS, w), topk)
    case("behaviour-modules", behaviour, tensors(MODULES, w), topk)
    case("behaviour-linears", behaviour, tensors(LINEARS, w), topk)
    case("behaviour-rectified", behaviour, tensors(PARAMETERS, w), topk, relu="true")
    case("behaviour-centred", behaviour, tensors(PARAMETERS, w), topk, subtract_b_dec="true")
    scope = {key: value for key, value in config(w, "").items() if key != "activation"}
    scope |= {"architecture": "batchtopk", "layer": 17, "seed": 17}
    case("scope-batchtopk", "sae_weights.pt", tensors(PARAMETERS, w), scope)
    run = {
        "sae_state_dict": tensors(PARAMETERS, w),
        "optimizer_state_dict": {"state": {}, "param_groups": [{"lr": 1e-4}]},
        "scheduler_state_dict": {"last_epoch": 3},
        "config": config(w, "topk", normalize_decoder=True),
        "feature_counts": torch.zeros(f),
        "step": 500,
    }
    case("run-checkpoint", "checkpoint_step500.pt", run, None)
    gated = tensors(PARAMETERS, w, gated=True)
    case("run-gated", "best_model.pt", gated, config(w, "gated"), "gated", "config.json")
    case(
        "run-relu",
        "best_model.pt",
        tensors(PARAMETERS, w),
        config(w, "relu"),
        "relu",
        "config.json",
    )
    (options.out / "settings.json").write_text(json.dumps(said, indent=2) + "\n")


if __name__ == "__main__":
    main()
