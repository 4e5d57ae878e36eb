"""Tensors of a checkpoint handed out one by one, with shape and finiteness checked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from saebench.errors import CheckpointError
from saebench.sae import Fact
from saebench.weights import (
    Opened,
    StateDict,
    StoredTensors,
    TensorInfo,
    count_not_finite,
    dtype_name,
    float32_rows,
    keep,
)


class Tensors:
    """The tensors of one weight file; :meth:`unused` names those that nobody asked for."""

    def __init__(self, file: str, content: StateDict) -> None:
        self.file = file
        self._tensors = content.tensors
        self._used: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._tensors

    @property
    def names(self) -> set[str]:
        """The names of all tensors in the file."""
        return set(self._tensors)

    def shape(self, key: str) -> tuple[int, ...]:
        """The shape of a tensor that has to be there."""
        return self._info(key).shape

    def length(self, key: str, otherwise: str, *, dimensions: int = 1) -> Fact:
        """The first length of a tensor of so many dimensions, none of them zero.

        Raises :class:`CheckpointError` for another shape; ``otherwise`` says what that means.
        """
        shape = self.shape(key)
        if len(shape) != dimensions or 0 in shape:
            plural = "s, none of them 0" if dimensions > 1 else ", not empty"
            raise CheckpointError(
                f"tensor {key!r} of {self.file} with {dimensions} dimension{plural}",
                f"shape {list(shape)}",
                otherwise,
            )
        return Fact(shape[0], f"{self.file}: {'shape' if dimensions > 1 else 'length'} of {key}")

    def dtype(self, key: str) -> str:
        """The dtype a tensor is stored in (``float32``)."""
        return self._info(key).dtype

    def take(self, key: str, **sizes: int) -> Tensor:
        """The tensor as float32 of shape ``sizes`` (dimension name = length), the caller's own.

        It is a copy: what is done to the file later does not reach it. Raises
        :class:`CheckpointError` when it is missing, of another shape, not of a floating dtype, or
        not finite.
        """
        return self._floating(key, sizes)

    def encoder(self, key: str, *, d_in: int, d_sae: int, linear: bool = False) -> Tensor:
        """An encoder as ``[d_in, d_sae]``; ``linear`` says that the file has ``[d_sae, d_in]``.

        Raises what :meth:`take` raises.
        """
        if not linear:
            return self.take(key, d_in=d_in, d_sae=d_sae)
        return self.take(key, d_sae=d_sae, d_in=d_in).T  # a view: the product does not mind

    def decoder(self, key: str, *, d_sae: int, d_out: int, linear: bool = False) -> Tensor:
        """A decoder as ``[d_sae, d_out]``, its rows contiguous; ``linear``: the file has ``[d_out, d_sae]``.

        Raises what :meth:`take` raises.
        """
        if not linear:
            return self.take(key, d_sae=d_sae, d_out=d_out)
        return self._floating(key, {"d_out": d_out, "d_sae": d_sae}, transpose=True)

    def decoders(self, key: str, *, sources: int, d_sae: int, d_out: int) -> Tensor:
        """Decoders stored one after another, ``[sources, d_sae, d_out]``, as ``[d_sae, sources · d_out]``.

        Raises what :meth:`take` raises.
        """
        sizes = {"sources": sources, "d_sae": d_sae, "d_out": d_out}
        return self._floating(key, sizes, transpose=True).reshape(d_sae, sources * d_out)

    def numbers(self, key: str, **sizes: int) -> Tensor:
        """:meth:`take` of few values, read in an outline too; they may be stored as integers."""
        return self._rows(key, sizes, values=True)

    def scalar(self, key: str) -> float:
        """The one finite value of a tensor that has to be there."""
        shape = self.shape(key)
        if math.prod(shape) != 1:
            raise CheckpointError(
                f"tensor {key!r} of {self.file} with one value",
                f"shape {list(shape)}",
                "Fetch the weights that belong to this config.",
            )
        return float(self.numbers(key, **{f"dim {i}": 1 for i in range(len(shape))}))

    def is_all_nan(self, key: str) -> bool:
        """Whether a tensor of few values, which has to be there, holds nothing but NaN."""
        self._info(key)
        values = float32_rows(self._opened(key, values=True))
        return values.numel() > 0 and bool(values.isnan().all())

    def threshold(self, key: str, never: str = "", logs: str = "", /, **sizes: int) -> Tensor:
        """JumpReLU thresholds, not negative.

        Raises :class:`CheckpointError` for negative ones: −1 means that training never estimated
        the threshold, and other negative values that the logarithm was stored. ``never`` and
        ``logs`` are the advice in these cases, for formats with a setting that helps.
        """
        values = self._floating(key, sizes, values=True)
        if bool((values >= 0).all()):
            return values
        initial = bool((values == -1).all())
        raise CheckpointError(
            f"threshold {key!r} of {self.file} with values >= 0",
            "-1, the initial value: training never estimated it"
            if initial
            else f"{int((values < 0).sum()):,} of {values.numel():,} negative, smallest "
            f"{float(values.min()):.4g}: the logarithm may have been stored",
            never or "Train until the threshold is estimated and save again."
            if initial
            else logs or "Store exp() of the values if they are logarithms.",
        )

    def ignore(self, keys: Iterable[str]) -> None:
        """Count tensors as known that encoding and decoding do not need."""
        self._used.update(keys)

    def unused(self) -> tuple[str, ...]:
        """The names of tensors that nobody took."""
        return tuple(sorted(set(self._tensors) - self._used))

    def _floating(
        self, key: str, sizes: Mapping[str, int], *, transpose: bool = False, values: bool = False
    ) -> Tensor:
        dtype = self.dtype(key)
        if not getattr(torch, dtype).is_floating_point:
            raise CheckpointError(
                f"tensor {key!r} of {self.file} with a floating dtype",
                dtype,
                "Save the weights as floating-point numbers; quantised ones cannot be evaluated.",
            )
        return self._rows(key, sizes, transpose=transpose, values=values)

    def _rows(
        self, key: str, sizes: Mapping[str, int], *, transpose: bool = False, values: bool = False
    ) -> Tensor:
        """The tensor, checked and in float32; ``transpose`` swaps its first two dimensions.

        ``values`` asks for a matrix even in an outline.
        """
        shape = self.shape(key)
        if shape != tuple(sizes.values()):
            expected = ", ".join(f"{name} {length}" for name, length in sizes.items())
            raise CheckpointError(
                f"tensor {key!r} of {self.file} with shape [{expected}]",
                f"shape {list(shape)}",
                "Check that the config belongs to these weights and that neither is transposed.",
            )
        rows = float32_rows(self._opened(key, values=values), transpose=transpose)
        if rows.is_meta:
            return rows
        nan, infinite = count_not_finite(rows)
        if nan or infinite:
            raise CheckpointError(
                f"tensor {key!r} of {self.file} with finite values",
                f"{nan + infinite:,} of {rows.numel():,} are {'NaN' if nan else 'infinite'}",
                "The checkpoint was saved after training diverged, or the file is damaged.",
            )
        return rows

    def _info(self, key: str) -> TensorInfo:
        """What the file declares about a tensor that has to be there, without reading it."""
        if key not in self._tensors:
            raise CheckpointError(
                f"tensor {key!r} in {self.file}",
                f"only {', '.join(sorted(self._tensors)[:20])}",
                "The file is incomplete, or the config names another architecture.",
            )
        self._used.add(key)
        if isinstance(self._tensors, StoredTensors):
            return self._tensors.info(key)
        tensor = self._tensors[key]
        return TensorInfo(dtype_name(tensor.dtype), tuple(tensor.shape))

    def _opened(self, key: str, *, values: bool = False) -> Opened:
        if isinstance(self._tensors, StoredTensors):
            return self._tensors.open(key, values=values)
        return Opened(self._tensors[key], keep, owned=False)


def scale_rows(W: Tensor, s: Tensor) -> Tensor:
    """``W[rows, columns]`` with row ``i`` multiplied by ``s[i]``, in place; an outline as it is."""
    return W if W.is_meta else W.mul_(s[:, None])


def scale_columns(W: Tensor, s: Tensor) -> Tensor:
    """``W[rows, columns]`` with column ``j`` multiplied by ``s[j]``, in place; an outline as it is."""
    return W if W.is_meta else W.mul_(s)


def row_norms(W: Tensor) -> Tensor:
    """The Euclidean norm of each row of ``W[rows, columns]``, ``[rows]``; ones for an outline."""
    return torch.ones(W.shape[:-1]) if W.is_meta else torch.linalg.vector_norm(W, dim=-1)
