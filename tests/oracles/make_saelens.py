"""Checkpoints as SAELens saves them, with its own codes and reconstructions.

Run under the Python of an environment that has sae-lens (extra ``oracles``):

    python tests/oracles/make_saelens.py OUT --d-in 16 --d-sae 64 --rows 12

writes ``OUT/<case>/`` with the peer's own files and ``OUT/expected/<case>.safetensors`` with
``x``, ``codes``, ``decoded`` (from the codes) and ``output`` (the forward pass). ``--golden`` keeps
the cases that tests/oracles/golden/ holds; tests/oracles/regenerate.py calls it that way.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import saelens_others
import saelens_runs
import torch
import torchvision_guard  # noqa: F401  # first: the peers import torchvision
from sae_lens import (
    SAE,
    AbsTopKSAE,
    AbsTopKSAEConfig,
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    GatedSAE,
    GatedSAEConfig,
    JumpReLUSAE,
    JumpReLUSAEConfig,
    JumpReLUTrainingSAE,
    JumpReLUTrainingSAEConfig,
    MatchingPursuitSAE,
    MatchingPursuitSAEConfig,
    MatryoshkaBatchTopKTrainingSAE,
    MatryoshkaBatchTopKTrainingSAEConfig,
    StandardSAE,
    StandardSAEConfig,
    TemporalSAE,
    TemporalSAEConfig,
    TopKSAE,
    TopKSAEConfig,
    TopKTrainingSAE,
    TopKTrainingSAEConfig,
)
from sae_lens.saes.transcoder import (
    JumpReLUSkipTranscoder,
    JumpReLUSkipTranscoderConfig,
    JumpReLUTranscoder,
    JumpReLUTranscoderConfig,
    SkipTranscoder,
    SkipTranscoderConfig,
    Transcoder,
    TranscoderConfig,
)
from saelens_case import Case, K, metadata, randomize
from safetensors.torch import save_file

LIBRARY = "sae_lens"
NORMALIZATIONS = ("none", "layer_norm", "constant_norm_rescale", "expected_average_only_in")


def inference(sae_class: type, config_class: type, **options: object) -> Callable:
    def save(path: Path, d_in: int, d_sae: int) -> SAE:
        sizes = {"d_out": d_in + 4} if "Transcoder" in sae_class.__name__ else {}
        known = metadata(hook_name_out="blocks.1.hook_mlp_out") if sizes else metadata()
        config = config_class(d_in=d_in, d_sae=d_sae, metadata=known, **sizes, **options)
        sae = sae_class(config)
        (saelens_others.spread if sae_class is TemporalSAE else randomize)(sae)
        sae.save_model(path)
        return SAE.load_from_disk(path, dtype="float32")

    return save


def trained(sae_class: type, config_class: type, *, export: bool, **options: object) -> Callable:
    """A training SAE, saved either for inference or as a checkpoint of the run."""

    def save(path: Path, d_in: int, d_sae: int) -> SAE:
        widths = (
            {"matryoshka_widths": [d_sae // 2, d_sae]} if "Matryoshka" in str(sae_class) else {}
        )
        config = config_class(d_in=d_in, d_sae=d_sae, metadata=metadata(), **options, **widths)
        sae = sae_class(config)
        randomize(sae)
        if hasattr(sae, "topk_threshold"):
            sae.topk_threshold.fill_(0.3)
        (sae.save_inference_model if export else sae.save_model)(path)
        with tempfile.TemporaryDirectory() as exported:
            sae.save_inference_model(exported)
            return SAE.load_from_disk(exported)

    return save


def legacy(config: dict[str, object], *, threshold: bool = False) -> Callable:
    """A flat config as versions before 6 wrote it, read by the version installed."""

    def save(path: Path, d_in: int, d_sae: int) -> SAE:
        path.mkdir(parents=True)
        common = {"d_in": d_in, "d_sae": d_sae, "dtype": "torch.float32", "device": "cpu"}
        (path / "cfg.json").write_text(json.dumps(common | {"model_name": "tiny"} | config))
        tensors = {
            "W_enc": torch.randn(d_in, d_sae) * d_in**-0.5,
            "W_dec": torch.randn(d_sae, d_in) * d_sae**-0.5,
            "b_enc": torch.randn(d_sae) * 0.2,
            "b_dec": torch.randn(d_in) * 0.2,
        }
        tensors |= {"threshold": torch.rand(d_sae) * 0.3 + 0.1} if threshold else {}
        save_file(tensors, path / "sae_weights.safetensors")
        return SAE.load_from_disk(path)

    return save


def cases() -> Iterator[Case]:
    plain = {
        "standard": (StandardSAE, StandardSAEConfig, {}),
        "gated": (GatedSAE, GatedSAEConfig, {}),
        "jumprelu": (JumpReLUSAE, JumpReLUSAEConfig, {}),
        "topk": (TopKSAE, TopKSAEConfig, {"k": K}),
        "abstopk": (AbsTopKSAE, AbsTopKSAEConfig, {"k": K}),
        "abstopk-rescaled": (
            AbsTopKSAE,
            AbsTopKSAEConfig,
            {"k": K, "rescale_acts_by_decoder_norm": True},
        ),
        "topk-rescaled": (TopKSAE, TopKSAEConfig, {"k": K, "rescale_acts_by_decoder_norm": True}),
    }
    for (name, (sae, config, options)), norm, subtract in product(
        plain.items(), NORMALIZATIONS, (True, False)
    ):
        chosen = {"normalize_activations": norm, "apply_b_dec_to_input": subtract} | options
        bias = "b_dec-subtracted" if subtract else "b_dec-kept"
        golden = subtract and (norm == "none" or name == "standard") and name != "abstopk"
        small = name == "standard" and norm == "layer_norm" and subtract
        size = 1e-4 if small else 1.0
        save = inference(sae, config, **chosen)
        yield Case(f"{name}-{norm}-{bias}", save, golden, size=size)
    transcoders = {
        "transcoder": (Transcoder, TranscoderConfig),
        "skip_transcoder": (SkipTranscoder, SkipTranscoderConfig),
        "jumprelu_transcoder": (JumpReLUTranscoder, JumpReLUTranscoderConfig),
        "jumprelu_skip_transcoder": (JumpReLUSkipTranscoder, JumpReLUSkipTranscoderConfig),
    }
    for (name, (sae, config)), norm in product(transcoders.items(), NORMALIZATIONS):
        chosen = {"normalize_activations": norm, "apply_b_dec_to_input": False}
        golden = norm == "none" or (norm == "layer_norm" and name == "skip_transcoder")
        yield Case(f"{name}-{norm}", inference(sae, config, **chosen), golden)
    training = {
        "batchtopk": (BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, {"k": 3.0}),
        "matryoshka_batchtopk": (
            MatryoshkaBatchTopKTrainingSAE,
            MatryoshkaBatchTopKTrainingSAEConfig,
            {"k": 3.0},
        ),
        "topk": (TopKTrainingSAE, TopKTrainingSAEConfig, {"k": K}),
        "jumprelu": (JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig, {}),
    }
    for (name, (sae, config, options)), export in product(training.items(), (True, False)):
        kind = "exported" if export else "checkpoint"
        golden = name.endswith("batchtopk")
        yield Case(f"trained-{name}-{kind}", trained(sae, config, export=export, **options), golden)
    flat = {"hook_point": "blocks.1.hook_resid_post", "activation_fn_str": "relu"}
    top = {"hook_name": "blocks.1.hook_resid_pre", "activation_fn_str": "topk"}
    top |= {"activation_fn_kwargs": {"k": K}, "normalize_activations": "layer_norm"}
    jump = {"hook_name": "blocks.1.hook_resid_pre", "architecture": "jumprelu"}
    jump |= {"activation_fn": "relu", "apply_b_dec_to_input": False, "sae_lens_version": "5.9.1"}
    yield Case("flat-standard", legacy(flat | {"normalize_activations": None}), golden=True)
    yield Case("flat-averaged", legacy(flat | {"normalize_activations": True}))
    yield Case("flat-topk", legacy(top), golden=True)
    yield Case("flat-jumprelu", legacy(jump, threshold=True), golden=True)


def pursuits() -> Iterator[Case]:
    """Matching pursuit under every rule that ends it."""
    ends = {
        "default": {},
        "repeats": {"stop_on_duplicate_support": False, "max_iterations": 9},
        "coarse": {"residual_threshold": 1.5},
        "coarse-repeats": {"residual_threshold": 1.0, "stop_on_duplicate_support": False},
        "no-threshold": {"residual_threshold": 0.0},
    }
    for (name, options), norm, subtract in product(ends.items(), NORMALIZATIONS, (True, False)):
        chosen = {"normalize_activations": norm, "apply_b_dec_to_input": subtract} | options
        save = inference(MatchingPursuitSAE, MatchingPursuitSAEConfig, **chosen)
        bias = "b_dec-subtracted" if subtract else "b_dec-kept"
        golden = subtract and norm == "none" and name in ("default", "coarse-repeats")
        yield Case(f"matching_pursuit-{name}-{norm}-{bias}", save, golden)


def temporals() -> Iterator[Case]:
    """Temporal SAEs; their attention takes part of the latents, which its sizes have to divide."""
    sizes = {"n_heads": 2, "bottleneck_factor": 2}
    kinds = {
        "topk": {"kval_topk": K},
        "relu": {"sae_diff_type": "relu", "kval_topk": K},
        "untied": {"kval_topk": K, "tied_weights": False},
        "two-layers": {"kval_topk": K, "n_attn_layers": 2},
        "rescaled": {
            "kval_topk": K,
            "normalize_activations": "constant_scalar_rescale",
            "activation_normalization_factor": 0.3,
        },
    }
    kinds |= {
        f"topk-{norm}": {"kval_topk": K, "normalize_activations": norm} for norm in NORMALIZATIONS
    }
    for (name, options), subtract in product(kinds.items(), (True, False)):
        chosen = sizes | options | {"apply_b_dec_to_input": subtract}
        save = inference(TemporalSAE, TemporalSAEConfig, **chosen)
        bias = "b_dec-subtracted" if subtract else "b_dec-kept"
        golden = subtract and name == "untied"
        yield Case(f"temporal-{name}-{bias}", save, golden, sequences=True)


def precisions() -> Iterator[Case]:
    """Weights stored in 16 and 64 bits, computed with in 32."""
    kinds = {
        "standard": (StandardSAE, StandardSAEConfig, {}),
        "topk": (TopKSAE, TopKSAEConfig, {"k": K, "rescale_acts_by_decoder_norm": True}),
        "jumprelu": (JumpReLUSAE, JumpReLUSAEConfig, {}),
    }
    for (name, (sae, config, options)), dtype in product(
        kinds.items(), ("bfloat16", "float16", "float64")
    ):
        yield Case(f"{name}-{dtype}", inference(sae, config, dtype=dtype, **options))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--d-in", type=int, default=16)
    parser.add_argument("--d-sae", type=int, default=64)
    parser.add_argument("--rows", type=int, default=12)
    parser.add_argument("--golden", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    (options.out / "expected").mkdir(parents=True, exist_ok=True)
    groups = (cases, pursuits, temporals, precisions, saelens_others.cases, saelens_runs.cases)
    for seed, case in enumerate(case for group in groups for case in group()):
        if options.golden and not case.golden:
            continue
        torch.manual_seed(seed)
        with torch.no_grad():
            sae = case.save(options.out / case.name, options.d_in, options.d_sae)
            lead = (2, options.rows // 2) if case.sequences else (options.rows,)
            x = (torch.randn(*lead, options.d_in) * 2 + 0.5) * case.size  # off centre
            codes = sae.encode(x)
            found = {"x": x, "codes": codes, "decoded": sae.decode(codes), "output": sae(x)}
        if options.golden:  # the state of the optimizer is the larger part of a run's checkpoint
            (options.out / case.name / "trainer_state.pt").unlink(missing_ok=True)
        found = {name: tensor.contiguous() for name, tensor in found.items()}
        save_file(found, options.out / "expected" / f"{case.name}.safetensors")


if __name__ == "__main__":
    main()
