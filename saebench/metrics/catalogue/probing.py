"""Definitions of what linear probes read from activations, latents and reconstructions."""

from __future__ import annotations

from saebench.metrics.catalogue.definition import (
    NO_INTERVAL,
    NOT_NEGATIVE,
    SHARE,
    Definition,
    Range,
)

TEXTS = (
    "percentile bootstrap over test documents (over texts where the data name no documents) within each "
    "task; tasks are drawn apart, as if independent, also where they share texts: then it is too narrow"
)
PAIRED = f"{TEXTS}; the same draws for both probes"
DIFFERENCE: Range = (-1.0, 1.0)
SOURCE = "FaithfulSAE (arXiv 2506.17673), pooled over counted tokens only"

# label, and what the classifier reads
_ARMS = {
    "baseline": ("activations", "x at the site read"),
    "latents": ("latents", "f"),
    "reconstruction": ("reconstruction", "x̂"),
}
_SCORES = {"accuracy": ("accuracy", "accuracy"), "f1": ("macro-F1", "mean of F1 over classes")}

PROBING: tuple[Definition, ...] = (
    *(
        Definition(
            f"probe_{score}_{arm}",
            f"Probe {label} on {features}",
            f"mean over tasks of the test {formula} of a linear probe on pooled {read}",
            f"{label}",
            "none" if arm == "baseline" else "higher",
            SHARE,
            SOURCE,
            TEXTS,
        )
        for score, (label, formula) in _SCORES.items()
        for arm, (features, read) in _ARMS.items()
    ),
    *(
        Definition(
            f"probe_{score}_gap",
            f"Probe {label}, latents − activations",
            f"mean over tasks of {label}(probe on pooled f) − {label}(probe on pooled x)",
            f"{label}",
            "higher",
            DIFFERENCE,
            SOURCE,
            PAIRED,
        )
        for score, (label, _) in _SCORES.items()
    ),
    *(
        Definition(
            f"probe_{score}_majority",
            f"Probe {label} of the constant predictor",
            f"mean over tasks of the test {formula} of always saying the commonest training label",
            f"{label}",
            "none",
            SHARE,
            "the floor of every probe; a collapsed one stands on it",
            TEXTS,
        )
        for score, (label, formula) in _SCORES.items()
    ),
    Definition(
        "probes_collapsed",
        "Collapsed probes",
        "#{probes on f or x̂ that say one class on ≥ 99 % of test texts with a macro-F1 within .05 of "
        "always saying it, or whose accuracy and macro-F1 are within .005 and .01 of that}",
        "probes",
        "lower",
        NOT_NEGATIVE,
        "a published CoLA probe of .691 / .412 is the constant predictor of .691 / .409",
        NO_INTERVAL,
    ),
)
