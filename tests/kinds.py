"""A checkpoint of every kind in the format it is published in, as wide as the shipped model.

Directions are random and of unit norm, encoders their transposes: what they reconstruct is of no
interest, only that something fires everywhere. Each kind names the options that a run of it takes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize

D, F, K, LAYERS = 128, 160, 8, 4
SITE = "blocks.2.hook_resid_post"


@dataclass(frozen=True)
class Kind:
    """One kind: how to write it, its options, and what a record and a card have to say of it.

    ``hows`` are facts with their origin where it is not the file, ``writes`` the activations written.
    """

    write: Callable[[Path], None]
    options: tuple[str, ...] = ()
    n_models: int = 1
    writes: int = 1
    reads: tuple[str, ...] = (SITE,)
    hows: dict[str, str] = field(default_factory=dict)
    folder: str = "checkpoint"


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def directions(*shape: int, seed: int = 0) -> Tensor:
    """Random directions of unit norm along the last dimension."""
    return normalize(torch.randn(*shape, generator=generator(seed)), dim=-1)


def normal(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=generator(seed)) * 0.3


def _saelens(path: Path, architecture: str, tensors: dict[str, Tensor], **more: Any) -> None:
    metadata = {"hook_name": SITE, "model_name": "fixture", "sae_lens_version": "6.54.12"}
    config = {"architecture": architecture, "d_in": D, "d_sae": F, "dtype": "float32"}
    config |= {"apply_b_dec_to_input": True, "normalize_activations": "none"}
    config |= {"reshape_activations": "none", "metadata": metadata, **more}
    (path / "cfg.json").write_text(json.dumps(config))
    save_file(tensors, path / "sae_weights.safetensors")


def tied(scale: float = 1.0) -> dict[str, Tensor]:
    """The four tensors of an SAE, its encoder the transpose of its decoder."""
    W_dec = directions(F, D)
    W_enc = (W_dec.T * scale).contiguous()
    return {"W_enc": W_enc, "W_dec": W_dec, "b_enc": normal(F), "b_dec": normal(D, seed=2)}


def sae(path: Path) -> None:
    w = tied(0.5)
    _saelens(path, "standard", w | {"b_enc": w["b_enc"] - 2})


def absolute_top_k(path: Path) -> None:
    _saelens(path, "abstopk", tied(), k=K, rescale_acts_by_decoder_norm=False)


def matching_pursuit(path: Path) -> None:
    w = tied()
    settings = {"residual_threshold": 10.0, "max_iterations": 12, "stop_on_duplicate_support": True}
    _saelens(path, "matching_pursuit", {key: w[key] for key in ("W_dec", "b_dec")}, **settings)


def temporal(path: Path) -> None:
    """Raw files of the authors, whose path says the layer."""
    sae = {"exp_factor": F / D, "kval_topk": K, "n_attn_layers": 1, "n_heads": 2}
    sae |= {"bottleneck_factor": 2, "sae_diff_type": "topk", "scaling_factor": 0.02}
    config = {"llm": {"dimin": D, "name": "fixture"}, "sae": sae | {"tied_weights": True}}
    (path / "conf.yaml").write_text(yaml.safe_dump(config | {"data": {"dtype": "float32"}}))
    sizes = {"q_target": F // 2, "k_ctx": F // 2, "v_ctx": F, "c_proj": F}
    w = {"D": directions(F, D), "b": normal(1, D)}
    for seed, (name, size) in enumerate(sizes.items()):
        w[f"attn_layers.0.{name}.weight"] = normal(size, F, seed=seed) / F**0.5
        w[f"attn_layers.0.{name}.bias"] = normal(size, seed=seed) / 10
    save_file(w, path / "latest_ckpt.safetensors")


def transcoder(path: Path) -> None:
    """sparsify, from the input of an MLP to its output, with a skip."""
    config = {"activation": "topk", "expansion_factor": 1, "normalize_decoder": True}
    config |= {"num_latents": F, "k": K, "multi_topk": False, "d_in": D}
    config |= {"skip_connection": True, "transcode": True}
    (path / "cfg.json").write_text(json.dumps(config))
    w = {"encoder.weight": directions(F, D), "encoder.bias": normal(F)}
    w |= {"W_dec": directions(F, D, seed=3), "b_dec": normal(D), "W_skip": normal(D, D) / 20}
    save_file(w, path / "sae.safetensors")


def layer_crosscoder(path: Path) -> None:
    """A fork's crosscoder of two layers of one model."""
    config = {"activation_dim": D, "dict_size": F, "num_layers": 2, "k": K}
    (path / "config.json").write_text(json.dumps(config | {"code_normalization": "NONE"}))
    decoder = directions(2, F, D)
    w = {"encoder.weight": decoder.mT.contiguous() / 2, "encoder.bias": normal(F)}
    w |= {"decoder.weight": decoder, "decoder.bias": normal(2, D), "k": torch.tensor(K)}
    w |= {"threshold": torch.tensor(6.0), "code_normalization_id": torch.tensor(4)}
    save_file(w, path / "model.safetensors")


