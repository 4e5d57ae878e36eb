"""Folders as forks of dictionary_learning push them to the hub, from their formulas written out.

The forks are not on the package index, so any Python with torch runs this. Options and output as in
make_saelens.py. ``BatchTopKSAE`` on differences of two models is the common one; its normaliser lies in
buffers, and ``target_rms`` in the config is the default of the class whatever the buffer holds. Runs of
the forks hold the same buffers beside the trainer's ``config.json``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

LIBRARY = None
K = 4
TARGET_RMS = 100.0
THRESHOLDS = {"global": 60.0, "per_dimension": 3.0, "nan": 0.3, "none": 0.3}  # a part is below
Rule = Callable[[Tensor], Tensor]


def same(x: Tensor) -> Tensor:
    return x


def linear(d_in: int, d_sae: int) -> dict[str, Tensor]:
    """Encoder and decoder as two torch Linear modules store them."""
    encoder, decoder = torch.randn(d_sae, d_in), torch.randn(d_in, d_sae)
    return {"encoder.weight": encoder * d_in**-0.5, "decoder.weight": decoder * d_in**-0.5}


class Case:
    """One checkpoint: its tensors and arguments, and how it encodes and decodes."""

    weights = "model.safetensors"

    def __init__(self, d_in: int, d_sae: int, **arguments: Any) -> None:
        self.arguments = {"activation_dim": d_in, "dict_size": d_sae, **arguments}
        self.tensors: dict[str, Tensor] = {}
        self.d_in, self.d_sae = d_in, d_sae

    def encode(self, x: Tensor) -> Tensor:
        raise TypeError

    def decode(self, f: Tensor) -> Tensor:
        raise TypeError

    def save(self, path: Path) -> None:
        tensors = {key: value.contiguous() for key, value in self.tensors.items()}
        save_file(tensors, path / self.weights)
        (path / "config.json").write_text(json.dumps(self.arguments, indent=2))


class Difference(Case):
    def __init__(self, d_in: int, d_sae: int, buffers: str, dict_class: bool = False) -> None:
        nothing = {"activation_mean": None, "activation_std": None}
        super().__init__(d_in, d_sae, k=K, **nothing, target_rms=1.0, encoder_init_norm=1.0)
        if dict_class:
            self.arguments["dict_class"] = "BatchTopKSAE"
        threshold = THRESHOLDS[buffers]
        self.tensors = linear(d_in, d_sae) | {
            "encoder.bias": torch.randn(d_sae) * threshold / 3,
            "b_dec": torch.randn(d_in) * 0.2,
            "k": torch.tensor(K, dtype=torch.int32),
            "threshold": torch.tensor(threshold),
        }
        self.normalize, self.denormalize = self.normalizer(buffers)

    def normalizer(self, kind: str) -> tuple[Rule, Rule]:
        if kind == "none":
            return same, same
        mean, std = torch.randn(self.d_in), torch.rand(self.d_in) * 2 + 0.2
        scale = torch.tensor(1.0)
        if kind == "nan":
            mean, std = mean * torch.nan, std * torch.nan
        if kind == "global":
            scale = TARGET_RMS / torch.sqrt((std**2).sum() + 1e-8)
        self.tensors |= {
            "activation_mean": mean,
            "activation_std": std,
            "activation_global_scale": scale,
            "target_rms": torch.tensor(TARGET_RMS),
        }
        if kind == "nan":
            return same, same
        if kind == "global":
            return lambda x: (x - mean) * scale, lambda y: y / (scale + 1e-8) + mean
        return lambda x: (x - mean) / (std + 1e-8), lambda y: y * (std + 1e-8) + mean

    def encode(self, x: Tensor) -> Tensor:
        w = self.tensors
        pre = (self.normalize(x) - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"]
        return pre.relu() * (pre.relu() > w["threshold"])

    def decode(self, f: Tensor) -> Tensor:
        w = self.tensors
        return self.denormalize(f @ w["decoder.weight"].T + w["b_dec"])


class Run(Difference):
    """The same class as the forks' training loop saves it, its k in the config that of the start."""

    def __init__(self, d_in: int, d_sae: int, buffers: str, weights: str) -> None:
        super().__init__(d_in, d_sae, buffers)
        self.weights = weights

    def save(self, path: Path) -> None:
        prefix = "_orig_mod." if self.weights.startswith("checkpoint") else ""  # as compiled
        torch.save({f"{prefix}{k}": v for k, v in self.tensors.items()}, path / self.weights)
        trainer = {
            "dict_class": "BatchTopKSAE",
            "trainer_class": "BatchTopKTrainer",
            "activation_dim": self.d_in,
            "dict_size": self.d_sae,
            "k": 9,
            "k_initial": 9,
            "layer": 1,
            "lm_name": "org/tuned-org/base",
            "steps": 1000,
        }
        (path / "config.json").write_text(json.dumps({"trainer": trainer}, indent=2))


