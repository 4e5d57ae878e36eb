"""One SAE or crosscoder in training: the loss, the step, and what is counted on the way."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from saebench.errors import ConfigError, ModelError
from saebench.sae import SAE
from saebench.train.finished import finished
from saebench.train.inputs import Inputs
from saebench.train.recipe import Recipe
from saebench.train.schedule import Annealing, Schedule
from saebench.train.selection import batch_top_k, top_k
from saebench.train.sparse import Active, decode_active, encode_active
from saebench.train.start import Weights, geometric_median

# Gao et al. 2024 (arXiv 2406.04093) need a tiny epsilon too: a latent that fires on one token in
# 100,000 has gradients that the usual 1e-8 would drown.
ADAM_EPSILON = 6.25e-10


@dataclass(frozen=True)
class StepStats:
    """One step: losses in units of the scaled input, the gradient norm before clipping, rate and k used."""

    loss: float
    aux_loss: float | None
    grad_norm: float
    lr: float
    k: int


class Trainer:
    """Trains one SAE on batches of activations ``x[n, M · d_in]``, M of them side by side for a crosscoder.

    The loss is the mean squared error per token and dimension, summed over sources, plus the auxiliary
    loss. Inside, inputs are scaled (see :class:`Inputs`); :meth:`sae` gives the SAE that acts on the
    activations as they come. An SAE has decoder rows of norm one. A crosscoder has free ones, whose
    norms say in which sources a latent lives, and latents compete by ``f_j · Σ_m ‖d_j^m‖``.
    """

    def __init__(self, recipe: Recipe, d_in: int, *, device: torch.device | str = "cpu") -> None:
        self.recipe = recipe
        self.d_in = d_in
        self.n_sources = len(recipe.sources)
        self.d_sae = recipe.width(d_in)
        self.device = torch.device(device)
        self.weights = Weights(d_in, self.d_sae, recipe.seed, self.n_sources).to(self.device)
        self.inputs = Inputs(recipe, d_in, self.device)
        self.schedule = Schedule(
            recipe.peak_lr(self.d_sae), recipe.steps, recipe.warmup, recipe.decay
        )
        self.annealing = Annealing(
            recipe.k_start or recipe.k, recipe.k, recipe.steps, recipe.k_anneal
        )
        self.steps = 0
        self.tokens = 0
        self._optimizer = torch.optim.Adam(
            self.weights.parameters(),
            lr=self.schedule.peak,
            betas=(0.9, 0.999),
            eps=ADAM_EPSILON,
            fused=self.device.type in ("cpu", "cuda"),
        )
        self._tokens_since_fired = torch.zeros(self.d_sae, dtype=torch.int64, device=self.device)
        self._threshold_sum = 0.0
        self._threshold_weight = 0.0
        self._pre = torch.empty(0, self.d_sae, device=self.device)
        self._ranked = torch.empty(0, self.d_sae, device=self.device)

    @torch.no_grad()
    def start(self, sample: Tensor) -> None:
        """Set the input scales and the decoder bias from a first ``sample[n, M · d_in]`` of activations.

        The bias starts at the middle of each source. Raises :class:`ModelError` for a difference of
        models that is zero everywhere.
        """
        sample = sample.to(self.device, torch.float32)
        self.inputs.fit(sample)
        middle = geometric_median if self.recipe.b_dec_init == "geometric_median" else _mean
        centre = torch.cat([middle(source) for source in sample.split(self.d_in, 1)])
        self.weights.b_dec.copy_(self.inputs(centre))

    def step(self, x: Tensor) -> StepStats:
        """Learn from one batch ``x[n, M · d_in]``.

        Raises :class:`ConfigError` when the loss is not finite.
        """
        k = self.k
        loss, aux = self.losses(x)
        total = loss if aux is None else loss + self.recipe.aux_coefficient * aux
        self._check_finite(float(total.detach()), x)
        total.backward()
        if not self.recipe.is_crosscoder:
            self.weights.remove_parallel_gradient()
        clip = self.recipe.grad_clip or math.inf
        grad_norm = torch.nn.utils.clip_grad_norm_(self.weights.parameters(), clip)
        lr = self.schedule.at(self.steps)
        self._optimizer.param_groups[0]["lr"] = lr
        self._optimizer.step()
        self._optimizer.zero_grad()
        if not self.recipe.is_crosscoder:
            self.weights.normalize_decoder()
        self.steps += 1
        self.tokens += x.shape[0]
        return StepStats(
            loss=float(loss.detach()),
            aux_loss=None if aux is None else float(aux.detach()),
            grad_norm=float(grad_norm),
            lr=lr,
            k=k,
        )

    def losses(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """``(reconstruction, auxiliary)`` losses of ``x[n, M · d_in]`` with gradients; counts what fired.

        The auxiliary loss is None when no latent is dead.
        """
        w = self.weights
        x = self.inputs(x.to(self.device, torch.float32))
        centred = x - w.b_dec
        pre = self._pre_activations(centred)
        norms = w.summed_norms() if self.recipe.is_crosscoder else None
        active = self._select(pre, norms)
        values = encode_active(centred, w.W_enc, w.b_enc, pre, active).relu()
        reconstruction = decode_active(values, w.W_dec, active) + w.b_dec
        loss = F.mse_loss(reconstruction, x) * self.n_sources
        aux = self._aux_loss(centred.detach(), (x - reconstruction).detach())
        self._count(values.detach(), active.indices, norms, x.shape[0])
        return loss, aux

    @property
    def scale(self) -> float:
        """The factor of the input that the SAE has folded in; 1 where it keeps its normalisation."""
        return self.inputs.scale

    @property
    def k(self) -> int:
        """Active latents per token at the present step."""
        return self.annealing.at(self.steps)

    @property
    def threshold(self) -> float:
        """The inference threshold of BatchTopK, in units of the scaled input: 0 before any step.

        The average over recent batches of the smallest code that was kept, times its latent's norms for
        a crosscoder.
        """
        return self._threshold_sum / self._threshold_weight if self._threshold_weight else 0.0

    @property
    def dead_share(self) -> float | None:
        """The share of latents that did not fire within the window; None before it has passed once."""
        if self.tokens < self.recipe.dead_window:
            return None
        return float(self._dead().float().mean())

    def sae(self) -> SAE:
        """The SAE or crosscoder as it stands, in units of activations, rounded as it is saved."""
        return finished(self.recipe, self.weights, self.inputs, self.threshold)

    @torch.no_grad()
    def _select(self, pre: Tensor, norms: Tensor | None) -> Active:
        """Which latents fire on ``pre[n, d_sae]``: those that weigh most, by ``norms[d_sae]`` if given."""
        if self.recipe.architecture == "topk":
            return top_k(pre, self.k)
        if norms is None:
            return batch_top_k(pre, self.k)
        if len(self._ranked) < len(pre):
            self._ranked = torch.empty_like(pre)
        return batch_top_k(torch.mul(pre, norms, out=self._ranked[: len(pre)]), self.k)

    @torch.no_grad()
    def _pre_activations(self, centred: Tensor) -> Tensor:
        """``pre[n, d_sae]`` in a buffer kept from step to step: fresh memory costs more than writing it."""
        n = centred.shape[0]
        if self._pre.shape[0] < n:
            self._pre = torch.empty(n, self.d_sae, device=self.device)
        return torch.addmm(self.weights.b_enc, centred, self.weights.W_enc.T, out=self._pre[:n])

    def _aux_loss(self, centred: Tensor, residual: Tensor) -> Tensor | None:
        """How much of the residual the strongest dead latents leave, relative to its variance.

        Only dead latents get a gradient from it. Source: Gao et al. 2024, section 2.
        """
        dead = self._dead().nonzero().squeeze(1)
        k = min(self.recipe.aux_latents(self.d_in), len(dead))
        if k == 0:
            return None
        w = self.weights
        codes = F.linear(centred, w.W_enc[dead], w.b_enc[dead]).relu()
        if k < len(dead):
            kept = codes.topk(k, dim=1, sorted=False)
            codes = torch.zeros_like(codes).scatter(1, kept.indices, kept.values)
        variance = residual.var(0, correction=0).mean()
        if float(variance) == 0:
            return None
        return F.mse_loss(codes @ w.W_dec[dead], residual) / variance

    def _dead(self) -> Tensor:
        return self._tokens_since_fired >= self.recipe.dead_window

    @torch.no_grad()
    def _count(self, values: Tensor, indices: Tensor, norms: Tensor | None, n_tokens: int) -> None:
        """Note which latents fired, and the smallest code that did, in what latents compete by."""
        firing = values > 0
        fired = indices[firing].long()
        self._tokens_since_fired += n_tokens
        self._tokens_since_fired[fired] = 0
        if self.recipe.architecture == "batchtopk" and len(fired):
            decay = self.recipe.threshold_decay
            kept = values[firing] if norms is None else values[firing] * norms[fired]
            self._threshold_sum = decay * self._threshold_sum + (1 - decay) * float(kept.min())
            self._threshold_weight = decay * self._threshold_weight + (1 - decay)

    def _check_finite(self, loss: float, x: Tensor) -> None:
        if math.isfinite(loss):
            return
        if not bool(x.isfinite().all()):
            raise ModelError(
                f"finite activations in training batch {self.steps}",
                "NaN or infinite values",
                "Run the model in float32 or bfloat16, or choose an earlier site.",
            )
        raise ConfigError(
            f"a finite loss at step {self.steps}",
            f"{loss}",
            f"Lower the learning rate (peak {self.schedule.peak:g}), or warm up for longer.",
        )


def _mean(x: Tensor) -> Tensor:
    return x.mean(0)
