"""What the arms of a checkpoint subtract: directions in units of the activation, and the norms of nulls."""

import numpy as np
import pytest
import torch

from saebench.activations import ReLU
from saebench.causal import Probes
from saebench.causal.results import Latents
from saebench.measure.causal.ablations import Chosen
from saebench.measure.causal.subjects import Ablated
from saebench.passes import Subject
from saebench.sae import SAE, SAEConfig
from saebench.sites import parse_site

N, WIDTH = 6, 8
LATENT = np.array([2, 3, 5, 7, 11, 13])
SITE = "blocks.0.hook_resid_post"


def drawn(seed):
    """Rows whose norms differ from latent to latent."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(N, WIDTH, generator=generator)
    return rows * torch.rand(N, 1, generator=generator).mul(9).add(0.5)


def subtracted(partner):
    """By arm and model what each of 20 probes loses, ``[20, WIDTH]``; the probes, and all directions."""
    own = {0: drawn(0), 1: drawn(1)}
    others = {0: drawn(2), 1: drawn(3)}
    latents = Latents(
        LATENT, np.full(N, "shared"), np.ones((N, 2)), np.ones(N), partner, np.full(N, 9)
    )
    generator = np.random.default_rng(0)
    probes = Probes.of(
        generator.choice(LATENT, 20),
        generator.permutation(20),
        np.arange(20),
        1 + generator.random(20),
    )
    arms = {arm.name: arm for arm in Chosen(latents, [], own, others).arms(probes, seed=0)}
    taken = {
        name: {
            m: (torch.from_numpy(arm.codes)[:, None] * rows[arm.rows]).numpy()
            for m, rows in arm.directions.items()
        }
        for name, arm in arms.items()
    }
    return taken, arms, probes, own, others


def test_every_null_loses_as_much_as_the_latent_in_each_model_and_at_each_probe():
    taken, arms, probes, own, others = subtracted(np.arange(N))
    assert set(taken) == {"latent", "random", "mismatched"}
    assert (arms["mismatched"].at).all()
    place = {int(latent): i for i, latent in enumerate(LATENT)}
    for i in range(len(probes)):
        j = place[int(probes.latent[i])]
        for m in (0, 1):
            row = own[m][j].double().numpy()
            norm = probes.code[i] * np.sqrt((row**2).sum())
            np.testing.assert_allclose(taken["latent"][m][i], probes.code[i] * row, rtol=1e-5)
            for name in ("random", "mismatched"):
                found = np.sqrt((taken[name][m][i].astype(np.float64) ** 2).sum())
                assert found == pytest.approx(norm, rel=1e-5), (name, m)
            other = others[m][j].double().numpy()
            cosine = taken["mismatched"][m][i] @ other / norm / np.sqrt((other**2).sum())
            assert cosine == pytest.approx(1, abs=1e-5)
        a, b = (taken["random"][m][i] / np.linalg.norm(taken["random"][m][i]) for m in (0, 1))
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_latents_without_a_partner_are_left_out_of_the_mismatched_arm_alone():
    partner = np.array([-1, 1, 2, -1, 4, 5])
    _, arms, probes, *_ = subtracted(partner)
    np.testing.assert_array_equal(arms["mismatched"].at, ~np.isin(probes.latent, [2, 7]))
    assert arms["latent"].at is arms["random"].at is None


@pytest.mark.parametrize("scaled", [False, True])
def test_a_direction_is_what_a_code_of_one_adds_to_the_reconstruction(scaled):
    generator = torch.Generator().manual_seed(0)
    enc, dec = torch.randn(2, N, WIDTH, generator=generator)
    scale = torch.linspace(0.25, 3.0, N) if scaled else None
    cfg = SAEConfig("test", WIDTH, N, WIDTH)
    sae = SAE(cfg, ReLU(), W_enc=enc.T, W_dec=dec, b_dec=torch.ones(WIDTH), latent_scale=scale)
    one = Ablated.of(Subject.at("a", sae, parse_site(SITE)))
    expected = sae.decode(torch.eye(N)) - sae.decode(torch.zeros(1, N))
    (found,) = one.directions(torch.arange(N)).values()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    (found,) = one.directions(torch.tensor([4, 1])).values()
    torch.testing.assert_close(found, expected[[4, 1]], rtol=1e-4, atol=1e-5)
