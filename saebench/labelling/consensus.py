"""One label of several judges' for each text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from saebench.errors import ConfigError

Consensus = Literal["all", "majority"]
Labels = Sequence[str | None]


def consensus(judges: Mapping[str, Labels], how: Consensus = "majority") -> list[str | None]:
    """The label of each text on which judges agree, None where they do not.

    ``judges`` holds a label per text by judge, None where a judge has none. ``all``: every judge gives
    this label. ``majority``: more than half of the judges that give one do; a tie is no majority.
    Raises :class:`ConfigError` for another ``how``.
    """
    if how not in get_args(Consensus):
        raise ConfigError(
            f"consensus = {how!r}", "unknown", f"Choose {' or '.join(get_args(Consensus))}."
        )
    return [_one(labels, how) for labels in zip(*judges.values(), strict=True)]


def _one(labels: Sequence[str | None], how: Consensus) -> str | None:
    given = Counter(label for label in labels if label is not None)
    if not given:
        return None
    label, votes = given.most_common(1)[0]
    if how == "all":
        return label if votes == len(labels) else None
    return label if 2 * votes > given.total() else None
