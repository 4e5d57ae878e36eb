"""Definitions of what ablating latents does to the predictions of each model."""

from __future__ import annotations

from saebench.metrics.catalogue.definition import (
    NO_INTERVAL,
    NOT_NEGATIVE,
    SHARE,
    Definition,
    Range,
)

_CENSUS = "where all were tested, as if they were a sample of like ones"
OVER_LATENTS = (
    f"percentile bootstrap over latents of the class, conditional on these probes; {_CENSUS}"
)
SHARE_OF_LATENTS = f"Wilson over latents of the class, conditional on these probes; {_CENSUS}"
CORRELATION: Range = (-1.0, 1.0)
APART: Range = (-2.0, 2.0)
SHIFTS = (
    "KL(clean‖ablated) of the base and of the other model over the probes of a latent, one token per "
    "sequence, f_j · d_j^m taken from each model's activation, its error kept"
)
PROTOCOL = "single-latent ablation in both models with the error kept; sample of latents stated"
# what else a statistic of both shifts may be, in words
_KINDS = {
    "equivalence": ("Causal equivalence", f"median over shared latents of Pearson's r of {SHIFTS}"),
    "spearman": (
        "Causal equivalence, ranks",
        f"median over shared latents of Spearman's ρ of {SHIFTS}",
    ),
    "log": (
        "Causal equivalence, logs",
        f"median over shared latents of Pearson's r of the logs of {SHIFTS}; shifts of 0 left out",
    ),
    "partial": (
        "Causal equivalence, magnitude held fixed",
        f"median over shared latents of the partial r, given log f_j, of the logs of {SHIFTS}",
    ),
    "reverse": (
        "Causal equivalence, KL reversed",
        "as causal_equivalence, of KL(ablated‖clean)",
    ),
    "logit_cosine": (
        "Cosine of logit changes",
        "median over shared latents of the mean over probes of the cosine between both models' changes "
        "of the logits, each centred over the vocabulary",
    ),
    "random": (
        "Causal equivalence of random directions",
        "as causal_equivalence, one random unit vector per latent in place of d_j, at the norm of d_j^m",
    ),
    "mismatched": (
        "Causal equivalence of mismatched latents",
        "as causal_equivalence, one model losing another latent of the class in place of j, at the norm of "
        "j's direction; the mean of both ways round",
    ),
    "partial_random": (
        "Random directions, magnitude held fixed",
        "as causal_partial, under the null of causal_random",
    ),
    "partial_mismatched": (
        "Mismatched latents, magnitude held fixed",
        "as causal_partial, under the null of causal_mismatched",
    ),
}
_OVER = {
    "over_random": ("Equivalence above random directions", "Pearson's r", "causal_random"),
    "over_mismatched": ("Equivalence above mismatched latents", "Pearson's r", "causal_mismatched"),
    "partial_over_random": (
        "Partial equivalence above random directions",
        "partial r of causal_partial",
        "causal_random",
    ),
    "partial_over_mismatched": (
        "Partial equivalence above mismatched latents",
        "partial r of causal_partial",
        "causal_mismatched",
    ),
}
_CLASSES = {"base_only": "base-only", "chat_only": "chat-only", "other": "other"}

CAUSAL: tuple[Definition, ...] = (
    *(
        Definition(
            f"causal_{name}", label, formula, "r", "none", CORRELATION, PROTOCOL, OVER_LATENTS
        )
        for name, (label, formula) in _KINDS.items()
    ),
    *(
        Definition(
            f"causal_{name}",
            label,
            f"median over shared latents of the {what} less the same under the null of {null}, latent "
            "by latent on the same probes",
            "difference of r",
            "higher",
            APART,
            "what both models share beside the latent's direction gives a correlation, too",
            OVER_LATENTS,
        )
        for name, (label, what, null) in _OVER.items()
    ),
    *(
        Definition(
            f"causal_equivalence_{name}",
            f"Causal equivalence, {words} latents",
            f"as causal_equivalence, over {words} latents",
            "r",
            "none",
            CORRELATION,
            PROTOCOL,
            OVER_LATENTS,
        )
        for name, words in _CLASSES.items()
    ),
    Definition(
        "causal_gap_share",
        "High-cosine, low-equivalence gaps",
        "share of shared latents with a correlation whose decoder rows have a cosine above gap_cosine and "
        "whose 95 % intervals over probes, of Pearson's r and of Spearman's ρ, lie below gap_equivalence",
        "fraction of latents",
        "lower",
        SHARE,
        "cos > .7 and r < .5 unless configured otherwise; both intervals, since Pearson's alone covers less "
        "than 95 % for heavy-tailed shifts",
        SHARE_OF_LATENTS,
    ),
    Definition(
        "causal_gap_share_point",
        "Gaps by r alone",
        "share of shared latents with a correlation whose decoder rows have a cosine above gap_cosine and "
        "whose Pearson's r is below gap_equivalence",
        "fraction of latents",
        "lower",
        SHARE,
        "noise of the probes counts as gaps: of latents with a true r of .6, 12 to 17 % at 30 to 64 probes",
        SHARE_OF_LATENTS,
    ),
    Definition(
        "causal_cosine_correlation",
        "Cosine against equivalence",
        "Spearman's ρ over shared latents of the cosine of both decoder rows and Pearson's r of the shifts",
        "ρ",
        "none",
        CORRELATION,
        "geometry is no evidence of function where this is low",
        OVER_LATENTS,
    ),
    Definition(
        "causal_tested",
        "Latents with a correlation",
        "#{shared latents with min_probes probes or more and shifts that vary in both models}",
        "latents",
        "higher",
        NOT_NEGATIVE,
        "the sample that the medians are over",
        NO_INTERVAL,
    ),
    Definition(
        "causal_undefined",
        "Latents without a correlation",
        "share of the shared latents ablated whose shift is constant in a model (a decoder row of 0)",
        "fraction of latents",
        "lower",
        SHARE,
        "undefined is not 0: such latents are in no median",
        NO_INTERVAL,
    ),
    Definition(
        "causal_effect",
        "Ablation effect",
        "median over the main class (shared, or all) of the mean over probes of KL(clean‖ablated) in the "
        "base model, or in the one that the checkpoint is of",
        "nats",
        "none",
        NOT_NEGATIVE,
        "single-latent ablation, error kept",
        OVER_LATENTS,
    ),
    Definition(
        "causal_effect_chat",
        "Ablation effect, other model",
        "as causal_effect, in the second model of a crosscoder",
        "nats",
        "none",
        NOT_NEGATIVE,
        "single-latent ablation, error kept",
        OVER_LATENTS,
    ),
    Definition(
        "causal_effect_over_random",
        "Latents that move more than a random direction",
        "share of the main class whose mean KL, averaged over the models ablated, is above that of a random "
        "direction of equal norm on the same probes",
        "fraction of latents",
        "higher",
        SHARE,
        "about a half where latents are any direction of that norm",
        SHARE_OF_LATENTS,
    ),
    Definition(
        "causal_effect_ratio",
        "Effect over a random direction's",
        "median over the main class of the mean KL, averaged over the models ablated, over that of a random "
        "direction of equal norm on the same probes",
        "ratio",
        "higher",
        NOT_NEGATIVE,
        "1 is what any direction of that norm does",
        OVER_LATENTS,
    ),
)
"""Causal effects: does ablating a latent change both models' predictions alike?"""
