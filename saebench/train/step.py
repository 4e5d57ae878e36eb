"""One SAE in training: the loss, the step, and what is counted on the way."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from saebench.activations import Activation, JumpReLU, TopK
from saebench.errors import ConfigError, ModelError
from saebench.sae import SAE, SAEConfig
from saebench.train.recipe import Recipe
from saebench.train.schedule import Schedule
from saebench.train.selection import batch_top_k, top_k
from saebench.train.sparse import decode_active, encode_active
from saebench.train.start import Weights, geometric_median, input_scale

# Gao et al. 2024 (arXiv 2406.04093) need a tiny epsilon too: a latent that fires on one token in
# 100,000 has gradients that the usual 1e-8 would drown.
ADAM_EPSILON = 6.25e-10


@dataclass(frozen=True)
class StepStats:
    """One step: losses in units of the scaled input, the gradient norm before clipping, the rate used."""

    loss: float
    aux_loss: float | None
    grad_norm: float
    lr: float


class Trainer:
    """Trains one SAE on batches of activations ``x[n, d_in]``.

    The loss is the mean squared error per token and dimension, plus the auxiliary loss. Inside,
    inputs are multiplied by one scalar that makes their mean norm √d_in; :meth:`sae` gives the SAE
    that acts on the activations as they come.
    """

    def __init__(self, recipe: Recipe, d_in: int, *, device: torch.device | str = "cpu") -> None:
        self.recipe = recipe
        self.d_in = d_in
        self.d_sae = recipe.width(d_in)
        self.device = torch.device(device)
        self.weights = Weights(d_in, self.d_sae, recipe.seed).to(self.device)
        self.schedule = Schedule(
            recipe.peak_lr(self.d_sae), recipe.steps, recipe.warmup, recipe.decay
        )
        self.scale = 1.0
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

    @torch.no_grad()
    def start(self, sample: Tensor) -> None:
        """Set the input scale and the decoder bias from a first ``sample[n, d_in]`` of activations."""
        sample = sample.to(self.device, torch.float32)
        self.scale = input_scale(sample)
        centre = sample.mean(0) if self.recipe.b_dec_init == "mean" else geometric_median(sample)
        self.weights.b_dec.copy_(centre * self.scale)

    def step(self, x: Tensor) -> StepStats:
        """Learn from one batch ``x[n, d_in]``; raises :class:`ConfigError` when the loss is not finite."""
        loss, aux = self.losses(x)
        total = loss if aux is None else loss + self.recipe.aux_coefficient * aux
        self._check_finite(float(total.detach()), x)
        total.backward()
        self.weights.remove_parallel_gradient()
        clip = self.recipe.grad_clip or math.inf
        grad_norm = torch.nn.utils.clip_grad_norm_(self.weights.parameters(), clip)
        lr = self.schedule.at(self.steps)
        self._optimizer.param_groups[0]["lr"] = lr
        self._optimizer.step()
        self._optimizer.zero_grad()
        self.weights.normalize_decoder()
        self.steps += 1
        self.tokens += x.shape[0]
        return StepStats(
            float(loss.detach()), None if aux is None else float(aux.detach()), float(grad_norm), lr
        )

    def losses(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """``(reconstruction, auxiliary)`` losses of ``x[n, d_in]`` with gradients; counts what fired.

        The auxiliary loss is None when no latent is dead.
        """
        w, k = self.weights, self.recipe.k
        x = x.to(self.device, torch.float32) * self.scale
        centred = x - w.b_dec
        pre = self._pre_activations(centred)
        active = batch_top_k(pre, k) if self.recipe.architecture == "batchtopk" else top_k(pre, k)
        values = encode_active(centred, w.W_enc, w.b_enc, pre, active).relu()
        reconstruction = decode_active(values, w.W_dec, active) + w.b_dec
        loss = F.mse_loss(reconstruction, x)
        aux = self._aux_loss(centred.detach(), (x - reconstruction).detach())
        self._count(values.detach(), active.indices, x.shape[0])
        return loss, aux

    @property
    def threshold(self) -> float:
        """The inference threshold of BatchTopK, in units of the scaled input: 0 before any step.

        The average over recent batches of the smallest code that was kept.
        """
        return self._threshold_sum / self._threshold_weight if self._threshold_weight else 0.0

    @property
    def dead_share(self) -> float | None:
        """The share of latents that did not fire within the window; None before it has passed once."""
        if self.tokens < self.recipe.dead_window:
            return None
        return float(self._dead().float().mean())

    @torch.no_grad()
    def sae(self) -> SAE:
        """The SAE as it stands, with the input scale folded in and matrices rounded as they are saved.

        With ``s`` the scale, ``(s x − b_dec) W_enc + b_enc`` is ``s`` times ``(x − b_dec / s) W_enc +
        b_enc / s``: the same latents are the largest, and codes, threshold and reconstruction all
        shrink by ``s``. So the biases and the threshold are divided by ``s``, the matrices stay as they
        are, and decoder rows keep norm one.
        """
        recipe, w = self.recipe, self.weights
        dtype = getattr(torch, recipe.dtype)
        activation: Activation = TopK(recipe.k)
        if recipe.architecture == "batchtopk":
            activation = JumpReLU(torch.full((self.d_sae,), self.threshold / self.scale))
        cfg = SAEConfig(
            architecture=recipe.architecture,
            d_in=self.d_in,
            d_sae=self.d_sae,
            d_out=self.d_in,
            k=recipe.k,
            site=recipe.site or None,
            model=recipe.model or None,
            dtype=recipe.dtype,
            format="saebench",
        )
        b_dec = (w.b_dec / self.scale).detach()
        return SAE(
            cfg,
            activation.to(self.device),
            W_enc=w.W_enc.detach().T.to(dtype).float().contiguous(),
            W_dec=w.W_dec.detach().to(dtype).float().clone(),
            b_dec=b_dec,
            b_enc=(w.b_enc / self.scale).detach(),
            b_in=b_dec,
        )

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
    def _count(self, values: Tensor, indices: Tensor, n_tokens: int) -> None:
        """Note which latents fired, and the smallest code that did."""
        firing = values > 0
        self._tokens_since_fired += n_tokens
        self._tokens_since_fired[indices[firing].long()] = 0
        if self.recipe.architecture == "batchtopk" and bool(firing.any()):
            decay = self.recipe.threshold_decay
            smallest = float(values[firing].min())
            self._threshold_sum = decay * self._threshold_sum + (1 - decay) * smallest
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
