"""Where the labels of a concept's texts come from: a column, keyword rules, or several judges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saebench.data.concept_examples import Columns, Example
from saebench.errors import ConfigError
from saebench.labelling import Rules, load_rules
from saebench.labelling.agreement import agreement
from saebench.labelling.consensus import consensus
from saebench.labelling.scoring import score
from saebench.protocols import Concept

Labels = list[str | None]


@dataclass(frozen=True)
class LabelSource:
    """How the texts of a concept get their labels; made by :meth:`of`.

    Rules, where there are any, give the labels; judges or the label column are then what the rules are
    set against. Without rules the labels are the judges' consensus, and without judges the label column.
    """

    concept: Concept
    rules: Rules | None

    @classmethod
    def of(cls, concept: Concept) -> LabelSource:
        """That of a concept; raises :class:`ConfigError` for rules or judges that do not serve."""
        if len(concept.judges) == 1 or len(set(concept.judges)) < len(concept.judges):
            raise ConfigError(
                f"the judges of concept {concept.name!r}",
                ", ".join(concept.judges),
                "Name the columns of two or more different judges; one judge is label =.",
            )
        return cls(concept, load_rules(concept.rules) if concept.rules else None)

    @property
    def columns(self) -> Columns:
        """The columns that its data have to hold, or may."""
        if self.concept.judges:
            return Columns.of(self.concept, *self.concept.judges)
        return Columns.of(self.concept, *([] if self.rules else [self.concept.label]))

    @property
    def columns_of_control(self) -> Columns:
        """The same, where labels may also be in the label column alone."""
        needed = self.columns
        texts = [self.concept.text, *([self.concept.prompt] if self.concept.prompt else [])]
        others = [name for name in (*needed.names, *needed.optional) if name not in texts]
        labels = dict.fromkeys((self.concept.label, *others))
        return Columns(
            needed.text,
            needed.prompt,
            needed.document,
            needed.labels,
            tuple(texts),
            tuple(labels),
        )

    def label(self, examples: Sequence[Example]) -> Labels:
        """The class of each example, None where it is ambiguous."""
        if self.rules:
            return self.rules.label_all(example.text for example in examples)
        return self._judged(examples)

    def label_control(self, examples: Sequence[Example]) -> Labels:
        """The same for texts whose inputs vary: by the label column where it has any label.

        What varies there are inputs and not the behaviour, which rules and judges speak of.
        """
        given = [example.labels[self.concept.label] for example in examples]
        return given if any(label is not None for label in given) else self.label(examples)

    def describe(self) -> dict[str, Any]:
        """The source as plain JSON values."""
        concept = self.concept
        if self.rules:
            return {
                "kind": "rules",
                "file": Path(concept.rules).name,
                "rules": self.rules.describe(),
            }
        if concept.judges:
            judges = list(concept.judges)
            return {"kind": "judges", "columns": judges, "consensus": concept.consensus}
        return {"kind": "column", "column": concept.label}

    def quality(
        self, examples: Sequence[Example], groups: Sequence[str] | None
    ) -> dict[str, dict[str, Any] | None]:
        """``agreement`` of the judges and ``rules_scores`` of the rules against them or the column.

        Each is None where there is nothing to compare. ``groups`` names the document of each example.
        """
        agreed = scored = None
        if self.concept.judges:
            agreed = agreement(self._by_judge(examples), groups).to_json()
        if self.rules:
            right = self._judged(examples)
            if any(label is not None for label in right):
                judges = list(self.concept.judges)
                scored = {
                    "against": {"judges": judges} if judges else {"column": self.concept.label},
                    **score(self.label(examples), right, groups).to_json(),
                }
        return {"agreement": agreed, "rules_scores": scored}

    def _by_judge(self, examples: Sequence[Example]) -> dict[str, Labels]:
        return {name: [item.labels[name] for item in examples] for name in self.concept.judges}

    def _judged(self, examples: Sequence[Example]) -> Labels:
        """The consensus of the judges, or the label column where there are none."""
        if self.concept.judges:
            return consensus(self._by_judge(examples), self.concept.consensus)
        return [example.labels[self.concept.label] for example in examples]
