"""Logistic regressions of one fold: one by scikit-learn, or one for each of many labellings at once.

Both minimise ``C · Σ log(1 + exp(−y (x·w + b))) + ½ ‖w‖²``, the intercept unpenalised, until no component
of the gradient of the mean loss exceeds ``TOLERANCE``: one strictly convex problem, one answer.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.special import expit
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from saebench.probing.cv_design import Design, turned
from saebench.probing.logistic import MAX_ITERATIONS

# Newton's method gets here from 1e-6 in a step or two; at 1e-6 single log-odds are off by a hundredth
TOLERANCE = 1e-8
# an entry of a sparse matrix takes as much time as this many of a dense one
SPARSE_ENTRY = 10
NEWTON_STEPS, CG_STEPS, HALVINGS = 100, 200, 30
SUFFICIENT = 1e-4  # of the decrease that the slope promises: Armijo's rule
CELLS = 2**22  # entries of the largest matrix that many fits hold at once: 32 megabytes
WIDEST_CHOLESKY = 1024  # coordinates up to which a step of Newton's method is one factorisation


def decide(design: Design, targets: np.ndarray, c: float) -> np.ndarray:
    """The log-odds ``[n_test]`` that the test rows are positive, fitted to ``targets[n_train]`` bool.

    The solver follows from the shape: rows with fewer stored entries than their Gram matrix has are
    fitted as they are, by newton-cg; others in the coordinates of :func:`saebench.probing.cv_design.turned`.
    """
    n = len(targets)
    if not design.n_varying:
        return constant(design.test.shape[0], targets[None])[0]
    if sparse.issparse(design.train) and design.train.nnz < n * n:
        solver = "newton-cg"
    else:
        if design.train.shape[1] > n:
            design = turned(design)
        solver = "newton-cholesky" if design.train.shape[1] <= WIDEST_CHOLESKY else "lbfgs"
    model = LogisticRegression(C=c, solver=solver, tol=TOLERANCE, max_iter=MAX_ITERATIONS)
    with warnings.catch_warnings():
        # what is left is a gradient within rounding of the tolerance
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(design.train, targets)
    return model.decision_function(design.test)


def constant(n_test: int, targets: np.ndarray) -> np.ndarray:
    """The log-odds ``[B, n_test]`` of the classes of ``targets[B, n_train]``: nothing else is known."""
    share = targets.mean(axis=1)
    return np.repeat(np.log(share / (1 - share))[:, None], n_test, axis=1)


def decide_many(design: Design, targets: np.ndarray, c: float) -> np.ndarray:
    """The log-odds ``[B, n_test]`` of the test rows, fitted to each of ``targets[B, n_train]`` bool.

    Very sparse rows are fitted one labelling after the other; all others share their products.
    """
    if not design.n_varying:
        return constant(design.test.shape[0], targets)
    if stays_sparse(design):
        return np.stack([decide(design, one, c) for one in targets])
    design = turned(design)
    size = max(1, CELLS // max(design.train.shape))
    parts = []
    for start in range(0, len(targets), size):
        weights, bias = _Newton(design.train, targets[start : start + size].T, c).minimise()
        parts.append((design.test @ weights + bias).T)
    return np.concatenate(parts)


def stays_sparse(design: Design) -> bool:
    """Whether products with the sparse rows are cheaper than with their Gram matrix."""
    n = design.train.shape[0]
    return sparse.issparse(design.train) and SPARSE_ENTRY * design.train.nnz < n * n


def work(design: Design) -> int:
    """What one fit of :func:`decide_many` costs, in entries of a dense matrix that it goes through."""
    n, d = design.train.shape
    return SPARSE_ENTRY * design.train.nnz if stays_sparse(design) else n * min(n, d)


@dataclass
class _Point:
    """Weights ``[r, B]``, intercepts ``[B]``, log-odds ``[n, B]`` and loss ``[B]`` of B fits."""

    weights: np.ndarray
    bias: np.ndarray
    logits: np.ndarray
    loss: np.ndarray


class _Newton:
    """Truncated Newton steps for B fits that share their rows and differ in their labels.

    Each step is solved by conjugate gradients, of which all fits take theirs in the same two products.
    The preconditioner is the diagonal of the Hessian, as if a fit weighed all rows alike; on principal
    axes that is nearly the Hessian itself. Source: Nocedal and Wright 2006, algorithm 7.1.
    """

    def __init__(self, rows: np.ndarray, targets: np.ndarray, c: float) -> None:
        self.rows, self.targets = rows, targets.astype(np.float64)
        self.n = rows.shape[0]
        self.ridge = 1 / (c * self.n)
        self.mean_squares = np.square(rows).mean(axis=0)

    def minimise(self) -> tuple[np.ndarray, np.ndarray]:
        """The weights ``[r, B]`` and intercepts ``[B]`` where the gradients vanish."""
        n_fits = self.targets.shape[1]
        weights, bias = np.zeros((self.rows.shape[1], n_fits)), np.zeros(n_fits)
        open_ = np.arange(n_fits)
        share = self.targets.mean(axis=0)
        bias[:] = np.log(share / (1 - share))
        at = self._point(weights, bias, np.repeat(bias[None], self.n, axis=0), open_)
        for _ in range(NEWTON_STEPS):
            chance = expit(at.logits)
            errors = (chance - self.targets[:, open_]) / self.n
            slope_w = self.rows.T @ errors + self.ridge * at.weights
            slope_b = errors.sum(axis=0)
            steep = np.maximum(np.abs(slope_w).max(axis=0), np.abs(slope_b)) > TOLERANCE
            done = open_[~steep]
            weights[:, done], bias[done] = at.weights[:, ~steep], at.bias[~steep]
            if not steep.any():
                return weights, bias
            open_ = open_[steep]
            at = _Point(at.weights[:, steep], at.bias[steep], at.logits[:, steep], at.loss[steep])
            curve = (chance * (1 - chance))[:, steep] / self.n
            at = self._searched(at, slope_w[:, steep], slope_b[steep], curve, open_)
        weights[:, open_], bias[open_] = at.weights, at.bias
        return weights, bias

    def _point(
        self, weights: np.ndarray, bias: np.ndarray, logits: np.ndarray, fits: np.ndarray
    ) -> _Point:
        signed = np.where(self.targets[:, fits] > 0, -logits, logits)
        loss = np.logaddexp(0, signed).mean(axis=0) + self.ridge / 2 * np.square(weights).sum(0)
        return _Point(weights, bias, logits, loss)

    def _searched(
        self,
        at: _Point,
        slope_w: np.ndarray,
        slope_b: np.ndarray,
        curve: np.ndarray,
        fits: np.ndarray,
    ) -> _Point:
        """The next point: along the Newton direction, by the first half of it that falls enough."""
        step_w, step_b = self._solved(slope_w, slope_b, curve)
        along = self.rows @ step_w + step_b
        promised = (slope_w * step_w).sum(axis=0) + slope_b * step_b
        length = np.ones(len(fits))
        for _ in range(HALVINGS):
            new = self._point(
                at.weights + length * step_w,
                at.bias + length * step_b,
                at.logits + length * along,
                fits,
            )
            # rounding of a loss that no longer moves is no ascent
            slack = 1e-12 * np.abs(at.loss)
            short = new.loss > at.loss + SUFFICIENT * length * promised + slack
            if not short.any():
                break
            length = np.where(short, length / 2, length)
        return new

    def _solved(
        self, slope_w: np.ndarray, slope_b: np.ndarray, curve: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """The Newton directions, solved the more closely the smaller the gradients are."""
        scale = curve.sum(axis=0)
        by_w = 1 / (self.mean_squares[:, None] * scale + self.ridge)
        by_b = 1 / np.maximum(scale, self.ridge)
        left_w, left_b = -slope_w, -slope_b
        step_w, step_b = np.zeros_like(left_w), np.zeros_like(left_b)
        size = (left_w**2).sum(axis=0) + left_b**2
        goal = size * np.minimum(0.25, np.sqrt(size))
        dir_w, dir_b = by_w * left_w, by_b * left_b
        dot = (left_w * dir_w).sum(axis=0) + left_b * dir_b
        for _ in range(CG_STEPS):
            moved = curve * (self.rows @ dir_w + dir_b)
            out_w, out_b = self.rows.T @ moved + self.ridge * dir_w, moved.sum(axis=0)
            bend = (dir_w * out_w).sum(axis=0) + dir_b * out_b
            going = (size > goal) & (bend > 0)
            if not going.any():
                break
            pace = np.divide(dot, bend, out=np.zeros_like(dot), where=going)
            step_w += pace * dir_w
            step_b += pace * dir_b
            left_w -= pace * out_w
            left_b -= pace * out_b
            size = (left_w**2).sum(axis=0) + left_b**2
            new_w, new_b = by_w * left_w, by_b * left_b
            new_dot = (left_w * new_w).sum(axis=0) + left_b * new_b
            turn = np.divide(new_dot, dot, out=np.zeros_like(dot), where=going & (dot > 0))
            dir_w, dir_b = new_w + turn * dir_w, new_b + turn * dir_b
            dot = new_dot
        return step_w, step_b
