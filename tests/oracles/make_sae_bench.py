"""Checkpoints that SAEBench loads, through its own loaders, with its own codes and reconstructions.

Run under the Python of an environment that has sae-bench; options and output as in
make_dictionary_learning.py. Its loaders take files of the hub by name; here the download is a look
into the local folder. They want at least as many latents as inputs and unit decoder rows (its ReLU
loader folds other norms into the codes), refuse a threshold of −1, and drop ``group_sizes``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy
import torch
import torchvision_guard  # noqa: F401  # first: the peers import torchvision
from sae_bench.custom_saes import (
    batch_topk_sae,
    gated_sae,
    jumprelu_sae,
    relu_sae,
    topk_sae,
)
from safetensors.torch import save_file
from torch import Tensor

LIBRARY = "sae_bench"
K, LAYER, MODEL = 4, 3, "tiny-lm"
CASES = {  # class and trainer of dictionary_learning, and the loader for them
    "relu": ("AutoEncoder", "StandardTrainer", relu_sae.load_dictionary_learning_relu_sae),
    "p_anneal": ("AutoEncoder", "PAnnealTrainer", relu_sae.load_dictionary_learning_relu_sae),
    "gated": (
        "GatedAutoEncoder",
        "GatedSAETrainer",
        gated_sae.load_dictionary_learning_gated_sae,
    ),
    "jumprelu": (
        "JumpReluAutoEncoder",
        "JumpReluTrainer",
        jumprelu_sae.load_dictionary_learning_jump_relu_sae,
    ),
    "topk": ("AutoEncoderTopK", "TopKTrainer", topk_sae.load_dictionary_learning_topk_sae),
    "batch_topk": (
        "BatchTopKSAE",
        "BatchTopKTrainer",
        batch_topk_sae.load_dictionary_learning_batch_topk_sae,
    ),
    "matryoshka": (
        "MatryoshkaBatchTopKSAE",
        "MatryoshkaBatchTopKTrainer",
        batch_topk_sae.load_dictionary_learning_matryoshka_batch_topk_sae,
    ),
}


def weights(d_in: int, d_sae: int, *, linear: bool) -> dict[str, Tensor]:
    """Encoder and decoder that are no transposes of each other, decoder rows of unit norm."""
    W_enc = torch.randn(d_in, d_sae) / d_in**0.5
    W_dec = torch.nn.functional.normalize(torch.randn(d_sae, d_in), dim=1)
    if linear:
        return {"encoder.weight": W_enc.T.contiguous(), "decoder.weight": W_dec.T.contiguous()}
    return {"W_enc": W_enc, "W_dec": W_dec}


def normal(size: int) -> Tensor:
    return torch.randn(size) * 0.2


def tensors_of(kind: str, d_in: int, d_sae: int) -> dict[str, Tensor]:
    """The tensors that a class of dictionary_learning saves."""
    linear = weights(d_in, d_sae, linear=True)
    plain = weights(d_in, d_sae, linear=False) | {"b_enc": normal(d_sae), "b_dec": normal(d_in)}
    k = {"k": torch.tensor(K, dtype=torch.int)}
    never, gate = {"threshold": torch.tensor(-1.0)}, {"threshold": torch.tensor(0.35)}
    biases = {"encoder.bias": normal(d_sae), "b_dec": normal(d_in)}
    if kind == "AutoEncoder":
        return linear | {"encoder.bias": normal(d_sae), "bias": normal(d_in)}
    if kind == "GatedAutoEncoder":
        gates = {key: normal(d_sae) for key in ("r_mag", "gate_bias", "mag_bias")}
        return linear | gates | {"decoder_bias": normal(d_in)}
    if kind == "JumpReluAutoEncoder":
        return plain | {"threshold": torch.rand(d_sae) * 0.3 + 0.1}
    if kind == "MatryoshkaBatchTopKSAE":
        sizes = torch.tensor([d_sae // 4, d_sae - d_sae // 4])
        return plain | k | gate | {"group_sizes": sizes}
    return linear | biases | k | (gate if kind == "BatchTopKSAE" else never)


def save_dictionary(
    path: Path, kind: str, trainer: str, tensors: dict[str, Tensor], d_in: int, d_sae: int
) -> None:
    """``ae.pt`` and ``config.json`` as dictionary_learning leaves them."""
    path.mkdir()
    torch.save(tensors, path / "ae.pt")
    config = {"trainer_class": trainer, "dict_class": kind, "activation_dim": d_in}
    config |= {"dict_size": d_sae, "layer": LAYER, "lm_name": f"org/{MODEL}"}
    config |= {"submodule_name": f"resid_post_layer_{LAYER}", "seed": 0}
    if "k" in tensors:
        config["k"] = K
    buffer = {"d_submodule": d_in, "io": "out", "ctx_len": 16}
    (path / "config.json").write_text(json.dumps({"trainer": config, "buffer": buffer}, indent=4))


def local(module: Any, root: Path) -> Any:
    """The module's hub download as a look into a local folder."""

    def found(repo_id: str, filename: str, **how: object) -> str:
        return str(root / filename)

    return patch.object(module, "hf_hub_download", found)


def loaded(loader: Any, root: Path, file: str) -> torch.nn.Module:
    """What SAEBench makes of a file, without the lines that it prints."""
    module = __import__(loader.__module__, fromlist=["hf_hub_download"])
    where = {"device": torch.device("cpu"), "dtype": torch.float32, "layer": LAYER}
    with local(module, root), open(os.devnull, "w") as nothing, contextlib.redirect_stdout(nothing):
        return loader("org/repo", file, model_name=MODEL, **where)


def expected(sae: Any, rows: int) -> dict[str, Tensor]:
    """What the class makes of activations that are off centre, so that biases show."""
    x = torch.randn(rows, sae.cfg.d_in) * 2 + 0.5
    codes = sae.encode(x)
    return {"x": x, "codes": codes, "decoded": sae.decode(codes), "output": sae(x)}


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
    d_in, d_sae = options.d_in, options.d_sae
    (options.out / "expected").mkdir(parents=True, exist_ok=True)
    made: dict[str, tuple[Any, str]] = {}
    for case, (kind, trainer, loader) in CASES.items():
        tensors = tensors_of(kind, d_in, d_sae)
        save_dictionary(options.out / case, kind, trainer, tensors, d_in, d_sae)
        made[case] = loader, "ae.pt"
    (options.out / "gemma_scope").mkdir()
    scope = tensors_of("JumpReluAutoEncoder", d_in, d_sae)  # which has the same tensors
    arrays = {key: value.numpy() for key, value in scope.items()}
    numpy.savez(options.out / "gemma_scope" / "params.npz", **arrays)
    made["gemma_scope"] = jumprelu_sae.load_gemma_scope_jumprelu_sae, "params.npz"
    for case, (loader, file) in made.items():
        with torch.no_grad():
            found = expected(loaded(loader, options.out / case, file), options.rows)
        save_file(
            {key: value.contiguous() for key, value in found.items()},
            options.out / "expected" / f"{case}.safetensors",
        )


if __name__ == "__main__":
    main()
