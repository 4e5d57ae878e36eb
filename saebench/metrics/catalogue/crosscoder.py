"""Definitions of how the latents of a crosscoder over two models divide."""

from __future__ import annotations

from saebench.metrics.catalogue.definition import (
    ANY,
    BOOTSTRAP,
    JACKKNIFE,
    NO_INTERVAL,
    NOT_NEGATIVE,
    SHARE,
    UP_TO_ONE,
    Better,
    Definition,
    Range,
)

WHOLE = f"{JACKKNIFE}, in whole latents; classes by norm are those of the weights"
GIVEN = "of the texts: classes and latents are taken as given"
BLOCKED = f"delete-one-block jackknife over at most 16 blocks of sequences; {GIVEN}"
BLOCKED_WHOLE = f"delete-one-block jackknife over at most 16 blocks, in whole latents; {GIVEN}"
COMPARED = "chat only with both ratios, β(chat) > 0 in both"
WEIGHTS = "none: of the weights; only which latents fired depends on the text"

_POOLED = "1 − Σ‖x^{m} − x̂^{m}‖² / Σ‖x^{m} − x̄^{m}‖² in activation units"
_DELTA = "Δⱼ = ½ (1 + (‖dⱼ^chat‖ − ‖dⱼ^base‖) / max)"
_MINDER = "Minder et al. 2025 (arXiv 2504.02922)"
_CUTS = f"Δ_norm of {_MINDER}; cut-offs as published with OpenInterp's crosscoder, bounds included"
_BETA = "βⱼ = Σ f (Y · dⱼ^chat) / (‖dⱼ^chat‖² Σ f²)"
_ERROR = f"β(base) / β(chat), {_BETA}, Y = x − x̂ + fⱼ dⱼ of each model"
_WRITTEN = f"β(base) / β(chat), {_BETA}, Y = x̂ of each model"


def _fve(name: str, label: str, formula: str) -> Definition:
    return Definition(
        name, label, formula, "fraction of variance", "higher", UP_TO_ONE, "pooled R²", BOOTSTRAP
    )


def _share(name: str, label: str, rule: str, better: Better = "none") -> Definition:
    return Definition(
        name,
        label,
        f"#{{j alive : {rule}}} / #{{j alive}}, {_DELTA}",
        "fraction of alive latents",
        better,
        SHARE,
        _CUTS,
        WHOLE,
    )


def _median(name: str, label: str, what: str, of: str, unit: str = "ratio") -> Definition:
    return Definition(
        name, label, f"median of {what} over {of} latents", unit, "none", ANY, _MINDER, BLOCKED
    )


def _candidates(name: str, label: str, rule: str, source: str) -> Definition:
    return Definition(
        name,
        label,
        f"#{{j compared : {rule}}} / cc_chat_only_compared",
        "fraction of chat-only latents",
        "none",
        SHARE,
        source,
        BLOCKED_WHOLE,
    )


_COSINE: Range = (-1.0, 1.0)

CROSSCODER: tuple[Definition, ...] = (
    _fve("cc_fve_base", "FVE of the base model", _POOLED.format(m="base")),
    _fve("cc_fve_chat", "FVE of the chat model", _POOLED.format(m="chat")),
    _fve("cc_fve_lowest", "FVE of the worse explained model", "min(cc_fve_base, cc_fve_chat)"),
    _share("cc_shared", "Shared latents", "0.4 ≤ Δⱼ ≤ 0.6"),
    _share("cc_base_only", "Base-only latents", "Δⱼ ≤ 0.1"),
    _share("cc_chat_only", "Chat-only latents", "Δⱼ ≥ 0.9"),
    _share("cc_other", "Latents of no class", "Δⱼ in neither band"),
    Definition(
        "cc_dead",
        "Dead latents of the crosscoder",
        "#{j : fⱼ = 0 on every counted token} / m",
        "fraction of latents",
        "lower",
        SHARE,
        "relative to the tokens read; death overrides every class",
        WHOLE,
    ),
    Definition(
        "cc_cosine_shared",
        "Decoder cosine of shared latents",
        "median of cos(dⱼ^base, dⱼ^chat) over alive shared latents",
        "cosine",
        "none",
        _COSINE,
        "Lindsey et al. 2024, Sparse Crosscoders; ckkissane's replication",
        WEIGHTS,
    ),
    _median("cc_nu_error_chat_only", "ν^ε of chat-only latents", _ERROR, "chat-only"),
    _median("cc_nu_error_shared", "ν^ε of shared latents", _ERROR, "shared"),
    _median("cc_nu_reconstruction_chat_only", "ν^r of chat-only latents", _WRITTEN, "chat-only"),
    _median("cc_nu_reconstruction_shared", "ν^r of shared latents", _WRITTEN, "shared"),
    Definition(
        "cc_chat_only_compared",
        "Chat-only latents with scalings to compare",
        f"#{{j {COMPARED}}}, at most as many as are drawn",
        "latents",
        "none",
        NOT_NEGATIVE,
        "the sample that cc_chat_specific is a share of",
        NO_INTERVAL,
    ),
    _candidates(
        "cc_chat_specific",
        "Chat-only latents that scaling confirms",
        "|ν^ε| < 0.2 and |ν^r| < 0.5",
        f"{_MINDER}, its thresholds, on absolute values",
    ),
    _candidates(
        "cc_complete_shrinkage",
        "Chat-only latents whose base direction was shrunk away",
        "|ν^ε| ≥ 0.2",
        f"Complete Shrinkage of {_MINDER}: the base model's error holds the latent",
    ),
    _candidates(
        "cc_latent_decoupling",
        "Chat-only latents that others write in the base model",
        "|ν^r| ≥ 0.5",
        f"Latent Decoupling of {_MINDER}: the base reconstruction holds the latent",
    ),
)
