"""The catalogue of metrics: one named, versioned definition for each id, a module for each family.

Symbols: ``x`` the activations to reproduce, ``x̂`` the reconstruction, ``e = x − x̂``, ``x̄`` the
mean of ``x`` over tokens, ``d`` its width, ``f`` the codes, ``m`` the number of latents, ``n`` the
number of counted tokens. Nothing here imports torch.
"""

from saebench.metrics.catalogue.baselines import BASELINES
from saebench.metrics.catalogue.definition import Definition
from saebench.metrics.catalogue.prediction import PREDICTION
from saebench.metrics.catalogue.reconstruction import RECONSTRUCTION
from saebench.metrics.catalogue.sparsity import SPARSITY

MAIN_PASS = (*RECONSTRUCTION, *SPARSITY, *PREDICTION, *BASELINES)
FAMILIES = {"": MAIN_PASS}  # by the part of a run that measures them

__all__ = [
    "BASELINES",
    "FAMILIES",
    "MAIN_PASS",
    "PREDICTION",
    "RECONSTRUCTION",
    "SPARSITY",
    "Definition",
]
