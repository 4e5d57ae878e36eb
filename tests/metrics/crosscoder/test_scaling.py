"""Latent scaling against a worked example, a naive least-squares loop, and the planted truth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fixtures.planted_crosscoder import Latent, PlantedCrosscoder, planted_crosscoder
from saebench.codes import SparseCodes
from saebench.metrics.crosscoder import chunks
from saebench.metrics.crosscoder.geometry import BASE, CHAT, Geometry, LatentDirections
from saebench.metrics.crosscoder.sampled_products import gathered_products, sampled_products
from saebench.metrics.crosscoder.scaling import TARGETS, Scalings, scalings, solve
from saebench.metrics.crosscoder.scaling_sums import ScalingSums
from saebench.sae.normalization import Affine

N = 1200


def summed(
    planted: PlantedCrosscoder,
    x: torch.Tensor,
    batch: int = N,
    sequences: torch.Tensor | None = None,
) -> ScalingSums:
    """Sums over ``x`` in batches; ten tokens make a sequence."""
    sae = planted.crosscoder()
    sums = ScalingSums(LatentDirections(sae, seed=3))
    ids = torch.arange(len(x)) // 10 if sequences is None else sequences
    for rows, names in zip(x.float().split(batch), ids.split(batch), strict=True):
        codes, x_hat = sae.reconstruct(rows)
        sums.update(codes, rows, x_hat, names)
    return sums


def solved(sums: ScalingSums, min_firings: int = 1) -> Scalings:
    return scalings(sums, Geometry.of(sums.directions), min_firings)


def naive(planted: PlantedCrosscoder, x: torch.Tensor, seed: int = 3) -> dict[str, np.ndarray]:
    """Every β by one least-squares problem per latent, model and target, in float64."""
    sae = planted.crosscoder()
    codes, x_hat = sae.reconstruct(x.float())
    f = codes.dense().double().numpy()
    d = planted.directions.numpy()
    bias, y, y_hat = (t.double().reshape(-1, 2, 64).numpy() for t in (planted.bias, x, x_hat))
    random = LatentDirections(sae, seed).random.double().numpy()
    names = (*TARGETS, "random")
    found = {name: np.full((2, planted.d_sae), np.nan) for name in names}
    for j in range(planted.d_sae):
        for m in (BASE, CHAT):
            error = y[:, m] - y_hat[:, m] + f[:, j, None] * d[j, m]
            targets = (y[:, m], y[:, m] - bias[0, m], y_hat[:, m], error, error)
            for name, target in zip(names, targets, strict=True):
                row = d[j, CHAT]
                if name == "random":
                    row = random[j % 16] * np.linalg.norm(row)
                column = np.outer(f[:, j], row).reshape(-1, 1)
                if column.any():
                    found[name][m, j] = np.linalg.lstsq(column, target.reshape(-1), rcond=None)[0][
                        0
                    ]
    return found


def test_the_worked_example_of_the_definition():
    f, d = np.array([1.0, 2, 0, 1]), np.array([1.0, 1])
    y = np.array([[1.0, 1], [2, 1], [5, 5], [0, 2]])
    dot = np.array([(f[:, None] * y).sum(0) @ d])
    found = solve(dot, np.array([(f * f).sum()]), np.array([d @ d]), np.array([True]))
    assert found[0] == pytest.approx(10 / 12, abs=1e-12)


def test_the_worked_example_through_the_sums():
    sae = planted_crosscoder([Latent("shared", 1, 1)] * 20, width=42).crosscoder()
    sae.cfg = replace(sae.cfg, d_in=2, d_out=2)
    sae.W_dec, sae.normalization = torch.ones(20, 4), Affine(torch.ones(4))
    sums = ScalingSums(LatentDirections(sae))
    y = torch.tensor([[1.0, 1], [2, 1], [5, 5], [0, 2]])
    codes = SparseCodes(
        torch.tensor([1.0, 2, 1]), torch.tensor([4, 4, 4]), torch.tensor([0, 1, 2, 2, 3]), 20
    )
    sums.update(codes, torch.cat((y, 2 * y), 1), torch.zeros(4, 4), torch.arange(4))
    found = sums.dot[:, 0, :, 4].sum(1) / (2 * sums.squares[:, 4].sum())
    assert found.tolist() == pytest.approx([10 / 12, 20 / 12])


@pytest.mark.parametrize("scales", [(1.0, 1.0), (2.0, 0.25), (0.3, 1.7)])
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_every_scaling_is_the_least_squares_solution(scales, noise):
    planted = planted_crosscoder(scales=scales)
    along = planted.directions[[0, 3, 12]].sum(0)  # a bias that is not orthogonal to the latents
    planted = replace(planted, bias=planted.bias + 0.7 * along)
    x = planted.sample(N, noise=noise).flat
    found, expected = solved(summed(planted, x)), naive(planted, x)
    for name in TARGETS:
        undefined = found.why != ""
        assert np.isnan(found.beta[name][:, undefined]).all()
        np.testing.assert_allclose(
            found.beta[name][:, ~undefined], expected[name][:, ~undefined], atol=2e-5
        )
    np.testing.assert_allclose(
        found.random, np.where(found.why == "", expected["random"], np.nan), atol=2e-5
    )


def test_the_planted_ratios_are_recovered_exactly_without_noise():
    planted = planted_crosscoder()
    found = solved(summed(planted, planted.sample(N).flat))
    known = found.why == ""
    assert known.sum() == 16  # all but the dead, and the two without a chat direction
    np.testing.assert_allclose(found.ratio("error")[known], planted.nu_error[known], atol=1e-5)
    co_firing = cross_talk(planted)
    np.testing.assert_allclose(
        found.ratio("reconstruction")[known],
        (planted.nu_reconstruction + co_firing)[known],
        atol=1e-5,
    )
    assert found.ratio("error")[13] == pytest.approx(0.8, abs=1e-5)  # complete shrinkage
    assert found.ratio("reconstruction")[14] == pytest.approx(0.6, abs=1e-5)  # decoupling
    assert found.ratio("error")[14] == pytest.approx(0, abs=1e-5)


def cross_talk(planted: PlantedCrosscoder) -> float:
    """Latents of other places add nothing: all their directions are orthogonal to this one's."""
    d = planted.directions.numpy()
    gram = d[:, BASE] @ d[:, CHAT].T
    gram[15, 14] = 0
    assert np.abs(gram - np.diag(np.diag(gram))).max() < 1e-12
    return 0.0


