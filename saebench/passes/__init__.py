"""The pass: one stream of tokens through the models feeds every checkpoint and every metric."""

from saebench.passes.engine import run_pass
from saebench.passes.requests import (
    CALIBRATION_SEQUENCES,
    Calibration,
    ModelPair,
    ModelPairObserver,
    PassRequest,
    Predictions,
    Reading,
    SiteObserver,
    SiteView,
    Stack,
    Subject,
    SubjectObserver,
    SubjectView,
    as_stack,
)

__all__ = [
    "CALIBRATION_SEQUENCES",
    "Calibration",
    "ModelPair",
    "ModelPairObserver",
    "PassRequest",
    "Predictions",
    "Reading",
    "SiteObserver",
    "SiteView",
    "Stack",
    "Subject",
    "SubjectObserver",
    "SubjectView",
    "as_stack",
    "run_pass",
]
