"""Whether two data specs name the same text, as far as the specs themselves tell."""

from __future__ import annotations

from pathlib import Path

from saebench.data_specs import (
    DataSource,
    Faithful,
    Shuffled,
    Text,
    Uniform,
    Unigram,
    parse_spec,
)


def overlaps(data: str, held_out: str) -> bool:
    """Whether the specs name the same file or hub split, or one a folder that holds the other.

    Columns and hub revisions do not count: what they share is not known to be apart. Shuffled text is
    its text. Ids drawn or generated with one seed are the same, however many; those drawn by the
    frequencies of a text are not that text. Reads no text; raises :class:`DataError` on a spec that
    means nothing.
    """
    return _share(parse_spec(data), parse_spec(held_out))


def _share(first: DataSource, second: DataSource) -> bool:
    if isinstance(first, Shuffled):
        return _share(first.of, second)
    if isinstance(second, Shuffled):
        return _share(first, second.of)
    if isinstance(first, Text) and isinstance(second, Text):
        return _same_text(first, second)
    if isinstance(first, Uniform) and isinstance(second, Uniform):
        return (first.seed, first.special) == (second.seed, second.special)
    if isinstance(first, Unigram) and isinstance(second, Unigram):
        return first.random_seed == second.random_seed and _share(first.of, second.of)
    if isinstance(first, Faithful) and isinstance(second, Faithful):
        return _generated(first) == _generated(second)
    return False


def _same_text(first: Text, second: Text) -> bool:
    if first.on_hub or second.on_hub:
        return _split(first) == _split(second)
    one, other = _place(first.place), _place(second.place)
    return one == other or one in other.parents or other in one.parents


def _split(text: Text) -> tuple[str, str]:
    """Data set with configuration, and split; a local path stays whole."""
    if not text.on_hub:
        return text.place, ""
    place, _, part = text.place.partition("#")
    return place.partition("@")[0], part.partition(":")[0]


def _place(spec: str) -> Path:
    """The file or folder of ``path[#column]`` with all links followed."""
    whole = Path(spec).expanduser()
    if "#" in spec and not whole.exists():
        whole = Path(spec.rpartition("#")[0]).expanduser()
    return whole.resolve()


def _generated(source: Faithful) -> tuple[object, ...]:
    """What makes a model write the same text; how much of it does not count."""
    model = _place(source.model) if Path(source.model).expanduser().exists() else source.model
    temperature = 1.0 if source.temperature is None else source.temperature
    top_p = 1.0 if source.top_p is None else source.top_p
    return model, source.length, temperature, top_p, source.seed or 0