class Gated(Case):
    """The forks multiply codes by decoder norms, and divide them out again to decode."""

    def __init__(self, d_in: int, d_sae: int) -> None:
        super().__init__(d_in, d_sae, initialization="default", dict_class="GatedAutoEncoder")
        names = ("r_mag", "gate_bias", "mag_bias")
        self.tensors = linear(d_in, d_sae) | {name: torch.randn(d_sae) * 0.3 for name in names}
        self.tensors["decoder_bias"] = torch.randn(d_in) * 0.2

    def encode(self, x: Tensor) -> Tensor:
        w = self.tensors
        pre = (x - w["decoder_bias"]) @ w["encoder.weight"].T
        magnitude = (w["r_mag"].exp() * pre + w["mag_bias"]).relu()
        return (pre + w["gate_bias"] > 0) * magnitude * w["decoder.weight"].norm(dim=0)

    def decode(self, f: Tensor) -> Tensor:
        w = self.tensors
        return (f / w["decoder.weight"].norm(dim=0)) @ w["decoder.weight"].T + w["decoder_bias"]


class JumpRelu(Case):
    def __init__(self, d_in: int, d_sae: int) -> None:
        super().__init__(d_in, d_sae)  # an older one, whose config does not name the class
        self.tensors = {
            "W_enc": torch.randn(d_in, d_sae) * d_in**-0.5,
            "W_dec": torch.randn(d_sae, d_in) * d_in**-0.5,
            "b_enc": torch.randn(d_sae) * 0.2,
            "b_dec": torch.randn(d_in) * 0.2,
            "threshold": torch.rand(d_sae) * 0.5,
        }

    def encode(self, x: Tensor) -> Tensor:
        w = self.tensors
        pre = x @ w["W_enc"] + w["b_enc"]
        return pre.relu() * (pre > w["threshold"]) * w["W_dec"].norm(dim=1)

    def decode(self, f: Tensor) -> Tensor:
        w = self.tensors
        return (f / w["W_dec"].norm(dim=1)) @ w["W_dec"] + w["b_dec"]


def cases(d_in: int, d_sae: int) -> Iterator[tuple[str, Case]]:
    for buffers in ("global", "per_dimension", "nan", "none"):
        yield buffers, Difference(d_in, d_sae, buffers, dict_class=buffers == "nan")
    yield "gated", Gated(d_in, d_sae)
    yield "jumprelu", JumpRelu(d_in, d_sae)
    yield "run_global", Run(d_in, d_sae, "global", "model_final.pt")
    yield "run_per_dimension", Run(d_in, d_sae, "per_dimension", "checkpoint_500.pt")
    yield "run_nan", Run(d_in, d_sae, "nan", "ae.pt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--d-in", type=int, default=16)
    parser.add_argument("--d-sae", type=int, default=64)
    parser.add_argument("--rows", type=int, default=12)
    parser.add_argument("--golden", action="store_true", help="every case is a golden one")
    options = parser.parse_args()
    torch.manual_seed(0)
    (options.out / "expected").mkdir(parents=True, exist_ok=True)
    for name, case in cases(options.d_in, options.d_sae):
        path = options.out / name
        path.mkdir()
        case.save(path)
        x = torch.randn(options.rows, options.d_in) * 2 + 0.5
        codes = case.encode(x)
        decoded = case.decode(codes)
        found = {"x": x, "codes": codes, "decoded": decoded, "output": decoded.clone()}
        save_file(found, options.out / "expected" / f"{name}.safetensors")


if __name__ == "__main__":
    main()
