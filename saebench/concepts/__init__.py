"""How far single columns (latents, dimensions) of pooled rows tell the two classes of a concept apart.

Pure numpy and scipy. Rows are texts; ``labels[n]`` (bool) says which of them are of the positive class.
"""

from saebench.concepts.chosen import Chosen, behaviour_minus_control, judged
from saebench.concepts.columns import Columns
from saebench.concepts.discoveries import Discoveries, benjamini_hochberg
from saebench.concepts.exchange import Exchange
from saebench.concepts.halves import Stability, stability
from saebench.concepts.null import Null, Nulls, one_sided_p, permuted
from saebench.concepts.separation import Separation, hedges, separate, standard_error

__all__ = [
    "Chosen",
    "Columns",
    "Discoveries",
    "Exchange",
    "Null",
    "Nulls",
    "Separation",
    "Stability",
    "behaviour_minus_control",
    "benjamini_hochberg",
    "hedges",
    "judged",
    "one_sided_p",
    "permuted",
    "separate",
    "stability",
    "standard_error",
]
