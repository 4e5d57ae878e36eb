"""What a card says of a crosscoder over two models: classes of latents, cosines, latent scaling. Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from saebench.record import Record
from saebench.report import escape
from saebench.report.digits import counted, estimate, number_or_dash
from saebench.report.stored import items, mapping
from saebench.report.table import markdown_grid

PART = "crosscoder"
CLASSES = {
    "shared": "Shared",
    "base_only": "Base only",
    "chat_only": "Chat only",
    "other": "Other",
    "dead": "Dead",
}
RULES = {
    "delta_norm": "Δ_norm (arXiv 2504.02922; OpenInterp's cut-offs)",
    "dec_norm_diff": "dec_norm_diff (diffing toolkit)",
    "relative_norm": "Relative norm (ckkissane's band)",
}
SIDES = {"base": "Base", "chat": "Chat"}


def section(record: Record) -> str:
    """The tables of one crosscoder; empty without the part."""
    found = mapping(record.details.get(PART))
    if not mapping(found.get("counts")):
        reason = found.get("reason")
        return f"Not measured: {escape.markdown_text(reason)}." if reason else ""
    parts = [
        _models(record, found),
        _counts(found),
        _stored_units(found),
        _classes(found),
        _scaling(record, found),
    ]
    return "\n\n".join(part for part in parts if part)


def _models(record: Record, found: Mapping[str, Any]) -> str:
    """Variance explained of each model, and the factor that was undone before its norms were taken."""
    ids, norm = items(found.get("models")), mapping(found.get("normalization"))
    factors, window = mapping(norm.get("factors")), mapping(found.get("window"))
    rows = [
        [
            title,
            escape.code_span(ids[place], cell=True) if place < len(ids) else "–",
            _estimate(record, f"cc_fve_{side}"),
            _factor(mapping(factors.get(side))),
        ]
        for place, (side, title) in enumerate(SIDES.items())
    ]
    if record.get("fve") is not None:
        rows.append(["Both together", "", _estimate(record, "fve"), ""])
    header = ["Model", "", "FVE", "Decoder rows multiplied by"]
    table = markdown_grid(header, rows, right=(2, 3))
    units = (
        "Decoder norms are in units of activations: what the checkpoint does to activations "
        f"({escape.code_span(norm.get('name'))}) was undone with the factors below"
    )
    if not factors:
        units = (
            f"What the checkpoint does to activations ({escape.code_span(norm.get('name'))}) is no fixed "
            "factor for each dimension"
        )
        units += "" if norm.get("undone") else ", and decoder norms are in units of its weights"
    dead = (
        f"{counted(window.get('dead'))} of {counted(window.get('n_latents'))} latents never fired on "
        f"{counted(window.get('n_tokens'))} tokens; {number_or_dash(found.get('l0'))} fire per token."
    )
    return f"{units}. {dead}\n\n{table}"


def _factor(factor: Mapping[str, Any]) -> str:
    if "factor" in factor:
        return number_or_dash(factor["factor"])
    if "median" in factor:
        low, median, high = (number_or_dash(factor.get(key)) for key in ("min", "median", "max"))
        return f"{median} ({low} to {high} by dimension)"
    return "–"


def _counts(found: Mapping[str, Any]) -> str:
    """How many latents each class has under each convention."""
    rules = mapping(found.get("rules"))
    rows = [
        [title, *_row(mapping(mapping(found["counts"]).get(rule)), rule)]
        for rule, title in RULES.items()
        if rule in mapping(found["counts"])
    ]
    table = markdown_grid(["Latents by", *CLASSES.values()], rows, right=range(1, 6))
    said = [escape.markdown_text(rules[rule]) for rule in RULES if rule in rules]
    return f"{table}\n\n{'; '.join(said)}. A latent that never fired is dead, whatever its norms."


def _row(numbers: Mapping[str, Any], rule: str) -> list[str]:
    undefined = ("base_only", "chat_only") if rule == "relative_norm" else ()
    return ["–" if name in undefined else counted(numbers.get(name)) for name in CLASSES]


def _stored_units(found: Mapping[str, Any]) -> str:
    """The same counts without the factors undone, where they differ."""
    counts, stored = mapping(found["counts"]), mapping(found.get("counts_stored_units"))
    different = [rule for rule in RULES if rule in stored and stored[rule] != counts.get(rule)]
    if not different:
        return ""
    rows = [[RULES[rule], *_row(mapping(stored[rule]), rule)] for rule in different]
    table = markdown_grid(["Latents by", *CLASSES.values()], rows, right=range(1, 6))
    return f"In the units of the weights, without the factors undone, the counts differ:\n\n{table}"


def _classes(found: Mapping[str, Any]) -> str:
    """Of each class by Δ_norm: size, norms, decoder cosine, firings."""
    classes = mapping(found.get("classes"))
    alive = sum(n for name in CLASSES if name != "dead" and isinstance(n := _n(classes, name), int))
    rows = []
    for name, title in CLASSES.items():
        one = mapping(classes.get(name))
        n, norms, cosine = _n(classes, name), mapping(one.get("norms")), mapping(one.get("cosine"))
        if n == 0:
            continue
        share = _percent(n / alive) if isinstance(n, int) and alive and name != "dead" else "–"
        both = f"{number_or_dash(norms.get('base'))} / {number_or_dash(norms.get('chat'))}"
        above = [_percent(cosine.get(key)) for key in ("above_0_7", "above_0_9")]
        rows.append(
            [
                title,
                counted(n),
                share,
                both,
                _cosine(cosine, n),
                *above,
                counted(one.get("firings")),
            ]
        )
    header = ["Class (Δ_norm)", "Latents", "of the alive", "Median norm, base / chat"]
    header += ["Decoder cosine [quartiles]", "> 0.7", "> 0.9", "Firings"]
    return markdown_grid(header, rows, right=range(1, len(header)))


def _cosine(cosine: Mapping[str, Any], n: object) -> str:
    """Median and quartiles, and of how many latents where not all have a direction in both models."""
    quartiles = items(cosine.get("quartiles"))
    if len(quartiles) != 2:
        return "–"
    low, high = (_ratio(edge) for edge in quartiles)
    some = f" of {counted(cosine.get('n'))}" if cosine.get("n") != n else ""
    return f"{_ratio(cosine.get('median'))} [{low}, {high}]{some}"


def _scaling(record: Record, found: Mapping[str, Any]) -> str:
    """Ratios of latent scaling by class, candidates for artefacts, what is undefined, and the control."""
    scaling = mapping(found.get("scaling"))
    if not mapping(scaling.get("classes")):
        reason = scaling.get("reason")
        return f"Latent scaling was not measured: {escape.markdown_text(reason)}." if reason else ""
    classes, limits = mapping(scaling["classes"]), mapping(scaling.get("limits"))
    sets = {
        "Chat only": mapping(classes.get("chat_only")),
        "Shared, as many at random": mapping(scaling.get("matched_shared")),
        "Shared": mapping(classes.get("shared")),
    }
    rows = [
        [
            title,
            counted(one.get("n")),
            _ratio(one.get("nu_error")),
            _ratio(one.get("nu_reconstruction")),
            *(_pair(mapping(one.get(f"beta_{target}"))) for target in ("error", "activation")),
        ]
        for title, one in sets.items()
        if one.get("n")
    ]
    header = ["Latents", "n", "ν^ε", "ν^r", "β error, base / chat", "β activation, base / chat"]
    table = markdown_grid(header, rows, right=range(1, len(header))) if rows else ""
    how = (
        "Latent scaling (arXiv 2504.02922), medians: β fits the chat direction of a latent, times its code, "
        "to each model, and ν is β(base) / β(chat). ν^ε fits what the crosscoder misses without the latent, "
        "ν^r what it writes: near 0 the latent is the chat model's own, near 1 the base model has it too."
    )
    candidates = mapping(scaling.get("candidates"))
    notes = [_none(found, candidates), _candidates(record, candidates, limits)]
    notes += [_undefined(scaling), _control(mapping(scaling.get("control")))]
    parts = [how, table, " ".join(note for note in notes if note)]
    return "\n\n".join(part for part in parts if part)


def _none(found: Mapping[str, Any], candidates: Mapping[str, Any]) -> str:
    """That there is nothing to tell from artefacts, where so."""
    if _n(mapping(found.get("classes")), "chat_only") == 0:
        return "No latent is the chat model's alone by these norms."
    if candidates.get("n") == 0 and not candidates.get("left_out"):
        return "No chat-only latent has both ratios."
    return ""


def _pair(beta: Mapping[str, Any]) -> str:
    return f"{_ratio(beta.get('base'))} / {_ratio(beta.get('chat'))}"


def _ratio(value: object) -> str:
    """A scaling to three places: what is smaller is nothing."""
    return f"{value:.3f}" if isinstance(value, int | float) else "–"


def _percent(share: object) -> str:
    return f"{100 * share:.1f} %" if isinstance(share, int | float) else "–"


def _candidates(record: Record, found: Mapping[str, Any], limits: Mapping[str, Any]) -> str:
    """Counts and shares of the chat-only latents, and what the intervals of the shares are about."""
    left_out = (
        f"{counted(found.get('left_out'))} chat-only latents are left out: a scaling of theirs in the chat "
        "model is below 0."
        if found.get("left_out")
        else ""
    )
    if not found.get("n"):
        return left_out
    error, written = (number_or_dash(limits.get(key)) for key in ("error", "reconstruction"))
    specific, shrunk, decoupled = (
        _of(record, found, name)
        for name in ("chat_specific", "complete_shrinkage", "latent_decoupling")
    )
    said = (
        f"Of {counted(found.get('n'))} chat-only latents with both ratios, {specific} are specific to the "
        f"chat model (|ν^ε| < {error} and |ν^r| < {written}); {shrunk} may be complete shrinkage "
        f"(|ν^ε| ≥ {error}), {decoupled} latent decoupling (|ν^r| ≥ {written}), "
        f"{counted(found.get('both'))} of them both. Intervals are about the texts: on others these latents "
        "could cross a limit. Which latents there are is taken as given."
    )
    return f"{said} {left_out}".rstrip()


def _of(record: Record, found: Mapping[str, Any], name: str) -> str:
    """A count, and its share with interval, of how many where these are not all."""
    metric, number = f"cc_{name}", counted(found.get(name))
    share = _estimate(record, metric)
    if share == "–":
        return number
    measurement = record.get(metric)
    of = measurement.detail.get("of") if measurement is not None else None
    some = f" of {counted(of)} drawn" if of is not None and of != found.get("n") else ""
    return f"{number} ({share}{some})"


def _undefined(scaling: Mapping[str, Any]) -> str:
    reasons = [mapping(one) for one in mapping(scaling.get("undefined")).values()]
    said = [
        f"{counted(r.get('n'))}: {escape.markdown_text(r.get('words'))}"
        for r in reasons
        if r.get("n")
    ]
    if not said:
        return ""
    least = counted(scaling.get("min_firings"))
    return f"Latents without a ratio ({'; '.join(said)}); at least {least} firings are asked for."


def _control(control: Mapping[str, Any]) -> str:
    if control.get("random") is None:
        return ""
    return (
        f"As a control, the median |β| of the chat error is {_ratio(control.get('own'))} along a "
        f"latent's own direction and {_ratio(control['random'])} along a random one of equal length."
    )


def _estimate(record: Record, metric: str) -> str:
    """A value with its interval, or a dash."""
    found = record.get(metric)
    if found is None or found.value is None:
        return "–"
    value, bounds = estimate(found)
    return f"{value} {bounds}".rstrip()


def _n(classes: Mapping[str, Any], name: str) -> object:
    return mapping(classes.get(name)).get("n")
