"""The catalogue of metrics: one named, versioned definition for each id.

Symbols: ``x`` the activations to reproduce, ``x̂`` the reconstruction, ``e = x − x̂``, ``x̄`` the
mean of ``x`` over tokens, ``d`` its width, ``f`` the codes, ``m`` the number of latents, ``n`` the
number of counted tokens.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

Better = Literal["higher", "lower", "none"]
Range = tuple[float | None, float | None]

BOOTSTRAP = "percentile bootstrap over sequences"
JACKKNIFE = "delete-one-block jackknife over 64 blocks of sequences"
BLOCK_BOOTSTRAP = "percentile bootstrap over 64 blocks of sequences"
NO_INTERVAL = "none"

SHARE: Range = (0.0, 1.0)
UP_TO_ONE: Range = (None, 1.0)
NOT_NEGATIVE: Range = (0.0, None)
ANY: Range = (None, None)


@dataclass(frozen=True)
class Definition:
    """One metric: formula, unit, direction, attainable ``range``, source and kind of interval."""

    id: str
    label: str
    formula: str
    unit: str
    better: Better
    range: Range
    source: str
    interval: str = BOOTSTRAP
    version: int = 1

    @property
    def metric(self) -> str:
        """The id with its version, as in records: ``fve@1``."""
        return f"{self.id}@{self.version}"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "range": list(self.range)}


RECONSTRUCTION: tuple[Definition, ...] = (
    Definition(
        "fve",
        "FVE",
        "1 − Σᵢ‖eᵢ‖² / Σᵢ‖xᵢ − x̄‖²",
        "fraction",
        "higher",
        UP_TO_ONE,
        "pooled, as r2_score(multioutput='variance_weighted'); SAELens ≥ 6.45.1",
    ),
    Definition(
        "fve_legacy",
        "FVE (mean of ratios)",
        "meanᵢ(1 − ‖eᵢ‖² / ‖xᵢ − r‖²), r the mean of the first sequences",
        "fraction",
        "higher",
        UP_TO_ONE,
        "SAELens ≤ 5.7.1 and SAEBench explained_variance_legacy (there r is the batch mean)",
    ),
    Definition(
        "fve_mean_square",
        "FVE (mean-square form)",
        "1 − mean‖e‖² / (S − (S/d)²), S = mean‖x‖²",
        "fraction",
        "none",
        ANY,
        "SAELens 5.8.0–6.45.0 and SAEBench 0.4.1–0.6.0 explained_variance; close to fve_uncentred",
    ),
    Definition(
        "fve_var_residual",
        "FVE (residual variance)",
        "1 − Σ_d Var(e_d) / Σ_d Var(x_d)",
        "fraction",
        "higher",
        UP_TO_ONE,
        "dictionary_learning frac_variance_explained; a constant offset of x̂ is free",
    ),
    Definition(
        "fve_scalar",
        "FVE (scalar variance)",
        "1 − Var(all entries of e) / Var(all entries of x)",
        "fraction",
        "higher",
        UP_TO_ONE,
        "FaithfulSAE (arXiv 2506.17673), where it is averaged over sequences",
    ),
    Definition(
        "fve_uncentred",
        "FVE (uncentred)",
        "1 − Σᵢ‖eᵢ‖² / Σᵢ‖xᵢ‖²",
        "fraction",
        "higher",
        UP_TO_ONE,
        "complement of the normalised MSE of several trainers; never below fve",
    ),
    Definition(
        "fve_lowest_reading",
        "FVE (lowest activation)",
        "min_m(1 − Σᵢ‖eᵢ_m‖² / Σᵢ‖xᵢ_m − x̄_m‖²) over the activations m written side by side",
        "fraction",
        "higher",
        UP_TO_ONE,
        "fve of each source of a crosscoder or layer of a cross-layer transcoder",
    ),
    Definition(
        "fve_per_dim",
        "FVE (mean over dimensions)",
        "mean_d(1 − Σᵢ eᵢ_d² / Σᵢ(xᵢ_d − x̄_d)²)",
        "fraction",
        "higher",
        UP_TO_ONE,
        "r2_score(multioutput='uniform_average')",
    ),
    Definition(
        "mse",
        "MSE",
        "meanᵢ‖eᵢ‖²",
        "squared activation per token",
        "lower",
        NOT_NEGATIVE,
        "SAELens ≥ 6.45.2",
    ),
    Definition(
        "mse_per_dim",
        "MSE per dimension",
        "meanᵢ‖eᵢ‖² / d",
        "squared activation per entry",
        "lower",
        NOT_NEGATIVE,
        "torch.nn.functional.mse_loss",
    ),
    Definition(
        "cosine",
        "Cosine",
        "meanᵢ x·x̂ / (‖x‖‖x̂‖), 0 where either is 0",
        "cosine",
        "higher",
        (-1.0, 1.0),
        "SAEBench cossim",
    ),
    Definition(
        "l2_norm_in",
        "L2 norm in",
        "meanᵢ‖xᵢ‖",
        "activation",
        "none",
        NOT_NEGATIVE,
        "SAEBench shrinkage group",
    ),
    Definition(
        "l2_norm_out",
        "L2 norm out",
        "meanᵢ‖x̂ᵢ‖",
        "activation",
        "none",
        NOT_NEGATIVE,
        "SAEBench shrinkage group",
    ),
    Definition(
        "l2_ratio",
        "L2 ratio",
        "meanᵢ‖x̂ᵢ‖ / ‖xᵢ‖ over tokens with x ≠ 0",
        "ratio",
        "none",
        NOT_NEGATIVE,
        "SAEBench shrinkage group; below 1 is shrinkage",
    ),
    Definition(
        "relative_reconstruction_bias",
        "Relative reconstruction bias",
        "E‖x̂‖² / E[x·x̂]",
        "ratio",
        "none",
        ANY,
        "Rajamanoharan et al. 2024 (arXiv 2404.16014), equation 10; 1 is unbiased",
    ),
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
