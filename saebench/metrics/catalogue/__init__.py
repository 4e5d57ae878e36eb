"""The catalogue of metrics: one named, versioned definition for each id, a module for each family.

Symbols: ``x`` the activations to reproduce, ``x̂`` the reconstruction, ``e = x − x̂``, ``x̄`` the
mean of ``x`` over tokens, ``d`` its width, ``f`` the codes, ``m`` the number of latents, ``n`` the
number of counted tokens. Nothing here imports torch.
"""

from saebench.metrics.catalogue.baselines import BASELINES
from saebench.metrics.catalogue.causal import CAUSAL
from saebench.metrics.catalogue.concepts import CONCEPTS
from saebench.metrics.catalogue.crosscoder import CROSSCODER
from saebench.metrics.catalogue.cv_probing import CV_PROBING
from saebench.metrics.catalogue.definition import Definition
from saebench.metrics.catalogue.difference import DIFFERENCE
from saebench.metrics.catalogue.fake_features import FAKE_FEATURES
from saebench.metrics.catalogue.portability import PORTABILITY
from saebench.metrics.catalogue.prediction import PREDICTION
from saebench.metrics.catalogue.probing import PROBING
from saebench.metrics.catalogue.reconstruction import RECONSTRUCTION
from saebench.metrics.catalogue.seeds import SEEDS
from saebench.metrics.catalogue.sparsity import SPARSITY
from saebench.metrics.catalogue.steering import STEERING

MAIN_PASS = (*RECONSTRUCTION, *SPARSITY, *PREDICTION, *BASELINES)
FAMILIES = {  # by the part of a run that measures them
    "": MAIN_PASS,
    "probing": PROBING,
    "seeds": SEEDS,
    "fake_features": FAKE_FEATURES,
    "portability": PORTABILITY,
    "concepts": CONCEPTS,
    "cv_probing": CV_PROBING,
    "steering": STEERING,
    "difference": DIFFERENCE,
    "crosscoder": CROSSCODER,
    "causal": CAUSAL,
}

__all__ = [
    "BASELINES",
    "CAUSAL",
    "CONCEPTS",
    "CROSSCODER",
    "CV_PROBING",
    "DIFFERENCE",
    "FAKE_FEATURES",
    "FAMILIES",
    "MAIN_PASS",
    "PORTABILITY",
    "PREDICTION",
    "PROBING",
    "RECONSTRUCTION",
    "SEEDS",
    "SPARSITY",
    "STEERING",
    "Definition",
]
