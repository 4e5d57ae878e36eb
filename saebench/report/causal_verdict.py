"""What ablations come to, in sentences: do models shift alike, and is that the latent's own doing?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from saebench.record import Record
from saebench.report.causal_stored import (
    CLASSES,
    known,
    selected,
    shown_count,
    statistics_of,
    value_of_key,
    with_bounds,
)
from saebench.report.digits import count, number_or_dash
from saebench.report.results import value_of
from saebench.report.stored import mapping

ARMS = {"random": "random directions of equal norm", "mismatched": "other latents of the class"}
EVEN = 0.5  # of latents, that chance has above a random direction
MARGIN = 0.05  # of r: what lies within it on both sides is as much
NO_BOUNDS, LESS, MORE, EQUAL, OPEN = "no bounds", "less", "more", "equal", "open"
# what each case says of the latents; both models get the same random unit vector, so that latents whose
# rows differ fall below that arm by construction, and specificity is for the mismatched one to decide
_ALIKE = ", as any one direction put into both models does: this arm shows only that the models respond alike"
_ANY = (
    ": the same direction is in both models, and this arm shows only that the models respond alike"
)
MEANINGS = {
    "random": {LESS: "", EQUAL: _ALIKE, MORE: _ALIKE, OPEN: _ANY, NO_BOUNDS: ""},
    "mismatched": {
        LESS: ": so much of the correlation is specific to the latent",
        EQUAL: ": the correlation is not specific to the latent",
        MORE: ": the correlation is not specific to the latent",
        OPEN: ": whether the correlation is specific to the latent stays open",
        NO_BOUNDS: ": whether the correlation is specific to the latent stays open",
    },
}


def pair_verdict(found: Mapping[str, Any]) -> str:
    """Whether both models shift alike when a latent is ablated, and what nulls make of that."""
    shared = statistics_of(found, "shared")
    if not known(mapping(shared.get("pearson")).get("value")):
        head = (
            "**Verdict.** Whether shared latents do the same in both models is not known: none has a "
            "correlation."
        )
    else:
        head = f"**Verdict.** {_of_class(found, 'shared')}"
    other = mapping(statistics_of(found, "other").get("pearson"))
    return f"{head}\n\n{_of_class(found, 'other')}" if known(other.get("value")) else head


def single_verdict(record: Record, found: Mapping[str, Any]) -> str:
    """Whether latents move predictions more than random directions do."""
    effect = record.get("causal_effect")
    above = record.get("causal_effect_over_random")
    if effect is None or effect.value is None or above is None or above.value is None:
        return "**Verdict.** How far latents move predictions is not known: none has probes enough."
    share = with_bounds({"value": above.value, "low": above.low, "high": above.high})
    ratio = number_or_dash(value_of(record, "causal_effect_ratio"))
    chance = ""
    if above.low is None or above.high is None:
        chance = " Without an interval that share cannot be told apart from chance."
    elif above.high < EVEN:
        chance = " That share is less than chance would have it."
    elif above.low <= EVEN:
        chance = " That share is not told apart from the half that chance would have."
    tested = _tested(found, "all", effect.detail.get("n_latents"))
    return (
        f"**Verdict.** Ablating a latent moves the next-token distribution by "
        f"{number_or_dash(effect.value)} nats (median of {tested}); {share} of them move it more than a "
        f"random direction of equal norm, the median one {ratio} times as far.{chance}"
    )


def _of_class(found: Mapping[str, Any], name: str) -> str:
    """The correlation over one class, and each null beside it."""
    values = statistics_of(found, name)
    r = mapping(values.get("pearson"))
    latent = "latent of the class other" if name == "other" else f"{CLASSES[name]} latent"
    head = (
        f"Ablating a {latent} gives shifts that correlate r = {with_bounds(r)} "
        f"between the models (median of {_tested(found, name, r.get('n'))}), "
        f"{value_of_key(values, 'partial_log')} in logs with the latent's code held fixed."
    )
    return " ".join([head, *(_against(values, arm) for arm in ARMS)]).strip()


def _tested(found: Mapping[str, Any], name: str, n: object) -> str:
    """``858 of 1,109 alive shared latents; the others fire in fewer than 30 sequences``."""
    row = selected(found, name)
    whole, enough, tested = (_whole(row.get(key)) for key in ("n", "n_enough", "n_tested"))
    kind = "latents" if name == "all" else f"{CLASSES[name]} latents"
    mine = _whole(n)
    if whole is None or enough is None or tested is None or mine is None:
        return f"{shown_count(n)} {kind}"
    least = shown_count(mapping(found.get("protocol")).get("min_probes"))
    left = {
        f"fire in fewer than {least} sequences": whole - enough,
        "were not drawn for the sample": enough - tested,
        "have no such value": tested - mine,
    }
    reasons = [(words, size) for words, size in left.items() if size > 0]
    if not reasons:
        return f"all {count(mine)} alive {kind}"
    said = [f"{count(size)} {words}" for words, size in reasons]
    if len(reasons) == 1:
        said = [f"the others {reasons[0][0]}"]
    return f"{count(mine)} of {count(whole)} alive {kind}; {', '.join(said)}"


def _against(values: Mapping[str, Any], arm: str) -> str:
    """What a null gives on the same probes, and whether the latents give more, in a sentence."""
    null = mapping(values.get(f"{arm}_pearson"))
    over = mapping(values.get(f"pearson_over_{arm}"))
    if not known(null.get("value")) or not known(over.get("value")):
        return ""
    case = _case(over)
    low, high = over.get("low"), over.get("high")
    narrow = known(low) and known(high) and _is_narrow(low, high)
    bit = f", by less than {MARGIN}" if narrow else ""
    words = {
        NO_BOUNDS: f"cannot be told apart from {_latents(over.get('n'))}",
        LESS: f"give less{bit}",
        MORE: f"give more{bit}",
        EQUAL: f"give as much, within ±{MARGIN}",
        OPEN: "are not told apart from the latents",
    }[case]
    name = ARMS[arm]
    figures = f"{number_or_dash(null['value'])}; difference {with_bounds(over)}"
    if case == NO_BOUNDS:
        figures += ", no interval"
    return f"{name[0].upper()}{name[1:]} {words} ({figures}){MEANINGS[arm][case]}."


def _case(over: Mapping[str, Any]) -> str:
    """Which of five a difference is, latents less null, by its interval; never by the value alone."""
    low, high = over.get("low"), over.get("high")
    if not known(low) or not known(high):
        return NO_BOUNDS
    if low > 0:
        return LESS
    if high < 0:
        return MORE
    return EQUAL if _is_narrow(low, high) else OPEN


def _is_narrow(low: float, high: float) -> bool:
    return low >= -MARGIN and high <= MARGIN


def _latents(n: object) -> str:
    return f"{shown_count(n)} latent{'' if n == 1 else 's'}"


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
