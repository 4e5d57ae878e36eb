"""Checkpoints that SAELens reads through loaders, or that only its older versions computed.

For the latter the formulas of those versions are written out here, since they cannot be installed
beside the current one.
"""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import torch
import torchvision_guard  # noqa: F401  # first: the peers import torchvision
import yaml
from sae_lens import SAE, StandardSAE, StandardSAEConfig, TemporalSAE
from sae_lens.loading import pretrained_sae_loaders as loaders
from saelens_case import Case, K, metadata, randomize
from safetensors.torch import save_file
from torch import Tensor

HEADS = 2


@dataclass
class Formula:
    """``tanh?(relu((x − b_in) W_enc + b_enc))`` and ``f · scale W_dec + b_out``."""

    tensors: dict[str, Tensor]
    b_out: str = "b_dec"
    tanh: bool = False
    scale: float | Tensor = 1.0

    def encode(self, x: Tensor) -> Tensor:
        t = self.tensors
        codes = torch.relu((x - t["b_dec"]) @ t["W_enc"] + t["b_enc"])
        return torch.tanh(codes) if self.tanh else codes

    def decode(self, codes: Tensor) -> Tensor:
        return (codes * self.scale) @ self.tensors["W_dec"] + self.tensors[self.b_out]

    def __call__(self, x: Tensor) -> Tensor:
        return self.decode(self.encode(x))


@dataclass
class Heads:
    """A model of attention heads ``[n, heads, d_head]``, given them side by side."""

    sae: SAE

    def encode(self, x: Tensor) -> Tensor:
        return self.sae.encode(x.unflatten(-1, (HEADS, -1)))

    def decode(self, codes: Tensor) -> Tensor:
        return self.sae.decode(codes).flatten(-2)

    def __call__(self, x: Tensor) -> Tensor:
        return self.sae(x.unflatten(-1, (HEADS, -1))).flatten(-2)


def four(d_in: int, d_sae: int, d_out: int | None = None) -> dict[str, Tensor]:
    return {
        "W_enc": torch.randn(d_in, d_sae) * d_in**-0.5,
        "b_enc": torch.randn(d_sae) * 0.2,
        "W_dec": torch.randn(d_sae, d_out or d_in) * d_sae**-0.5,
        "b_dec": torch.randn(d_in) * 0.2,
    }


def flat(path: Path, d_in: int, d_sae: int, tensors: dict[str, Tensor], **keys: object) -> None:
    """The files of versions 2 to 5."""
    path.mkdir(parents=True)
    common = {"d_in": d_in, "d_sae": d_sae, "dtype": "torch.float32", "device": "cpu"}
    common |= {"model_name": "tiny", "hook_name": "blocks.1.hook_resid_pre"}
    (path / "cfg.json").write_text(json.dumps(common | {"sae_lens_version": "5.9.1"} | keys))
    save_file(tensors, path / "sae_weights.safetensors")


def tanh_relu(path: Path, d_in: int, d_sae: int) -> Formula:
    tensors = four(d_in, d_sae)
    flat(path, d_in, d_sae, tensors, architecture="standard", activation_fn_str="tanh-relu")
    return Formula(tensors, tanh=True)


def finetuned(path: Path, d_in: int, d_sae: int) -> Formula:
    tensors = four(d_in, d_sae) | {"finetuning_scaling_factor": torch.rand(d_sae) + 0.5}
    flat(path, d_in, d_sae, tensors, architecture="standard", finetuning_scaling_factor=True)
    return Formula(tensors, scale=tensors["finetuning_scaling_factor"])


def pickled(path: Path, tensors: dict[str, Tensor], name: str, **keys: object) -> None:
    """One pickle with a config object, as versions before 2 and forks of them wrote it."""
    module = types.ModuleType("sae_training.config")
    module.LanguageModelSAERunnerConfig = type(
        "LanguageModelSAERunnerConfig", (), {"__module__": module.__name__}
    )
    config = module.LanguageModelSAERunnerConfig()
    known = {"model_name": "tiny", "hook_point": "blocks.1.hook_resid_pre", "hook_point_layer": 1}
    known |= {"hook_point_head_index": None, "context_size": 128, "device": torch.device("cpu")}
    known |= {"d_in": tensors["W_enc"].shape[0], "d_sae": tensors["W_enc"].shape[1]}
    config.__dict__.update(known | {"dtype": torch.float32} | keys)
    path.mkdir(parents=True)
    with patch.dict(sys.modules, {module.__name__: module, "sae_training": types.ModuleType("p")}):
        torch.save({"cfg": config, "state_dict": tensors}, path / name)


