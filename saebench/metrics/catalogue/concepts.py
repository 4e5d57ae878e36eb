"""Definitions of how far single latents tell the two classes of a concept apart."""

from __future__ import annotations

from saebench.metrics.catalogue.definition import (
    ANY,
    NO_INTERVAL,
    NOT_NEGATIVE,
    SHARE,
    Better,
    Definition,
    Range,
)

TEXTS = (
    "percentile bootstrap over documents (over texts where the data name none), within classes; none where a "
    "class has texts of fewer than 10"
)
D = "Cohen 1988, pooled standard deviation with ddof 1"
NULL = (
    "Westfall and Young 1993: maximum over latents per permutation of the labels of documents (of texts "
    "where the data name none; within documents where labels vary there), on the actual codes"
)
P = "p = (1 + #{permuted ≥ observed}) / (1 + B); all arrangements where there are at most 100,000"
HALVES = "random halves of the training texts: with replacement, repeated texts would push the largest |d| up"
HALF: Range = (0.5, 1.0)
LATENTS = "latents that fire on min_firings training texts or more and have a finite d"


def _one(
    id: str,
    label: str,
    formula: str,
    better: Better,
    *,
    unit: str = "standard deviations",
    range: Range = ANY,
    source: str = D,
    interval: str = NO_INTERVAL,
) -> Definition:
    return Definition(f"concept_{id}", label, formula, unit, better, range, source, interval)


def _p(id: str, label: str, of: str) -> Definition:
    return _one(id, label, f"{P}; statistic: {of}", "lower", unit="p", range=SHARE, source=NULL)


CONCEPTS: tuple[Definition, ...] = (
    _one(
        "d_max",
        "Largest |d| of a latent",
        f"max_j |d_j| on training texts over {LATENTS}; d_j = (mean₁ − mean₀) / s of pooled codes",
        "higher",
        range=NOT_NEGATIVE,
    ),
    _one(
        "d_max_null",
        "Largest |d| by chance",
        "median over permutations of the labels of max_j |d_j| on training texts",
        "none",
        range=NOT_NEGATIVE,
        source=NULL,
    ),
    _p("d_max_p", "Largest |d|, p", "max_j |d_j| on training texts"),
    _one(
        "auroc_max",
        "Best AUROC of a latent",
        "max_j max(AUROC_j, 1 − AUROC_j) on training texts, mid-ranks",
        "higher",
        unit="AUROC",
        range=HALF,
        source="Hanley and McNeil 1982",
    ),
    _p("auroc_max_p", "Best AUROC, p", "max_j |AUROC_j − ½| on training texts"),
    _one(
        "n_over_1",
        "Latents with |d| > 1",
        "#{j : |d_j| > 1} on training texts",
        "none",
        unit="latents",
        range=NOT_NEGATIVE,
    ),
    _one(
        "n_over_1_null",
        "Latents with |d| > 1 by chance",
        "median over permutations of the labels of #{j : |d_j| > 1} on training texts",
        "none",
        unit="latents",
        range=NOT_NEGATIVE,
        source=NULL,
    ),
    _p("n_over_1_p", "Latents with |d| > 1, p", "#{j : |d_j| > 1} on training texts"),
    _one(
        "d_held_out",
        "d of the chosen latent, held out",
        "d on held-out texts of the latent with the largest |d| on training texts, in its direction there",
        "higher",
        interval=TEXTS,
    ),
    _one(
        "g_held_out",
        "Hedges' g of the chosen latent, held out",
        "d · (1 − 3/(4ν − 1)), ν = n₁ + n₀ − 2, of the same latent on held-out texts",
        "higher",
        source="Hedges 1981",
        interval=TEXTS,
    ),
    _p(
        "held_out_p",
        "d of the chosen latent held out, p",
        "d on held-out texts of the latent chosen on training texts, in its direction there (one-sided)",
    ),
    _one(
        "auroc_held_out",
        "AUROC of the chosen latent, held out",
        "AUROC on held-out texts of the same latent, in its direction on training texts, mid-ranks",
        "higher",
        unit="AUROC",
        range=SHARE,
        source="Hanley and McNeil 1982",
        interval=TEXTS,
    ),
    _one(
        "d_max_held_out",
        "Largest |d| of any latent, held out",
        "max_j |d_j| on held-out texts, whichever latent has it there",
        "none",
        range=NOT_NEGATIVE,
    ),
    _p("d_max_held_out_p", "Largest |d| held out, p", "max_j |d_j| on held-out texts"),
    _one(
        "top_k_overlap",
        "Top latents that recur in another half",
        "mean over splits of the training texts into halves of |top k of one ∩ top k of the other| / k",
        "higher",
        unit="share",
        range=SHARE,
        source=HALVES,
    ),
    _one(
        "top_k_overlap_chance",
        "Top latents that recur, by chance",
        "k / m, the expectation for two sets of k drawn at random from the m latents that take part",
        "none",
        unit="share",
        range=SHARE,
        source="mean of the hypergeometric distribution",
    ),
    _one(
        "same_best",
        "Halves with the same best latent",
        "share of splits of the training texts whose halves have the same latent of largest |d|",
        "higher",
        unit="share",
        range=SHARE,
        source=HALVES,
    ),
    _one(
        "d_control",
        "d of the chosen latent on controls",
        "d on control texts of the latent chosen on training texts, in its direction there",
        "none",
        interval=TEXTS,
    ),
    _one(
        "behaviour_minus_control",
        "d on the behaviour − |d| on controls",
        "d on held-out texts − |d| on control texts, of the latent chosen on training texts; where nothing "
        "separates the controls |d| on them is above 0 by chance, which biases this by −E|d| (about −0.26 "
        "with 20 + 20 texts)",
        "higher",
        interval=f"{TEXTS}; the two are drawn apart",
    ),
    _one(
        "d_max_control",
        "Largest |d| of any latent on controls",
        "max_j |d_j| on control texts",
        "none",
        range=NOT_NEGATIVE,
    ),
    _p("d_max_control_p", "Largest |d| on controls, p", "max_j |d_j| on control texts"),
    _one(
        "d_max_activations",
        "Largest |d| of a dimension of x",
        "max_i |d_i| on training texts over the dimensions of pooled x at the site read",
        "none",
        range=NOT_NEGATIVE,
    ),
    _p("d_max_activations_p", "Largest |d| of a dimension, p", "max_i |d_i| over dimensions of x"),
    _one(
        "d_held_out_activations",
        "d of the chosen dimension of x, held out",
        "d on held-out texts of the dimension with the largest |d| on training texts, in its direction",
        "none",
        interval=TEXTS,
    ),
    _one(
        "d_held_out_mean_difference",
        "d along the mean difference, held out",
        "d on held-out texts of x · (mean₁ x − mean₀ x), the means those of training texts",
        "none",
        interval=TEXTS,
    ),
)
