"""Definitions of what cross-validated probes read on a concept, arm by arm."""

from __future__ import annotations

from saebench.metrics.catalogue.definition import NO_INTERVAL, SHARE, Definition, Range

TEXTS = (
    "percentile bootstrap over documents (texts where no document has two) of the predictions out of "
    "fold, widened for training sets (Nadeau and Bengio 2003): distances from the value times "
    "√(1 + k/(k − 1)) for k folds, within what the score can be"
)
PAIRED = f"{TEXTS}; the same draws for both arms"
DIFFERENCE: Range = (-1.0, 1.0)
FOLDS = "repeated stratified folds that keep documents whole"
SOURCE = (
    "Ours: scaling and selection on the training rows of each fold, the same folds for all arms"
)
SPARSE = "k-sparse probing of SAEBench (arXiv 2503.09532), the choice of latents inside the fold"
SHOWN_KS = (1, 5, 20)

_ARMS = {
    "raw": ("activations", "pooled x at the site read"),
    "latents": ("latents", "pooled f"),
    "other": ("latents of another SAE", "pooled f of another checkpoint at the same site"),
    "reconstruction": ("reconstruction", "pooled x̂"),
    "random": ("an untrained SAE", "pooled f of an untrained TopK SAE of this width and L0"),
}
_SCORES = {
    "balanced_accuracy": (
        "balanced accuracy",
        "mean over repeats of ½ (share of positive + share of negative texts judged rightly out of fold)",
    ),
    "auroc": (
        "AUROC",
        "mean over repeats of #{(positive, negative) of one fold in order, ties ½}/#{such pairs}",
    ),
}
_GAPS = {
    "cv_gap": ("latents − activations", "f", "x"),
    "cv_over_other": ("latents − another SAE", "f", "f of another checkpoint"),
    "cv_over_random": ("latents − an untrained SAE", "f", "f of an untrained SAE"),
}

CV_PROBING: tuple[Definition, ...] = (
    *(
        Definition(
            f"cv_{score}_{arm}",
            f"Cross-validated {label} on {features}",
            f"{formula}, by a logistic probe on {read}; {FOLDS}",
            label,
            "higher" if arm in ("latents", "reconstruction") else "none",
            SHARE,
            SOURCE,
            TEXTS,
        )
        for score, (label, formula) in _SCORES.items()
        for arm, (features, read) in _ARMS.items()
    ),
    *(
        Definition(
            name,
            f"Cross-validated AUROC, {label}",
            f"AUROC(probe on {ours}) − AUROC(probe on {theirs}), on the same folds",
            "AUROC",
            "higher",
            DIFFERENCE,
            SOURCE,
            PAIRED,
        )
        for name, (label, ours, theirs) in _GAPS.items()
    ),
    Definition(
        "cv_p",
        "p of the latents' AUROC under shuffled labels",
        "(1 + #{AUROC with shuffled labels ≥ AUROC})/(1 + #{shuffles}), both on the first repeat's folds, "
        "within which labels are shuffled; scaling and fitting again each time",
        "p",
        "lower",
        SHARE,
        "Phipson and Smyth 2010, Permutation p-values should never be zero",
        NO_INTERVAL,
    ),
    *(
        Definition(
            f"cv_k{k}_auroc",
            f"Cross-validated AUROC on the best {'latent' if k == 1 else f'{k} latents'}",
            f"AUROC out of fold of a probe on the k = {k} latents with the largest |mean f of positive − "
            "mean f of negative training texts|",
            "AUROC",
            "higher",
            SHARE,
            SPARSE,
            TEXTS,
        )
        for k in SHOWN_KS
    ),
)
