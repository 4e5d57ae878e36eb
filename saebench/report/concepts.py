"""What a card says of single latents on a concept: maxima beside chance, stability, examples. Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from saebench.record import Record
from saebench.report import escape
from saebench.report.concept_labels import labels
from saebench.report.digits import counted, number_or_dash
from saebench.report.stored import items, mapping
from saebench.report.table import markdown_grid

PART = "concepts"
SPLITS = {"train": "Training", "held_out": "Held out", "control": "Control"}
LEVEL = 0.05  # p above it is called chance
SIDE = 120  # characters on either side of a token in an example


def section(record: Record) -> str:
    """The tables of one concept; empty without the part."""
    found = mapping(record.details.get(PART))
    latents = mapping(found.get("latents"))
    if not latents:
        reason = found.get("reason")
        return f"Not measured: {escape.markdown_text(reason)}" if reason else ""
    facts = mapping(mapping(found.get("concept")).get("facts"))
    parts = [_verdict(found), _intro(found), labels(facts), _splits(latents), _counts(latents)]
    parts += [
        _chosen(found),
        _control(record, found),
        _halves(mapping(found.get("halves"))),
        _top(found),
        _examples(found),
    ]
    return "\n\n".join(part for part in parts if part)


def _verdict(found: Mapping[str, Any]) -> str:
    """Whether a latent tells the classes apart, and whether it still does on other texts, in plain words."""
    latents = mapping(found.get("latents"))
    d = mapping(mapping(mapping(latents.get("splits")).get("train")).get("d_max"))
    p, least = d.get("p"), mapping(mapping(latents.get("splits")).get("train")).get("smallest_p")
    if not isinstance(p, int | float):
        return ""
    size = f"largest |d| {_decimals(d.get('observed'))}, p = {number_or_dash(p)}"
    if isinstance(least, int | float) and least > LEVEL:
        return f"**Verdict.** There are too few texts for p to fall below {number_or_dash(least)} ({size})."
    if p > LEVEL:
        return f"**Verdict.** No latent tells the classes apart better than chance ({size})."
    said = f"**Verdict.** Some latent tells the classes apart better than chance ({size})"
    return f"{said}{_holds(mapping(mapping(latents.get('chosen')).get('held_out')))}"


def _holds(held: Mapping[str, Any]) -> str:
    """Whether the chosen latent holds on held-out texts: the end of a sentence. Its p decides."""
    if not held:
        return "; whether the best one holds on other texts was not measured."
    infinite = "d" in held and held["d"] is None
    d = "d infinite" if infinite else f"d = {_scored(held, 'd')}"
    p, least = held.get("p"), held.get("smallest_p")
    if not isinstance(p, int | float):
        return f"; on held-out texts the best one has {d}, whose p was not measured."
    shown = f"({d}, p = {number_or_dash(p)})"
    if isinstance(least, int | float) and least > LEVEL:
        few = "the held-out texts are too few for a p below"
        return (
            f"; whether the best one holds cannot be said: {few} {number_or_dash(least)} {shown}."
        )
    holds = "but the best one does not do so for sure" if p > LEVEL else "and the best one does so"
    return f", {holds} on held-out texts {shown}."


def _intro(found: Mapping[str, Any]) -> str:
    asked, concept = mapping(found.get("protocol")), mapping(found.get("concept"))
    train = mapping(mapping(mapping(found.get("latents")).get("splits")).get("train"))
    unit = {
        "texts": "texts trade labels",
        "documents": "documents trade labels, whole",
        "texts within documents": "texts trade labels within their document",
    }
    how = (
        "all arrangements"
        if train.get("exact")
        else f"{counted(train.get('n_permutations'))} of them"
    )
    pooling = asked.get("pooling")
    pooled = (
        f"{pooling} over" if isinstance(pooling, str) else f"number {number_or_dash(pooling)} of"
    )
    return (
        f"Cohen's d of each latent between {escape.code_span(concept.get('positive'))} and "
        f"{_other(concept)}; "
        f"codes pooled by the {escape.markdown_text(pooled)} the tokens that count. The largest of many |d| "
        "is large by chance: beside it stands the largest under permuted labels "
        f"({unit.get(str(train.get('exchanged')), 'labels are permuted')}; {how}). "
        f"A latent that fires on fewer than {counted(asked.get('min_firings'))} texts cannot win."
    )


def _other(concept: Mapping[str, Any]) -> str:
    """The class that is not the positive one, by its name where there is one."""
    others = [name for name in items(concept.get("classes")) if name != concept.get("positive")]
    return escape.code_span(others[0]) if len(others) == 1 else "the other class"


def _splits(latents: Mapping[str, Any]) -> str:
    """The largest |d| of any latent on each split, beside its null."""
    header = ["Texts", "n", "Latents", "Largest |d|", "by chance (5–95 %)", "p", "Best AUROC", "p"]
    rows = []
    for name, title in SPLITS.items():
        side = mapping(mapping(latents.get("splits")).get(name))
        if not side:
            continue
        d, auroc = mapping(side.get("d_max")), mapping(side.get("auroc_max"))
        away = auroc.get("observed")
        rows.append(
            [
                title,
                f"{counted(side.get('n1'))} + {counted(side.get('n0'))}",
                counted(side.get("n_eligible")),
                f"{_decimals(d.get('observed'))} ({_latent(side.get('best'))})",
                _null(mapping(d.get("null"))),
                number_or_dash(d.get("p")),
                _decimals(0.5 + away) if isinstance(away, int | float) else "–",
                number_or_dash(auroc.get("p")),
            ]
        )
    header = [cell.replace("|", "\\|") for cell in header]
    return markdown_grid(header, rows, right=range(1, len(header)))


def _counts(latents: Mapping[str, Any]) -> str:
    """How many latents separate at all, beside chance; and what could not be judged."""
    splits = mapping(latents.get("splits"))
    train = mapping(splits.get("train"))
    over = mapping(train.get("n_over_1"))
    lines = [
        f"On training texts {counted(over.get('observed'))} latents have |d| > 1, by chance "
        f"{_null(mapping(over.get('null')), whole=True)} (p = {number_or_dash(over.get('p'))}). "
        f"{_discoveries(train)} No p here can be below {number_or_dash(train.get('smallest_p'))}."
    ]
    if infinite := train.get("n_infinite"):
        lines.append(
            f"{counted(infinite)} latents are constant in each class and differ between them; their d is "
            "infinite, and they count in no maximum."
        )
    missing = mapping(latents.get("reasons"))
    for name, title in SPLITS.items():
        if reason := missing.get(name):
            lines.append(f"{title}: {escape.markdown_text(reason)}.".replace("..", "."))
    return " ".join(lines)


def _discoveries(train: Mapping[str, Any]) -> str:
    """How many latents differ between the classes: corrected for the maximum, and by rate of false ones."""
    found = mapping(train.get("discoveries"))
    percent, level = (
        number_or_dash(100 * value) if isinstance(value, int | float) else "–"
        for value in (found.get("rate"), found.get("level"))
    )
    said = ""
    if "n_corrected" in found:
        said = (
            f"{counted(found['n_corrected'])} differ between the classes with a p of {level} % or less "
            "corrected for the maximum. "
        )
    n, needed = found.get("n"), found.get("n_needed")
    if n is not None:
        own = "each by its own permutations"
        return f"{said}At a false discovery rate of {percent} % {counted(n)} differ, {own}."
    more = "the texts have too few arrangements"
    if needed is not None:
        has = counted(train.get("n_permutations"))
        more = f"{has} permutations are too few, about {counted(needed)} would do"
    return f"{said}How many do at a false discovery rate of {percent} % cannot be resolved: {more}."


def _chosen(found: Mapping[str, Any]) -> str:
    """The latent chosen on training texts, on the others, beside the best dimension and mean difference."""
    latents = mapping(found.get("latents"))
    activations = mapping(found.get("activations"))
    dimensions = mapping(activations.get("dimensions"))
    kinds = [
        (f"Latent {_latent(_best(latents))}", latents, mapping(latents.get("chosen"))),
        (
            f"Dimension {_latent(_best(dimensions))} of x",
            dimensions,
            mapping(dimensions.get("chosen")),
        ),
        ("Difference of mean x", {}, mapping(activations.get("mean_difference"))),
    ]
    rows = []
    for title, whole, chosen in kinds:
        held = mapping(chosen.get("held_out"))
        if not chosen and not whole:
            continue
        train = mapping(mapping(whole.get("splits")).get("train"))
        rows.append(
            [
                title,
                _decimals(_size(train.get("d_best"))),
                _scored(held, "d"),
                _scored(held, "g"),
                _scored(held, "auroc"),
                _scored(mapping(chosen.get("control")), "d"),
            ]
        )
    if not rows:
        return ""
    header = ["Chosen on training texts", "d there", "d held out", "g", "AUROC", "d on controls"]
    table = markdown_grid(header, rows, right=range(1, len(header)))
    reason = activations.get("reason")
    note = f"\n\nActivations: {escape.markdown_text(reason)}" if reason else ""
    note = _without_interval(mapping(kinds[0][2].get("held_out"))) + note
    return (
        "The column with the largest |d| on training texts, judged on texts that had no part in the choice "
        "and in the direction it has on training texts; in brackets 95 % intervals over resampled "
        f"{escape.markdown_text(_unit(latents))}:\n\n{table}{note}"
    )


def _without_interval(held: Mapping[str, Any]) -> str:
    """Why d on held-out texts has no interval, or what of its resamples was left out."""
    said = held.get("d_interval")
    if not isinstance(said, str):
        return ""
    if held.get("d_low") is None:
        return f"\n\nThe latent's d held out has no interval: {escape.markdown_text(said)}."
    return f"\n\nIntervals of the latent's d held out: {escape.markdown_text(said)}."


def _control(record: Record, found: Mapping[str, Any]) -> str:
    """Whether the chosen latent follows the behaviour or the input, in a sentence."""
    chosen = mapping(mapping(found.get("latents")).get("chosen"))
    held, control = mapping(chosen.get("held_out")), mapping(chosen.get("control"))
    d, other = held.get("d"), control.get("d")
    gap = record.get("concept_behaviour_minus_control")
    if not isinstance(d, int | float) or not isinstance(other, int | float) or gap is None:
        return ""
    ends = {"gap": gap.value, "gap_low": gap.low, "gap_high": gap.high}
    follows = ""
    if gap.low is not None and gap.high is not None:
        follows = (
            "the behaviour" if gap.low > 0 else "the input" if gap.high < 0 else "neither for sure"
        )
        follows = f": it follows {follows}"
    return (
        f"Does it follow the behaviour or the input? d is {_decimals(d)} where the behaviour varies and "
        f"{_decimals(other)} on controls, where the inputs vary alike and the behaviour does not; the "
        f"difference of sizes is {_scored(ends, 'gap')}{follows}."
    )


def _halves(halves: Mapping[str, Any]) -> str:
    """How much other texts would have named the same latents, in a few sentences."""
    if not halves:
        return ""
    overlap, shuffled = (mapping(halves.get(key)) for key in ("overlap", "overlap_of_shuffled"))
    d, other = (mapping(halves.get(key)) for key in ("d_max", "d_on_other_half"))
    by_chance = mapping(halves.get("d_max_of_shuffled"))
    winners = [mapping(one) for one in items(halves.get("winners"))]
    most = winners[0] if winners else {}
    share = f" ({_decimals(shuffled.get('mean'))} with permuted labels)" if shuffled else ""
    chance = f", with permuted labels {_null(by_chance)}" if by_chance else ""
    return (
        f"Stability: in {counted(halves.get('n_splits'))} random splits of the training texts into halves, "
        f"{_decimals(overlap.get('mean'))} of the top {counted(halves.get('k'))} latents of one half are in "
        f"the top of the other; by chance {_decimals(halves.get('overlap_by_chance'))}{share}. "
        f"Both halves have the same best latent in {_decimals(halves.get('same_winner'))} of the splits; "
        f"latent {_latent(most.get('latent'))} is the best in {_decimals(most.get('share'))} of the halves. "
        f"The largest |d| of a half is {_null(d)}{chance}; the same latent has d {_null(other)} on the other "
        "half."
    )


def _top(found: Mapping[str, Any]) -> str:
    rows = [mapping(row) for row in items(found.get("top"))]
    if not rows:
        return ""
    header = ["Latent", "d", "p (max)", "d held out", "AUROC held out", "d on controls"]
    header += ["Fires on (positive / other)", "Best in halves", "cos to mean difference"]
    body = [
        [
            _latent(row.get("latent")),
            _decimals(row.get("d")),
            number_or_dash(row.get("p_corrected")),
            _decimals(row.get("d_held_out")),
            _decimals(row.get("auroc_held_out")),
            _decimals(row.get("d_control")),
            f"{_percent(row.get('rate1'))} / {_percent(row.get('rate0'))}",
            _decimals(row.get("best_in_halves")),
            _decimals(row.get("cosine")),
        ]
        for row in rows
    ]
    table = markdown_grid(header, body, right=range(1, len(header)))
    return (
        "The latents with the largest |d| on training texts; p is corrected for the maximum over all "
        f"latents, and signs are those of positive less other:\n\n{table}"
    )


def _examples(found: Mapping[str, Any]) -> str:
    """The texts in which top latents peak, by class, folded away; the token that peaks in bold."""
    rows = []
    for row in map(mapping, items(found.get("top"))):
        for name, shown in mapping(row.get("examples")).items():
            rows += [_example(row.get("latent"), name, mapping(one)) for one in items(shown)]
    if not rows:
        return ""
    where = SPLITS.get(str(found.get("examples_of")), "").lower()
    table = markdown_grid(["Latent", "Class", "Code", "Text"], rows, right=(2,))
    summary = f"<details><summary>Top examples of each class among the {where} texts</summary>"
    return f"{summary}\n\n{table}\n\n</details>"


def _example(latent: object, name: str, one: Mapping[str, Any]) -> list[str]:
    return [
        _latent(latent),
        escape.code_cell(name),
        _decimals(one.get("code")),
        marked(*(str(one.get(key, "")) for key in ("before", "token", "after"))),
    ]


def marked(before: str, token: str, after: str) -> str:
    """A window as one table cell with its token in bold, all of it harmless; a blank token is shown as ␣.

    Spaces at the edges of the token are put outside of the bold, which markdown would not read otherwise.
    """
    word = escape.markdown_text(token.strip()) or "␣"
    head = escape.markdown_text(before[-SIDE:])
    tail = escape.markdown_text(after[:SIDE])
    left = " " if head and (before[-1:].isspace() or token[:1].isspace()) else ""
    right = " " if tail and (token[-1:].isspace() or after[:1].isspace()) else ""
    return f"{head}{left}<b>{word}</b>{right}{tail}"


def _unit(latents: Mapping[str, Any]) -> str:
    return str(mapping(mapping(latents.get("splits")).get("train")).get("unit", "texts"))


def _best(kind: Mapping[str, Any]) -> object:
    return mapping(mapping(kind.get("splits")).get("train")).get("best")


def _size(value: object) -> object:
    return abs(value) if isinstance(value, int | float) else value


def _latent(value: object) -> str:
    return str(value) if isinstance(value, int) else "–"


def _null(null: Mapping[str, Any], *, whole: bool = False) -> str:
    """``1.04 (0.84–1.32)``: median, and the middle 90 %."""
    parts = [null.get(key) for key in ("median", "low", "high")]
    texts = [counted(part) if whole else _decimals(part) for part in parts]
    return f"{texts[0]} ({texts[1]} – {texts[2]})"


def _scored(values: Mapping[str, Any], name: str) -> str:
    """``0.61 [0.54, 0.68]``."""
    value, low, high = (values.get(key) for key in (name, f"{name}_low", f"{name}_high"))
    if not isinstance(low, int | float) or not isinstance(high, int | float):
        return _decimals(value)
    return f"{_decimals(value)} [{_decimals(low)}, {_decimals(high)}]"


def _decimals(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, int | float) else "–"


def _percent(value: object) -> str:
    return f"{100 * value:.0f} %" if isinstance(value, int | float) else "–"
