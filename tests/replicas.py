"""The published checkpoints behind this project in small: their file names, keys, dtypes and configs.

Each builder gives the files of a repository by path, and the published formula written out on the
same tensors: what codes and reconstruction have to be. Only widths are smaller than the originals'.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn.functional import normalize

Formula = Callable[[Tensor], Tensor]
Files = dict[str, bytes]

DIFFERENCE = "Ftm23/cbd-sae-diff-gemma2-2pair-frgv"
BEHAVIOUR = "Solshine/gemma4_e2b_gf1_behaviorSAE_topk_k16_L25_bnb4bit"
SCOPE = "Solshine/gemma-4-e2b-scope-v1-L17-batchtopk-k64-seed17"
CROSSCODER = "caiovicentino1/gemma2-2b-crosscoder-model-diff-papergrade"
FAITHFUL = "seonglae/faithful-gpt2-small-saes"
CARD = {"README.md": b"---\nlicense: mit\n---\n# A checkpoint\n", ".gitattributes": b"* -text\n"}


@dataclass(frozen=True)
class Replica:
    """The files of one checkpoint; its codes of ``x``, what these decode to, and the shape of ``x``."""

    files: Files
    encode: Formula
    decode: Callable[[Tensor, Tensor], Tensor]  # of codes and x, whose scale it may need
    shape: tuple[int, ...]

    def below(self, folder: str) -> Files:
        """The files with the folder of a repository that they are in."""
        return {f"{folder}/{name}": data for name, data in self.files.items()}


def as_json(data: object) -> bytes:
    return json.dumps(data, indent=2).encode()


def as_pickle(data: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(data, buffer)
    return buffer.getvalue()


def kept(values: Tensor, k: int) -> Tensor:
    """The k largest of each row, zero elsewhere."""
    found = values.topk(k, dim=-1)
    return torch.zeros_like(values).scatter_(-1, found.indices, found.values)


def difference_layer(seed: int, d: int = 36, F: int = 144, k: int = 8) -> Replica:
    """One layer of a difference SAE, as ``save_pretrained`` of crosscoder_learning leaves it.

    The config has the constructor's ``target_rms``, the buffer the one that training set.
    """
    torch.manual_seed(seed)
    std, rms = torch.rand(d) * 3 + 1, 100.0
    w = {
        "encoder.weight": torch.randn(F, d) / d**0.5,
        "encoder.bias": torch.randn(F) * 2,
        "decoder.weight": torch.randn(d, F) / d**0.5,
        "b_dec": torch.randn(d),
        "k": torch.tensor(k, dtype=torch.int32),
        "threshold": torch.tensor(24.0),
        "target_rms": torch.tensor(rms),
        "activation_mean": torch.randn(d),
        "activation_std": std,
        "activation_global_scale": rms / torch.sqrt((std**2).sum() + 1e-8),
    }
    config = {
        "activation_dim": d,
        "activation_mean": None,
        "activation_std": None,
        "dict_size": F,
        "encoder_init_norm": 1.0,
        "k": k,
        "target_rms": 1.0,
    }
    mean, scale = w["activation_mean"], w["activation_global_scale"]

    def encode(x: Tensor) -> Tensor:
        inner = (x - mean) * scale - w["b_dec"]
        pre = (inner @ w["encoder.weight"].T + w["encoder.bias"]).relu()
        return pre * (pre > w["threshold"])

    def decode(f: Tensor, x: Tensor) -> Tensor:
        return (f @ w["decoder.weight"].T + w["b_dec"]) / (scale + 1e-8) + mean

    return Replica(
        {"config.json": as_json(config), "model.safetensors": save(w)}, encode, decode, (d,)
    )


def difference_repository() -> tuple[Files, dict[str, Replica]]:
    """Both layers that are published."""
    layers = {f"layer_{n}": difference_layer(n) for n in (13, 24)}
    return CARD | _merged(layers), layers


def parameters(d: int, F: int) -> dict[str, Tensor]:
    """Matrices of a TopK SAE as its author's class has them, decoder rows of unit norm."""
    return {
        "W_enc": torch.randn(d, F) / d**0.5,
        "W_dec": normalize(torch.randn(F, d), dim=1),
        "b_enc": torch.randn(F) * 0.3,
        "b_dec": torch.randn(d) * 0.3,
    }


