"""Definitions of what steering along a direction does to completions."""

from __future__ import annotations

from saebench.metrics.catalogue.definition import (
    ANY,
    NO_INTERVAL,
    NOT_NEGATIVE,
    SHARE,
    Definition,
    Range,
)

PROMPTS = "delete-one-prompt jackknife with Student's t; none where all prompts say the same"
SHARE_OF_PROMPTS = f"{PROMPTS}, but where none or all have it Wilson's over prompts"
CORRELATION: Range = (-1.0, 1.0)
WITHIN = "permutation of the outcomes within each prompt, two-sided"
ENDS = "slope between the means at the least α and the largest"

# what the outcome of a prompt is, in names, in words, and its unit
_OUTCOMES = {
    "": (
        "label",
        "1 where the rules give the completion the positive class, 0 another; undecided ones dropped",
        "rate per α",
    ),
    "logit_": (
        "logit difference",
        "log P(first tokens of the positive class's words) − log P(those of the others') after the prompt",
        "nats per α",
    ),
}


def _of_outcome(prefix: str, name: str, outcome: str, unit: str) -> tuple[Definition, ...]:
    return (
        Definition(
            f"steer_{prefix}spearman",
            f"Dose response, {name}",
            f"Spearman's ρ of α and outcome over prompts × α (≥ 5 α); outcome: {outcome}",
            "ρ",
            "none",
            CORRELATION,
            "per-prompt outcomes with the prompt as block",
            NO_INTERVAL,
        ),
        Definition(
            f"steer_{prefix}spearman_p",
            f"Dose response, {name}: p",
            f"of ρ by {WITHIN}: exact where the sums are few, else (1 + #)/(1 + B)",
            "p",
            "none",
            SHARE,
            "Good 2005, permutation within blocks",
            NO_INTERVAL,
        ),
        Definition(
            f"steer_{prefix}slope",
            f"Slope over α, {name}",
            f"Σ (α − ᾱ_i)(y − ȳ_i) / Σ (α − ᾱ_i)² within prompts i; y: {outcome}",
            unit,
            "none",
            ANY,
            "linear probability model with an intercept per prompt",
            PROMPTS,
        ),
        Definition(
            f"steer_{prefix}slope_over_random",
            f"Effect against random directions, {name}",
            f"|{ENDS}| over the root mean square of that of random directions of equal norm",
            "ratio",
            "higher",
            NOT_NEGATIVE,
            "random directions as the control of steering",
            NO_INTERVAL,
        ),
        Definition(
            f"steer_{prefix}p_random",
            f"Effect against random directions, {name}: p",
            f"(1 + #{{random directions with |{ENDS}| at least as large}}) / (1 + n)",
            "p",
            "none",
            SHARE,
            "rank among n random unit directions of equal norm, unread ones as large; ≤ .05 takes n ≥ 19",
            NO_INTERVAL,
        ),
        Definition(
            f"steer_{prefix}p_latents",
            f"Effect against random latents, {name}: p",
            f"(1 + #{{random alive latents with |{ENDS}| at least as large}}) / (1 + n)",
            "p",
            "none",
            SHARE,
            "rank among n random alive latents of equal norm; never below 1/(1 + n): ≤ .05 takes n ≥ 19",
            NO_INTERVAL,
        ),
    )


STEERING: tuple[Definition, ...] = (
    *(item for prefix, about in _OUTCOMES.items() for item in _of_outcome(prefix, *about)),
    Definition(
        "steer_rate_spearman",
        "Dose response of rates",
        "Spearman's ρ of α and the rate of the positive class at α (≥ 5 α)",
        "ρ",
        "none",
        CORRELATION,
        "as published cards correlate, over as few points as there are α",
        NO_INTERVAL,
    ),
    Definition(
        "steer_rate_spearman_p",
        "Dose response of rates: p",
        "of ρ over every order of the rates, two-sided",
        "p",
        "none",
        SHARE,
        "the exact permutation distribution of Spearman's ρ",
        NO_INTERVAL,
    ),
    Definition(
        "steer_homogeneity",
        "Homogeneity of rates over α",
        "Pearson's χ² of equal rates of the positive class at all α",
        "χ²",
        "none",
        NOT_NEGATIVE,
        "Pearson 1900",
        NO_INTERVAL,
    ),
    Definition(
        "steer_homogeneity_p",
        "Homogeneity of rates over α: p",
        "of χ² by permutation of the outcomes within each prompt, (1 + #)/(1 + B)",
        "p",
        "none",
        SHARE,
        "the same prompts at each α are no independent trials, as the χ² distribution has them",
        NO_INTERVAL,
    ),
    Definition(
        "steer_kl_at_1",
        "KL from the unsteered run at α = 1",
        "mean over prompts of the mean KL(clean‖steered) per token, teacher-forced on the clean continuation",
        "nats/token",
        "none",
        NOT_NEGATIVE,
        "how far predictions move, whichever way",
        PROMPTS,
    ),
    Definition(
        "steer_kl_p_random",
        "KL against random directions: p",
        "(1 + #{random directions with a mean KL at both ends at least as large}) / (1 + n)",
        "p",
        "none",
        SHARE,
        "rank among random unit directions of equal norm",
        NO_INTERVAL,
    ),
    Definition(
        "steer_ce_increase",
        "Loss of coherence at the ends",
        "mean over prompts of CE per token of the unsteered model on completions at both ends of the sweep, "
        "less that on unsteered completions",
        "nats/token",
        "lower",
        ANY,
        "steered text that the model itself finds unlikely has left the language, not changed its behaviour",
        PROMPTS,
    ),
    Definition(
        "steer_drop_rate",
        "Completions without a label",
        "share of prompts × α whose completion the rules do not decide",
        "share",
        "lower",
        SHARE,
        "rates are of what is left, and the share that is dropped may change with α: its trend is tested",
        SHARE_OF_PROMPTS,
    ),
    Definition(
        "steer_cosine_mean_difference",
        "Cosine with the mean difference",
        "cos(d, mean of x over positive texts − mean over the others), training texts",
        "cosine",
        "none",
        CORRELATION,
        "a random direction has mean 0 and sd 1/√d",
        NO_INTERVAL,
    ),
    Definition(
        "steer_neutral_at_zero",
        "Unsteered where nothing is added",
        "1 where adding 0 times the direction (clamped: each code set to itself) gives the completions and "
        "logits of the unsteered run to the bit, else 0",
        "yes or no",
        "higher",
        SHARE,
        "what differs where nothing is added is not due to the direction",
        NO_INTERVAL,
    ),
)
