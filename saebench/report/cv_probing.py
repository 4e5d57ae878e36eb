"""What a card says of cross-validated probes on a concept: arms, few latents, and the L1 path. Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from saebench.record import Record
from saebench.report import escape
from saebench.report.digits import count, counted, number_or_dash
from saebench.report.stored import items, mapping
from saebench.report.table import markdown_grid

PART = "cv_probing"
ARMS = {
    "raw": "Activations",
    "latents": "This SAE",
    "other": "Another SAE",
    "reconstruction": "Reconstruction",
    "random": "Untrained SAE",
}
SCORES = {"balanced_accuracy": "Balanced accuracy", "auroc": "AUROC"}
FEW = ("latents", "raw", "random")  # the arms with probes on few columns


def section(record: Record) -> str:
    """The probe tables of one concept; empty without the part."""
    found = mapping(record.details.get(PART))
    arms = mapping(found.get("arms"))
    if not arms:
        reason = found.get("reason")
        return f"Not measured: {escape.markdown_text(reason)}" if reason else ""
    parts = [_intro(found), _arms(found, arms), _notes(found, arms)]
    parts += [_transfer(found, arms), _few(arms), _path(mapping(arms.get("latents")))]
    return "\n\n".join(part for part in parts if part)


def _intro(found: Mapping[str, Any]) -> str:
    """How the probes were made, in two sentences."""
    unit = escape.markdown_text(found.get("unit"))
    size = f"{counted(found.get('n_texts'))} texts"
    if unit != "texts":
        size += f" of {counted(found.get('n_units'))} {unit}, which are kept whole"
    return (
        f"Logistic probes on {size}: {counted(found.get('folds'))} stratified folds, "
        f"{counted(found.get('repeats'))} times, the same for all arms; scaling and selection on training "
        f"rows only. In brackets 95 % intervals over {unit}, widened for training sets (Nadeau and Bengio "
        "2003), none where all resamples agree; whether a probe is better than chance is for p to say, "
        "which repeats all of it for every shuffle of the labels."
    )


def _arms(found: Mapping[str, Any], arms: Mapping[str, Any]) -> str:
    minus = mapping(found.get("latents_minus"))
    header = ["Probe on", *SCORES.values(), "p (AUROC)", "This SAE − it (AUROC)"]
    rows = []
    for name, title in ARMS.items():
        arm = mapping(arms.get(name))
        if arm.get("auroc") is None:
            rows.append([title, "–", "–", "–", "–"])
            continue
        if name == "other" and found.get("other"):
            title = f"{title}, {escape.code_span(found['other'], cell=True)}"
        null = mapping(mapping(arm.get("shuffled_labels")).get("auroc"))
        gap = _scored(mapping(minus.get(name)), "auroc")
        cells = [_scored(arm, score) for score in SCORES]
        rows.append([title, *cells, number_or_dash(null.get("p")), gap])
    rows.append(_shuffled_row(mapping(arms.get("latents"))))
    rows.append(_chance_row(mapping(found.get("chance"))))
    return markdown_grid(header, rows, right=range(1, len(header)))


def _shuffled_row(latents: Mapping[str, Any]) -> list[str]:
    """What the latents' probe gives for shuffled labels: mean, and the middle 95 %."""
    null = mapping(latents.get("shuffled_labels"))
    cells = [_range(mapping(null.get(score)), "mean", "range") for score in SCORES]
    return ["This SAE, shuffled labels", *cells, "–", "–"]


def _chance_row(chance: Mapping[str, Any]) -> list[str]:
    values = {f"{score}_mean": 0.5 for score in SCORES} | dict(chance)
    cells = [_range(values, f"{score}_mean", f"{score}_range") for score in SCORES]
    return ["Guessing", *cells, "–", "–"]


