"""Pooled activations: one row per text, for classifiers and statistics of concepts.

Only counted positions are pooled, so that neither padding nor special tokens enter a row. A sequence of
the stream is a text, its id the number of its row. All tokens of a text arrive in the same batch, one
after another, as passes hand them on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy import sparse
from torch import Tensor

from saebench.codes import SparseCodes
from saebench.metrics.sums import wide
from saebench.passes import Calibration, SiteView, SubjectView
from saebench.protocols import Pooling

# a whole number picks the counted token of that place: 0 the first, -1 the last, as in a list
Pool = Pooling | int


@dataclass(frozen=True)
class Texts:
    """The texts of one batch: ``ids[s]``, their first token ``starts[s]``, ``counts[s]`` of tokens.

    ``of_token[n]`` numbers the text of each counted token within the batch.
    """

    ids: Tensor
    starts: Tensor
    counts: Tensor
    of_token: Tensor

    @classmethod
    def of(cls, sequence_ids: Tensor) -> Texts:
        """The texts behind ``sequence_ids[n]`` of counted tokens."""
        ids, of_token, counts = sequence_ids.unique_consecutive(
            return_inverse=True, return_counts=True
        )
        return cls(ids, counts.cumsum(0) - counts, counts, of_token)

    def picked(self, place: int) -> tuple[Tensor, Tensor]:
        """Which texts have a counted token at ``place``, and which token of the batch it is."""
        within = place if place >= 0 else self.counts + place
        there = (self.counts > within) & (torch.as_tensor(within) >= 0).to(self.counts.device)
        rows = there.nonzero().squeeze(1)
        return rows, (self.starts + within)[rows]


def pool_rows(x: Tensor, texts: Texts, pool: Pool) -> Tensor:
    """Pooled activations ``[s, width]`` float32 of the tokens ``x[n, width]`` of one batch.

    Means are summed in float64. A text without the token that ``pool`` asks for is a row of zeros.
    """
    n_texts = texts.ids.shape[0]
    if pool == "mean":
        sums = wide(x).new_zeros(n_texts, x.shape[1])
        sums.index_add_(0, texts.of_token.to(sums.device), wide(x))
        return (sums / texts.counts.to(sums)[:, None]).float()
    out = x.new_zeros(n_texts, x.shape[1], dtype=torch.float32)
    if pool == "max":
        of_value = texts.of_token[:, None].expand_as(x)
        return out.scatter_reduce_(0, of_value, x.float(), "amax", include_self=False)
    rows, tokens = texts.picked(_place(pool))
    out[rows] = x[tokens].float()
    return out


def pool_codes(codes: SparseCodes, texts: Texts, pool: Pool) -> sparse.csr_array:
    """Pooled codes ``[s, d_sae]`` float32 of the tokens of one batch, in compressed rows.

    A code that is not among the active ones counts as zero, in means and in maxima alike.
    """
    if pool == "max":
        return _largest(codes, texts)
    n_texts, n_tokens = texts.ids.shape[0], codes.n_tokens
    values = codes.values.double().cpu().numpy()
    parts = (values, codes.indices.cpu().numpy(), codes.offsets.cpu().numpy())
    by_token = sparse.csr_array(parts, shape=(n_tokens, codes.d_sae))
    if pool == "mean":
        rows = texts.of_token.cpu().numpy()
        share = 1 / texts.counts.double().cpu().numpy()
        places = (share[rows], (rows, np.arange(n_tokens)))
    else:
        rows, tokens = (found.cpu().numpy() for found in texts.picked(_place(pool)))
        places = (np.ones(len(rows)), (rows, tokens))
    return _tidy(sparse.csr_array(places, shape=(n_texts, n_tokens)) @ by_token)


def _largest(codes: SparseCodes, texts: Texts) -> sparse.csr_array:
    """The largest code of each latent in each text; zero is one of them unless it fires on all tokens."""
    keys = (texts.of_token[codes.rows()] * codes.d_sae + codes.indices).cpu().numpy()
    order = np.argsort(keys, kind="stable")
    cells, starts, firings = np.unique(keys[order], return_index=True, return_counts=True)
    rows, latents = np.divmod(cells, codes.d_sae)
    largest = np.zeros(0, dtype=np.float32)
    if len(cells):
        largest = np.maximum.reduceat(codes.values.float().cpu().numpy()[order], starts)
    silent = firings < texts.counts.cpu().numpy()[rows]
    largest = np.where(silent, np.maximum(largest, 0), largest)
    shape = (texts.ids.shape[0], codes.d_sae)
    return _tidy(sparse.csr_array((largest, (rows, latents)), shape=shape))


def _tidy(rows: sparse.csr_array) -> sparse.csr_array:
    """float32, sorted, without zeros that are stored, and with int32 indices: half of what int64 take."""
    rows = rows.astype(np.float32)
    rows.eliminate_zeros()
    rows.sort_indices()
    return _narrow(rows)


def _narrow(rows: sparse.csr_array) -> sparse.csr_array:
    """The same rows with int32 indices, wherever those can number what is stored."""
    if rows.nnz > np.iinfo(np.int32).max:
        return rows
    rows.indices, rows.indptr = (
        part.astype(np.int32, copy=False) for part in (rows.indices, rows.indptr)
    )
    return rows


def _place(pool: Pool) -> int:
    return -1 if pool == "last" else int(pool)


class _PooledTexts:
    """How many counted tokens each of ``n_texts`` has, ``n_counted[n_texts]`` int64."""

    def __init__(self, n_texts: int, pool: Pool) -> None:
        self.n_texts, self.pool = n_texts, pool
        self.n_counted = np.zeros(n_texts, dtype=np.int64)

    @property
    def n_empty(self) -> int:
        """How many texts have no counted token; their rows are zero."""
        return int((self.n_counted == 0).sum())

    def _texts(self, sequence_ids: Tensor) -> Texts:
        texts = Texts.of(sequence_ids)
        self.n_counted[texts.ids.cpu().numpy()] = texts.counts.cpu().numpy()
        return texts

    def _put(self, rows: np.ndarray | None, x: Tensor, texts: Texts) -> np.ndarray:
        """``rows[n_texts, width]``, made on first use, with the texts of one batch filled in."""
        if rows is None:
            rows = np.zeros((self.n_texts, x.shape[1]), dtype=np.float32)
        rows[texts.ids.cpu().numpy()] = pool_rows(x, texts, self.pool).cpu().numpy()
        return rows


class PooledSite(_PooledTexts):
    """Pools what all checkpoints at a stack share: the activations themselves."""

    def __init__(self, n_texts: int, pool: Pool) -> None:
        super().__init__(n_texts, pool)
        self._x: np.ndarray | None = None

    def begin(self, calibration: Calibration) -> None:
        """Nothing is centred here."""

    def update(self, view: SiteView) -> None:
        """Take in one batch."""
        self._x = self._put(self._x, view.x, self._texts(view.sequence_ids))

    @property
    def x(self) -> np.ndarray:
        """The pooled activations ``[n_texts, width]`` float32."""
        assert self._x is not None  # a stream has at least one batch
        return self._x


class PooledSubject(_PooledTexts):
    """Pools the codes of one checkpoint and, with ``reconstruction``, what it gives back."""

    needs_predictions = False

    def __init__(self, n_texts: int, pool: Pool, *, reconstruction: bool = True) -> None:
        super().__init__(n_texts, pool)
        self.needs_reconstruction = reconstruction
        self._x_hat: np.ndarray | None = None
        self._codes: list[sparse.csr_array] = []
        self._ids: list[np.ndarray] = []

    def update(self, view: SubjectView) -> None:
        """Take in one batch."""
        texts = self._texts(view.sequence_ids)
        self._codes.append(pool_codes(view.codes, texts, self.pool))
        self._ids.append(texts.ids.cpu().numpy())
        if self.needs_reconstruction:
            assert view.x_hat is not None  # the pass decodes for whoever needs it
            self._x_hat = self._put(self._x_hat, view.x_hat, texts)

    @property
    def latents(self) -> sparse.csr_array:
        """The pooled codes ``[n_texts, d_sae]`` float32; row i is of the text with sequence id i."""
        ids = np.concatenate(self._ids)
        codes = sparse.vstack(self._codes, format="csr")
        self._codes = []
        if not np.array_equal(ids, np.arange(self.n_texts)):
            moves = (np.ones(len(ids), dtype=np.float32), (ids, np.arange(len(ids))))
            codes = sparse.csr_array(moves, shape=(self.n_texts, len(ids))) @ codes
        codes.sort_indices()
        codes = _narrow(codes)
        self._codes, self._ids = [codes], [np.arange(self.n_texts)]
        return codes

    @property
    def x_hat(self) -> np.ndarray:
        """The pooled reconstruction ``[n_texts, width_out]`` float32."""
        assert self._x_hat is not None  # asked for, and a stream has at least one batch
        return self._x_hat
