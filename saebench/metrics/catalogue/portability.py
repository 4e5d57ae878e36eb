"""Definitions of what becomes of a checkpoint under another form of the model it was trained on.

Index 0 is the reference, 1 the variant; both read the same tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from saebench.metrics.catalogue.definition import (
    ANY,
    BOOTSTRAP,
    NO_INTERVAL,
    NOT_NEGATIVE,
    SHARE,
    UP_TO_ONE,
    Better,
    Definition,
    Range,
)

PAIRED = f"{BOOTSTRAP}; the same draws for both models"
LATENT_BLOCKS = "delete-one-block jackknife over 8 to 64 blocks of sequences"
ALIVE_BLOCKS = "delete-one-block jackknife over 64 blocks of sequences"
CORRELATION: Range = (-1.0, 1.0)
SHIFT: Range = (-1.0, None)

OWN = "saebench"
CARD = (
    "the behaviour-SAE card's rule: an FVE fall over 20 % or an alive shift over 50 %, and retrain"
)
COHEN = "Cohen 1988, pooled standard deviation with ddof 1"
TOST = "two one-sided tests (Schuirmann 1987)"
LATENTS = "Duan 2606.03002"
CODES = "Switzer, bf16 SAEs on NF4 models"
TRANSFER = "Kissane et al. 2024, SAEs transfer between base and chat models"


class _Kind(NamedTuple):
    """What the definitions of a group have in common."""

    unit: str
    better: Better
    range: Range
    source: str = OWN
    interval: str = PAIRED


_GROUPS: tuple[tuple[_Kind, Mapping[str, tuple[str, str]]], ...] = (
    (
        _Kind("yes 1, no 0", "higher", SHARE, CARD, NO_INTERVAL),
        {
            "portable": (
                "Portable by the rule",
                "1 where FVE drop ≤ fve_drop and |alive shift| ≤ alive_shift; 0 where either is more, or "
                "width, tokens or hook point do not fit",
            )
        },
    ),
    (
        _Kind("yes 1, no 0", "higher", SHARE, TOST, NO_INTERVAL),
        {
            "equivalent": (
                "Equivalence shown",
                "1 where the 90 % intervals of FVE drop and alive shift, of at least 20 groups of sequences, "
                "lie inside ± their margins",
            )
        },
    ),
    (
        _Kind("share", "higher", UP_TO_ONE),
        {
            "fve_reference": ("FVE on the reference", "fve of x₀"),
            "fve_variant": ("FVE on the variant", "fve of x₁"),
        },
    ),
    (_Kind("share", "higher", ANY), {"fve_shift": ("FVE shift", "FVE₁ − FVE₀")}),
    (
        _Kind("share", "lower", ANY, CARD),
        {"fve_drop": ("Relative FVE drop", "(FVE₀ − FVE₁) / FVE₀")},
    ),
    (
        _Kind("latents", "none", NOT_NEGATIVE),
        {
            "l0_reference": ("L0 on the reference", "l0 of f₀"),
            "l0_variant": ("L0 on the variant", "l0 of f₁"),
        },
    ),
    (
        _Kind("ratio", "none", NOT_NEGATIVE),
        {
            "l0_ratio": (
                "L0 ratio",
                "L0₁ / L0₀; informative only where thresholds, not k, decide what fires",
            ),
            "error_over_drift": (
                "SAE error over drift",
                "√(Σ‖x₁ − x̂₁‖² / Σ‖x₁ − x₀‖²) of what should be given; above 1 the SAE misses more",
            ),
        },
    ),
    (
        _Kind("latents", "none", NOT_NEGATIVE, CARD, NO_INTERVAL),
        {
            "alive_reference": ("Alive latents on the reference", "#{j: some f₀ⱼ ≠ 0}"),
            "alive_variant": ("Alive latents on the variant", "#{j: some f₁ⱼ ≠ 0}"),
        },
    ),
    (
        _Kind("share", "none", SHIFT, CARD, ALIVE_BLOCKS),
        {"alive_shift": ("Alive shift", "(alive₁ − alive₀) / alive₀")},
    ),
    (
        _Kind("ratio", "lower", NOT_NEGATIVE),
        {"drift": ("Activation drift", "√(Σ‖x₁ − x₀‖² / Σ‖x₀‖²) of what is read")},
    ),
    (
        _Kind("cosine", "higher", CORRELATION),
        {"drift_cosine": ("Cosine of activations", "mean over tokens of cos(x₀, x₁)")},
    ),
    (
        _Kind("share", "higher", SHARE, LATENTS, LATENT_BLOCKS),
        {
            "survival": (
                "Surviving latents",
                "share of latents with Pearson(f₀ⱼ, f₁ⱼ over tokens) ≥ the cut, among those that fire on "
                "≥ 10 tokens of the reference; one silent on the variant does not survive",
            ),
            "jaccard": (
                "Firing Jaccard per latent",
                "mean over the same latents of #(fires₀ ∩ fires₁) / #(fires₀ ∪ fires₁)",
            ),
            "jaccard_pooled": (
                "Firing Jaccard, pooled",
                "Σⱼ #(fires₀ ∩ fires₁) / Σⱼ #(fires₀ ∪ fires₁)",
            ),
        },
    ),
    (
        _Kind("correlation", "higher", CORRELATION, LATENTS, LATENT_BLOCKS),
        {
            "survival_median": (
                "Median latent correlation",
                "median over the same latents of Pearson(f₀ⱼ, f₁ⱼ over tokens)",
            )
        },
    ),
    (
        _Kind("correlation", "higher", CORRELATION, CODES),
        {
            "sample_correlation": (
                "Sample correlation",
                "mean over tokens of Pearson(f₀, f₁ over latents), 0 where one of them is silent; tokens "
                "silent under both are left out",
            )
        },
    ),
    (
        _Kind("share", "higher", SHARE, CODES),
        {
            "top_k_agreement": (
                "Top-k agreement",
                "mean over tokens of #(topk f₀ ∩ topk f₁) / k by |code|; fewer active: over their number",
            )
        },
    ),
    (
        _Kind("nats per token", "none", NOT_NEGATIVE),
        {
            "ce_reference": ("CE of the reference", "mean −log P₀(next token)"),
            "ce_variant": ("CE of the variant", "mean −log P₁(next token)"),
            "kl": ("KL(reference‖variant)", "mean KL(P₀‖P₁), nothing spliced"),
            "kl_reverse": ("KL(variant‖reference)", "mean KL(P₁‖P₀), nothing spliced"),
        },
    ),
    (
        _Kind("nats per token", "none", ANY),
        {"ce_shift": ("CE shift of the model", "CE₁ − CE₀, nothing spliced")},
    ),
    (
        _Kind("fraction", "higher", ANY, OWN, BOOTSTRAP),
        {
            "ce_recovered_reference": (
                "CE recovered on the reference",
                "ce_recovered under model 0",
            ),
            "ce_recovered": ("CE recovered on the variant", "ce_recovered under model 1"),
        },
    ),
    (
        _Kind("nats per token", "lower", NOT_NEGATIVE, OWN, BOOTSTRAP),
        {
            "kl_spliced_reference": (
                "KL of the splice on the reference",
                "kl under model 0: mean KL(clean₀‖x̂₀ spliced in)",
            ),
            "kl_spliced": (
                "KL of the splice on the variant",
                "kl under model 1: mean KL(clean₁‖x̂₁ spliced in)",
            ),
        },
    ),
    (
        _Kind("share", "higher", UP_TO_ONE, TRANSFER),
        {"fve_native": ("FVE of the SAE trained on the variant", "its fve of x₁")},
    ),
    (
        _Kind("share", "higher", ANY, TRANSFER),
        {
            "transfer_gap": (
                "Transfer FVE gap",
                "FVE₁ − fve of x₁ by the SAE trained on the variant",
            )
        },
    ),
    (
        _Kind("sd", "none", NOT_NEGATIVE, COHEN, NO_INTERVAL),
        {
            "d_max_reference": (
                "d_max on the reference",
                "mean over concepts that have one under both of maxⱼ |dⱼ| on held-out texts; dⱼ = (mean₁ − "
                "mean₀) / s of pooled codes",
            ),
            "d_max": (
                "d_max on the variant",
                "mean over the same concepts of maxⱼ |dⱼ| on held-out texts",
            ),
        },
    ),
    (
        _Kind("sd", "higher", ANY, COHEN, NO_INTERVAL),
        {
            "d_best_reference": (
                "d of the best latent on the reference",
                "mean over concepts of the held-out d of the latent with the largest |d| on the training "
                "texts of the reference, times its sign there; of concepts that have it under both",
            ),
            "d_best": (
                "d of the same latent on the variant",
                "the same concepts, latents and signs, on the variant",
            ),
        },
    ),
)

PORTABILITY: tuple[Definition, ...] = tuple(
    Definition(f"port_{name}", label, formula, *kind[:3], kind.source, kind.interval)
    for kind, group in _GROUPS
    for name, (label, formula) in group.items()
)
