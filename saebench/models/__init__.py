"""Base language models: found and read, run up to a site and stopped, resumed, unembedded.

``pretrained`` reads from a folder or the hub, ``blocks`` works out where a model's activations are,
``continuation`` stops and resumes a forward pass, ``language_model`` is the surface of all three.
"""

from saebench.models.continuation import Prefix
from saebench.models.language_model import LanguageModel
from saebench.models.pretrained import Located, locate

__all__ = ["LanguageModel", "Located", "Prefix", "locate"]
