"""What each suite lets its user choose, as plain values.

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
Scale = Literal["max_activation", "residual_norm"]
Intervention = Literal["add", "clamp"]
Where = Literal["all", "prompt", "completion"]
DirectionOf = Literal["latent", "decoded_difference", "mean_difference"]


class _Plain:
    """A frozen dataclass whose fields are plain values."""

    def to_json(self) -> dict[str, Any]:
        """The fields as plain JSON values."""
        found: dict[str, Any] = asdict(self)  # type: ignore[call-overload]
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in found.items()
        }


@dataclass(frozen=True)
class FakeProtocol(_Plain):
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
class ProbingProtocol(_Plain):
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


@dataclass(frozen=True)
class SeedsProtocol(_Plain):
    """How the checkpoints of a group are matched.

    ``threshold`` is the cosine (for functional matching, the correlation) above which a pair counts as
    shared; ``n_tokens`` of the run's first tokens are kept as codes for functional matching;
    ``top_k`` latents are compared by how often they fire.
    """

    threshold: float = 0.7
    n_tokens: int = 16_384
    top_k: int = 25


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


@dataclass(frozen=True)
class Variant(_Plain):
    """Another form of the run's language model: a precision, a revision, a fine-tune, another model.

    ``ref`` empty is the run's own model, ``precision`` None its own precision. ``sae`` refers to a
    checkpoint that was trained on the variant, for the transfer FVE; empty where there is none.
    """

    name: str
    ref: str = ""
    revision: str | None = None
    precision: str | None = None
    sae: str = ""


@dataclass(frozen=True)
class PortabilityProtocol(_Plain):
    """When a checkpoint counts as portable to a variant of its model.

    The rule asks for retraining where the FVE falls by more than the share ``fve_drop`` or the number of
    alive latents moves by more than the share ``alive_shift``. Equivalence asks that the interval of the
    relative FVE drop lies within ± ``fve_margin`` and that of the alive shift within ± ``alive_margin``.
    A latent survives where its codes under both correlate at least ``survival``; ``top_k`` codes per
    token are compared as sets. ``at_once`` variants are in memory beside the reference; None takes as many as
    are likely to fit into three quarters of the free memory, judged by the sizes of their weight files, at
    least one, and all where free memory is not known.
    """

    fve_drop: float = 0.2
    alive_shift: float = 0.5
    fve_margin: float = 0.2
    alive_margin: float = 0.5
    survival: float = 0.9
    top_k: int = 10
    at_once: int | None = None


@dataclass(frozen=True)
class Concept(_Plain):
    """Labelled texts of a behaviour or concept with two classes.

    ``data``, ``held_out`` and ``control`` are specs of texts; without ``held_out`` texts a share of the
    documents of ``data`` is held out. ``control`` holds texts whose inputs differ in the way of the two
    classes while the behaviour does not. With a column ``prompt`` the text is its completion, and only
    tokens of the completion count. Labels come from the column ``label``, from the ``rules`` file
    applied to the completion, or from several columns of ``judges`` by ``consensus``. ``positive`` is the
    class counted as 1; empty takes the last in sorted order.
    """

    name: str
    data: str
    held_out: str = ""
    control: str = ""
    text: str = "text"
    label: str = "label"
    prompt: str = ""
    document: str = "document"
    positive: str = ""
    rules: str = ""
    judges: tuple[str, ...] = ()
    consensus: Literal["all", "majority"] = "majority"


@dataclass(frozen=True)
class ConceptsProtocol(_Plain):
    """How latents are set against the two classes of a concept.

    A text is pooled to one row by ``pooling``, a name or the place of a counted token (0 the first, -1 the
    last). ``held_out`` is the share of documents kept for evaluation where the concept names no held-out
    texts. A latent needs ``min_firings`` texts in all before it may win a maximum. ``top_k`` latents are
    compared between ``n_resamples`` and listed with ``n_examples`` texts per class. ``length`` cuts
    texts, BOS included; None takes the length of the run's sequences.
    """

    pooling: str = "mean"
    held_out: float = 0.5
    n_permutations: int = 1000
    n_resamples: int = 200
    min_firings: int = 5
    top_k: int = 20
    n_examples: int = 3
    max_texts: int = 10_000
    length: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class CrossValidation(_Plain):
    """How probes on the two classes of a concept are cross-validated.

    Stratified ``folds``, ``repeats`` times; ``n_permutations`` shuffles of the labels through the whole
    pipeline. ``ks`` are the sizes of k-sparse probes. ``c`` is the inverse L2 strength of the full
    probes, ``n_path`` the number of strengths on the L1 path. ``other`` names the checkpoint of the arm
    "another SAE"; empty takes the next one of the run at the same site.
    """

    folds: int = 5
    repeats: int = 20
    n_permutations: int = 1000
    ks: tuple[int, ...] = (1, 2, 5, 10, 20, 50, 100)
    c: float = 1.0
    n_path: int = 10
    other: str = ""
    seed: int = 0


@dataclass(frozen=True)
class SteeringProtocol(_Plain):
    """How a direction is added while the model continues prompts, and what is read off.

    ``direction`` is that of the concept's best ``latent`` (or of the number ``latent``), of the decoded
    difference of mean codes, or of the difference of mean activations. ``alphas`` are multiples of
    ``scale``: the latent's largest code, or the mean norm of activations at the site. ``positions`` says
    which tokens are steered. ``prompts`` is a spec of prompts; empty takes those of the concept's
    held-out texts. ``n_random`` random directions and ``n_latents`` random alive latents of equal norm
    are controls.
    """

    direction: DirectionOf = "latent"
    latent: int | None = None
    mode: Intervention = "add"
    alphas: tuple[float, ...] = (-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0)
    scale: Scale = "max_activation"
    positions: Where = "all"
    prompts: str = ""
    n_prompts: int = 50
    max_new_tokens: int = 24
    temperature: float = 1.0
    n_random: int = 20
    n_latents: int = 20
    n_permutations: int = 10_000
    seed: int = 0


@dataclass(frozen=True)
class DifferenceProtocol(_Plain):
    """How SAEs on the difference of two models are measured by token subset.

    ``text`` is a spec of prompts whose rows hold character spans of tokens (``fire``, ``decision``,
    ``answer``) and a ``condition``; empty takes the run's own text, which has no such labels. ``top`` and
    ``bottom`` are the shares of tokens with the largest and the smallest norm of the difference.
    ``base_saes`` refer to SAEs of the first model, used at the site that they were trained on.
    ``n_latents`` most specific latents are listed. At most ``max_tokens`` are kept, whole sequences of
    ``length`` tokens, BOS included; None takes the length of the run's sequences.
    """

    text: str = ""
    base_saes: tuple[str, ...] = ()
    top: float = 0.01
    bottom: float = 0.5
    n_latents: int = 10
    max_tokens: int = 262_144
    length: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class CrosscoderProtocol(_Plain):
    """How the latents of a crosscoder over two models are told apart.

    Latents that fire on fewer than ``min_firings`` tokens have no scaling. Latents of one model only are set
    beside as many shared ones, drawn with ``seed``; at most ``n_compared`` of each class.
    """

    min_firings: int = 10
    n_compared: int = 10_000
    seed: int = 42


@dataclass(frozen=True)
class CausalProtocol(_Plain):
    """How latents are ablated in each model, and their effects compared.

    Every shared latent that fired is tested, or ``max_latents`` drawn at random where there are more, and
    up to ``n_controls`` of each other class. A probe is a token on which the latent fires, at most one per
    sequence and ``n_probes`` per latent; a latent with fewer than ``min_probes`` has no correlation. A gap is
    a decoder cosine above ``gap_cosine`` with a correlation below ``gap_equivalence``; it is one for sure
    where the whole intervals of Pearson's r and of Spearman's ρ are below.
    """

    max_latents: int = 4096
    n_controls: int = 256
    n_probes: int = 64
    min_probes: int = 30
    gap_cosine: float = 0.7
    gap_equivalence: float = 0.5
    n_resamples: int = 1000
    seed: int = 0
