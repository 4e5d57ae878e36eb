"""Matching pursuit: greedy picks by hand, its stopping rules, chunks, and the tied encoder."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from saebench.sae import SAEConfig
from saebench.sae import pursuit as module
from saebench.sae.pursuit import MatchingPursuit

# atoms at 0°, 90° and 53.13° in the plane, one of which is not of unit length
ATOMS = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8], [0.0, -2.0]])


def pursuit(W_dec: Tensor = ATOMS, **options: Any) -> MatchingPursuit:
    d_sae, d_in = W_dec.shape
    rules: dict[str, Any] = {"residual_threshold": 0.01, "max_rounds": d_in, "stop_on_repeat": True}
    return MatchingPursuit(
        SAEConfig("matching_pursuit", d_in, d_sae, d_in),
        W_dec=W_dec.clone(),
        b_dec=torch.zeros(d_in),
        **rules | options,
    )


def test_each_round_takes_what_the_best_atom_explains_of_what_is_left() -> None:
    # [3, 4.5]: the third atom explains 5.4 and leaves [-0.24, 0.18], of which the second has 0.18
    codes = pursuit().encode(torch.tensor([3.0, 4.5]))
    assert torch.allclose(codes, torch.tensor([0.0, 0.18, 5.4, 0.0]), atol=1e-5)


def test_an_atom_that_is_not_of_unit_length_is_taken_as_it_is() -> None:
    # the last atom's product is 2, which overshoots: [0, -1] − 2·[0, -2] = [0, 3]
    codes = pursuit().encode(torch.tensor([0.0, -1.0]))
    assert torch.allclose(codes, torch.tensor([0.0, 3.0, 0.0, 2.0]))


def test_nothing_is_picked_where_no_atom_points_the_way() -> None:
    assert not pursuit(ATOMS[:3]).encode(torch.tensor([-1.0, -1.0])).any()


def test_a_token_is_finished_when_little_is_left() -> None:
    codes = pursuit(residual_threshold=0.5).encode(torch.tensor([3.0, 4.5]))
    assert torch.allclose(codes, torch.tensor([0.0, 0.0, 5.4, 0.0]))


def test_a_repeat_adds_its_part_and_ends_the_pursuit() -> None:
    half = torch.tensor([[0.5, 0.0], [0.0, 0.5]])  # takes 1/4 of what is left each time
    x = torch.tensor([8.0, 0.0])
    ends = pursuit(half, max_rounds=4).encode(x)
    goes_on = pursuit(half, max_rounds=4, stop_on_repeat=False).encode(x)
    assert torch.allclose(ends, torch.tensor([4.0 + 3.0, 0.0]))
    assert torch.allclose(goes_on, torch.tensor([4.0 + 3.0 + 2.25 + 1.6875, 0.0]))


def test_the_number_of_rounds_is_bounded() -> None:
    codes = pursuit(torch.eye(6), max_rounds=2).encode(torch.arange(6.0))
    assert torch.equal(codes, torch.tensor([0.0, 0, 0, 0, 4, 5]))


def test_tokens_do_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    sae = pursuit(torch.nn.functional.normalize(torch.randn(40, 8), dim=-1))
    x = torch.randn(700, 8)
    whole = sae.codes(x)
    monkeypatch.setattr(module, "CHUNK_BYTES", 0)  # chunks of the least number of rows
    parts = sae.codes(x)
    assert torch.equal(whole.offsets, parts.offsets)
    assert torch.allclose(whole.dense(), parts.dense(), atol=1e-5)
    single = torch.stack([sae.encode(row) for row in x[:5]])
    assert torch.allclose(single, whole.dense()[:5], atol=1e-5)


def test_the_sparse_forms_are_the_dense_ones() -> None:
    torch.manual_seed(0)
    sae = pursuit(torch.randn(20, 8) * 0.4)
    x = torch.randn(3, 5, 8)
    codes, rebuilt = sae.reconstruct(x.reshape(-1, 8))
    assert torch.equal(codes.dense(), sae.encode(x).reshape(-1, 20))
    assert torch.allclose(rebuilt, sae(x).reshape(-1, 8), atol=1e-5)
    assert torch.equal(codes.counts(), (sae.encode(x) != 0).sum(-1).flatten().int())


def test_no_rows_give_no_codes() -> None:
    assert pursuit().codes(torch.zeros(0, 2)).n_tokens == 0
    assert pursuit().encode(torch.zeros(0, 2)).shape == (0, 4)


class TestTiedEncoder:
    def test_it_is_a_view_of_the_decoder(self) -> None:
        sae = pursuit()
        assert sae.W_enc.data_ptr() == sae.W_dec.data_ptr()
        assert torch.equal(sae.W_enc, sae.W_dec.T)

    def test_and_stays_one_when_cast(self) -> None:
        sae = pursuit().to(torch.float64)
        assert sae.W_enc.dtype == torch.float64
        assert sae.W_enc.data_ptr() == sae.W_dec.data_ptr()
        assert sae.encode(torch.ones(2)).dtype == torch.float64
