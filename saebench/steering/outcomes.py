"""What is read off a completion: its class by the rules, and which class's first token was likelier."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from saebench.labelling import Rules


def label_outcomes(
    texts: Sequence[str], rules: Rules, classes: Sequence[str], positive: str
) -> np.ndarray:
    """``[n]`` float64: 1 where the rules say ``positive``, 0 another of ``classes``, NaN where neither."""
    labels = rules.label_all(texts)
    return np.array([float(label == positive) if label in classes else np.nan for label in labels])


@dataclass(frozen=True)
class ClassTokens:
    """The tokens that words of each class may start with: ids of the positive class and of the others.

    Where ``reason`` says why, there are none and no difference of logits is read.
    """

    positive: tuple[int, ...] = ()
    negative: tuple[int, ...] = ()
    reason: str | None = None

    def difference(self, logits: Tensor) -> Tensor:
        """``log P(positive) − log P(negative)`` of the next token from ``logits[n, vocab]``: ``[n]`` float64.

        Where one of the classes has no tokens, all tokens but those of the other stand for it.
        """
        logits = logits.double()
        return self._mass(logits, self.positive, self.negative) - self._mass(
            logits, self.negative, self.positive
        )

    def describe(self, tokenizer: Any) -> dict[str, Any]:
        """The tokens as text, in plain JSON values."""
        if self.reason is not None:
            return {"reason": self.reason}

        def texts(ids: Sequence[int]) -> list[str] | str:
            return [tokenizer.decode([i]) for i in ids] or "all other tokens"

        return {"positive": texts(self.positive), "negative": texts(self.negative)}

    @staticmethod
    def _mass(logits: Tensor, own: Sequence[int], other: Sequence[int]) -> Tensor:
        if own:
            return logits[:, list(own)].logsumexp(-1)
        rest = logits.clone()
        rest[:, list(other)] = -torch.inf
        return rest.logsumexp(-1)


def class_tokens(rules: Rules | None, tokenizer: Any, positive: str) -> ClassTokens:
    """The first tokens of the words and phrases of each class, with and without a space and a capital.

    Tokens that words of both sides start with, unknown ones and white space are left out.
    """
    if rules is None:
        return ClassTokens(
            reason="the concept has no rules, whose words would say which tokens to set apart"
        )
    sides: dict[bool, set[int]] = {True: set(), False: set()}
    for rule in rules.rules:
        for text in (*rule.any, *rule.phrases):
            sides[rule.name == positive] |= _first_tokens(text, tokenizer)
    both = sides[True] & sides[False]
    ours, others = (tuple(sorted(sides[side] - both)) for side in (True, False))
    if not ours and not others:
        return ClassTokens(
            reason="the rules have no words or phrases of one class alone, only regular expressions"
        )
    return ClassTokens(ours, others)


def _first_tokens(text: str, tokenizer: Any) -> set[int]:
    word = " ".join(text.split())
    forms = {space + form for form in (word, word[:1].upper() + word[1:]) for space in ("", " ")}
    found = set()
    for form in forms:
        ids = tokenizer.encode(form, add_special_tokens=False)
        if ids and ids[0] not in tokenizer.all_special_ids and tokenizer.decode(ids[:1]).strip():
            found.add(int(ids[0]))
    return found
