"""Checkpoints of training runs, written by SAELens' own trainer on random activations.

The trainer scales or whitens activations before the SAE sees them and folds that into the weights
when it ends. Of the checkpoint in the middle of a run the expected numbers are therefore those of
its ``ActivationScaler`` around the SAE, both loaded again with the library's own functions.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import tempfile
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import torch
import torchvision_guard  # noqa: F401  # first: the peers import torchvision
from sae_lens import (
    SAE,
    AbsTopKTrainingSAE,
    AbsTopKTrainingSAEConfig,
    BatchTopKTrainingSAE,
    BatchTopKTrainingSAEConfig,
    GatedTrainingSAE,
    GatedTrainingSAEConfig,
    JumpReLUTrainingSAE,
    JumpReLUTrainingSAEConfig,
    MatchingPursuitTrainingSAE,
    MatchingPursuitTrainingSAEConfig,
    MatryoshkaBatchTopKTrainingSAE,
    MatryoshkaBatchTopKTrainingSAEConfig,
    StandardTrainingSAE,
    StandardTrainingSAEConfig,
    TopKTrainingSAE,
    TopKTrainingSAEConfig,
)
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.sae import TrainingSAE
from sae_lens.training.activation_scaler import ActivationScaler
from sae_lens.training.sae_trainer import SAETrainer
from saelens_case import Case, K, metadata
from torch import Tensor

ROWS = 32  # of a batch
BATCHES = 12
NORMALIZATIONS = ("none", "expected_average_only_in", "covariance_whitening")
LIKE_GOLDEN = {
    ("topk", "covariance_whitening", "middle"),
    ("batchtopk", "expected_average_only_in", "middle"),
}

CLASSES = {
    "standard": (StandardTrainingSAE, StandardTrainingSAEConfig, {}),
    "gated": (GatedTrainingSAE, GatedTrainingSAEConfig, {}),
    "jumprelu": (JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig, {}),
    "topk": (TopKTrainingSAE, TopKTrainingSAEConfig, {"k": K}),
    "topk-not-rescaled": (
        TopKTrainingSAE,
        TopKTrainingSAEConfig,
        {"k": K, "rescale_acts_by_decoder_norm": False, "apply_b_dec_to_input": False},
    ),
    "abstopk": (AbsTopKTrainingSAE, AbsTopKTrainingSAEConfig, {"k": K}),
    "batchtopk": (BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, {"k": 3.0}),
    "batchtopk-not-rescaled": (
        BatchTopKTrainingSAE,
        BatchTopKTrainingSAEConfig,
        {"k": 3.0, "rescale_acts_by_decoder_norm": False},
    ),
    "matryoshka_batchtopk": (
        MatryoshkaBatchTopKTrainingSAE,
        MatryoshkaBatchTopKTrainingSAEConfig,
        {"k": 3.0},
    ),
    "matching_pursuit": (MatchingPursuitTrainingSAE, MatchingPursuitTrainingSAEConfig, {}),
}


class Scaled:
    """A model and what the trainer does to activations around it."""

    def __init__(self, sae: torch.nn.Module, scaler: ActivationScaler) -> None:
        self.sae, self.scaler = sae, scaler

    def encode(self, x: Tensor) -> Tensor:
        return self.sae.encode(self.scaler(x)).to_dense()

    def decode(self, codes: Tensor) -> Tensor:
        return self.scaler.unscale(self.sae.decode(codes))

    def __call__(self, x: Tensor) -> Tensor:
        return self.scaler.unscale(self.sae(self.scaler(x)))


def activations(d_in: int) -> Iterator[Tensor]:
    """Endless batches, off centre and of unequal spread."""
    spread = torch.rand(d_in) * 3 + 0.2
    while True:
        yield torch.randn(ROWS, d_in) * spread + 0.5


def loaded(path: Path) -> Scaled:
    """The checkpoint with the library's own functions; BatchTopK as it is exported."""
    sae = TrainingSAE.load_from_disk(path)
    scaler = ActivationScaler()
    scaler.load(path / "activation_scaler.json")
    if isinstance(sae, BatchTopKTrainingSAE):
        with tempfile.TemporaryDirectory() as exported:
            sae.save_inference_model(exported)
            return Scaled(SAE.load_from_disk(exported), scaler)
    return Scaled(sae, scaler)


def run(name: str, normalization: str, stage: str) -> Callable[[Path, int, int], Scaled]:
    sae_class, config_class, options = CLASSES[name]

    def save(path: Path, d_in: int, d_sae: int) -> Scaled:
        widths = {"matryoshka_widths": [d_sae // 2, d_sae]} if name.startswith("matryoshka") else {}
        chosen = {"normalize_activations": normalization} | options | widths
        sae = sae_class(config_class(d_in=d_in, d_sae=d_sae, metadata=metadata(), **chosen))
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
            config = SAETrainerConfig(
                total_training_samples=ROWS * BATCHES,
                train_batch_size_samples=ROWS,
                lr=1e-2,
                lr_end=1e-2,
                n_checkpoints=1,
                checkpoint_path=folder,
                save_final_checkpoint=True,
                n_batches_for_norm_estimate=8,
            )
            with torch.enable_grad():
                SAETrainer(config, sae, activations(d_in)).fit()
            saved = {
                "final" if item.name.startswith("final") else "middle": item
                for item in Path(folder).iterdir()
            }
            shutil.copytree(saved[stage], path)
        return loaded(path)

    return save


def cases() -> Iterator[Case]:
    for name, normalization, stage in product(CLASSES, NORMALIZATIONS, ("middle", "final")):
        if name == "matching_pursuit" and normalization == "covariance_whitening":
            continue  # the library refuses it
        golden = (name, normalization, stage) in LIKE_GOLDEN
        yield Case(f"run-{name}-{normalization}-{stage}", run(name, normalization, stage), golden)
