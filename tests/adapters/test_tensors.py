"""Tensors handed to adapters: float32, finite, in the layout asked for, and the caller's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from saebench.adapters.reading.tensors import Tensors, row_norms, scale_columns, scale_rows
from saebench.errors import CheckpointError
from saebench.files import CheckpointFiles
from saebench.weights import StateDict, float32

NAME = "w.safetensors"


def opened(root: Path, tensors: dict[str, torch.Tensor], outline: bool = False) -> Tensors:
    save_file(tensors, root / NAME)
    files = CheckpointFiles(root, (NAME,), outline=outline)
    return Tensors(NAME, files.state_dict(NAME))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [(3, 5), (700, 600)], ids=["small", "mapped"])
def test_matrices_come_in_the_layout_asked_for(
    tmp_path: Path, dtype: torch.dtype, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(float32, "PIECE", 1000)
    W = torch.randn(size).to(dtype)
    tensors, (a, b) = opened(tmp_path, {"W": W}), size
    expected = W.float()
    assert torch.equal(tensors.encoder("W", d_in=a, d_sae=b), expected)
    assert torch.equal(tensors.encoder("W", d_in=b, d_sae=a, linear=True), expected.T)
    assert torch.equal(tensors.decoder("W", d_sae=a, d_out=b), expected)
    turned = tensors.decoder("W", d_sae=b, d_out=a, linear=True)
    assert torch.equal(turned, expected.T)
    assert turned.is_contiguous()
    assert turned.dtype is torch.float32


@pytest.mark.parametrize("shape", [(2, 300, 70), (40, 3, 1, 70), (1, 9000), (9000, 1), (8100,)])
def test_pieces_cover_a_tensor_once_whatever_its_shape(
    shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(float32, "PIECE", 1000)
    source = torch.arange(float(torch.Size(shape).numel())).reshape(shape)
    for view in (source, source.transpose(0, -1)):
        target = torch.zeros(view.shape)
        count = 0
        for part, place in float32.pieces(view, target):
            assert part.numel() <= 16 * 1000
            count += part.numel()
            place.copy_(part)
        assert count == view.numel()
        assert torch.equal(target, view)


@pytest.mark.parametrize("size", [(3, 5), (700, 600)], ids=["small", "mapped"])
def test_what_is_done_to_a_tensor_does_not_show_when_it_is_taken_again(
    tmp_path: Path, size: tuple[int, int]
) -> None:
    tensors = opened(tmp_path, {"W": torch.ones(size)})
    sizes = {"rows": size[0], "columns": size[1]}
    scale_rows(tensors.take("W", **sizes), torch.full((size[0],), 3.0))
    assert bool((tensors.take("W", **sizes) == 1).all())


def test_tensors_in_memory_are_copied() -> None:
    W = torch.ones(2, 2)
    Tensors("w", StateDict({"W": W})).take("W", rows=2, columns=2).zero_()
    assert bool(W.all())


@pytest.mark.parametrize(("value", "kind"), [(float("nan"), "NaN"), (float("inf"), "infinite")])
@pytest.mark.parametrize("linear", [False, True])
def test_values_that_are_not_finite_are_counted(
    tmp_path: Path, value: float, kind: str, linear: bool
) -> None:
    W = torch.ones(700, 600)
    W[5, 7] = W[699, 599] = value
    tensors = opened(tmp_path, {"W": W})
    sizes = (600, 700) if linear else (700, 600)
    with pytest.raises(CheckpointError, match=f"'W' of {NAME} .*2 of 420,000 are {kind}"):
        tensors.decoder("W", d_sae=sizes[0], d_out=sizes[1], linear=linear)


def test_a_float64_beyond_float32_is_not_finite(tmp_path: Path) -> None:
    tensors = opened(tmp_path, {"b": torch.tensor([1e300], dtype=torch.float64)})
    with pytest.raises(CheckpointError, match="1 of 1 are infinite"):
        tensors.take("b", d_in=1)


def test_shapes_and_dtypes_are_known_without_reading(tmp_path: Path) -> None:
    tensors = opened(tmp_path, {"W": torch.ones(3, 2, dtype=torch.bfloat16)})
    (tmp_path / NAME).unlink()
    assert (tensors.shape("W"), tensors.dtype("W")) == ((3, 2), "bfloat16")


def test_scaling_and_norms_are_those_of_rows_and_columns() -> None:
    W = torch.tensor([[3.0, 4.0], [0.0, 2.0]])
    assert row_norms(W).tolist() == [5.0, 2.0]
    assert scale_rows(W.clone(), torch.tensor([1.0, 2.0])).tolist() == [[3.0, 4.0], [0.0, 4.0]]
    assert scale_columns(W.clone(), torch.tensor([1.0, 2.0])).tolist() == [[3.0, 8.0], [0.0, 4.0]]


def test_an_outline_is_checked_for_shape_and_passes_through_every_function(tmp_path: Path) -> None:
    bad = torch.full((4, 3), float("nan"))
    tensors = opened(tmp_path, {"W": bad, "b": torch.ones(3)}, outline=True)
    W_enc = tensors.encoder("W", d_in=3, d_sae=4, linear=True)
    W_dec = tensors.decoder("W", d_sae=3, d_out=4, linear=True)
    b = tensors.take("b", d_sae=3)
    assert (W_enc.shape, W_dec.shape) == ((3, 4), (3, 4))
    for W in (W_enc, scale_rows(W_dec, b), scale_columns(W_dec, torch.ones(4))):
        assert W.is_meta
        assert W.dtype is torch.float32
    assert row_norms(W_dec).tolist() == [1.0, 1.0, 1.0]
    assert b.tolist() == [1.0, 1.0, 1.0]
    with pytest.raises(CheckpointError, match=r"with shape \[d_in 4, d_sae 3\]|shape"):
        tensors.encoder("W", d_in=3, d_sae=4)
