"""The canonical models behind every checkpoint format, evaluation-time only."""

from saebench.sae.config import Fact, SAEConfig, Source
from saebench.sae.cross_layer import CrossLayerTranscoder
from saebench.sae.dictionary import Dictionary
from saebench.sae.model import SAE, Crosscoder
from saebench.sae.untied_gate import UntiedGatedSAE

__all__ = [
    "SAE",
    "CrossLayerTranscoder",
    "Crosscoder",
    "Dictionary",
    "Fact",
    "SAEConfig",
    "Source",
    "UntiedGatedSAE",
]