def _raw_top_k(w: dict[str, Tensor], k: int) -> tuple[Formula, Callable[[Tensor, Tensor], Tensor]]:
    """Top-k of raw values, nothing subtracted: what the author's published class does."""
    return (
        lambda x: kept(x @ w["W_enc"] + w["b_enc"], k),
        lambda f, x: f @ w["W_dec"] + w["b_dec"],
    )


def behaviour_sae(d: int = 24, F: int = 96, k: int = 16) -> Replica:
    """The behaviour SAE: one ``.pt`` named as its repository, and ``cfg.json``."""
    torch.manual_seed(1)
    w = parameters(d, F)
    w["b_enc"] -= 0.8  # so that weak activations have negative values among their largest
    config = {
        "model": "google/gemma-4-E2B",
        "layer": 25,
        "d_in": d,
        "d_sae": F,
        "activation": "topk",
        "k": k,
        "normalize_decoder": True,
        "quantization": "bnb4bit",
        "n_samples": 38,
    }
    name = f"{BEHAVIOUR.partition('/')[2]}.pt"
    files = {name: as_pickle(w), "cfg.json": as_json(config)}
    return Replica(CARD | files, *_raw_top_k(w, k), (d,))


def scope_sae(seed: int = 17, d: int = 24, F: int = 192, k: int = 64) -> Replica:
    """The checkpoint of a run that goes on: trained with batch top-k, used with top-k per token."""
    torch.manual_seed(seed)
    w = parameters(d, F)
    config = {
        "architecture": "batchtopk",
        "d_in": d,
        "d_sae": F,
        "k": k,
        "layer": 17,
        "model_name": "google/gemma-4-E2B",
        "hook_name": "blocks.17.hook_resid_post",
        "dtype": "float32",
        "dataset": "HuggingFaceFW/fineweb-edu",
        "seed": seed,
    }
    files = {"sae_weights.pt": as_pickle(w), "cfg.json": as_json(config)}
    return Replica(CARD | files, *_raw_top_k(w, k), (d,))


