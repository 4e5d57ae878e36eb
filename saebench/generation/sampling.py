"""Sampling from a model's own distribution: batch i depends on the model, the settings and i alone.

One uniform number per sequence and position is drawn from a generator seeded with the seed and the
number of the sequence, and looked up in the cumulative distribution in float64. Nothing of the model's
own generation defaults (top-k, penalties, lists of forced or suppressed tokens) takes part. Another
number of threads or another device rounds logits differently, so that equality bit by bit is
promised on one machine with one set of versions only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from saebench.errors import ModelError
from saebench.generation.settings import GenerationSettings
from saebench.models import LanguageModel

_LOOK_EVERY = 16  # steps between looks whether every sequence has ended, which wait for the device
_TRIAL = (2, 8)  # sequences and tokens that are compared with a forward without a cache
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}  # relative to the largest logit
_TOLERANCE_16_BIT = 5e-2


class Sampler:
    """Samples sequences of a model in batches.

    Raises :class:`ModelError` where there is no tokenizer or no start token, where the length is
    beyond the context, where the precision is not that of the settings, and where a forward with a
    cache gives other logits than one without.
    """

    def __init__(self, model: LanguageModel, settings: GenerationSettings) -> None:
        self.model = model
        self.settings = settings.resolved(model.context_size)
        self.name = model.id or type(model.model).__name__
        self.start_id, self.eos_id = start_and_end(model.tokenizer, model.vocab_size, self.name)
        precision = str(model.regime.precision)
        if precision != settings.precision:
            raise ModelError(
                f"generation in {settings.precision}",
                f"the model is in memory in {precision}",
                "Load the model in the precision of the settings, or say precision in the settings",
            )
        self._check_cache()

    def batch(self, index: int) -> list[np.ndarray]:
        """The sequences of batch ``index``: int32 ids with the start token in front, EOS kept.

        Raises :class:`ModelError` when logits are not finite.
        """
        first = index * self.settings.batch_size
        uniform = uniforms(
            self.settings.seed, range(first, first + self.settings.batch_size), self._steps
        )
        sampled, _ = self._sample(uniform)
        start = np.array([self.start_id], dtype=np.int32)
        return [np.concatenate([start, cut_at(row, self.eos_id)]) for row in sampled]

    @property
    def _steps(self) -> int:
        return int(self.settings.length or 0) - 1

    @torch.no_grad()
    def _sample(self, uniform: np.ndarray, keep: bool = False) -> tuple[np.ndarray, list[Tensor]]:
        """Ids ``[b, t]`` int32 for uniforms ``[b, t]``, and, where kept, the logits at each step."""
        device, settings = self.model.device, self.settings
        kept: list[Tensor] = []
        thresholds = torch.from_numpy(uniform).to(device, _exact(device))
        ids = torch.full((len(uniform), 1), self.start_id, device=device)
        sampled = torch.empty(uniform.shape, dtype=torch.int64, device=device)
        finite = torch.ones((), dtype=torch.bool, device=device)
        ended = torch.zeros(len(uniform), dtype=torch.bool, device=device)
        cache: Any = None
        steps = 0
        for step in range(uniform.shape[1]):
            output = self.model.model(input_ids=ids, past_key_values=cache, use_cache=True)
            cache = output.past_key_values
            logits = output.logits[:, -1]
            if keep:
                kept.append(logits)
            finite &= ~torch.isnan(logits).any() & (logits < torch.inf).all()
            drawn = draw(logits, thresholds[:, step], settings.temperature, settings.top_p)
            sampled[:, step] = drawn
            ids = drawn[:, None]
            steps = step + 1
            if self.eos_id is not None:
                ended |= drawn == self.eos_id
                if steps % _LOOK_EVERY == 0 and bool(ended.all()):
                    break
        if not bool(finite):
            raise ModelError(
                f"generation with {self.name}",
                "its logits are not finite",
                "Check the weights; in float16, try bfloat16 or float32",
            )
        return sampled[:, :steps].cpu().numpy().astype(np.int32), kept

    @torch.no_grad()
    def _check_cache(self) -> None:
        """Compare logits with a cache with those of one forward over the same ids."""
        rows, tokens = _TRIAL
        uniform = uniforms(self.settings.seed, range(rows), min(tokens, self._steps))
        sampled, kept = self._sample(uniform, keep=True)
        start = torch.full((rows, 1), self.start_id)
        ids = torch.cat([start, torch.from_numpy(sampled[:, :-1]).long()], dim=1)
        plain = self.model.model(input_ids=ids.to(self.model.device), use_cache=False).logits
        cached = torch.stack(kept, dim=1)
        largest = float(plain.float().abs().nan_to_num(posinf=0).max())
        tolerance = _TOLERANCE.get(self.model.dtype, _TOLERANCE_16_BIT) * largest
        if not torch.allclose(cached.float(), plain.float(), rtol=0, atol=tolerance):
            raise ModelError(
                f"generation with {self.name}",
                "its key-value cache gives other logits than a forward without it",
                "This architecture is not supported by this version of transformers",
            )


def draw(logits: Tensor, uniform: Tensor, temperature: float, top_p: float) -> Tensor:
    """One token id per row of ``logits[b, vocab]``, by the inverse distribution at ``uniform[b]``.

    With ``top_p`` below 1 only the smallest set of most probable tokens that holds at least this much
    probability is drawn from (nucleus sampling, Holtzman et al. 2020); temperature comes first.
    """
    exact = _exact(logits.device)
    probabilities = torch.softmax(logits.to(exact) / temperature, dim=-1)
    if top_p >= 1:
        return _invert(probabilities.cumsum(-1), None, uniform)
    ordered, order = probabilities.sort(dim=-1, descending=True, stable=True)
    cumulative = ordered.cumsum(-1)
    last = ((cumulative - ordered) < top_p).sum(-1, keepdim=True) - 1
    place = _invert(cumulative, last, uniform)
    return order.gather(1, place[:, None])[:, 0]


def _invert(cumulative: Tensor, last: Tensor | None, uniform: Tensor) -> Tensor:
    """The first place in each row whose cumulative weight is above the uniform share of the total."""
    total = cumulative[:, -1:] if last is None else cumulative.gather(1, last)
    # rounding may carry the product to the total itself, which lies past the last place
    below = torch.nextafter(total, torch.zeros_like(total))
    wanted = torch.minimum(uniform[:, None].to(total.dtype) * total, below)
    return torch.searchsorted(cumulative, wanted, right=True)[:, 0].clamp_(
        max=cumulative.shape[-1] - 1
    )


def uniforms(seed: int, sequences: range, steps: int) -> np.ndarray:
    """Uniform numbers ``[sequence, step]`` in [0, 1): a row depends on the seed and its number alone."""
    rows = [np.random.default_rng([seed, sequence]).random(steps) for sequence in sequences]
    return np.stack(rows)


def cut_at(ids: np.ndarray, eos_id: int | None) -> np.ndarray:
    """``ids[t]`` up to and including the first EOS, or all of them where there is none."""
    ends = np.flatnonzero(ids == eos_id) if eos_id is not None else np.empty(0, dtype=np.int64)
    return ids[: ends[0] + 1] if len(ends) else ids


def start_and_end(tokenizer: Any, vocab_size: int, name: str) -> tuple[int, int | None]:
    """The token that sequences start with (BOS, else EOS) and the one that ends them, if any.

    Raises :class:`ModelError` where there is no tokenizer, it names neither, or they are beyond the
    model's vocabulary.
    """
    if tokenizer is None:
        raise ModelError(
            f"generation with {name}",
            "the model comes without a tokenizer, which names the start token and makes text of ids",
            "Put its tokenizer files into the model's folder",
        )
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    start = bos if bos is not None else eos
    if start is None:
        raise ModelError(
            f"generation with {name}",
            "its tokenizer has neither a BOS nor an EOS token to start from",
            "Set bos_token in tokenizer_config.json to the token that starts documents",
        )
    largest = max(start, eos or 0)
    if largest >= vocab_size:
        raise ModelError(
            f"generation with {name}",
            f"the tokenizer's special token {largest} is beyond the model's vocabulary of {vocab_size}",
            "Use the tokenizer that belongs to the model",
        )
    return int(start), None if eos is None else int(eos)


def _exact(device: torch.device) -> torch.dtype:
    """float64, except on the devices that do not have it."""
    return torch.float32 if device.type == "mps" else torch.float64