def _notes(found: Mapping[str, Any], arms: Mapping[str, Any]) -> str:
    """How many shuffles there were, and why arms are missing."""
    null = mapping(mapping(arms.get("latents")).get("shuffled_labels"))
    chance = mapping(found.get("chance"))
    lines = []
    if null:
        lines.append(
            f"p of the AUROC from {counted(null.get('n_permutations'))} shuffles "
            f"{escape.markdown_text(found.get('shuffling'))}, and on those folds; at best "
            f"{number_or_dash(null.get('smallest_p'))}."
        )
    if chance:
        lines.append(
            f"Of {counted(chance.get('n_positive'))} + {counted(chance.get('n_negative'))} "
            f"{escape.markdown_text(chance.get('unit'))}, guessing has a standard deviation of "
            f"{number_or_dash(chance.get('balanced_accuracy_sd'))} in balanced accuracy and "
            f"{number_or_dash(chance.get('auroc_sd'))} in AUROC."
        )
    for name, title in ARMS.items():
        if reason := mapping(arms.get(name)).get("reason"):
            lines.append(f"{title}: {escape.markdown_text(reason)}.".replace("..", "."))
    return " ".join(lines)


def _transfer(found: Mapping[str, Any], arms: Mapping[str, Any]) -> str:
    """The scores on held-out texts of their own, where the concept names some."""
    rows = [
        [title, *(_scored(mapping(mapping(arms.get(name)).get("transfer")), s) for s in SCORES)]
        for name, title in ARMS.items()
        if mapping(mapping(arms.get(name)).get("transfer"))
    ]
    if not rows:
        return ""
    table = markdown_grid(["Probe on", *SCORES.values()], rows, right=(1, 2))
    return (
        "Fitted once to all of these texts and judged on the held-out ones (intervals for the probe as "
        f"fitted, not widened):\n\n{table}"
    )


def _few(arms: Mapping[str, Any]) -> str:
    """AUROC of the probes on the best k latents, dimensions, and latents of an untrained SAE."""
    by_k = {name: mapping(mapping(arms.get(name)).get("k_sparse")) for name in FEW}
    ks = sorted({int(k) for found in by_k.values() for k in found if str(k).isdigit()})
    if not ks:
        return ""
    rows = [
        [
            count(k),
            _scored(mapping(by_k["latents"].get(str(k))), "balanced_accuracy"),
            *(_scored(mapping(by_k[name].get(str(k))), "auroc") for name in FEW),
        ]
        for k in ks
    ]
    header = ["k", "Balanced accuracy", "AUROC, this SAE", "Activations", "Untrained SAE"]
    table = markdown_grid(header, rows, right=range(len(header)))
    shuffled = mapping(mapping(mapping(arms.get("latents")).get("k_sparse_shuffled")).get("1"))
    p = mapping(shuffled.get("auroc")).get("p")
    single = f" For the single best latent, p is {number_or_dash(p)}." if p is not None else ""
    return (
        "These probes see only the k latents (or dimensions) whose class means differ most on the training "
        f"rows of each fold.{single}\n\n{table}"
    )


def _path(latents: Mapping[str, Any]) -> str:
    """The L1 path, folded away."""
    points = [point for point in items(latents.get("l1_path")) if isinstance(point, Mapping)]
    if not points:
        return ""
    keys = ("strength", "n_latents", *SCORES)
    rows = [[number_or_dash(point.get(key)) for key in keys] for point in points]
    header = ["C / smallest C", "Latents with a weight", *SCORES.values()]
    table = markdown_grid(header, rows, right=range(len(header)))
    summary = "<details><summary>Probes with an L1 penalty, from few latents to many</summary>"
    return f"{summary}\n\n{table}\n\n</details>"


def _scored(scores: Mapping[str, Any], name: str) -> str:
    """``0.612 [0.541, 0.683]``."""
    return _range(scores, name, f"{name}_interval")


def _range(values: Mapping[str, Any], middle: str, ends: str) -> str:
    value, (low, high) = values.get(middle), [*items(values.get(ends)), None, None][:2]
    if not isinstance(value, int | float):
        return "–"
    if not isinstance(low, int | float) or not isinstance(high, int | float):
        return f"{value:.3f}"
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"
