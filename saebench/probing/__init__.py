"""Probes: classifiers on pooled activations, latents and reconstructions, and how they are scored.

``classifiers`` fits and predicts, ``scores`` judges predictions, ``resampling`` bounds what they say,
``arms`` does all three for one set of features, ``results`` makes measurements of it.
"""

from saebench.probing.arms import Probe, Scores, TaskLabels
from saebench.probing.classifiers import ProbeResult, fit_and_score
from saebench.probing.resampling import Resamples, units
from saebench.probing.results import TaskProbes, details, measurements
from saebench.probing.scores import Collapse, Majority, accuracy_and_f1, looks_constant

__all__ = [
    "Collapse",
    "Majority",
    "Probe",
    "ProbeResult",
    "Resamples",
    "Scores",
    "TaskLabels",
    "TaskProbes",
    "accuracy_and_f1",
    "details",
    "fit_and_score",
    "looks_constant",
    "measurements",
    "units",
]
