"""What each suite lets its user choose: the protocols of fake features, probing and seeds, as plain values.

Light on purpose: configurations are read without torch.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Unit = Literal["token", "sequence"]
Aggregate = Literal["sum", "any", "max"]
IdSource = Literal["uniform", "unigram", "shuffled"]
Pooling = Literal["mean", "last", "max"]
Classifier = Literal["logistic", "one_epoch"]


@dataclass(frozen=True)
class FakeProtocol:
    """When a latent counts as fake: it fires on more than ``share`` of the units of random text.

    ``threshold`` is in units of codes or, where ``relative``, a quantile in (0, 1) of the latent's own
    non-zero codes on real text. A token unit fires when its code is above the threshold; a sequence
    unit when the ``aggregate`` of its codes is (``any`` asks for one token above it). ``ids`` says where
    token ids are drawn from; ``special`` whether special ones may be drawn; ``bos`` whether position 0
    is BOS, which is not counted. ``length`` includes BOS; None takes the length of the run's sequences.
    """

    threshold: float = 1.0
    relative: bool = False
    unit: Unit = "token"
    aggregate: Aggregate = "sum"
    share: float = 0.1
    n_sequences: int = 1000
    length: int | None = None
    ids: IdSource = "uniform"
    special: bool = True
    bos: bool = True
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Task:
    """A classification task: specs of labelled text, and the columns that hold text and label.

    A column ``document``, where there is one, says which texts are of one document: those are resampled
    together.
    """

    name: str
    train: str
    test: str
    text: str = "text"
    label: str = "label"
    document: str = "document"


@dataclass(frozen=True)
class ProbingProtocol:
    """How probes are trained and scored on every one of ``tasks``.

    ``max_train`` and ``max_test`` bound the examples, drawn with ``seed``. ``length`` cuts texts, BOS
    included; None takes the length of the run's sequences. ``classifier`` is a logistic regression fitted
    until no component of its gradient exceeds 1e-6, or the published single epoch of a linear softmax layer.
    """

    tasks: tuple[Task, ...] = ()
    pooling: Pooling = "mean"
    classifier: Classifier = "logistic"
    max_train: int = 10_000
    max_test: int = 10_000
    length: int | None = None
    seed: int = 42

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class SeedsProtocol:
    """How the checkpoints of a group are matched.

    ``threshold`` is the cosine (for functional matching, the correlation) above which a pair counts as
    shared; ``n_tokens`` of the run's first tokens are kept as codes for functional matching;
    ``top_k`` latents are compared by how often they fire.
    """

    threshold: float = 0.7
    n_tokens: int = 16_384
    top_k: int = 25

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Group:
    """Checkpoints that differ in their seed only: a name, and name patterns (``topk-*``) of its members.

    A comparison sets groups of different ``source`` (by default the name) against each other where they
    share a ``block``: the data that SAEs were trained on, say, at the same k.
    """

    name: str
    saes: tuple[str, ...]
    source: str = ""
    block: str = ""

    @property
    def label(self) -> str:
        """The source, or the name where none is given."""
        return self.source or self.name