def model_diff_crosscoder(d: int = 24, F: int = 192, k: int = 10) -> Replica:
    """The crosscoder of a base model and its chat model, with some latents that never fired."""
    torch.manual_seed(2)
    threshold = torch.rand(F) * 0.5 + 0.5
    threshold[: F // 8] = 0
    w = {
        "W_enc": torch.randn(2, d, F) / (2 * d) ** 0.5,
        "W_dec": torch.randn(F, 2, d) / d**0.5,
        "b_enc": torch.randn(F) * 0.2 - 0.4,
        "b_dec": torch.randn(2, d) * 0.3,
        "threshold": threshold,
    }
    scale = torch.tensor([0.021, 0.034])
    counts = {"shared": 104, "dead": 82, "base_only": 0, "chat_only": 1, "unclassified": 5}
    config: dict[str, Any] = {
        "architecture": "cross_model_crosscoder",
        "variant": "BatchTopK with JumpReLU inference threshold",
        "reference": "Lindsey 2024 + Anthropic Jan-2025 update + Minder NeurIPS 2025",
        "base_model": "google/gemma-2-2b",
        "chat_model": "google/gemma-2-2b-it",
        "layer": 13,
        "d_model": d,
        "expansion": 8,
        "n_features": F,
        "k_batchtopk": k,
        "k_warmup_init": 1000,
        "token_budget": 100_000_000,
        "seq_len": 1024,
        "norm_scale_A": 0.021,
        "norm_scale_B": 0.034,
        "val_metrics": {"ve_A": 0.8773, "ve_B": 0.8666, "L0": 100.5, "dead_frac": 0.4289},
        "taxonomy_counts": counts,
    }
    files = {
        "cfg.json": as_json(config),
        "crosscoder_final.safetensors": save(w),
        "feature_taxonomy.json": as_json({"counts": counts, "labels": ["shared"] * F}),
        "train_log.json": as_json([{"step": 100, "loss": 1.0}]),
    }

    def encode(x: Tensor) -> Tensor:
        h = x * scale[:, None] - w["b_dec"]
        pre = torch.einsum("...md,mdf->...f", h, w["W_enc"]) + w["b_enc"]
        return pre.relu() * (pre > threshold)

    def decode(f: Tensor, x: Tensor) -> Tensor:
        return (torch.einsum("...f,fmd->...md", f, w["W_dec"]) + w["b_dec"]) / scale[:, None]

    return Replica(CARD | files, encode, decode, (2, d))


def faithful_run(
    model: str, site: str, seed: int, dataset: str, d: int = 16, F: int = 48
) -> Replica:
    """One run of FaithfulSAE; its path says the same as its config, and ``b_enc`` is not used."""
    torch.manual_seed(seed)
    w = parameters(d, F)
    k, unit_norm = 8, "gpt2" in model
    config = {
        "seed": seed,
        "batch_size": 4096,
        "lr": 0.0003,
        "num_tokens": 100_000_000,
        "l1_coeff": 0,
        "dtype": "torch.float32",
        "seq_len": 128,
        "model_name": model,
        "site": site.rpartition("hook_")[2],
        "layer": int(site.split(".")[1]),
        "hook_point": site,
        "act_size": d,
        "dict_size": F,
        "device": "cuda:0",
        "dataset_path": dataset,
        "input_unit_norm": unit_norm,
        "sae_type": "topk",
        "top_k": k,
        "top_k_aux": 512,
        "aux_penalty": 0.03125,
        "name": f"{model}_{site}_{F}_topk_{k}_0.0003",
    }

    def moments(x: Tensor) -> tuple[Tensor, Tensor]:
        if not unit_norm:
            return torch.zeros(()), torch.ones(())
        return x.mean(-1, keepdim=True), x.std(-1, keepdim=True) + 1e-5

    def encode(x: Tensor) -> Tensor:
        mean, std = moments(x)
        return kept((((x - mean) / std - w["b_dec"]) @ w["W_enc"]).relu(), k)

    def decode(f: Tensor, x: Tensor) -> Tensor:
        mean, std = moments(x)
        return (f @ w["W_dec"] + w["b_dec"]) * (std - 1e-5 if unit_norm else std) + mean

    folder = f"{model}_{site}_{F}_topk_{k}_0.0003_{seed}_{dataset}_128_24413"
    files = {"sae.pt": as_pickle(w), "config.json": as_json(config)}
    run = Replica(files, encode, decode, (d,))
    return Replica(run.below(folder), encode, decode, (d,))


def sparsify_run(d: int = 16, k: int = 8) -> Replica:
    """A FaithfulSAE that was trained with sparsify instead; ``num_latents`` 0 means by the factor."""
    torch.manual_seed(9)
    F = 3 * d
    w = {
        "encoder.weight": torch.randn(F, d) / d**0.5,
        "encoder.bias": torch.randn(F) * 0.2,
        "W_dec": normalize(torch.randn(F, d), dim=1),
        "b_dec": torch.randn(d) * 0.3,
    }
    config = {
        "activation": "topk",
        "expansion_factor": 3,
        "normalize_decoder": True,
        "num_latents": 0,
        "k": k,
        "multi_topk": False,
        "skip_connection": False,
        "transcode": False,
        "d_in": d,
    }
    run = {"model": "EleutherAI/pythia-70m", "dataset": "seonglae/faithful-pythia-70m", "seed": 42}
    folder = "pythia-70m_faithful_sparsify_42"
    files = {
        f"{folder}/config.json": as_json({**run, "hookpoints": ["layers.3"]}),
        f"{folder}/layers.3/cfg.json": as_json(config),
        f"{folder}/layers.3/sae.safetensors": save(w),
        f"{folder}/optimizer_0.pt": as_pickle({"state": {}}),
    }

    def encode(x: Tensor) -> Tensor:
        pre = (x - w["b_dec"]) @ w["encoder.weight"].T + w["encoder.bias"]
        return kept(pre.relu(), k)

    return Replica(files, encode, lambda f, x: f @ w["W_dec"] + w["b_dec"], (d,))


def _merged(replicas: dict[str, Replica]) -> Files:
    return {n: data for folder, item in replicas.items() for n, data in item.below(folder).items()}
