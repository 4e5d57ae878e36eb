"""What a card says of steering: the sweep over strengths, its controls, and a verdict in words. Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from saebench.record import Record
from saebench.report import escape
from saebench.report.digits import count, counted, number_or_dash
from saebench.report.stored import items, mapping
from saebench.report.table import markdown_grid

LEVEL = 0.05  # p above it is called no effect
NAMES = {"label": "the share of the positive class", "logit_difference": "the logit difference"}
PER_ALPHA = {"label": "rate", "logit_difference": "nats"}
CONTROLS = {"random": "random directions", "latent": "random alive latents"}
OF = {
    "latent": "the decoder direction of a latent",
    "decoded_difference": "the decoded difference of mean codes",
    "mean_difference": "the difference of mean activations",
}
MODES = {"add": "added to the activation", "clamp": "set as the latent's code, the rest kept"}
TOKENS = 12  # tokens of a class that are named
TOKEN = 24  # characters of each
FILLED = ("another class", "the positive class")  # what undecided completions are counted as
EXAMPLES = 160  # characters of a completion that are shown


def section(record: Record) -> str:
    """The steering of one case: verdict, table over α, controls, cosine; empty without the part."""
    found = mapping(record.details.get("steering"))
    if not found:
        return ""
    if reason := found.get("reason"):
        return f"Not measured: {escape.markdown_text(reason)}"
    parts = [verdict(found), _design(found), _sweep(found), _controls(found), _notes(found)]
    return "\n\n".join(part for part in [*parts, _examples(found)] if part)


def verdict(found: Mapping[str, Any]) -> str:
    """Whether there is a dose response, in plain words, for each outcome that was read."""
    sentences = [_sentence(found, outcome) for outcome in NAMES]
    said = " ".join(text for text in sentences if text)
    return f"**Verdict.** {said or _unread(found)}"


def _unread(found: Mapping[str, Any]) -> str:
    """What is known where no class could be read, and what it takes to read one."""
    control = mapping(mapping(found.get("controls")).get("kl/random"))
    known = f"KL {number_or_dash(control.get('effect'))} nats per token at both ends"
    if isinstance(control.get("p"), int | float):
        best = number_or_dash(_smallest(control))
        known += f", p = {number_or_dash(control['p'])} among {_how_many(control)}, at best {best}"
    return (
        "Whether the direction steers towards a class is not known: neither labels nor the logit "
        f"difference could be read, only how far predictions move ({known}), whichever way. Labels take "
        '`rules = "FILE"` in the `[[concept]]`: keyword rules that give a completion its class.'
    )


def _sentence(found: Mapping[str, Any], outcome: str) -> str:
    name = NAMES[outcome]
    if outcome in mapping(found.get("not_measured")):
        return ""
    trend = mapping(mapping(found.get("trends")).get(outcome))
    p, rho = trend.get("p"), trend.get("value")
    if not isinstance(p, int | float) or not isinstance(rho, int | float):
        return f"For {name} a trend is not evaluable: {escape.markdown_text(trend.get('reason'))}."
    figures = f"ρ = {number_or_dash(rho)}, p = {number_or_dash(p)}"
    hidden = _hidden(found) if outcome == "label" else ""
    moves = "rises" if rho > 0 else "falls"
    start = f"{name[0].upper()}{name[1:]} {moves} with α ({figures})"
    if p > LEVEL and _above_level(trend.get("smallest_p")):
        said = f"Too few outcomes of {name} to tell a dose response ({figures}{_at_best(trend)})."
    elif p > LEVEL:
        within = f"{figures}{_at_best(trend)} over the permutations within prompts"
        said = f"No dose response of {name}: {within}."
    elif hidden:
        said = f"{start}, but no dose response can be claimed of it."
    else:
        return _against_random(found, outcome, start)
    return f"{said} {hidden}".strip()


def _hidden(found: Mapping[str, Any]) -> str:
    """What to hold of the label where its undecided completions depend on α; empty where they do not."""
    undecided = mapping(found.get("undecided"))
    trend = mapping(undecided.get("trend"))
    p, rho = trend.get("p"), trend.get("value")
    if not isinstance(p, int | float) or not isinstance(rho, int | float) or p > LEVEL:
        return ""
    filled = [
        f"ρ = {number_or_dash(item.get('value'))}, p = {number_or_dash(item.get('p'))} with all of them "
        f"counted as {of}"
        for item, of in zip(_filled(undecided, "trend"), FILLED, strict=True)
    ]
    return (
        f"The share of undecided completions {'rises' if rho > 0 else 'falls'} with α (ρ = "
        f"{number_or_dash(rho)}, p = {number_or_dash(p)}), and which class they hide is not known: "
        f"{'; '.join(filled)}."
    )


def _filled(undecided: Mapping[str, Any], statistic: str) -> list[Mapping[str, Any]]:
    """A statistic with undecided completions counted as 0, and as 1."""
    return [mapping(mapping(undecided.get(key)).get(statistic)) for key in ("as_0", "as_1")]


def _against_random(found: Mapping[str, Any], outcome: str, start: str) -> str:
    """The end of a sentence on a trend: whether random directions do as much."""
    control = mapping(mapping(found.get("controls")).get(f"{outcome}/random"))
    by_chance, best = control.get("p"), _smallest(control)
    if not isinstance(by_chance, int | float):
        return f"{start}; without random directions to set it against, that may be any direction's."
    if _above_level(best):
        few = (
            f"{_how_many(control)}; p = {number_or_dash(by_chance)}, at best {number_or_dash(best)}"
        )
        return f"{start}; too few controls to tell whether that is this direction's own ({few})."
    against = f"p = {number_or_dash(by_chance)} among {_how_many(control, ' of equal norm')}"
    if by_chance > LEVEL:
        return f"{start}, but random directions do as much ({against}): nothing of this direction's own."
    return f"{start}, and more than with random directions ({against})."


def _how_many(control: Mapping[str, Any], which: str = "", *, kind: str = "random") -> str:
    """The controls that p counts, and how many of them could not be read."""
    unread = control.get("n_unread")
    unread = unread if isinstance(unread, int) else 0
    n = len(items(control.get("controls"))) + unread
    words = f"{count(n)} {CONTROLS.get(kind, 'controls')}{which}"
    return f"{words}, {count(unread)} of them unread" if unread else words


def _smallest(control: Mapping[str, Any]) -> float | None:
    """The smallest p that a rank among the controls allows."""
    smallest = control.get("smallest_p")
    if isinstance(smallest, int | float):
        return smallest
    n = len(items(control.get("controls")))
    return 1 / (1 + n) if n else None


def _above_level(smallest: object) -> bool:
    return isinstance(smallest, int | float) and smallest > LEVEL


def _at_best(test: Mapping[str, Any]) -> str:
    """The smallest p of a test, as an aside; empty where any p could come out."""
    smallest = test.get("smallest_p")
    return f", at best {number_or_dash(smallest)}" if isinstance(smallest, int | float) else ""


def _design(found: Mapping[str, Any]) -> str:
    """What was done, in two sentences."""
    asked, direction = mapping(found.get("protocol")), mapping(found.get("direction"))
    what = OF.get(str(direction.get("of")), "a direction")
    if isinstance(direction.get("latent"), int):
        what = f"{what} ({count(direction['latent'])}"
        separation = direction.get("separation")
        chosen = f", Cohen's d {number_or_dash(separation)} on training texts"
        what += f"{chosen if isinstance(separation, int | float) else ''})"
    scale = mapping(found.get("scale"))
    mode = MODES.get(str(asked.get("mode")), "")
    where = {
        "all": "all tokens",
        "prompt": "tokens of the prompt",
        "completion": "tokens of the completion",
    }
    return (
        f"At {escape.code_span(found.get('site'))}, {what} is {mode} at "
        f"{where.get(str(asked.get('positions')), 'some tokens')}; α is a multiple of "
        f"{number_or_dash(scale.get('value'))}, {escape.markdown_text(scale.get('is'))}. "
        f"{counted(mapping(found.get('prompts')).get('n'))} prompts, one completion each at every α, with "
        f"the same random numbers.{_tokens(found)}"
    )


def _tokens(found: Mapping[str, Any]) -> str:
    """Which next tokens the logit difference sets against each other."""
    tokens = mapping(found.get("tokens"))
    if "logit_difference" in mapping(found.get("not_measured")) or "positive" not in tokens:
        return ""
    ours, others = (_token_list(tokens.get(side)) for side in ("positive", "negative"))
    return (
        " The logit difference, right after the prompt, is the log of the total probability of "
        f"{ours} less that of {others}."
    )


def _token_list(value: object) -> str:
    if isinstance(value, str):
        return escape.markdown_text(value)
    # a word with a space before it and without are two tokens, which a code span shows alike
    texts = list(dict.fromkeys(str(text).strip() for text in items(value)))
    said = ", ".join(escape.code_span(text, TOKEN) for text in texts[:TOKENS])
    rest = len(texts) - TOKENS
    return f"{said} and {count(rest)} more" if rest > 0 else said or "–"


def _sweep(found: Mapping[str, Any]) -> str:
    """The table over α: labels with their intervals, logit difference, divergence, coherence."""
    rows = [row for row in items(found.get("rows")) if isinstance(row, Mapping)]
    if not rows:
        return ""
    missing = mapping(found.get("not_measured"))
    header, body = ["α"], [[_alpha(row)] for row in rows]
    positive = escape.markdown_text(found.get("positive"))
    if "label" not in missing:
        header += ["n", "Undecided", f"Rate of {positive}", "95 % (Wilson)"]
        for cells, row in zip(body, rows, strict=True):
            cells += [counted(row.get("n")), counted(row.get("n_dropped"))]
            cells += [number_or_dash(row.get("rate")), _bounds(row)]
        if any(row.get("n_dropped") for row in rows):
            header.append("Undecided as others / as positive")
            for cells, row in zip(body, rows, strict=True):
                low, high = (number_or_dash(row.get(f"rate_if_undecided_{i}")) for i in (0, 1))
                cells.append(f"{low} / {high}")
    columns = [("logit_difference", "Logit difference"), ("kl", "KL"), ("ce", "CE on the text")]
    for name, title in columns:
        if name in missing:
            continue
        header.append(title)
        for cells, row in zip(body, rows, strict=True):
            cells.append(number_or_dash(row.get(name)))
    return markdown_grid(header, body, right=range(1, len(header)))


def _alpha(row: Mapping[str, Any]) -> str:
    alpha = row.get("alpha")
    return "unsteered" if alpha is None else number_or_dash(alpha)


def _bounds(row: Mapping[str, Any]) -> str:
    low, high = row.get("low"), row.get("high")
    if not isinstance(low, int | float) or not isinstance(high, int | float):
        return "–"
    return f"[{number_or_dash(low)}, {number_or_dash(high)}]"


def _controls(found: Mapping[str, Any]) -> str:
    """A row per outcome and kind of control: the effect, theirs, and its rank among them."""
    body = []
    for key, value in mapping(found.get("controls")).items():
        outcome, _, kind = str(key).partition("/")
        control = mapping(value)
        theirs = [item for item in items(control.get("controls")) if isinstance(item, int | float)]
        best = _smallest(control)
        if not theirs or outcome not in (*NAMES, "kl"):
            continue
        unit = PER_ALPHA.get(outcome)
        name = f"{NAMES[outcome]}, {unit} per α" if unit else "KL at both ends, nats per token"
        body.append(
            [
                name,
                number_or_dash(control.get("effect")),
                _how_many(control, kind=kind),
                f"{number_or_dash(min(theirs))} to {number_or_dash(max(theirs))}",
                number_or_dash(control.get("ratio")),
                f"{number_or_dash(control.get('p'))} (at best {number_or_dash(best)})",
            ]
        )
    if not body:
        return ""
    header = [
        "Effect between the ends of",
        "This direction",
        "Controls",
        "Theirs",
        "Size / rms",
        "p",
    ]
    table = markdown_grid(header, body, right=(1, 3, 4, 5))
    return f"Controls of equal norm, at the ends of the sweep alone.\n\n{table}"


def _notes(found: Mapping[str, Any]) -> str:
    """The cosine, the tests of rates alone, α = 0, and what was not read, as a list."""
    lines = []
    for name, value in mapping(found.get("cosines")).items():
        cosine = mapping(value)
        words = OF.get(str(name), str(name))
        value, sd, p = (number_or_dash(cosine.get(key)) for key in ("value", "sd_random", "p"))
        lines.append(
            f"Cosine with {escape.markdown_text(words)}: {value} (random directions: sd {sd}; p = {p})."
        )
    rates, chi2 = mapping(found.get("rates")), mapping(found.get("homogeneity"))
    if isinstance(rates.get("value"), int | float):
        rho, p = number_or_dash(rates["value"]), number_or_dash(rates.get("p"))
        lines.append(f"Over the rates alone: ρ = {rho}, p = {p}{_at_best(rates)}.")
    within = mapping(chi2.get("within_prompts"))
    if isinstance(within.get("value"), int | float):
        lines.append(
            f"Equal rates at all α: χ² = {number_or_dash(within['value'])}, p = "
            f"{number_or_dash(within.get('p'))} within prompts{_at_best(within)}; "
            f"{number_or_dash(mapping(chi2.get('independent')).get('p'))} if trials were independent."
        )
    lines += _of_undecided(found)
    same = found.get("same_at_zero")
    if same is not None:
        lines.append(
            "Where nothing is added, completions and logits are those of the unsteered run, to the bit."
            if same
            else "**Where nothing is added the run differs from the unsteered one.**"
        )
    for name, reason in mapping(found.get("not_measured")).items():
        words = NAMES.get(str(name), str(name))
        lines.append(f"Not read: {escape.markdown_text(words)} ({escape.markdown_text(reason)}).")
    return "\n".join(f"- {line}" for line in lines)


def _of_undecided(found: Mapping[str, Any]) -> list[str]:
    """The trend of undecided completions, and that of the label with them counted as either class."""
    undecided = mapping(found.get("undecided"))
    trend = mapping(undecided.get("trend"))
    if "as_0" not in undecided:
        return []
    if isinstance(trend.get("value"), int | float):
        rho, p = number_or_dash(trend["value"]), number_or_dash(trend.get("p"))
        said = f"ρ = {rho} over α, p = {p}{_at_best(trend)}"
    else:
        said = f"no trend ({escape.markdown_text(trend.get('reason'))})"
    counted = [
        f"counted as {of} the label has ρ = {number_or_dash(rho.get('value'))}, p = "
        f"{number_or_dash(rho.get('p'))}, slope {number_or_dash(slope.get('value'))} {_bounds(slope)}"
        for rho, slope, of in zip(
            _filled(undecided, "trend"), _filled(undecided, "slope"), FILLED, strict=True
        )
    ]
    return [f"Undecided completions: {said}; {'; '.join(counted)}."]


def _examples(found: Mapping[str, Any]) -> str:
    """A prompt's completions at each α, folded away."""
    blocks = []
    for one in items(found.get("examples")):
        example = mapping(one)
        rows = [
            [_alpha(row), escape.code_span(row.get("text"), EXAMPLES, cell=True)]
            for row in map(mapping, items(example.get("completions")))
        ]
        if rows:
            prompt = escape.code_span(example.get("prompt"), EXAMPLES)
            blocks.append(f"After {prompt}:\n\n{markdown_grid(['α', 'Completion'], rows)}")
    if not blocks:
        return ""
    return "\n\n".join(["<details><summary>Completions</summary>", *blocks, "</details>"])
