"""What a card says of steering: the sweep over strengths, its controls, and a verdict in words. Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from saebench.record import Record
from saebench.report import escape
from saebench.report.digits import count, number_or_dash
from saebench.report.stored import mapping
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
    return f"**Verdict.** {said}" if said else "**Verdict.** No outcome could be read."


def _sentence(found: Mapping[str, Any], outcome: str) -> str:
    name = NAMES[outcome]
    if outcome in mapping(found.get("not_measured")):
        return ""
    trend = mapping(mapping(found.get("trends")).get(outcome))
    p, rho = trend.get("p"), trend.get("value")
    if not isinstance(p, int | float) or not isinstance(rho, int | float):
        return f"For {name} a trend is not evaluable: {escape.markdown_text(trend.get('reason'))}."
    figures = f"ρ = {number_or_dash(rho)}, p = {number_or_dash(p)}"
    if p > LEVEL:
        return f"No dose response of {name}: {figures} over the permutations within prompts."
    moves = "rises" if rho > 0 else "falls"
    start = f"{name[0].upper()}{name[1:]} {moves} with α ({figures})"
    control = mapping(mapping(found.get("controls")).get(f"{outcome}/random"))
    by_chance, n = control.get("p"), len(_items(control.get("controls")))
    if not isinstance(by_chance, int | float):
        return f"{start}; without random directions to set it against, that may be any direction's."
    against = f"p = {number_or_dash(by_chance)} among {n} random directions of equal norm"
    if by_chance > LEVEL:
        return f"{start}, but random directions do as much ({against}): nothing of this direction's own."
    return f"{start}, and more than with random directions ({against})."


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
        f"{_count(mapping(found.get('prompts')).get('n'))} prompts, one completion each at every α, with "
        "the same random numbers."
    )


def _sweep(found: Mapping[str, Any]) -> str:
    """The table over α: labels with their intervals, logit difference, divergence, coherence."""
    rows = [row for row in _items(found.get("rows")) if isinstance(row, Mapping)]
    if not rows:
        return ""
    missing = mapping(found.get("not_measured"))
    header, body = ["α"], [[_alpha(row)] for row in rows]
    positive = escape.markdown_text(found.get("positive"))
    if "label" not in missing:
        header += ["n", "Undecided", f"Rate of {positive}", "95 % (Wilson)"]
        for cells, row in zip(body, rows, strict=True):
            cells += [_count(row.get("n")), _count(row.get("n_dropped"))]
            cells += [number_or_dash(row.get("rate")), _bounds(row)]
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
        theirs = [item for item in _items(control.get("controls")) if isinstance(item, int | float)]
        if not theirs or outcome not in (*NAMES, "kl"):
            continue
        unit = PER_ALPHA.get(outcome)
        name = f"{NAMES[outcome]}, {unit} per α" if unit else "KL at both ends, nats per token"
        body.append(
            [
                name,
                number_or_dash(control.get("effect")),
                f"{len(theirs)} {CONTROLS.get(kind, '')}",
                f"{number_or_dash(min(theirs))} to {number_or_dash(max(theirs))}",
                number_or_dash(control.get("ratio")),
                number_or_dash(control.get("p")),
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
        lines.append(f"Over the rates alone: ρ = {rho}, p = {p}.")
    within = mapping(chi2.get("within_prompts"))
    if isinstance(within.get("value"), int | float):
        lines.append(
            f"Equal rates at all α: χ² = {number_or_dash(within['value'])}, p = "
            f"{number_or_dash(within.get('p'))} within prompts, "
            f"{number_or_dash(mapping(chi2.get('independent')).get('p'))} if trials were independent."
        )
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


def _examples(found: Mapping[str, Any]) -> str:
    """A prompt's completions at each α, folded away."""
    blocks = []
    for one in _items(found.get("examples")):
        example = mapping(one)
        rows = [
            [_alpha(row), escape.code_span(row.get("text"), EXAMPLES, cell=True)]
            for row in map(mapping, _items(example.get("completions")))
        ]
        if rows:
            prompt = escape.code_span(example.get("prompt"), EXAMPLES)
            blocks.append(f"After {prompt}:\n\n{markdown_grid(['α', 'Completion'], rows)}")
    if not blocks:
        return ""
    return "\n\n".join(["<details><summary>Completions</summary>", *blocks, "</details>"])


def _items(value: object) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()


def _count(value: object) -> str:
    return count(value) if isinstance(value, int | float) else "–"