def first_version(path: Path, d_in: int, d_sae: int) -> Formula:
    tensors = four(d_in, d_sae)
    pickled(path, tensors, "final_sparse_autoencoder_tiny.pt", l1_coefficient=8e-5)
    return Formula(tensors)


def first_transcoder(path: Path, d_in: int, d_sae: int) -> Formula:
    tensors = four(d_in, d_sae, d_in + 4) | {"b_dec_out": torch.randn(d_in + 4) * 0.2}
    sites = {
        "hook_point": "blocks.1.ln2.hook_normalized",
        "out_hook_point": "blocks.1.hook_mlp_out",
    }
    more = {"is_transcoder": True, "d_out": d_in + 4} | sites
    pickled(path, tensors, "final_transcoder_tiny.pt", **more)
    return Formula(tensors, b_out="b_dec_out")


def through(loader: Callable, path: Path, name: str) -> SAE:
    """The model of files that a loader of the library fetches, taken from the folder instead."""

    def local(repo_id: str, filename: str, **_: object) -> str:
        return str(path / Path(filename).name)

    with patch.object(loaders, "hf_hub_download", local):
        config, tensors, _ = loader("org/repo", name, device="cpu")
    config = loaders.handle_config_defaulting(config)
    sae = SAE.from_dict(config)
    tensors = {key: value.reshape(sae.state_dict()[key].shape) for key, value in tensors.items()}
    sae.load_state_dict(tensors)
    return sae


def connor_rob(path: Path, d_in: int, d_sae: int) -> Heads:
    path.mkdir(parents=True)
    torch.save(four(d_in, d_sae), path / "gpt2-small_Hcat_z.pt")
    config = {"act_size": d_in, "dict_size": d_sae, "act_name": "blocks.1.attn.hook_z"}
    config |= {"model_name": "gpt2-small", "site": "z", "layer": 1, "l1_coeff": 1.8, "lr": 1.2e-3}
    (path / "gpt2-small_Hcat_z_cfg.json").write_text(json.dumps(config))
    return Heads(
        through(loaders.connor_rob_hook_z_huggingface_loader, path, "gpt2-small_Hcat_z.pt")
    )


def temporal_raw(*, tied: bool) -> Callable[[Path, int, int], SAE]:
    def save(path: Path, d_in: int, d_sae: int) -> SAE:
        path.mkdir(parents=True)
        sae = {"exp_factor": d_sae / d_in, "n_heads": 2, "n_attn_layers": 1, "bottleneck_factor": 2}
        sae |= {"sae_diff_type": "topk", "kval_topk": K, "tied_weights": tied}
        sae |= {"scaling_factor": 0.4}
        conf = {"llm": {"dimin": d_in, "name": "tiny"}, "sae": sae, "data": {"dtype": "float32"}}
        (path / "conf.yaml").write_text(yaml.safe_dump(conf))
        model = TemporalSAE(
            SAE.from_dict(
                {"architecture": "temporal", "d_in": d_in, "d_sae": d_sae}
                | {key: sae[key] for key in ("n_heads", "bottleneck_factor", "tied_weights")}
            ).cfg
        )
        spread(model)
        tensors = dict(model.state_dict())
        tensors |= {"D": tensors.pop("W_dec"), "b": tensors.pop("b_dec")[None]}
        tensors |= {} if tied else {"E": tensors.pop("W_enc").contiguous()}
        save_file(tensors, path / "latest_ckpt.safetensors")
        return through(loaders.temporal_sae_huggingface_loader, path, "tiny/layer_1/temporal")

    return save


def spread(model: TemporalSAE) -> None:
    """Random weights; the codes grow by as much as the library's constant factor shrinks them."""
    randomize(model)
    with torch.no_grad():
        model.W_dec *= 4
        if not model.cfg.tied_weights:
            model.W_enc *= 4


def hook_z(path: Path, d_in: int, d_sae: int) -> Heads:
    config = StandardSAEConfig(
        d_in=d_in,
        d_sae=d_sae,
        metadata=metadata(hook_name="blocks.1.attn.hook_z"),
        reshape_activations="hook_z",
        normalize_activations="layer_norm",
    )
    sae = StandardSAE(config)
    randomize(sae)
    sae.save_model(path)
    return Heads(SAE.load_from_disk(path))


def cases() -> Iterator[Case]:
    yield Case("flat-tanh-relu", tanh_relu, golden=True)
    yield Case("flat-finetuned", finetuned)
    yield Case("first-version", first_version, golden=True)
    yield Case("first-transcoder", first_transcoder, golden=True)
    yield Case("connor_rob", connor_rob, golden=True)
    yield Case("temporal-raw-tied", temporal_raw(tied=True), golden=True, sequences=True)
    yield Case("temporal-raw-untied", temporal_raw(tied=False), sequences=True)
    yield Case("standard-hook_z", hook_z)
