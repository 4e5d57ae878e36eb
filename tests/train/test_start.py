import pytest
import torch
from scipy.optimize import minimize

from saebench.train.start import Weights, geometric_median, input_scale


def test_the_scale_makes_the_mean_norm_the_root_of_the_width():
    x = 3 + 5 * torch.randn(500, 16, generator=torch.Generator().manual_seed(0))
    assert (x * input_scale(x)).norm(dim=1).mean() == pytest.approx(4.0, rel=1e-6)
    assert input_scale(torch.zeros(5, 16)) == 1.0


class TestGeometricMedian:
    def test_has_the_least_sum_of_distances(self):
        x = torch.randn(60, 3, generator=torch.Generator().manual_seed(1)).double()
        x[:5] += 50
        best = minimize(
            lambda m: float((x - torch.from_numpy(m)).norm(dim=1).sum()), x.mean(0).numpy()
        )
        torch.testing.assert_close(geometric_median(x), torch.from_numpy(best.x), atol=1e-4, rtol=0)

    def test_of_three_collinear_points_is_the_middle_one(self):
        x = torch.tensor([[0.0, 0.0], [1.0, 1.0], [100.0, 100.0]])
        torch.testing.assert_close(geometric_median(x), torch.tensor([1.0, 1.0]), atol=1e-3, rtol=0)

    def test_is_not_moved_by_a_few_enormous_rows(self):
        x = torch.randn(1000, 8, generator=torch.Generator().manual_seed(2))
        x[:20] += 1000
        assert geometric_median(x).norm() < 0.3
        assert x.mean(0).norm() > 50

    def test_of_equal_points_is_that_point(self):
        torch.testing.assert_close(geometric_median(torch.full((9, 4), 2.5)), torch.full((4,), 2.5))


class TestWeights:
    def test_the_encoder_starts_as_the_decoder_with_rows_of_norm_one(self):
        weights = Weights(6, 10, seed=0)
        assert torch.equal(weights.W_enc, weights.W_dec)
        assert weights.W_enc.data_ptr() != weights.W_dec.data_ptr()
        torch.testing.assert_close(weights.W_dec.norm(dim=1), torch.ones(10))

    def test_depend_on_the_seed_alone(self):
        torch.manual_seed(1)
        first = Weights(6, 10, seed=3).W_dec
        torch.manual_seed(2)
        assert torch.equal(first, Weights(6, 10, seed=3).W_dec)
        assert not torch.equal(first, Weights(6, 10, seed=4).W_dec)

    def test_the_gradient_along_a_decoder_row_is_removed_and_the_rest_kept(self):
        weights = Weights(6, 10, seed=0)
        rows = weights.W_dec.detach()
        across = torch.randn(10, 6)
        across -= (across * rows).sum(1, keepdim=True) * rows
        weights.W_dec.grad = across + 3 * rows
        weights.remove_parallel_gradient()
        torch.testing.assert_close(weights.W_dec.grad, across)

    def test_normalising_keeps_directions(self):
        weights = Weights(6, 10, seed=0)
        before = weights.W_dec.detach().clone()
        with torch.no_grad():
            weights.W_dec *= torch.linspace(0.1, 9, 10)[:, None]
        weights.normalize_decoder()
        torch.testing.assert_close(weights.W_dec.detach(), before)
