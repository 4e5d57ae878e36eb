"""Small passes for tests: SAEs of a few latents, token streams, and one call that measures all of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from saebench.activations import ReLU, TopK
from saebench.data import Batch, stream_from_ids
from saebench.evals import ReconstructionEval, SiteEval, SparsityEval
from saebench.metrics import prediction, reconstruction, sparsity
from saebench.models import LanguageModel
from saebench.passes import Calibration, PassRequest, Subject, run_pass
from saebench.record import Measurement
from saebench.sae import SAE, SAEConfig
from tests.tiny_models import VOCAB, WIDTH

D_SAE, K = 24, 4


def random_sae(seed: int = 0, *, width: int = WIDTH, d_out: int = 0, k: int | None = K) -> SAE:
    """Random weights that reconstruct badly, so that every metric is far from its ends.

    With a ``d_out`` it is a transcoder from the input of an MLP to its output; without a ``k`` it is
    a ReLU SAE, whose L0 differs from token to token.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return 0.3 * torch.randn(shape, generator=generator)

    sites = ("blocks.1.mlp.hook_in", "blocks.1.hook_mlp_out") if d_out else (None, None)
    cfg = SAEConfig("test", width, D_SAE, d_out or width, k=k, site=sites[0], site_out=sites[1])
    return SAE(
        cfg,
        ReLU() if k is None else TopK(k),
        W_enc=normal(width, D_SAE),
        W_dec=normal(D_SAE, d_out or width),
        b_dec=normal(d_out or width),
        b_enc=normal(D_SAE),
    )


def identity_sae(width: int = WIDTH) -> SAE:
    """``x̂ = relu(x) − relu(−x) = x``, to the last bit: each sum has one term that is not zero."""
    eye = torch.eye(width)
    cfg = SAEConfig("standard", width, 2 * width, width)
    return SAE(
        cfg,
        ReLU(),
        W_enc=torch.cat((eye, -eye), 1),
        W_dec=torch.cat((eye, -eye)),
        b_dec=torch.zeros(width),
        b_enc=torch.zeros(2 * width),
    )


def tokens(n_sequences: int = 8, length: int = 9, *, seed: int = 0, vocab: int = VOCAB) -> Tensor:
    """Random token ids ``[n_sequences, length]``, none of them 0 or 1 (padding and BOS)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, vocab, (n_sequences, length), generator=generator)


def ragged(lengths: Sequence[int], *, seed: int = 0) -> list[list[int]]:
    """Sequences of these lengths, so that a batch of them is padded."""
    ids = tokens(len(lengths), max(lengths), seed=seed)
    return [row[:length].tolist() for row, length in zip(ids, lengths, strict=True)]


@dataclass
class Run:
    """One pass over subjects at a site, and the evaluations it feeds."""

    model: LanguageModel
    subjects: list[Subject]
    sites: dict = field(default_factory=dict)
    rebuilt: dict[str, ReconstructionEval] = field(default_factory=dict)
    firing: dict[str, SparsityEval] = field(default_factory=dict)
    calibration: Calibration | None = None

    @classmethod
    def of(
        cls,
        model: LanguageModel,
        saes: Mapping[str, SAE],
        site: str,
        site_out: str = "",
        *,
        predictions: bool = True,
    ) -> Run:
        """Evaluations of SAEs at ``site`` (of transcoders from there to ``site_out``)."""
        read, written = model.site(site), model.site(site_out or site)
        shared = SiteEval(written)
        run = cls(model, [Subject.at(name, sae, read, written) for name, sae in saes.items()])
        run.sites = {shared.stack: shared}
        for name, sae in saes.items():
            cfg = sae.cfg
            run.rebuilt[name] = ReconstructionEval(shared, cfg.width_out, predictions=predictions)
            run.firing[name] = SparsityEval(cfg.d_sae, model.device)
        return run

    @property
    def site(self) -> SiteEval:
        """The evaluation of the one site."""
        return next(iter(self.sites.values()))

    def over(self, batches: Iterable[Batch], calibration: Calibration | None = None) -> Run:
        """Feed the batches."""
        observers = {name: [self.rebuilt[name], self.firing[name]] for name in self.rebuilt}
        request = PassRequest(
            self.subjects, {site: [item] for site, item in self.sites.items()}, observers
        )
        self.calibration = run_pass(self.model, batches, request, calibration=calibration)
        return self

    def merge(self, other: Run) -> Run:
        """Add what another shard of the stream summed."""
        self.site.sums.merge(other.site.sums)
        self.site.covariance.merge(other.site.covariance)
        self.site.floors.merge(other.site.floors)
        for name in self.rebuilt:
            self.rebuilt[name].errors.merge(other.rebuilt[name].errors)
            self.rebuilt[name].spliced.merge(other.rebuilt[name].spliced)
            self.firing[name].sums.merge(other.firing[name].sums)
        return self

    def measurements(self, name: str) -> dict[str, Measurement]:
        """Every metric of a subject by its short name."""
        found = self.rebuilt[name].measurements(n_sequences=0, seed=0)
        found |= self.firing[name].measurements(n_sequences=0, seed=0)
        return {item.name: item for item in found.values()}

    def values(self, name: str) -> dict[str, float]:
        """The bare estimates of a subject by the short name of the metric, without intervals."""
        rebuilt, firing = self.rebuilt[name], self.firing[name]
        found = reconstruction.values(self.site.sums, rebuilt.errors)
        if rebuilt.needs_predictions:
            found |= prediction.values(self.site.floors, rebuilt.spliced)
        values = {metric: float(value) for metric, value in found.items()}
        fired = sparsity.measurements(firing.sums, n_sequences=0, n_resamples=2)
        return values | {item.name: float(item.value or 0) for item in fired.values()}


def measured(
    model: LanguageModel,
    ids: Tensor | Sequence[Sequence[int]],
    saes: Mapping[str, SAE],
    site: str = "blocks.1.hook_resid_post",
    site_out: str = "",
    *,
    batch_size: int = 4,
    predictions: bool = True,
    **stream: object,
) -> Run:
    """A whole pass over ``ids``; ``stream`` are options of :func:`stream_from_ids`."""
    run = Run.of(model, saes, site, site_out, predictions=predictions)
    return run.over(stream_from_ids(ids, **stream).batches(batch_size))  # type: ignore[arg-type]


def assert_same(found: Mapping[str, float], expected: Mapping[str, float]) -> None:
    """The same estimates, to the accuracy of float32 products."""
    assert found.keys() == expected.keys()
    for metric, value in expected.items():
        assert found[metric] == pytest.approx(value, rel=1e-4, abs=1e-6), metric