def model_crosscoder(path: Path) -> None:
    """The OpenInterpretability layout: a base model and its chat model."""
    W_dec = directions(F, 2, D)
    w = {"W_enc": W_dec.permute(1, 2, 0).contiguous(), "W_dec": W_dec, "b_enc": normal(F)}
    w |= {"b_dec": normal(2, D), "threshold": torch.rand(F, generator=generator(4)) + 0.5}
    config = {"architecture": "cross_model_crosscoder", "base_model": "org/base", "layer": 2}
    config |= {"chat_model": "org/chat", "d_model": D, "n_features": F, "k_batchtopk": K}
    config |= {"norm_scale_A": 0.17, "norm_scale_B": 0.16}
    (path / "cfg.json").write_text(json.dumps(config))
    save_file(w, path / "crosscoder_final.safetensors")


def unscaled_crosscoder(path: Path) -> None:
    """crosscoder-model-diff-replication, whose factors no file holds."""
    W_dec = directions(F, 2, D)
    w = {"W_enc": W_dec.permute(1, 2, 0).contiguous(), "W_dec": W_dec}
    torch.save(w | {"b_enc": normal(F) - 1, "b_dec": normal(2, D)}, path / "cc_weights.pt")
    config = {"d_in": D, "dict_size": F, "hook_point": SITE, "model_name": "fixture"}
    (path / "cfg.json").write_text(json.dumps(config | {"enc_dtype": "fp32"}))


def difference(path: Path) -> None:
    """``save_pretrained`` of a BatchTopKSAE with its normaliser in buffers."""
    config = {"activation_dim": D, "dict_size": F, "k": K, "target_rms": 1.0}
    (path / "config.json").write_text(json.dumps(config | {"activation_mean": None}))
    std = torch.rand(D, generator=generator(5)) + 0.5
    decoder = directions(F, D)
    w = {"encoder.weight": decoder.clone(), "decoder.weight": decoder.T.contiguous()}
    w |= {
        "encoder.bias": normal(F),
        "b_dec": normal(D) / 5,
        "k": torch.tensor(K, dtype=torch.int32),
    }
    w |= {"threshold": torch.tensor(0.9), "target_rms": torch.tensor(10.0)}
    w |= {"activation_mean": normal(D, seed=6) / 10, "activation_std": std}
    w["activation_global_scale"] = 10.0 / torch.sqrt((std**2).sum() + 1e-8)
    save_file(w, path / "model.safetensors")


