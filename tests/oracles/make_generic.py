"""Checkpoints of no known format, each with what has to be said about it, and formulas in plain torch.

Options and output as in make_saelens.py; ``settings.json`` holds what a user has to say. Names, orders and
orientations are those that files in the wild have.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file
from torch import Tensor

LIBRARY = None
K = 4
Function = Callable[[Tensor], Tensor]


class Weights(NamedTuple):
    """One random dictionary in SAELens orientation, which each case stores in its own way."""

    E: Tensor  # [d, f]
    D: Tensor  # [f, d]
    be: Tensor
    bd: Tensor
    mean: Tensor
    std: Tensor
    theta: Tensor


class Case(NamedTuple):
    """What is written, what the user says, and the two formulas."""

    name: str
    file: str
    content: Any
    encode: Function
    decode: Callable[[Tensor, Tensor], Tensor]
    settings: Mapping[str, str] = MappingProxyType({})
    tensors: Mapping[str, str] = MappingProxyType({})
    config: dict[str, Any] | None = None
    config_name: str = "cfg.json"
    skip: Function | None = None


def weights(d: int, f: int) -> Weights:
    return Weights(
        torch.randn(d, f) / d**0.5,
        torch.randn(f, d) * torch.rand(f, 1),
        torch.randn(f) * 0.3,
        torch.randn(d) * 0.5,
        torch.randn(d),
        torch.rand(d) + 0.5,
        torch.rand(f) * 0.5 + 0.1,
    )


def topk(pre: Tensor, *, rectify: bool = True) -> Tensor:
    kept = torch.zeros_like(pre)
    for row, values in zip(kept, pre, strict=True):
        best = values.argsort(descending=True)[:K]
        row[best] = values[best]
    return kept.clamp(min=0) if rectify else kept


def abs_topk(pre: Tensor) -> Tensor:
    kept = torch.zeros_like(pre)
    for row, values in zip(kept, pre, strict=True):
        best = values.abs().argsort(descending=True)[:K]
        row[best] = values[best]
    return kept


def unit_rows(D: Tensor) -> Tensor:
    return D / (D**2).sum(1, keepdim=True).sqrt()


def gated_by(pre: Tensor, threshold: Tensor | float) -> Tensor:
    return torch.where((pre > threshold) & (pre > 0), pre, torch.zeros_like(pre))


def published(w: Weights) -> Iterator[Case]:
    """Layouts that are published somewhere."""
    yield Case(
        "linear-names-opposite-orientation",
        "layer5.sae.pt",
        {"W_enc": w.E.T, "W_dec": w.D.T, "b_enc": w.be, "b_dec": w.bd},
        lambda x: topk(x @ w.E + w.be),
        lambda f, x: f @ w.D + w.bd,
        {"activation": "topk", "k": str(K)},
    )
    e, d, be, bd = (item.to(torch.bfloat16) for item in (w.E, w.D, w.be, w.bd))
    yield Case(
        "bfloat16-linears",
        "sae.pt",
        {"encoder.weight": e.T, "encoder.bias": be, "decoder.weight": d.T, "decoder.bias": bd},
        lambda x: (x @ e.float() + be.float()).relu(),
        lambda f, x: f @ d.float() + bd.float(),
        {"activation": "relu"},
    )
    yield Case(
        "sequential-encoder-normalised-decoder",
        "model.pt",
        {"encoder.0.weight": w.E.T, "encoder.0.bias": w.be, "decoder.weight": w.D.T},
        lambda x: (x @ w.E + w.be).relu(),
        lambda f, x: f @ unit_rows(w.D),
        {"activation": "relu", "normalize_decoder": "true"},
    )
    yield Case(
        "linears-without-decoder-bias",
        "sae.safetensors",
        {"encoder.weight": w.E.T, "encoder.bias": w.be, "decoder.weight": w.D.T},
        lambda x: (x @ w.E + w.be).relu(),
        lambda f, x: f @ w.D,
        config={"d_model": w.E.shape[0], "n_features": w.E.shape[1], "activation": "ReLU"},
        config_name="config.json",
    )
    yield Case(
        "dictionary-with-multiplier",
        "sae.pt",
        {
            "encoder.final_block.0.weight": w.E.T,
            "encoder.final_block.0.bias": w.be,
            "dictionary._weights": w.D,
            "dictionary.multiplier": torch.tensor(0.3),
        },
        lambda x: topk((x @ w.E + w.be).relu()),
        lambda f, x: f @ (unit_rows(w.D) * math.exp(0.3)),
        {"activation": "topk", "k": str(K), "normalize_decoder": "true"},
    )
    yield Case(
        "batch-top-k-of-dictionary-learning-without-config",
        "ae.pt",
        {"encoder.weight": w.E.T, "encoder.bias": w.be, "decoder.weight": w.D.T, "b_dec": w.bd,
         "k": torch.tensor(K, dtype=torch.int), "threshold": torch.tensor(0.4)},
        lambda x: gated_by((x - w.bd) @ w.E + w.be, 0.4),
        lambda f, x: f @ w.D + w.bd,
        {"activation": "batchtopk", "subtract_b_dec": "true"},
    )  # fmt: skip
    z = lambda x: (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-5)  # noqa: E731
    yield Case(
        "five-tensors-standardised-input",
        "sae.safetensors",
        {"W_enc": w.E, "W_dec": w.D, "b_enc": w.be, "b_dec": w.bd, "threshold": w.theta},
        lambda x: gated_by(z(x) @ w.E + w.be, w.theta),
        lambda f, x: (f @ w.D + w.bd) * x.std(1, keepdim=True) + x.mean(1, keepdim=True),
        {"activation": "jumprelu", "normalization": "layer_norm"},
    )


def nested(w: Weights) -> Iterator[Case]:
    """State dicts beside configs in one file, with a mean or a spread to take out."""
    names = {"W_enc": w.E, "W_dec": w.D, "b_enc": w.be, "b_dec": w.bd}
    yield Case(
        "state-dict-beside-config-with-mean",
        "final.pt",
        {
            "state_dict": {**names, "act_mean": w.mean},
            "config": {
                "input_dim": w.E.shape[0],
                "hidden_dim": w.E.shape[1],
                "top_k": K,
                "activation": "TopK",
            },
            "step": 100,
        },
        lambda x: topk((x - w.mean) @ w.E + w.be),
        lambda f, x: f @ w.D + w.bd + w.mean,
        tensors={"mean": "act_mean"},
    )
    yield Case(
        "standardised-dimensions",
        "sae.pt",
        {"sae.encoder.weight": w.E.T, "sae.encoder.bias": w.be, "sae.decoder.weight": w.D.T,
         "sae.decoder.bias": w.bd, "x_mean": w.mean, "x_std": w.std},
        lambda x: ((x - w.mean) / w.std @ w.E + w.be).relu(),
        lambda f, x: (f @ w.D + w.bd) * w.std + w.mean,
        tensors={"mean": "x_mean", "std": "x_std"},
        config={"dict_size": w.E.shape[1], "sae_type": "vanilla"},
    )  # fmt: skip
    yield Case(
        "logarithms-of-thresholds",
        "sae.pt",
        {f"module._orig_mod.{k}": v for k, v in {**names, "log_threshold": w.theta.log()}.items()},
        lambda x: gated_by(x @ w.E + w.be, w.theta),
        lambda f, x: f @ w.D + w.bd,
        config={"sae": {"d_sae": w.E.shape[1], "architecture": "jump_relu"}},
    )
    yield Case(
        "batch-top-k-with-threshold",
        "sae.pt",
        {"enc.weight": w.E.T, "enc.bias": w.be, "dec.weight": w.D.T, "dec.bias": w.bd},
        lambda x: gated_by((x - w.bd) @ w.E + w.be, 0.4),
        lambda f, x: f @ w.D + w.bd,
        config={
            "activation": "batch_topk",
            "k": K,
            "threshold": 0.4,
            "apply_b_dec_to_input": True,
        },
        config_name="sae.json",
    )


def unusual(w: Weights) -> Iterator[Case]:
    """Names and rules that only the user can settle."""
    square = w.E[:, : w.E.shape[0]], w.D[: w.E.shape[0]]
    yield Case(
        "square-matrices",
        "sae.pt",
        {"A": square[0].T.contiguous(), "B": square[1]},
        lambda x: abs_topk(x @ square[0]),
        lambda f, x: f @ square[1],
        {
            "activation": "abstopk",
            "k": str(K),
            "orientation": "d_sae,d_in",
            "decoder_orientation": "d_sae,d_in",
        },
        {"encoder": "A", "decoder": "B"},
    )
    yield Case(
        "tied-to-the-decoder",
        "sae.pt",
        {"W_dec": w.D, "b_enc": w.be, "pre_bias": w.bd},
        lambda x: ((x - w.bd) @ w.D.T + w.be).relu(),
        lambda f, x: f @ w.D + w.bd,
        {"activation": "relu", "tied": "true", "subtract_b_dec": "true"},
    )
    yield Case(
        "one-bias-subtracted-and-added",
        "ae.pt",
        {"encoder.weight": w.E.T, "encoder.bias": w.be, "decoder.weight": w.D.T, "bias": w.bd},
        lambda x: ((x - w.bd) @ w.E + w.be).relu(),
        lambda f, x: f @ w.D + w.bd,
        {"activation": "relu", "subtract_b_dec": "true"},
    )
    yield Case(
        "scaled-input-and-raw-top-k",
        "sae.pt",
        {"W_e": w.E, "W_d": w.D, "latent_bias": w.be - 1, "b_dec": w.bd, "b_in": w.mean,
         "n_forward_passes_since_fired": torch.zeros(w.E.shape[1])},
        lambda x: topk((x * 0.25 - w.mean) @ w.E + w.be - 1, rectify=False),
        lambda f, x: (f @ w.D + w.bd) / 0.25,
        {"activation": "topk", "k": str(K), "relu": "false", "input_scale": "0.25"},
    )  # fmt: skip


def two_paths(w: Weights) -> Iterator[Case]:
    """Gates and skip paths."""
    gate, r_mag = torch.randn_like(w.E), w.theta - 0.3
    yield Case(
        "gate-of-its-own",
        "sae.pt",
        {
            "W_enc": w.E,
            "W_dec": w.D,
            "b_enc": w.be,
            "b_dec": w.bd,
            "W_gate": gate,
            "b_gate": w.theta,
        },
        lambda x: (x @ w.E + w.be) * (x @ gate + w.theta > 0),
        lambda f, x: f @ w.D + w.bd,
        config={"type": "gated"},
    )
    yield Case(
        "gate-that-shares-the-encoder",
        "sae.safetensors",
        {
            "W_enc": w.E,
            "W_dec": w.D,
            "b_dec": w.bd,
            "b_gate": w.be,
            "r_mag": r_mag,
            "b_mag": w.theta,
        },
        lambda x: (x @ w.E + w.be > 0) * (x @ w.E * r_mag.exp() + w.theta).relu(),
        lambda f, x: f @ w.D + w.bd,
        {"activation": "gated"},
    )
    out = torch.randn(w.D.shape[0], w.D.shape[1] - 2)
    skip = torch.randn(out.shape[1], w.D.shape[1])
    yield Case(
        "transcoder-with-skip",
        "transcoder.safetensors",
        {
            "W_enc": w.E.T.contiguous(),
            "b_enc": w.be,
            "W_dec": out,
            "b_dec": w.bd[:-2],
            "W_skip": skip,
        },
        lambda x: (x @ w.E + w.be).relu(),
        lambda f, x: f @ out + w.bd[:-2],
        {"activation": "relu"},
        skip=lambda x: x @ skip.T,
    )


def write(case: Case, out: Path, x: Tensor) -> None:
    folder = out / case.name
    folder.mkdir(parents=True, exist_ok=True)
    if case.file.endswith(".safetensors"):
        save_file({k: v.contiguous() for k, v in case.content.items()}, folder / case.file)
    else:
        torch.save(_own_memory(case.content), folder / case.file)
    if case.config is not None:
        (folder / case.config_name).write_text(json.dumps(case.config, indent=2))
    codes = case.encode(x)
    decoded = case.decode(codes, x)
    output = decoded if case.skip is None else decoded + case.skip(x)
    found = {"x": x, "codes": codes, "decoded": decoded, "output": output}
    save_file(
        {k: v.clone().contiguous() for k, v in found.items()},
        out / "expected" / f"{case.name}.safetensors",
    )


def _own_memory(content: Any) -> Any:
    """Tensors without the memory of those they are views of."""
    if isinstance(content, dict):
        return {key: _own_memory(value) for key, value in content.items()}
    return content.contiguous().clone() if isinstance(content, Tensor) else content


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
    said = {}
    for seed, family in enumerate((published, nested, unusual, two_paths)):
        torch.manual_seed(seed)
        w = weights(options.d_in, options.d_sae)
        x = torch.randn(options.rows, options.d_in) * 2 + 0.5
        for case in family(w):
            write(case, options.out, x)
            said[case.name] = {"settings": dict(case.settings), "tensors": dict(case.tensors)}
    (options.out / "settings.json").write_text(json.dumps(said, indent=2) + "\n")


if __name__ == "__main__":
    main()
