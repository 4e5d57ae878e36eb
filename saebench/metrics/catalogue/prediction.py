"""Definitions of what the model makes of a reconstruction."""

from __future__ import annotations

from saebench.metrics.catalogue.definition import ANY, NOT_NEGATIVE, UP_TO_ONE, Definition

_RUNS = {"clean": "unchanged", "spliced": "x̂ in place of x", "zero": "0", "mean": "the mean"}

PREDICTION: tuple[Definition, ...] = (
    *(
        Definition(
            f"ce_{run}",
            f"CE {run}",
            f"mean −log P(next token), with the site {what}",
            "nats per token",
            "none" if run != "spliced" else "lower",
            NOT_NEGATIVE,
            "SAEBench core (cross-entropy of the next token, natural log)",
        )
        for run, what in _RUNS.items()
    ),
    Definition(
        "ce_delta",
        "CE increase",
        "CE spliced − CE clean",
        "nats per token",
        "lower",
        ANY,
        "FaithfulSAE CE difference",
    ),
    Definition(
        "ce_recovered",
        "CE recovered",
        "(CE zero − CE spliced) / (CE zero − CE clean)",
        "fraction",
        "higher",
        ANY,
        "SAEBench ce_loss_score; ratio of means",
    ),
    Definition(
        "ce_recovered_mean",
        "CE recovered (mean floor)",
        "(CE mean − CE spliced) / (CE mean − CE clean)",
        "fraction",
        "higher",
        ANY,
        "as ce_recovered, with mean ablation as the floor",
    ),
    Definition(
        "kl",
        "KL",
        "mean KL(clean ‖ spliced)",
        "nats per token",
        "lower",
        NOT_NEGATIVE,
        "SAEBench kl_div_with_sae",
    ),
    Definition(
        "kl_reverse",
        "KL (reverse)",
        "mean KL(spliced ‖ clean)",
        "nats per token",
        "lower",
        NOT_NEGATIVE,
        "the direction in which the SAEBench paper writes it",
    ),
    Definition(
        "kl_zero",
        "KL zero",
        "mean KL(clean ‖ zero-ablated)",
        "nats per token",
        "none",
        NOT_NEGATIVE,
        "SAEBench kl_div_with_ablation",
    ),
    Definition(
        "kl_mean",
        "KL mean",
        "mean KL(clean ‖ mean-ablated)",
        "nats per token",
        "none",
        NOT_NEGATIVE,
        "as kl_zero, with mean ablation",
    ),
    Definition(
        "kl_recovered",
        "KL recovered",
        "(KL zero − KL) / KL zero",
        "fraction",
        "higher",
        UP_TO_ONE,
        "SAEBench kl_div_score",
    ),
)