def cross_layer(path: Path) -> None:
    """circuit-tracer: every layer writes to itself and all later ones."""
    for i in range(LAYERS):
        encoder = {f"W_enc_{i}": directions(F, D, seed=i), f"b_dec_{i}": normal(D, seed=i)}
        encoder[f"b_enc_{i}"] = normal(F, seed=i) - 1
        save_file(encoder, path / f"W_enc_{i}.safetensors")
        decoder = {f"W_dec_{i}": directions(F, LAYERS - i, D, seed=10 + i)}
        save_file(decoder, path / f"W_dec_{i}.safetensors")
    config = {"model_kind": "cross_layer_transcoder", "model_name": "fixture"}
    config |= {"feature_input_hook": "mlp.hook_in", "feature_output_hook": "hook_mlp_out"}
    (path / "config.yaml").write_text(yaml.safe_dump(config))


def batch_top_k(path: Path) -> None:
    """BatchTopK, which keeps no threshold."""
    torch.save(tied(), path / "sae.pt")
    config = {"sae_type": "batchtopk", "act_size": D, "dict_size": F, "top_k": K}
    config |= {"input_unit_norm": False, "hook_point": SITE, "model_name": "fixture"}
    (path / "config.json").write_text(json.dumps(config))


def hand_made(path: Path) -> None:
    """A ``.pt`` of no library, without a config."""
    w = tied()
    mine = {"lift": w["W_enc"], "drop": w["W_dec"], "offset": w["b_dec"]}
    torch.save({"state_dict": mine}, path / "weights.pt")


PAIR = "blocks.1.hook_resid_post,blocks.2.hook_resid_post"
HAND_MADE = ("--set=activation=topk", f"--set=k={K}", "--set=relu=true")
KINDS = {
    "sae": Kind(sae),
    "transcoder": Kind(
        transcoder,
        reads=("layers.1.mlp:in",),
        hows={"site": "assumed", "site_out": "assumed"},
        folder="layers.1.mlp",
    ),
    "layer-crosscoder": Kind(
        layer_crosscoder,
        ("--set=sources=layers", f"--set=sites={PAIR}"),
        writes=2,
        reads=tuple(PAIR.split(",")),
        hows={"sites": "user", "sources": "user"},
    ),
    "model-crosscoder": Kind(
        model_crosscoder,
        n_models=2,
        writes=2,
        reads=(f"{SITE} of org/base", f"{SITE} of org/chat"),
        hows={"site": "assumed"},
    ),
    "difference": Kind(
        difference,
        ("--set=direction=difference_ftb", f"--site={SITE}"),
        n_models=2,
        reads=(f"{SITE} of tuned − model",),
        hows={"difference": "user", "site": "user"},
    ),
    "cross-layer": Kind(
        cross_layer, writes=LAYERS, reads=tuple(f"blocks.{i}.mlp.hook_in" for i in range(LAYERS))
    ),
    "batch-top-k": Kind(batch_top_k, ("--allow-pickle",), hows={"threshold": "assumed"}),
    "unscaled-crosscoder": Kind(
        unscaled_crosscoder,
        ("--allow-pickle",),
        n_models=2,
        writes=2,
        reads=(f"{SITE} of model", f"{SITE} of tuned"),
        hows={"input_scale": "assumed"},
    ),
    "temporal": Kind(temporal, hows={"site": "assumed"}, folder="resid_post/layer_2/temporal"),
    "absolute-top-k": Kind(absolute_top_k),
    "matching-pursuit": Kind(matching_pursuit),
    "hand-made": Kind(
        hand_made,
        (
            "--allow-pickle",
            f"--site={SITE}",
            *HAND_MADE,
            "--map=encoder=lift",
            "--map=decoder=drop",
            "--map=b_dec=offset",
            "--set=subtract_b_dec=true",
        ),
        hows={"k": "user", "site": "user", "subtract_b_dec": "user"},
    ),
}


def write(name: str, root: Path) -> Path:
    """The folder of a kind, written below ``root``."""
    path = root / name / KINDS[name].folder
    path.mkdir(parents=True)
    KINDS[name].write(path)
    return path
