import pytest
import torch
from sklearn.metrics import r2_score

from saebench.activations import TopK
from saebench.sae import SAE, SAEConfig
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
