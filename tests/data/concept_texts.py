"""Texts of two classes that tell their number, for tests of concepts."""

from tests.data.words import WORDS


def rows(n=60, **more):
    """Texts whose first two words tell their number, with the class by that number."""
    return [
        {"text": f"{WORDS[i // 10]} {WORDS[i % 10]}", "label": "ab"[i % 2], **more}
        for i in range(n)
    ]


def number(ids):
    """The number that the ids of such a text tell, BOS in front."""
    return 10 * ids[1] + ids[2]
