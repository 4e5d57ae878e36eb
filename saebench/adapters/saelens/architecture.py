"""Which architecture a SAELens config means, and every sign in the files that it is another one.

``architecture`` may be absent, since the oldest files had none and were standard. A file that lost
the key would then load as a ReLU SAE, which runs and gives wrong numbers, so that the rest of the
config and the tensors have to agree with it.
"""

from __future__ import annotations

from collections.abc import Iterator

from saebench.adapters.reading.choices import Choices
from saebench.adapters.reading.fields import Fields
from saebench.adapters.reading.tensors import Tensors
from saebench.errors import CheckpointError
from saebench.sae import Fact

KEY = "architecture"
ACTIVATION_KEYS = ("activation_fn", "activation_fn_str")
K_KEYS = ("k", "activation_fn_kwargs.k", "metadata.training_architecture_details.k")
TRAINED_AS_KEYS = ("metadata.training_architecture", "training_architecture")

STANDARD = "standard"
TANH = "tanh-relu"  # an activation of the standard architecture before version 6
PURSUIT = "matching_pursuit"
TEMPORAL = "temporal"
TRANSCODERS = ("transcoder", "skip_transcoder", "jumprelu_transcoder", "jumprelu_skip_transcoder")
BATCH = ("batchtopk", "matryoshka_batchtopk")
PLAIN = (STANDARD, "gated", "jumprelu", "topk", "abstopk", *BATCH)
ARCHITECTURES = (*PLAIN, PURSUIT, TEMPORAL, *TRANSCODERS)

# what the user may call an architecture: its activation
ACTIVATIONS = {"relu": STANDARD} | {name: name for name in PLAIN[1:6]}

# tensors that a ReLU SAE has no use for
TELLING_TENSORS = {
    "threshold": "jumprelu",
    "log_threshold": "jumprelu",
    "topk_threshold": "batchtopk",
    "b_gate": "gated",
    "r_mag": "gated",
    "W_skip": "skip_transcoder",
}


def read_architecture(fields: Fields, tensors: Tensors, choices: Choices) -> Fact:
    """The architecture; before version 6 TopK was an activation of the standard one.

    Raises :class:`CheckpointError` when it is not known, or is ``standard`` where another key
    or a tensor belongs to an architecture that is not and the user does not overrule them.
    """
    named = fields.one_of(ARCHITECTURES, KEY)
    if named is None or named.value in PLAIN:
        given = choices.text("activation", tuple(ACTIVATIONS))
        if given is not None:
            return Fact(ACTIVATIONS[given.value], given.source, "user")
    activation = fields.one_of(("relu", "topk", TANH), *ACTIVATION_KEYS)
    if activation is not None and activation.value == "topk":
        if named is not None and named.value not in (STANDARD, "topk"):
            raise _contradiction(fields, named, [f"{activation.source} is 'topk'"])
        return activation
    found = named or Fact(STANDARD, f"not in {fields.file}: {KEY} defaults to standard", "assumed")
    if found.value == STANDARD:
        if signs := list(_signs(fields, tensors)):
            raise _contradiction(fields, named, signs)
    elif activation is not None and activation.value == TANH:
        raise _contradiction(fields, named, [f"{activation.source} is {TANH!r}"])
    return found


def tanh_activation(fields: Fields, architecture: Fact) -> Fact | None:
    """The fact that a standard SAE has tanh after its ReLU; None where it has not."""
    if architecture.value != STANDARD or architecture.how == "user":
        return None
    activation = fields.text(*ACTIVATION_KEYS)
    return activation if activation is not None and activation.value == TANH else None


def _signs(fields: Fields, tensors: Tensors) -> Iterator[str]:
    """What in the files belongs to another architecture than the standard one."""
    for key in ACTIVATION_KEYS:
        if fields.value(key) not in (None, "relu", TANH):
            yield f"{fields.file}: {key} is {fields.value(key)!r:.40}"
    for key in K_KEYS:
        if (k := fields.value(key)) is not None:
            yield f"{fields.file}: {key} is {k!r:.40}"
    for key in TRAINED_AS_KEYS:
        trained = fields.text(key)
        if trained is not None and _is_another(trained.value):
            yield f"{trained.source} is {trained.value!r:.60}"
    for name, architecture in TELLING_TENSORS.items():
        if name in tensors:
            yield f"{tensors.file} has a tensor {name!r}, as of {architecture}"


def _is_another(trained: str) -> bool:
    """Whether a training architecture is never saved as standard; a user's own may well be."""
    name = trained.lower()
    known = name != STANDARD and name in ARCHITECTURES
    return known or "topk" in name or "matryoshka" in name


def _contradiction(fields: Fields, named: Fact | None, signs: list[str]) -> CheckpointError:
    if named is not None:
        found = repr(named.value)
    elif KEY in fields.data:
        found = "null, which means standard"
    else:
        found = "no such key, which means standard"
    return CheckpointError(
        f"{KEY} in {fields.file} in agreement with the rest ({'; '.join(signs)})",
        found,
        f"Name the architecture it was trained as in {KEY} (or its activation: "
        "--set activation=topk), or fetch the config that belongs to these weights.",
    )
