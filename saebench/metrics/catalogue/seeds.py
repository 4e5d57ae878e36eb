"""Definitions of how far checkpoints that differ in their seed agree, latent by latent.

Every value is the mean over all pairs of checkpoints of a group. ``A``, ``B`` are the decoder (encoder)
rows of the two checkpoints, one vector per latent, of unit norm; ``π`` is the one-to-one matching with the
largest ``Σ cos``; ``m`` the smaller of the two numbers of latents.
"""

from __future__ import annotations

from collections.abc import Iterator

from saebench.metrics.catalogue.definition import NO_INTERVAL, SHARE, Better, Definition, Range

JACKKNIFE_CHECKPOINTS = "delete-one-checkpoint jackknife, of three or more checkpoints"
COSINE: Range = (-1.0, 1.0)
_AT = "t the threshold of the protocol, .7 unless set"
_OVERLAP = "Paulo and Belrose 2025 (arXiv 2501.16615)"


def _shares(side: str) -> Iterator[Definition]:
    """Shares of one of the two matrices."""
    found = (
        (
            f"shared_{side}",
            f"Shared latents ({side})",
            f"#{{i : cos(A_i, B_π(i)) > t}} / m over {side} rows, {_AT}",
            "fraction of latents",
            f"{_OVERLAP}; FaithfulSAE shared feature ratio",
        ),
        (
            f"shared_{side}_alive",
            f"Shared alive latents ({side})",
            f"as shared_{side}, π and m among latents that fired on the run's text, {_AT}",
            "fraction of alive latents",
            f"as shared_{side}, dead latents dropped first",
        ),
        (
            f"max_cosine_shared_{side}",
            f"Latents with a near neighbour ({side})",
            f"#{{i : max_j cos(A_i, B_j) > t}} / m_a, mean of both sides, over {side} rows, {_AT}",
            "fraction of latents",
            "FaithfulSAE plots; not one-to-one. The share of the smaller side is never below the shared "
            "one; the mean with that of a larger side can be",
        ),
    )
    for name, label, formula, unit, source in found:
        yield _agreement(name, label, formula, unit, SHARE, source)


def _cosines(side: str) -> Iterator[Definition]:
    """Mean matched cosines of one of the two matrices."""
    yield _agreement(
        f"matched_cosine_{side}",
        f"Matched cosine ({side})",
        f"mean_i cos(A_i, B_π(i)) over the m matched {side} rows; a row of zeros has cosine 0",
        "cosine",
        COSINE,
        "mean pairwise dictionary correlation (arXiv 2505.20254), signed as in its code",
    )
    yield _agreement(
        f"matched_abs_cosine_{side}",
        f"Matched |cosine| ({side})",
        f"mean_i |cos(A_i, B_σ(i))|, σ the matching with the largest Σ |cos|, over {side} rows",
        "absolute cosine",
        SHARE,
        "mean matched correlation as SAELens computes it for synthetic data",
    )


def _agreement(
    name: str,
    label: str,
    formula: str,
    unit: str,
    limits: Range,
    source: str,
    better: Better = "higher",
    interval: str = JACKKNIFE_CHECKPOINTS,
) -> Definition:
    return Definition(name, label, formula, unit, better, limits, source, interval)


SEEDS: tuple[Definition, ...] = (
    *(one for side in ("decoder", "encoder") for one in _shares(side)),
    _agreement(
        "shared_both",
        "Shared latents (decoder and encoder)",
        f"#{{i : π_dec(i) = π_enc(i), both cosines > t}} / m, {_AT}",
        "fraction of latents",
        SHARE,
        f"{_OVERLAP}, the reading in which both matchings have to agree",
    ),
    *(one for side in ("decoder", "encoder") for one in _cosines(side)),
    _agreement(
        "matched_cosine_floor",
        "Matched cosine (chance)",
        "matched_cosine_decoder of two independent Gaussian dictionaries of these sizes",
        "cosine",
        COSINE,
        "the null of every mean matched cosine; grows with m and falls with d",
        "none",
        NO_INTERVAL,
    ),
    _agreement(
        "matched_cosine_above_floor",
        "Matched cosine above chance",
        "matched_cosine_decoder − matched_cosine_floor",
        "cosine",
        (-2.0, 2.0),
        "the mean matched cosine against its null",
    ),
    _agreement(
        "shared_floor",
        "Shared latents (chance)",
        f"shared_decoder of two independent Gaussian dictionaries of these sizes, {_AT}",
        "fraction of latents",
        SHARE,
        "the null of shared_decoder",
        "none",
        NO_INTERVAL,
    ),
    _agreement(
        "functional_correlation",
        "Functional correlation",
        "mean over pairs of Pearson(f_i, g_π(i)) on tokens where either fires; "
        "π matched on the first half of the kept text, scored on the second half",
        "correlation",
        COSINE,
        "split-half matching of activations; chance lies below 0 for sparse codes",
    ),
    _agreement(
        "functional_shared",
        "Functionally shared latents",
        f"share of the pairs of functional_correlation with a correlation > t, {_AT}",
        "fraction of scored pairs",
        SHARE,
        "as functional_correlation",
    ),
    _agreement(
        "firing_jaccard",
        "Jaccard of firing",
        "mean over the pairs of functional_correlation of #{both fire} / #{either fires}, "
        "on the second half of the kept text",
        "fraction of tokens",
        SHARE,
        "Jaccard index of the sets of tokens that two latents fire on",
    ),
    _agreement(
        "top_k_overlap",
        "Overlap of the most frequent latents",
        "#{π(TopK_a) ∩ TopK_b} / k, the k alive latents that fire most often, π of alive decoder rows",
        "fraction of k",
        SHARE,
        "indices of two seeds mean nothing to each other, so they go through the matching",
    ),
)