def test_noise_moves_the_ratios_no_further_than_it_may():
    noise, n = 0.02, 6000
    planted = planted_crosscoder()
    found = solved(summed(planted, planted.sample(n, noise=noise).flat))
    known = found.why == ""
    # The chat error along d is what was encoded, so its β is 1. In the base model it is ν f d + noise, which
    # is regressed on codes with noise of their own: σ / ‖d‖ each, over √Σf² tokens, and ν shrinks by that².
    norms, nu = planted.norms[known, CHAT].numpy(), planted.nu_error[known]
    f2 = planted.sample(n).codes.square().sum(0).numpy()[known]
    reach = 4 * np.sqrt(1 + nu**2) * noise / (norms * np.sqrt(f2)) + nu * (noise / norms) ** 2
    assert (np.abs(found.ratio("error")[known] - nu) < reach).all()


@pytest.mark.parametrize("batch", [1, 7, 300])
def test_batches_do_not_matter(batch):
    planted = planted_crosscoder()
    x = planted.sample(300, noise=0.05).flat
    one, other = solved(summed(planted, x)), solved(summed(planted, x, batch))
    for name in TARGETS:
        np.testing.assert_allclose(one.beta[name], other.beta[name], atol=1e-5)
    assert (one.why == other.why).all()


def test_the_order_of_tokens_does_not_matter():
    planted = planted_crosscoder()
    x = planted.sample(300, noise=0.05).flat
    shuffled = x[torch.randperm(300, generator=torch.Generator().manual_seed(1))]
    one, other = solved(summed(planted, x)), solved(summed(planted, shuffled, 50))
    np.testing.assert_allclose(one.ratio("error"), other.ratio("error"), atol=1e-5)


def test_shards_are_merged():
    planted = planted_crosscoder()
    x = planted.sample(300, noise=0.05).flat
    whole, part, rest = (summed(planted, rows) for rows in (x, x[:100], x[100:]))
    part.merge(rest)
    np.testing.assert_allclose(solved(whole).beta["error"], solved(part).beta["error"], atol=1e-5)
    assert torch.equal(whole.firings, part.firings)


def test_small_chunks_of_latents_give_the_same(monkeypatch):
    planted = planted_crosscoder()
    x = planted.sample(200, noise=0.05).flat
    whole = solved(summed(planted, x))
    monkeypatch.setattr(chunks, "BYTES", {"cpu": 3 * 4 * 128})
    np.testing.assert_allclose(solved(summed(planted, x)).random, whole.random, atol=1e-5)


def test_what_cannot_be_scaled_says_why():
    planted = planted_crosscoder()
    sums = summed(planted, planted.sample(N).flat)
    assert solved(sums).why[[9, 15, 18, 19]].tolist() == [
        *["no_chat_direction"] * 2,
        *["never_fired"] * 2,
    ]
    few = int(sums.firings[12]) + 1
    assert solved(sums, few).why[12] == "few_firings"
    assert solved(sums, few - 1).why[12] == ""


def test_random_directions_are_unit_and_follow_the_seed():
    sae = planted_crosscoder().crosscoder()
    one, same, other = (LatentDirections(sae, seed).random for seed in (1, 1, 2))
    torch.testing.assert_close(one.norm(dim=1), torch.ones(16))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_products_at_active_entries_are_those_of_the_whole_matrix(dtype):
    generator = torch.Generator().manual_seed(0)
    y, weights = (torch.randn(n, 6, generator=generator) for n in (5, 9))
    dense = torch.randn(5, 9, generator=generator).relu() * (torch.arange(5) != 2)[:, None]
    rows, indices = dense.nonzero(as_tuple=True)
    offsets = torch.zeros(6, dtype=torch.int32)
    offsets[1:] = (dense != 0).sum(1).cumsum(0)
    codes = SparseCodes(dense[rows, indices], indices.int(), offsets, 9)
    weights = weights.to(dtype)
    expected = (y @ weights.float().T)[rows, indices]
    half = torch.cat((torch.zeros_like(weights), weights), 1)[
        :, 6:
    ]  # a view with strides of its own
    torch.testing.assert_close(sampled_products(y, half, codes, rows), expected)
    torch.testing.assert_close(gathered_products(y, half, codes, rows), expected)


def test_geometry_is_in_activation_units_whatever_the_scales():
    planted = planted_crosscoder(scales=(2.0, 0.25))
    found = Geometry.of(LatentDirections(planted.crosscoder()))
    np.testing.assert_allclose(found.norms, planted.norms, atol=1e-6)
    np.testing.assert_allclose(found.cosine, planted.cosine, atol=1e-6)
    expected = planted.bias.numpy() @ planted.directions[:, CHAT].numpy().T
    np.testing.assert_allclose(found.bias, expected, atol=1e-6)
