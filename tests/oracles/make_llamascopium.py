"""Checkpoints as llamascopium saves them, with its own codes and reconstructions.

Run under the Python of an environment that has llamascopium (extra ``oracles``); options and output
as in make_saelens.py, one case per model class, activation function and normalisation. The library
encodes activations that it has normalised in a separate step; codes are of raw ``x``, and decoded and
output are denormalised again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import torch
import torchvision_guard  # noqa: F401  # first: the peers import torchvision
from llamascopium.models.clt import CLTConfig, CrossLayerTranscoder
from llamascopium.models.crosscoder import Crosscoder, CrosscoderConfig
from llamascopium.models.sae import SAEConfig, SparseAutoEncoder
from llamascopium.models.sparse_dictionary import SparseDictionary
from safetensors.torch import save_file

LIBRARY = "llamascopium"
K = 4
SITES = [f"blocks.{layer}.hook_resid_post" for layer in (1, 3, 6)]
IN = [f"blocks.{layer}.hook_resid_mid" for layer in range(3)]
OUT = [f"blocks.{layer}.hook_mlp_out" for layer in range(3)]
GIVEN = (0.3, 0.5, 0.7)  # scales that the user gives in place of the stored averages


def models(d_in: int, d_sae: int) -> Iterator[tuple[str, SparseDictionary]]:
    base = {"d_model": d_in, "expansion_factor": d_sae / d_in, "top_k": K}
    post = {"hook_point_in": SITES[0], "hook_point_out": SITES[0]}
    mlp = {"hook_point_in": IN[0], "hook_point_out": OUT[0]}
    for name, more in {
        "sae-relu": {"act_fn": "relu", **post},
        "sae-jumprelu": {"act_fn": "jumprelu", **post},
        "sae-topk-inference": {"act_fn": "topk", "norm_activation": "inference", **post},
        "sae-topk-plain": {"act_fn": "topk", "sparsity_include_decoder_norm": False, **post},
        "sae-jumprelu-tokenwise": {
            "act_fn": "jumprelu",
            "norm_activation": "token-wise",
            "use_decoder_bias": False,
            **post,
        },
        "transcoder-jumprelu": {"act_fn": "jumprelu", **mlp},
        "transcoder-topk-folded": {"act_fn": "topk", **mlp},
    }.items():
        yield name, SparseAutoEncoder(SAEConfig(**base, **more))
    for name, more in {
        "crosscoder-relu": {"act_fn": "relu"},
        "crosscoder-jumprelu": {"act_fn": "jumprelu"},
        "crosscoder-topk-tokenwise": {"act_fn": "topk", "norm_activation": "token-wise"},
    }.items():
        yield name, Crosscoder(CrosscoderConfig(**base, hook_points=SITES, **more))
    for name, more in {
        "clt-jumprelu": {"act_fn": "jumprelu"},
        "clt-topk": {"act_fn": "topk"},
        "clt-relu-plain": {"act_fn": "relu", "sparsity_include_decoder_norm": False},
    }.items():
        config = CLTConfig(**base, hook_points_in=IN, hook_points_out=OUT, **more)
        yield name, CrossLayerTranscoder(config)
    for name, more in {
        "clt-same-relu": {"act_fn": "relu"},
        "clt-same-jumprelu-tokenwise": {"act_fn": "jumprelu", "norm_activation": "token-wise"},
        "clt-same-topk-given": {"act_fn": "topk"},
    }.items():
        config = CLTConfig(**base, hook_points_in=SITES, hook_points_out=SITES, **more)
        yield name, CrossLayerTranscoder(config)


def randomize(model: SparseDictionary) -> None:
    """Weights far from their initial values: unequal decoder norms, biases and thresholds."""
    for name, weight in model.named_parameters():
        if "threshold" in name:
            weight.uniform_(-2.0, -0.5)
        elif name.startswith("b_"):
            weight.normal_(0.0, 0.3)
        else:
            weight.normal_(0.0, model.cfg.d_model**-0.5)
    hooks = dict.fromkeys(model.cfg.associated_hook_points)
    averages = {hook: 4.0 + 1.5 * i for i, hook in enumerate(hooks)}
    model.set_dataset_average_activation_norm(averages)


def run(model: SparseDictionary, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Codes and reconstruction of raw activations ``x[n, d]`` or ``x[n, sources, d]``."""
    cfg = model.cfg
    sides = {hook: x if x.ndim == 2 else x[:, i] for i, hook in enumerate(cfg.hooks_in)}
    normalised, factors = model.normalize_activations(sides, return_scale_factor=True)
    codes = model.encode(model.prepare_input(normalised)[0])
    decoded = model.decode(codes)
    if isinstance(model, CrossLayerTranscoder):
        decoded = decoded.transpose(0, 1)
    parts = [decoded] if x.ndim == 2 else list(decoded.unbind(1))
    for i, hook in enumerate(cfg.hooks_out):
        factor = factors[hook] if hook in factors else model.compute_norm_factor(x, hook)
        parts[i] = parts[i] / factor
    raw = parts[0] if x.ndim == 2 else torch.stack(parts, 1)
    if isinstance(model, Crosscoder):
        codes = codes.amax(1)  # the value of a latent where any hook point's gate lets it pass
    return {"x": x, "codes": codes.flatten(1), "decoded": raw, "output": raw.clone()}


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
    for seed, (name, model) in enumerate(models(options.d_in, options.d_sae)):
        torch.manual_seed(seed)
        with torch.no_grad():
            randomize(model)
            folder = options.out / name
            model.save_pretrained(folder, fold_activation_scale=name.endswith("-folded"))
            model.cfg.save_hyperparameters(folder)
            if name.endswith("-given"):
                scales = zip(SITES, GIVEN, strict=True)
                norms = {hook: options.d_in**0.5 / scale for hook, scale in scales}
                model.set_dataset_average_activation_norm(norms)
            n = len(model.cfg.hooks_in)
            shape = (options.rows, options.d_in) if n == 1 else (options.rows, n, options.d_in)
            found = run(model, torch.randn(shape) * 2 + 0.5)
        save_file(
            {key: value.contiguous() for key, value in found.items()},
            options.out / "expected" / f"{name}.safetensors",
        )
    settings = {"input_scale": ",".join(map(str, GIVEN))}
    (options.out / "settings.json").write_text(
        json.dumps({"clt-same-topk-given": {"settings": settings}}, indent=2) + "\n"
    )


if __name__ == "__main__":
    main()
