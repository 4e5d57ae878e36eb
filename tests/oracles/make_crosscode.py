"""crosscode models of each shape and activation, with the formulas of its base class in torch.

The package is on no index: nothing can be installed to compare with. Options and output as in
make_saelens.py: an SAE, a skip transcoder, crosscoders over models and over hook points, and a
transcoder to several layers; some configs hold Python tuples, as its own writer leaves them.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

LIBRARY = None
K = 4
SCALE = 0.3
DOWN = 2.5  # taken from biases where values are kept as they are, so that some kept are negative


@dataclass
class Case:
    name: str
    dims_in: tuple[int, ...]
    dims_out: tuple[int, ...]
    activation: str
    shape: str  # the lines of the config that name the dimensions
    b_enc: bool = True
    b_dec: bool = True
    skip: bool = False
    folded: bool = True
    settings: dict[str, str] = field(default_factory=dict)


CLASSES = {
    "relu": ("ReLUActivation", "{}"),
    "jumprelu": ("AnthropicSTEJumpReLUActivation", "{bandwidth: 0.1, size: 20}"),
    "topk": ("TopkActivation", f"{{k: {K}}}"),
    "batchtopk": ("BatchTopkActivation", f"{{k_per_example: {K}}}"),
    "groupmax": ("GroupMaxActivation", f"{{k_groups: {K}, latents_size: 20}}"),
}
MODELS = "n_models: 2\nhookpoints: [blocks.3.hook_resid_post]"
LAYERS = "n_models: 1\nhookpoints: [blocks.1.hook_resid_post, blocks.2.hook_resid_post]"
TUPLES = "crosscoding_dims: !!python/tuple\n- 2"

CASES = (
    Case("sae_topk", (), (), "topk", ""),
    Case(
        *("sae_relu_unfolded", (), (), "relu", ""),
        b_enc=False,
        folded=False,
        settings={"input_scale": f"{SCALE}"},
    ),
    Case("transcoder_skip", (), (), "jumprelu", "", skip=True),
    Case("two_models", (2, 1), (2, 1), "jumprelu", MODELS),
    Case("two_layers", (1, 2), (1, 2), "batchtopk", LAYERS, settings={"threshold": "0.6"}),
    Case("to_three_layers", (), (3,), "groupmax", "n_layers_out: 3", b_dec=False),
    Case(
        *("tuples", (2,), (2,), "topk", TUPLES),
        settings={"sources": "models", "activation": "topk", "k": str(K)},
    ),
)


def config(case: Case, d_in: int, d_sae: int) -> str:
    classname, numbers = CLASSES[case.activation]
    lines = (
        f"activation_fn:\n  cfg: {numbers}\n  classname: {classname}",
        case.shape,
        f"d_model: {d_in}\ndtype: float32\nn_latents: {d_sae}",
        f"use_decoder_bias: {str(case.b_dec).lower()}",
        f"use_encoder_bias: {str(case.b_enc).lower()}",
    )
    return "\n".join(line for line in lines if line) + "\n"


def weights(case: Case, d_in: int, d_sae: int) -> dict[str, Tensor]:
    found = {
        "_W_enc_XiDiL": torch.randn(*case.dims_in, d_in, d_sae) * d_in**-0.5,
        "_W_dec_LXoDo": torch.randn(d_sae, *case.dims_out, d_in) * d_in**-0.5,
        "is_folded": torch.tensor(case.folded),
        "folded_scaling_factors_in_Xi": torch.rand(case.dims_in) * case.folded,
        "folded_scaling_factors_out_Xo": torch.rand(case.dims_out) * case.folded,
    }
    if case.b_enc:
        down = DOWN if case.activation in ("topk", "groupmax") else 0
        found["b_enc_L"] = torch.randn(d_sae) * 0.2 - down
    if case.b_dec:
        found["_b_dec_XoDo"] = torch.randn(*case.dims_out, d_in) * 0.2
    if case.activation == "jumprelu":
        found["_activation_fn.log_threshold_L"] = torch.rand(d_sae) - 1.5
    if case.skip:
        found["W_skip_DD"] = torch.randn(d_in, d_in) * 0.3
    return found


def gate(case: Case, w: dict[str, Tensor], pre: Tensor) -> Tensor:
    if case.activation == "relu":
        return torch.relu(pre)
    if case.activation == "jumprelu":
        return pre * (pre > torch.exp(w["_activation_fn.log_threshold_L"]))
    if case.activation == "batchtopk":  # the threshold given stands in for the batch
        return pre * (pre > float(case.settings["threshold"]))
    if case.activation == "topk":
        kept = pre.topk(K, dim=-1, sorted=False)
        return torch.zeros_like(pre).scatter_(-1, kept.indices, kept.values)
    groups = pre.reshape(len(pre), K, -1)
    best = groups.max(dim=-1)
    kept = torch.zeros_like(groups).scatter_(-1, best.indices[..., None], best.values[..., None])
    return kept.reshape(pre.shape)


def measure(case: Case, w: dict[str, Tensor], x: Tensor) -> dict[str, Tensor]:
    """Codes and outputs of ``x [rows, *dims_in, d]``, sources and targets in one dimension each."""
    scale = 1.0 if case.folded else SCALE
    rows, d = len(x), x.shape[-1]
    W_enc = w["_W_enc_XiDiL"].reshape(-1, w["_W_enc_XiDiL"].shape[-1])
    W_dec = w["_W_dec_LXoDo"]
    codes = gate(case, w, (x * scale).reshape(rows, -1) @ W_enc + w.get("b_enc_L", 0.0))
    decoded = torch.tensordot(codes, W_dec, dims=1) + w.get("_b_dec_XoDo", 0.0)
    decoded = decoded / scale
    output = decoded + x @ w["W_skip_DD"] if case.skip else decoded.clone()
    n_out = decoded[0].numel() // d
    shape = (rows, d) if n_out == 1 else (rows, n_out, d)
    x = x.reshape(rows, d) if x[0].numel() == d else x.reshape(rows, -1, d)
    return {
        "x": x,
        "codes": codes,
        "decoded": decoded.reshape(shape),
        "output": output.reshape(shape),
    }


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
    for seed, case in enumerate(CASES):
        torch.manual_seed(seed)
        folder = options.out / case.name
        folder.mkdir(exist_ok=True)
        w = weights(case, options.d_in, options.d_sae)
        torch.save(w, folder / "model.pt")
        (folder / "model_cfg.yaml").write_text(config(case, options.d_in, options.d_sae))
        x = torch.randn(options.rows, *case.dims_in, options.d_in) * 2 + 0.5
        found = {key: value.contiguous() for key, value in measure(case, w, x).items()}
        save_file(found, options.out / "expected" / f"{case.name}.safetensors")
    settings = {case.name: {"settings": case.settings} for case in CASES if case.settings}
    (options.out / "settings.json").write_text(json.dumps(settings, indent=4))


if __name__ == "__main__":
    main()
