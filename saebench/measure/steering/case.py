"""One case of steering: completions at every strength, what they show, and the same of controls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import numpy as np

from saebench.generation.completions import Completion, complete
from saebench.labelling import Rules
from saebench.measure.progress import counted
from saebench.measure.steering.plan import Plan
from saebench.measure.steering.prompts import Prompts
from saebench.models import LanguageModel
from saebench.models.steered import Change, steered
from saebench.steering.outcomes import ClassTokens, label_outcomes
from saebench.steering.sweep import Control, Outcomes, Sweep
from saebench.steering.teacher_forced import Effect, Text, compare, cross_entropy

NEUTRAL = "neutral"
SHOWN = 2  # prompts whose completions are kept
SHOWN_CHARS = 400
NO_RULES = "the concept has no rules that label a completion"
TOO_LATE = "only tokens after the first completed one are steered, which is where it is read"


@dataclass(frozen=True)
class Reader:
    """The model that is steered, and how its completions are read; shared by all cases of a concept.

    ``rules`` label completions as one of ``classes``, of which ``positive`` counts as 1.
    """

    model: LanguageModel
    prompts: Prompts
    rules: Rules | None
    classes: tuple[str, ...]
    positive: str
    tokens: ClassTokens
    max_new_tokens: int
    temperature: float
    seed: int
    batch_size: int

    def complete(self, intervene: Callable[[], Any] | None = None) -> list[Completion]:
        """A completion of every prompt; the same random numbers each time."""
        return complete(
            self.model,
            self.prompts.ids,
            seeds=(self.seed,),
            max_new_tokens=self.max_new_tokens,
            temperature=self.temperature,
            batch_size=self.batch_size,
            intervene=intervene,
        )

    @cached_property
    def unsteered(self) -> list[Completion]:
        """The completions without steering, made once."""
        return self.complete()

    @cached_property
    def clean(self) -> list[Text]:
        """The prompts with their unsteered completions."""
        return self.texts(self.unsteered)

    def texts(self, completions: Sequence[Completion]) -> list[Text]:
        """Prompts and completions as tokens."""
        return [Text(p, c.ids) for p, c in zip(self.prompts.ids, completions, strict=True)]

    def labels(self, completions: Sequence[Completion]) -> np.ndarray:
        """``[n]``: 1, 0 or NaN, as the rules decide; all NaN without rules."""
        if self.rules is None:
            return np.full(len(completions), np.nan)
        texts = [completion.text for completion in completions]
        return label_outcomes(texts, self.rules, self.classes, self.positive)

    def loss(self, completions: Sequence[Completion]) -> np.ndarray:
        """``[n]``: nats per token of the unsteered model on the completions."""
        return cross_entropy(self.model, self.texts(completions), batch_size=self.batch_size)

    @cached_property
    def unsteered_loss(self) -> np.ndarray:
        """:meth:`loss` of the completions without steering."""
        return self.loss(self.unsteered)


@dataclass
class CaseRun:
    """Runs the sweep and the controls of one plan."""

    reader: Reader
    plan: Plan
    n_tokens: int = 0
    shown: list[dict[str, Any]] = field(default_factory=list)

    def sweep(self) -> Sweep:
        """Everything that is read, prompt by prompt."""
        asked = self.plan.asked
        alphas = tuple(asked.alphas)
        changes = {str(alpha): self.plan.change(alpha) for alpha in alphas}
        changes[NEUTRAL] = self.plan.neutral
        difference, effects = self._effects(changes)
        self._show(None, self.reader.unsteered)
        written = [self._written(changes[str(alpha)], alpha) for alpha in alphas]
        steered_outcomes = Outcomes(
            np.stack([labels for labels, _, _ in written], 1),
            np.stack([effects[str(alpha)].logit_difference for alpha in alphas], 1),
            np.stack([effects[str(alpha)].kl for alpha in alphas], 1),
            np.stack([loss for _, loss, _ in written], 1),
        )
        if asked.mode == "add" and 0.0 in alphas:  # written already
            same = written[alphas.index(0.0)][2]
        else:
            again = self._complete(changes[NEUTRAL])
            same = [one.ids for one in again] == [one.ids for one in self.reader.unsteered]
        same &= bool(effects[NEUTRAL].same.all())
        return Sweep(
            alphas,
            steered_outcomes,
            self._unsteered(difference),
            tuple(self._controls(min(alphas), max(alphas))),
            self.missing,
            same,
        )

    def _unsteered(self, difference: np.ndarray) -> Outcomes:
        """What the run without steering shows; one column."""
        reader = self.reader
        labels = reader.labels(reader.unsteered)
        columns = (labels, difference, np.zeros(len(labels)), reader.unsteered_loss)
        return Outcomes(*(column[:, None] for column in columns))

    @property
    def missing(self) -> dict[str, str]:
        """The outcomes that are not read, with the reason."""
        found = {}
        if self.reader.rules is None:
            found["label"] = NO_RULES
        if self.reader.tokens.reason is not None:
            found["logit_difference"] = self.reader.tokens.reason
        elif self.plan.asked.positions == "completion":
            found["logit_difference"] = TOO_LATE
        return found

    def _written(self, change: Change, alpha: float) -> tuple[np.ndarray, np.ndarray, bool]:
        """Labels and losses of the completions at a strength; whether they are the unsteered ones."""
        found = self._complete(change)
        self._show(alpha, found)
        same = [one.ids for one in found] == [one.ids for one in self.reader.unsteered]
        return self.reader.labels(found), self.reader.loss(found), same

    def _complete(self, change: Change) -> list[Completion]:
        where = self.plan.asked.positions
        site = self.plan.reading.site
        found = self.reader.complete(
            partial(steered, self.reader.model, site, change, positions=where)
        )
        self.n_tokens += sum(completion.n_new for completion in found)
        return found

    def _effects(self, changes: dict[str, Change]) -> tuple[np.ndarray, dict[str, Effect]]:
        """The clean run's difference of logits, and what each change does to it and to predictions."""
        return compare(
            self.reader.model,
            self.plan.reading.site,
            self.reader.clean,
            changes,
            tokens=self.reader.tokens,
            positions=self.plan.asked.positions,
            batch_size=self.reader.batch_size,
        )

    def _controls(self, low: float, high: float) -> list[Control]:
        """Every control at both ends: divergence and logits of all; completions where rules label them."""
        others = self.plan.others
        changes = {
            f"{other.name} {alpha}": self.plan.change(alpha, other.vector)
            for other in others
            for alpha in (low, high)
        }
        _, effects = self._effects(changes)
        n = len(self.reader.prompts.ids)
        found = []
        for other in counted(others, "controls of steering", "direction"):
            keys = [f"{other.name} {alpha}" for alpha in (low, high)]
            outcomes = Outcomes.empty(n, 2)
            for column, key in enumerate(keys):
                outcomes.logit_difference[:, column] = effects[key].logit_difference
                outcomes.kl[:, column] = effects[key].kl
                if self.reader.rules is not None:
                    outcomes.label[:, column] = self.reader.labels(self._complete(changes[key]))
            found.append(Control(other.name, other.kind, outcomes))
        return found

    def _show(self, alpha: float | None, completions: Sequence[Completion]) -> None:
        """Keep the completions of the first prompts."""
        for place, completion in enumerate(completions[:SHOWN]):
            if alpha is None:
                tokenizer = self.reader.model.tokenizer
                ids = list(self.reader.prompts.ids[place])
                prompt = tokenizer.decode(ids, skip_special_tokens=True)
                self.shown.append({"prompt": prompt[-SHOWN_CHARS:], "completions": []})
            row = {"alpha": alpha, "text": completion.text[:SHOWN_CHARS]}
            self.shown[place]["completions"].append(row)
