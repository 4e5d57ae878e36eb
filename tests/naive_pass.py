"""The oracle of predictions: full forwards of the model, changed by plain hooks, losses by torch.

Nothing here stops, resumes, chunks or shares.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from saebench.data import Batch
from saebench.sae import SAE
from saebench.sites import Site
from tests.plain_hooks import full_logits, plain_hook, port_of, spliced_logits


def losses(name: str, site: Site, batch: Batch, sae: SAE) -> dict[str, Tensor]:
    """Per scored token ``[m]``: ``ce_clean``, ``ce_spliced``, ``ce_zero``, ``kl`` ... in float64."""
    ids, counted, real = batch.ids, batch.counted, batch.attention_mask
    with plain_hook(*port_of(name, site)) as seen:
        clean = full_logits(name, ids, real.long())
    x = seen[0][counted]
    replaced = {"spliced": sae(x), "zero": torch.zeros_like(x), "mean": x.double().mean(0)}
    logits = {"clean": clean}
    for run, vectors in replaced.items():
        activation = seen[0].clone()
        activation[counted] = vectors.to(x.dtype)
        logits[run] = spliced_logits(name, site, activation, ids, real.long())
    scored = counted[:, :-1] & real[:, 1:]
    picked = {run: value[:, :-1][scored].double() for run, value in logits.items()}
    targets = ids[:, 1:][scored]
    found = {
        f"ce_{run}": F.cross_entropy(value, targets, reduction="none")
        for run, value in picked.items()
    }
    logs = {run: value.log_softmax(-1) for run, value in picked.items()}
    for metric, other in (("kl", "spliced"), ("kl_zero", "zero"), ("kl_mean", "mean")):
        found[metric] = _kl(logs["clean"], logs[other])
    found["kl_reverse"] = _kl(logs["spliced"], logs["clean"])
    return found


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """``KL(P‖Q)`` of each row, from log probabilities."""
    return F.kl_div(q, p, log_target=True, reduction="none").sum(-1)
