"""Definitions of what stands beside headlines."""

from __future__ import annotations

from saebench.metrics.catalogue.definition import NO_INTERVAL, SHARE, UP_TO_ONE, Definition

BASELINES: tuple[Definition, ...] = (
    Definition(
        "fve_pca",
        "FVE of PCA",
        "Σ of the k largest eigenvalues of Cov(x) / Σ of all, k = L0 rounded",
        "fraction",
        "none",
        SHARE,
        "Eckart and Young 1936; fitted on the measured tokens: the best of rank k",
        NO_INTERVAL,
    ),
    Definition(
        "fve_mean_predictor",
        "FVE of the mean",
        "fve of x̂ᵢ = x̄, 0 by definition",
        "fraction",
        "none",
        (0.0, 0.0),
        "the floor of fve",
        NO_INTERVAL,
    ),
    Definition(
        "fve_random_init",
        "FVE of a random SAE",
        "fve of μ + g · TopK(unit Gaussian directions), same d_sae, k = L0 rounded, best single gain g",
        "fraction",
        "none",
        UP_TO_ONE,
        "ours: what width and sparsity give without training; on the first 32 sequences",
    ),
)
