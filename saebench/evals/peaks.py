"""Where latents peak: the largest code of each latent in each text, and the token that reaches it."""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse

from saebench.passes import SubjectView


class PeakCodes:
    """Keeps, for each of ``n_texts`` and each latent that fires in it, its largest code and where that is.

    A sequence of the stream is a text, its id the number of its row; all tokens of a text arrive in one
    batch. Of several tokens that reach the largest code, the first is kept.
    """

    needs_predictions = False
    needs_reconstruction = False

    def __init__(self, n_texts: int, d_sae: int) -> None:
        self.n_texts, self.d_sae = n_texts, d_sae
        self._parts: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self._made: dict[int, sparse.csr_array] = {}

    def update(self, view: SubjectView) -> None:
        """Take in one batch."""
        codes = view.codes
        assert view.positions is not None  # the pass says it
        rows = codes.rows()
        cells = view.sequence_ids[rows] * self.d_sae + codes.indices
        # by cell, then from the largest code down, then in order of the text
        order = torch.sort(codes.values.float(), descending=True, stable=True).indices
        order = order[torch.sort(cells[order], stable=True).indices]
        cells = cells[order]
        first = torch.ones_like(cells, dtype=torch.bool)
        first[1:] = cells[1:] != cells[:-1]
        kept = order[first]
        self._made.clear()
        self._parts.append(
            (
                cells[first].cpu().numpy(),
                codes.values[kept].float().cpu().numpy(),
                view.positions[rows[kept]].cpu().numpy(),
            )
        )

    @property
    def values(self) -> sparse.csr_array:
        """The largest codes ``[n_texts, d_sae]`` float32; nothing is stored where a latent is silent."""
        return self._once(1, np.float32)

    @property
    def positions(self) -> sparse.csr_array:
        """Where :attr:`values` are: the place of the token in its sequence, plus one, ``[n_texts, d_sae]``.

        Plus one, so that the first token is not the zero of a sparse matrix.
        """
        return self._once(2, np.int64, shift=1)

    def _once(self, which: int, dtype: type, shift: int = 0) -> sparse.csr_array:
        """A matrix, kept until another batch comes."""
        if which not in self._made:
            self._made[which] = self._matrix(which, dtype, shift)
        return self._made[which]

    def _matrix(self, which: int, dtype: type, shift: int) -> sparse.csr_array:
        shape = (self.n_texts, self.d_sae)
        if not self._parts:
            return sparse.csr_array(shape, dtype=dtype)
        cells = np.concatenate([part[0] for part in self._parts])
        content = np.concatenate([part[which] for part in self._parts]).astype(dtype) + dtype(shift)
        found = sparse.csr_array((content, np.divmod(cells, self.d_sae)), shape=shape)
        found.sort_indices()
        return found
