"""What latents do: ablate one at a time where it fires, and watch the model's next-token distribution.

An index of contexts keeps, for every latent, a random sample of the tokens on which it fires. Then each
model runs once more over those sequences, and hundreds of ablations of one sequence go on from the site
together.
"""

from saebench.causal.ablation import Encode, shifts
from saebench.causal.contexts import ContextIndex
from saebench.causal.probes import Arm, Probes, Shifts

__all__ = ["Arm", "ContextIndex", "Encode", "Probes", "Shifts", "shifts"]
