"""Whether the activations of several models can be set side by side: the same tokens, the same depth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from saebench.errors import ConfigError
from saebench.models.pretrained import Located


def check_same_tokens(located: Sequence[Located]) -> None:
    """Check that all models read the same token ids.

    Tokens added to a vocabulary (chat markers) may differ. Of a folder without a tokenizer only the size of
    the vocabulary is known, which then has to be the same. Raises :class:`ConfigError`.
    """
    for other in located[1:]:
        pair = (located[0], other)
        tokenizers = [one.tokenizer() for one in pair]
        if all(tokenizer is not None for tokenizer in tokenizers):
            check_same_vocabulary(list(zip((one.id for one in pair), tokenizers, strict=True)))
        elif pair[0].vocab_size != pair[1].vocab_size:
            raise ConfigError(
                f"the same tokens for {pair[0].id} and {pair[1].id}",
                f"vocabularies of {pair[0].vocab_size:,} and {pair[1].vocab_size:,} tokens",
                "Compare models of one family, and keep the tokenizer in the folder of each.",
            )


def check_same_depth(layers: Sequence[tuple[str, int]]) -> None:
    """Check that all models, each an id and its number of layers, are equally deep.

    The same hook point of models of other depths is another stage of the computation. Raises
    :class:`ConfigError`.
    """
    (first_id, first), *others = layers
    for other_id, other in others:
        if other != first:
            raise ConfigError(
                f"models of one depth, to read {first_id} and {other_id} at the same hook point",
                f"{first} and {other} layers",
                "Compare a model with a fine-tune of it.",
            )


def check_same_vocabulary(tokenizers: Sequence[tuple[str, Any]]) -> None:
    """Check tokenizers, each with the id of its model, against the first. Raises :class:`ConfigError`."""
    (first_id, first), *others = tokenizers
    known = _vocabulary(first)
    for other_id, other in others:
        found = _vocabulary(other)
        if found != known:
            differing = sum(known.get(token) != id for token, id in found.items())
            differing += sum(token not in found for token in known)
            raise ConfigError(
                f"the same tokens for {first_id} and {other_id}",
                f"their tokenizers have different vocabularies ({len(known):,} and {len(found):,} tokens, "
                f"{differing:,} of them differ)",
                "Compare models of one family: activations are aligned token by token.",
            )


def _vocabulary(tokenizer: Any) -> dict[str, int]:
    """Token ids by text, without tokens that were added later."""
    added = set(tokenizer.get_added_vocab())
    return {token: id for token, id in tokenizer.get_vocab().items() if token not in added}
