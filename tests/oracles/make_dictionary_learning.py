"""Checkpoints as dictionary_learning saves them, with its own codes and reconstructions.

Run under the Python of an environment that has dictionary-learning (extra ``oracles``); options
and output as in make_saelens.py, one case per class of the library.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torchvision_guard  # noqa: F401  # first: the peers import torchvision
from dictionary_learning.dictionary import AutoEncoderNew
from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
from dictionary_learning.trainers.gdm import GatedSAETrainer
from dictionary_learning.trainers.jumprelu import JumpReluTrainer
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer
from dictionary_learning.trainers.standard import StandardTrainer
from dictionary_learning.trainers.top_k import TopKTrainer
from safetensors.torch import save_file

LIBRARY = "dictionary_learning"
K = 4


def randomize(ae: torch.nn.Module) -> None:
    """Weights far from their initial values: unequal decoder norms, biases and thresholds."""
    with torch.no_grad():
        for name, weight in ae.named_parameters():
            if "threshold" in name:
                weight.uniform_(0.1, 0.4)
            elif weight.ndim == 1:
                weight.normal_(0.0, 0.2)
            else:
                weight.normal_(0.0, ae.activation_dim**-0.5)
        if "threshold" in dict(ae.named_buffers()):
            ae.threshold.fill_(0.3)


def trainers(d_in: int, d_sae: int) -> Iterator[tuple[str, Any]]:
    common = {
        "steps": 10_000,
        "activation_dim": d_in,
        "dict_size": d_sae,
        "layer": 1,
        "lm_name": "tiny",
        "device": "cpu",
        "submodule_name": "resid_post_layer_1",
    }
    yield "AutoEncoder", StandardTrainer(**common)
    yield "AutoEncoderNew", StandardTrainer(**common, dict_class=AutoEncoderNew)
    yield "GatedAutoEncoder", GatedSAETrainer(**common)
    yield "JumpReluAutoEncoder", JumpReluTrainer(**common)
    yield "AutoEncoderTopK", TopKTrainer(**common, k=K)
    yield "BatchTopKSAE", BatchTopKTrainer(**common, k=K)
    yield (
        "MatryoshkaBatchTopKSAE",
        MatryoshkaBatchTopKTrainer(**common, k=K, group_fractions=[0.25, 0.75]),
    )


def save(ae: torch.nn.Module, config: dict[str, Any], path: Path) -> None:
    """The two files as the library's training loop writes them at the end of a run."""
    path.mkdir(parents=True, exist_ok=True)
    torch.save({key: value.cpu() for key, value in ae.state_dict().items()}, path / "ae.pt")
    buffer = {"d_submodule": ae.activation_dim, "io": "out", "n_ctxs": 10, "ctx_len": 16}
    text = json.dumps({"trainer": config, "buffer": buffer}, indent=4)
    (path / "config.json").write_text(text)


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
    for seed, (name, trainer) in enumerate(trainers(options.d_in, options.d_sae)):
        torch.manual_seed(seed)
        with torch.no_grad():
            randomize(trainer.ae)
            save(trainer.ae, trainer.config | {"dict_class": name}, options.out / name)
            x = torch.randn(options.rows, options.d_in) * 2 + 0.5  # off centre, for layer norm
            codes = trainer.ae.encode(x)
            found = {"x": x, "codes": codes, "decoded": trainer.ae.decode(codes)}
            found["output"] = trainer.ae(x)
        save_file(found, options.out / "expected" / f"{name}.safetensors")


if __name__ == "__main__":
    main()
