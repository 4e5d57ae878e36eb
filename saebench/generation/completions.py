"""Completions of prompts, sampled such that each depends on the model, its prompt, its number and a seed.

Prompts of one length are run together and nothing is ever padded; the uniform number of a token depends
on the seed, the number of the prompt and the position alone. Nothing of the model's own generation defaults
takes part. Matrix products over another number of sequences may round the last bits of logits
differently: a token changes by that only where its uniform number lies within rounding of a boundary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakSet

import numpy as np
import torch
from torch import Tensor

from saebench.errors import ModelError
from saebench.generation.completion_settings import CompletionSettings
from saebench.generation.sampling import cut_at, draw, start_and_end, uniforms
from saebench.models import LanguageModel

Intervene = Callable[[], AbstractContextManager[Any]]
Prompt = str | Sequence[int]

_LOOK_EVERY = 16  # steps between looks whether every sequence has ended, which wait for the device
_TRIAL = (2, 3, 5)  # sequences, tokens and steps that are compared with a forward without a cache
_TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-6}  # relative to the largest logit
_TOLERANCE_16_BIT = 5e-2
_TOLERANCE_ROUNDED = (
    0.25  # activations in 8 bits: a forward of fewer tokens may round all of them otherwise
)
_checked: WeakSet[LanguageModel] = WeakSet()


@dataclass(frozen=True)
class Completion:
    """What a model wrote after prompt number ``prompt`` with a seed.

    ``ids`` are the sampled tokens, EOS included where it ``ended``; ``text`` is what they add to the
    prompt, without special tokens; ``n_new`` counts them.
    """

    prompt: int
    seed: int
    ids: tuple[int, ...]
    text: str
    n_new: int
    ended: bool


def complete(
    model: LanguageModel,
    prompts: Sequence[Prompt],
    *,
    seeds: Sequence[int] = (0,),
    max_new_tokens: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    batch_size: int = 32,
    intervene: Intervene | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Completion]:
    """A completion of every prompt with every seed, by prompt and then by seed.

    Prompts are texts, read as BOS (where the tokenizer has one) and their tokens, or token ids, taken as
    they are. Temperature 0 takes the most probable token, whatever the seed. ``intervene`` makes a context
    manager that is entered around each loop of forwards: the first reads the prompts ``[b, t]``, each
    later one a token ``[b, 1]``. ``progress`` is called with the completions done and wanted.

    Raises
    ------
    ConfigError : settings that mean nothing.
    ModelError : no tokenizer, a prompt without a token or too long for the context, logits that are not
        finite, or a cache that gives other logits than a forward without it.
    """
    settings = CompletionSettings(tuple(seeds), max_new_tokens, temperature, top_p, batch_size)
    writer = _Writer(model, settings, intervene or nullcontext)
    ids = writer.tokens(prompts)
    greedy = settings.temperature == 0
    items = [(number, seed) for number in range(len(ids)) for seed in settings.seeds]
    wanted = [item for item in items if not greedy or item[1] == settings.seeds[0]]
    found: dict[tuple[int, int], Completion] = {}
    for batch in writer.batches(ids, wanted):
        if progress is not None:
            progress(len(found), len(wanted))
        for completion in writer.write(ids, batch):
            found[completion.prompt, completion.seed] = completion
    if progress is not None:
        progress(len(wanted), len(wanted))
    if greedy:
        first = settings.seeds[0]
        return [replace(found[number, first], seed=seed) for number, seed in items]
    return [found[item] for item in items]


class _Writer:
    """Continues batches of prompts of one length."""

    def __init__(
        self, model: LanguageModel, settings: CompletionSettings, intervene: Intervene
    ) -> None:
        self.model, self.settings, self.intervene = model, settings, intervene
        self.name = model.id or type(model.model).__name__
        self.start_id, self.eos_id = start_and_end(model.tokenizer, model.vocab_size, self.name)
        named = inspect.signature(model.model.forward).parameters
        self.last: dict[str, int] = {"logits_to_keep": 1} if "logits_to_keep" in named else {}
        # LLM.int8 decides by all tokens of a forward which columns stay in 16 bits
        together = model.regime.precision.base != "int8"
        self.batch_size = settings.batch_size if together else 1
        if model not in _checked:
            self._check_cache()
            _checked.add(model)

    def tokens(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """The token ids of each prompt; raises :class:`ModelError` where the context has no room."""
        tokenizer = self.model.tokenizer
        texts = [prompt for prompt in prompts if isinstance(prompt, str)]
        encoded: Iterator[list[int]] = iter(
            tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else ()
        )
        bos = tokenizer.bos_token_id
        found = []
        for number, prompt in enumerate(prompts):
            if isinstance(prompt, str):
                ids = next(encoded)
                if bos is not None and ids[:1] != [bos]:
                    ids = [bos, *ids]
                ids = ids or [self.start_id]
            else:
                ids = [int(id) for id in prompt]
            self._check_prompt(number, ids)
            found.append(ids)
        return found

    def batches(
        self, ids: Sequence[Sequence[int]], items: Sequence[tuple[int, int]]
    ) -> Iterator[list[tuple[int, int]]]:
        """Prompt numbers with seeds, such that prompts of a batch have the same number of tokens."""
        by_length: dict[int, list[tuple[int, int]]] = {}
        for item in items:
            by_length.setdefault(len(ids[item[0]]), []).append(item)
        for _, same in sorted(by_length.items()):
            for first in range(0, len(same), self.batch_size):
                yield same[first : first + self.batch_size]

    def write(
        self, ids: Sequence[Sequence[int]], batch: Sequence[tuple[int, int]]
    ) -> Iterator[Completion]:
        """The completions of one batch."""
        steps = self.settings.max_new_tokens
        uniform = np.concatenate(
            [uniforms(seed, range(number, number + 1), steps) for number, seed in batch]
        )
        prompts = torch.tensor([ids[number] for number, _ in batch])
        with self.intervene():
            sampled, _ = self._sample(prompts, uniform)
        for (number, seed), row in zip(batch, sampled, strict=True):
            new = tuple(cut_at(row, self.eos_id).tolist())
            ended = self.eos_id is not None and new[-1] == self.eos_id
            text = self._added(list(ids[number]), list(new))
            yield Completion(number, seed, new, text, len(new), ended)

    @torch.no_grad()
    def _sample(
        self, prompts: Tensor, uniform: np.ndarray, *, greedy: bool | None = None
    ) -> tuple[np.ndarray, list[Tensor]]:
        """Ids ``[b, t]`` after ``prompts[b, p]`` for uniforms ``[b, t]``; a trial keeps all logits too."""
        device, settings = self.model.device, self.settings
        trial, greedy = greedy is not None, settings.temperature == 0 if greedy is None else greedy
        exact = torch.float32 if device.type == "mps" else torch.float64
        thresholds = torch.from_numpy(uniform).to(device, exact)
        ids = prompts.to(device)
        sampled = torch.empty(uniform.shape, dtype=torch.int64, device=device)
        finite = torch.ones((), dtype=torch.bool, device=device)
        ended = torch.zeros(len(ids), dtype=torch.bool, device=device)
        cache: Any = None
        kept: list[Tensor] = []
        steps = 0
        for step in range(uniform.shape[1]):
            output = self.model.model(
                input_ids=ids, past_key_values=cache, use_cache=True, **self.last
            )
            cache = output.past_key_values
            logits = output.logits[:, -1]
            if trial:
                kept.append(logits)
            finite &= ~torch.isnan(logits).any() & (logits < torch.inf).all()
            drawn = (
                logits.argmax(-1)
                if greedy
                else draw(logits, thresholds[:, step], settings.temperature, settings.top_p)
            )
            sampled[:, step] = drawn
            ids = drawn[:, None]
            steps = step + 1
            if self.eos_id is not None and not trial:
                ended |= drawn == self.eos_id
                if steps % _LOOK_EVERY == 0 and bool(ended.all()):
                    break
        if not bool(finite):
            raise ModelError(
                f"completions by {self.name} in {self.model.regime.precision}",
                "its logits are not finite",
                "Try bfloat16 or float32; where these fail too, check the weights and what is added "
                "to the activations",
            )
        return sampled[:, :steps].cpu().numpy(), kept

    @torch.no_grad()
    def _check_cache(self) -> None:
        """Compare logits with a cache with those of one forward over the same ids, once per model."""
        rows, tokens, steps = _TRIAL
        context = self.model.context_size
        if context is not None and context < tokens + steps:
            return
        prompts = (torch.arange(rows * tokens).reshape(rows, tokens) + 4) % self.model.vocab_size
        sampled, kept = self._sample(prompts, np.zeros((rows, steps)), greedy=True)
        ids = torch.cat([prompts, torch.from_numpy(sampled[:, :-1])], dim=1)
        plain = self.model.model(input_ids=ids.to(self.model.device), use_cache=False).logits
        plain = plain[:, tokens - 1 :].float()
        cached = torch.stack(kept, dim=1).float()
        tolerance = _TOLERANCE.get(self.model.dtype, _TOLERANCE_16_BIT)
        if self.model.regime.rounds_activations:
            tolerance = _TOLERANCE_ROUNDED
        elif self.model.regime.emulated:
            tolerance = _TOLERANCE_16_BIT
        if not torch.allclose(cached, plain, rtol=0, atol=tolerance * float(plain.abs().max())):
            raise ModelError(
                f"completions by {self.name}",
                "its key-value cache gives other logits than a forward without it",
                "This architecture is not supported by this version of transformers",
            )

    def _check_prompt(self, number: int, ids: Sequence[int]) -> None:
        context, new = self.model.context_size, self.settings.max_new_tokens
        if not ids:
            raise ModelError(
                f"prompt {number}", "no token to go on from", "Leave empty prompts out"
            )
        if context is not None and len(ids) + new > context:
            raise ModelError(
                f"prompt {number} and {new} new tokens",
                f"{len(ids)} + {new} tokens, and the context of {self.name} has {context}",
                "Shorten the prompt, or lower max_new_tokens",
            )
        if not 0 <= min(ids) <= max(ids) < self.model.vocab_size:
            raise ModelError(
                f"prompt {number} of token ids {min(ids)} to {max(ids)}",
                f"the vocabulary of {self.name} is 0 to {self.model.vocab_size - 1}",
                "Use the tokenizer that belongs to the model",
            )

    def _added(self, prompt: list[int], new: list[int]) -> str:
        """The text that new tokens add: a space before it is kept, which some decoders drop at a start."""
        before, whole = self._decoded(prompt), self._decoded([*prompt, *new])
        return whole[len(before) :] if whole.startswith(before) else self._decoded(new)

    def _decoded(self, ids: list[int]) -> str:
        text: str = self.model.tokenizer.decode(
            ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        return text
