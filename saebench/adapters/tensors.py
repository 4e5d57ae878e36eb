"""Tensors of a checkpoint handed out one by one, with shape and finiteness checked."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from saebench.errors import CheckpointError
from saebench.weights import StateDict, dtype_name


class Tensors:
    """The tensors of one weight file; :meth:`unused` names those that nobody asked for."""

    def __init__(self, file: str, content: StateDict) -> None:
        self.file = file
        self._tensors = content.tensors
        self._used: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return key in self._tensors

    def shape(self, key: str) -> tuple[int, ...]:
        """The shape of a tensor that has to be there."""
        return tuple(self._get(key).shape)

    def dtype(self, key: str) -> str:
        """The dtype a tensor is stored in (``float32``)."""
        return dtype_name(self._get(key).dtype)

    def take(self, key: str, **sizes: int) -> Tensor:
        """The tensor as float32 of shape ``sizes`` (dimension name = length), a copy of its own.

        Raises :class:`CheckpointError` when it is missing, of another shape, not of a floating
        dtype, or not finite.
        """
        dtype = self._get(key).dtype
        if not dtype.is_floating_point:
            raise CheckpointError(
                f"tensor {key!r} of {self.file} with a floating dtype",
                dtype_name(dtype),
                "Save the weights as floating-point numbers; quantised ones cannot be evaluated.",
            )
        return self.numbers(key, **sizes)

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
        return self.take(key, d_out=d_out, d_sae=d_sae).T.contiguous()

    def numbers(self, key: str, **sizes: int) -> Tensor:
        """:meth:`take` for values that may be stored as integers, as sizes of groups are."""
        tensor = self._get(key)
        if tuple(tensor.shape) != tuple(sizes.values()):
            expected = ", ".join(f"{name} {length}" for name, length in sizes.items())
            raise CheckpointError(
                f"tensor {key!r} of {self.file} with shape [{expected}]",
                f"shape {list(tensor.shape)}",
                "Check that the config belongs to these weights and that neither is transposed.",
            )
        values = tensor.to(torch.float32, copy=True).contiguous()
        finite = torch.isfinite(values)
        if not bool(finite.all()):
            bad = int((~finite).sum())
            kinds = "NaN" if bool(values.isnan().any()) else "infinite"
            raise CheckpointError(
                f"tensor {key!r} of {self.file} with finite values",
                f"{bad:,} of {values.numel():,} are {kinds}",
                "The checkpoint was saved after training diverged, or the file is damaged.",
            )
        return values

    def scalar(self, key: str) -> float:
        """The one finite value of a tensor that has to be there."""
        tensor = self._get(key)
        if tensor.numel() != 1:
            raise CheckpointError(
                f"tensor {key!r} of {self.file} with one value",
                f"shape {list(tensor.shape)}",
                "Fetch the weights that belong to this config.",
            )
        return float(self.numbers(key, **{f"dim {i}": 1 for i in range(tensor.ndim)}))

    def threshold(self, key: str, **sizes: int) -> Tensor:
        """JumpReLU thresholds, not negative.

        Raises :class:`CheckpointError` for negative ones: −1 means that training never estimated
        the threshold, and other negative values that the logarithm was stored.
        """
        values = self.take(key, **sizes)
        if bool((values >= 0).all()):
            return values
        never = bool((values == -1).all())
        raise CheckpointError(
            f"threshold {key!r} of {self.file} with values >= 0",
            "-1, the initial value: training never estimated it"
            if never
            else f"{int((values < 0).sum()):,} of {values.numel():,} negative, smallest "
            f"{float(values.min()):.4g}: the logarithm may have been stored",
            "Train until the threshold is estimated and save again."
            if never
            else "Store exp() of the values if they are logarithms.",
        )

    def ignore(self, keys: Iterable[str]) -> None:
        """Count tensors as known that encoding and decoding do not need."""
        self._used.update(keys)

    def unused(self) -> tuple[str, ...]:
        """The names of tensors that nobody took."""
        return tuple(sorted(set(self._tensors) - self._used))

    def _get(self, key: str) -> Tensor:
        if key not in self._tensors:
            raise CheckpointError(
                f"tensor {key!r} in {self.file}",
                f"only {', '.join(sorted(self._tensors)[:20])}",
                "The file is incomplete, or the config names another architecture.",
            )
        self._used.add(key)
        return self._tensors[key]
