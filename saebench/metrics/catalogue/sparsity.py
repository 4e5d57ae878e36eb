"""Definitions of how many latents fire, how often, and which never do."""

from __future__ import annotations

from saebench.metrics.catalogue.definition import (
    BLOCK_BOOTSTRAP,
    JACKKNIFE,
    NO_INTERVAL,
    NOT_NEGATIVE,
    SHARE,
    Definition,
)

SPARSITY: tuple[Definition, ...] = (
    Definition(
        "l0",
        "L0",
        "meanᵢ #{j : fᵢⱼ ≠ 0}",
        "latents per token",
        "none",
        NOT_NEGATIVE,
        "SAEBench, dictionary_learning",
    ),
    Definition(
        "l1",
        "L1",
        "meanᵢ Σⱼ|fᵢⱼ|",
        "activation per token",
        "none",
        NOT_NEGATIVE,
        "dictionary_learning; its scale depends on the norms of the decoder",
    ),
    Definition(
        "dead_fraction",
        "Dead latents",
        "#{j : fⱼ = 0 on all counted tokens} / m",
        "fraction of latents",
        "lower",
        SHARE,
        "complement of SAEBench frac_alive; relative to n, with density bound 3/n",
        JACKKNIFE,
    ),
    Definition(
        "alive",
        "Alive latents",
        "#{j : fⱼ ≠ 0 on ≥ 1 counted token}",
        "latents",
        "higher",
        NOT_NEGATIVE,
        "SAEBench frac_alive · m",
        NO_INTERVAL,
    ),
    Definition(
        "alive_10",
        "Latents that fired 10 times",
        "#{j : fⱼ ≠ 0 on ≥ 10 counted tokens}",
        "latents",
        "higher",
        NOT_NEGATIVE,
        "latents whose density is known to about a third",
        NO_INTERVAL,
    ),
    *(
        Definition(
            f"freq_over_{percent}_percent",
            f"Dense latents (> {percent} %)",
            f"#{{j : density > {percent} %}} / m",
            "fraction of latents",
            "lower",
            SHARE,
            f"SAEBench freq_over_{percent}_percent",
            BLOCK_BOOTSTRAP,
        )
        for percent in (1, 10)
    ),
    *(
        Definition(
            f"normalized_freq_over_{percent}_percent",
            f"Firing mass of dense latents (> {percent} %)",
            f"Σ density of latents > {percent} % / Σ density",
            "fraction of firings",
            "lower",
            SHARE,
            f"SAEBench normalized_freq_over_{percent}_percent",
            BLOCK_BOOTSTRAP,
        )
        for percent in (1, 10)
    ),
)
