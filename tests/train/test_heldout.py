import pytest
import torch
from sklearn.metrics import r2_score

from saebench.activations import TopK
from saebench.sae import SAE, Crosscoder, SAEConfig
from saebench.sae.normalization import Affine
from saebench.train.columns import Columns
from saebench.train.heldout import HeldOut


def small_sae(seed=0):
    generator = torch.Generator().manual_seed(seed)
    W = torch.randn(6, 20, generator=generator)
    cfg = SAEConfig("topk", 6, 20, 6, k=4)
    return SAE(cfg, TopK(4), W_enc=W, W_dec=W.T / 9, b_dec=torch.ones(6), b_enc=torch.zeros(20))


def test_fve_is_the_pooled_one_and_l0_the_mean_count():
    x = 100 + 3 * torch.randn(5000, 6, generator=torch.Generator().manual_seed(1))
    sae = small_sae()
    measured = HeldOut(x).measure(sae)
    expected = r2_score(x.double(), sae(x).double(), multioutput="variance_weighted")
    assert measured["fve"] == pytest.approx(expected, rel=1e-9)
    assert measured["l0"] == pytest.approx(float((sae.encode(x) != 0).sum(1).double().mean()))


def test_fve_of_activations_that_do_not_vary_is_none():
    assert HeldOut(torch.ones(10, 6)).measure(small_sae())["fve"] is None


class TestACrosscoder:
    """Two sources of three dimensions, the second a hundred times larger and better explained."""

    def setup_method(self):
        generator = torch.Generator().manual_seed(2)
        self.x = torch.randn(5000, 6, generator=generator) * torch.tensor([1.0] * 3 + [100.0] * 3)
        W = torch.randn(6, 20, generator=generator)
        cfg = SAEConfig("topk", 3, 20, 3, k=4, n_sources=2, n_targets=2, normalization="affine")
        self.sae = Crosscoder(
            cfg,
            TopK(4),
            W_enc=W,
            W_dec=W.T / 7,
            b_dec=torch.ones(6),
            b_enc=torch.zeros(20),
            normalization=Affine(torch.tensor([1.0] * 3 + [0.01] * 3), torch.zeros(6)),
        )

    def test_is_measured_per_source_in_raw_units_and_over_both(self):
        measured = HeldOut(self.x, n_sources=2).measure(self.sae)
        rebuilt = self.sae(self.x.view(-1, 2, 3)).view(-1, 6).double()
        for name, part in {"fve": slice(6), "fve_0": slice(3), "fve_1": slice(3, 6)}.items():
            expected = r2_score(
                self.x[:, part].double(), rebuilt[:, part], multioutput="variance_weighted"
            )
            assert measured[name] == pytest.approx(expected, rel=1e-6)
        assert measured["fve_0"] != pytest.approx(measured["fve"], rel=1e-3)

    def test_has_no_fve_of_a_source_that_does_not_vary(self):
        self.x[:, :3] = 5.0
        measured = HeldOut(self.x, n_sources=2).measure(self.sae)
        assert measured["fve_0"] is None
        assert measured["fve_1"] == pytest.approx(measured["fve"], rel=1e-3)


def test_an_sae_is_measured_on_its_own_columns():
    rows = torch.randn(5000, 16, generator=torch.Generator().manual_seed(4)).double().float()
    columns = Columns((((3, 9), (9, 15)),))
    sae = small_sae()
    taken = HeldOut(rows, columns).measure(sae)
    assert taken == HeldOut(rows[:, 3:9] - rows[:, 9:15]).measure(sae)
