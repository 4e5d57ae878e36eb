"""Definitions of what SAEs on the difference of two models reconstruct, token subset by token subset.

``δ`` is the difference that the checkpoint reads (model 1 − model 0, or the reverse), ``e = δ − x̂``. S is a
subset of the counted tokens, ``δ̄_S`` its mean and ``δ̄`` the mean of all.
"""

from __future__ import annotations

from saebench.metrics.catalogue.definition import (
    NO_INTERVAL,
    NOT_NEGATIVE,
    SHARE,
    UP_TO_ONE,
    Definition,
)

SUBSETS = {
    "fire": ("on fire tokens", "tokens that carry the label fire"),
    "top": ("on the largest differences", "the share top of tokens with the largest ‖δ‖"),
    "bottom": ("on the smallest differences", "the share bottom of tokens with the smallest ‖δ‖"),
    "fire_matched": (
        "on fire tokens with a counterpart",
        "random fire tokens, in each bin of ‖δ‖ (a factor of 1.05 wide) as many as there are fire tokens and "
        "tokens without a label",
    ),
    "matched": (
        "on counterparts of fire tokens",
        "random tokens without a label (fire, decision or answer), in each bin of ‖δ‖ as many as fire tokens "
        "with a counterpart",
    ),
}
UNIT = "sequences (documents, where prompts name theirs)"
PAIRED = f"percentile bootstrap over {UNIT}, the same draws for all subsets and baselines"
SUBSET_BOOTSTRAP = f"{PAIRED}; the subset stays as selected"
HELD_OUT = (
    f"delete-one jackknife with Student's t over {UNIT} of the held-out half; the latent stays as chosen; "
    "none where all say the same"
)
SOURCE = "Pooled FVE restricted to a subset of tokens"
DETECTOR = "Ours: latents chosen on a random half of the prompts, judged on the other half"
LATENT = (
    "of the latent with the best F1 on the choosing half, as a detector of fire tokens (f > 0) among all "
    "counted tokens of the held-out half"
)

DIFFERENCE: tuple[Definition, ...] = (
    Definition(
        "diff_fve",
        "FVE on the prompts",
        "1 − Σ‖e‖² / Σ‖δ − δ̄‖² over all tokens of the labelled prompts (of the run's own text without any)",
        "fraction",
        "higher",
        UP_TO_ONE,
        "Definition pooled of FVE, on the difference of two models",
        PAIRED,
    ),
    *(
        Definition(
            f"diff_fve_{name}",
            f"FVE {label}",
            f"1 − Σ_S‖e‖² / Σ_S‖δ − δ̄_S‖², S: {tokens}",
            "fraction",
            "higher",
            UP_TO_ONE,
            SOURCE,
            SUBSET_BOOTSTRAP,
        )
        for name, (label, tokens) in SUBSETS.items()
    ),
    *(
        Definition(
            f"diff_fve_{name}_global",
            f"FVE {label}, about the global mean",
            f"1 − Σ_S‖e‖² / Σ_S‖δ − δ̄‖², S: {tokens}; weighted by TSS shares it adds up over a partition",
            "fraction",
            "higher",
            UP_TO_ONE,
            SOURCE,
            SUBSET_BOOTSTRAP,
        )
        for name, (label, tokens) in SUBSETS.items()
    ),
    *(
        Definition(
            f"diff_tss_share_{name}",
            f"Share of the variance {label}",
            f"Σ_S‖δ − δ̄‖² / Σ‖δ − δ̄‖², S: {tokens}",
            "fraction",
            "none",
            SHARE,
            SOURCE,
            SUBSET_BOOTSTRAP,
        )
        for name, (label, tokens) in SUBSETS.items()
    ),
    Definition(
        "diff_l0",
        "L0 on the prompts",
        "mean #{f ≠ 0} per token",
        "latents/token",
        "none",
        NOT_NEGATIVE,
        "L0, on the tokens of this suite",
        PAIRED,
    ),
    Definition(
        "diff_dead_fraction",
        "Dead latents on the prompts",
        "#{latents with f = 0 on every token}/m",
        "fraction",
        "lower",
        SHARE,
        "Dead latents, on the tokens of this suite; few tokens make rare latents look dead",
        NO_INTERVAL,
    ),
    Definition(
        "diff_fve_pca",
        "FVE of PCA on the difference",
        "FVE of the round(L0) leading principal components of δ, fitted on these tokens",
        "fraction",
        "none",
        UP_TO_ONE,
        "The best any reconstruction of that rank can do; an SAE takes other directions for every token",
        f"{PAIRED}; the components stay as fitted",
    ),
    Definition(
        "diff_fve_base_sae",
        "FVE of the base SAE's difference",
        "FVE of ±(dec(f(x₁)) − dec(f(x₀))), f and dec of an SAE of model 0 at this site",
        "fraction",
        "none",
        UP_TO_ONE,
        "Ours: what an SAE that never saw the fine-tuned model makes of the change",
        PAIRED,
    ),
    Definition(
        "diff_fve_random",
        "FVE of a random decoder",
        "FVE of the least-squares fit on the round(L0) of m random unit directions that have the largest "
        "|projection| of the standardised token",
        "fraction",
        "none",
        UP_TO_ONE,
        "Ours: sparse coding without learning, on a random sample of sequences",
        f"percentile bootstrap over {UNIT} of the sample, about the mean of all tokens",
    ),
    Definition(
        "diff_precision",
        "Precision of the best latent on fire tokens",
        f"TP/(TP + FP) {LATENT}",
        "fraction",
        "higher",
        SHARE,
        DETECTOR,
        HELD_OUT,
    ),
    Definition(
        "diff_recall",
        "Recall of the best latent on fire tokens",
        f"TP/(TP + FN) {LATENT}",
        "fraction",
        "higher",
        SHARE,
        DETECTOR,
        HELD_OUT,
    ),
    Definition(
        "diff_f1",
        "F1 of the best latent on fire tokens",
        f"2 TP/(2 TP + FP + FN) {LATENT}",
        "fraction",
        "higher",
        SHARE,
        DETECTOR,
        HELD_OUT,
    ),
    Definition(
        "diff_prompt_auroc",
        "AUROC of the best latent over prompts",
        "AUROC of the largest code on a prompt outside its answer, prompts with a fire token against all "
        "others, held-out half; the latent with the best F1 on the choosing half",
        "AUROC",
        "higher",
        SHARE,
        DETECTOR,
        HELD_OUT,
    ),
)
