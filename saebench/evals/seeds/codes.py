"""What seed reproducibility takes from a pass: codes of the first tokens, and how often latents fire."""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse

from saebench.matching.functional import CodeTable
from saebench.passes import SubjectView


class CodeSample:
    """Keeps the sparse codes of the sequences that begin within the first ``n_tokens`` counted tokens.

    Sequences are kept whole, in the order of the stream. Memory: eight bytes per active latent and token.
    """

    needs_predictions = False
    needs_reconstruction = False

    def __init__(self, d_sae: int, n_tokens: int) -> None:
        self.d_sae = d_sae
        self.n_tokens = n_tokens
        self.n_kept = 0
        self._parts: list[CodeTable] = []

    def update(self, view: SubjectView) -> None:
        """Take in one batch, unless enough is there."""
        ids = view.sequence_ids.cpu()
        if self.n_kept >= self.n_tokens or not ids.shape[0]:
            return
        began = torch.searchsorted(ids, ids)  # ids ascend: the first token of each one's sequence
        keep = self.n_kept + began < self.n_tokens
        codes = view.codes.select_tokens(keep.to(view.codes.offsets.device))
        parts = (codes.values.float(), codes.indices, codes.offsets)
        table = sparse.csr_matrix(
            tuple(part.cpu().numpy() for part in parts), shape=(codes.n_tokens, self.d_sae)
        )
        self._parts.append(CodeTable(table, ids[keep].numpy()))
        self.n_kept += codes.n_tokens

    def table(self) -> CodeTable:
        """The codes kept, ``[n, d_sae]``, with the sequence of each token."""
        if not self._parts:
            empty = sparse.csr_matrix((0, self.d_sae), dtype=np.float32)
            return CodeTable(empty, np.zeros(0, dtype=np.int64))
        if len(self._parts) > 1:
            codes = sparse.vstack([part.codes for part in self._parts], format="csr")
            ids = np.concatenate([part.sequence_ids for part in self._parts])
            self._parts = [CodeTable(codes, ids)]
        return self._parts[0]


class FiringCounts:
    """On how many tokens each latent fires, ``fired[d_sae]``, and the sum of its |codes|, ``mass[d_sae]``."""

    needs_predictions = False
    needs_reconstruction = False

    def __init__(self, d_sae: int) -> None:
        self.fired = np.zeros(d_sae, dtype=np.int64)
        self.mass = np.zeros(d_sae)
        self.n_tokens = 0

    def update(self, view: SubjectView) -> None:
        """Take in one batch."""
        latents = view.codes.indices.cpu().numpy()
        sizes = view.codes.values.abs().double().cpu().numpy()
        self.fired += np.bincount(latents, minlength=len(self.fired))
        self.mass += np.bincount(latents, weights=sizes, minlength=len(self.mass))
        self.n_tokens += view.codes.n_tokens
