"""Checkpoints as dictionary_learning saves them, with its own codes and reconstructions.

Run under the Python of an environment that has dictionary-learning (extra ``oracles``); options
and output as in make_saelens.py: each class as a finished run saves it, and as the backup of a run that
goes on does (biases in units of activations over norm_factor, which scale_biases takes out at the end).
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torchvision_guard  # noqa: F401  # first: the peers import torchvision
from dictionary_learning.dictionary import AutoEncoderNew
from dictionary_learning.trainers.batch_top_k import BatchTopKSAE, BatchTopKTrainer
from dictionary_learning.trainers.gdm import GatedSAETrainer
from dictionary_learning.trainers.jumprelu import JumpReluTrainer
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer
from dictionary_learning.trainers.standard import StandardTrainer
from dictionary_learning.trainers.top_k import TopKTrainer
from dictionary_learning.training import trainSAE
from safetensors.torch import save_file

LIBRARY = "dictionary_learning"
K = 4
NORM_FACTOR = 2.5
GOLDEN_BACKUPS = ("BatchTopKSAE", "GatedAutoEncoder", "JumpReluAutoEncoder")


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


def save_backup(trainer: Any, config: dict[str, Any], path: Path) -> None:
    """One file with all that training needs to go on, as the library's git version writes it."""
    save(trainer.ae, config, path)
    content = {
        "step": 40,
        "ae": trainer.ae.state_dict(),
        "optimizer": trainer.optimizer.state_dict(),
        "config": config,
        "norm_factor": NORM_FACTOR,
    }
    torch.save(content, path / "ae.pt")


def expected(ae: torch.nn.Module, rows: int, scale: float = 1.0) -> dict[str, torch.Tensor]:
    """What the class makes of activations of this scale, off centre so that biases show."""
    x = (torch.randn(rows, ae.activation_dim) * 2 + 0.5) * scale
    codes = ae.encode(x)
    return {"x": x, "codes": codes, "decoded": ae.decode(codes), "output": ae(x)}


def trained(out: Path, d_in: int, d_sae: int, rows: int) -> None:
    """What the library's own training loop saves half-way and at the end, with activations scaled."""
    config = {
        "trainer": BatchTopKTrainer,
        "steps": 12,
        "activation_dim": d_in,
        "dict_size": d_sae,
        "k": K,
        "layer": 1,
        "lm_name": "tiny",
        "device": "cpu",
        "lr": 0.01,
        "warmup_steps": 2,
        "threshold_start_step": 0,
    }
    data = [torch.randn(64, d_in) * 5 + 1 for _ in range(20)]
    run = out / "run"
    options = {"save_steps": [6], "save_dir": str(run), "normalize_activations": True}
    trainSAE(data, [config], steps=12, device="cpu", **options)
    trainer = run / "trainer_0"
    for case, weights in (("trained", "ae.pt"), ("trained-step", "checkpoints/ae_6.pt")):
        (out / case).mkdir()
        shutil.copy(trainer / "config.json", out / case)
        shutil.copy(trainer / weights, out / case)
        ae = BatchTopKSAE.from_pretrained(trainer / weights)
        with torch.no_grad():
            save_file(expected(ae, rows, scale=2.5), out / "expected" / f"{case}.safetensors")
    shutil.rmtree(run)


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
            config = trainer.config | {"dict_class": name}
            save(trainer.ae, config, options.out / name)
            found = {name: expected(trainer.ae, options.rows)}
            backed_up = not options.golden or name in GOLDEN_BACKUPS
            if backed_up and hasattr(trainer.ae, "scale_biases"):
                save_backup(trainer, config, options.out / f"{name}-backup")
                trainer.ae.scale_biases(NORM_FACTOR)
                found[f"{name}-backup"] = expected(trainer.ae, options.rows, NORM_FACTOR)
        for case, tensors in found.items():
            save_file(tensors, options.out / "expected" / f"{case}.safetensors")
    if not options.golden:
        trained(options.out, options.d_in, options.d_sae, options.rows)


if __name__ == "__main__":
    main()
