"""Latents with known effects in a pair of linear models: gaps, classes and nulls come out as planted."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fixtures.planted_crosscoder import Latent, planted_crosscoder
from saebench.causal.equivalence import LATENT, MISMATCHED, RANDOM, Equivalence
from saebench.causal.nulls import partners, random_units
from saebench.causal.probes import Probes, Shifts
from saebench.causal.results import Latents, PairResult
from saebench.causal.table import Table

N_PROBES = 64
TURNED = (12, 13)  # what their directions do to logits differs between the models
LATENTS = (
    *(Latent("shared", 1.0, 1.0, rate=0.25) for _ in range(12)),
    Latent("shared", 1.0, 1.0, turned=True, rate=0.05),
    Latent("shared", 1.0, 1.0, cosine=0.9, turned=True, rate=0.05),
    Latent("base_only", 1.0, 0.0, rate=0.05),
    Latent("chat_only", 0.0, 1.0, rate=0.05),
    Latent("chat_only", 0.2, 1.0, rate=0.05),
    Latent("dead", 1.0, 1.0, rate=0.0),
)


def pair(logit_scale):
    """Models that read the same logits off all directions but two; no bias of one model alone."""
    made = planted_crosscoder(LATENTS, logit_scale=logit_scale)
    return replace(made, bias=torch.zeros_like(made.bias))


@pytest.fixture(scope="module")
def planted():
    return pair(1.0)


@pytest.fixture(scope="module")
def result(planted):
    return ablated(planted)


def ablated(planted):
    """Every latent ablated in both models at 64 tokens, with both nulls, in closed form."""
    tokens = planted.sample(2000, seed=1)
    codes = tokens.codes.numpy()
    alive = np.flatnonzero((codes > 0).any(0))
    rows = [(j, i) for j in alive for i in np.flatnonzero(codes[:, j])[:N_PROBES]]
    latent, token = np.array(rows).T
    probes = Probes.of(latent, token, np.zeros_like(token), codes[token, latent])
    norms, names = planted.norms.numpy(), np.array(planted.classes)
    pools = {name: np.flatnonzero((names == name) & (norms > 0).all(1)) for name in set(names)}
    partner, has_partner = partners(alive, names[alive].tolist(), pools, seed=0)
    units = random_units(len(planted.latents), planted.width, seed=0)
    written = {
        LATENT: [planted.directions[:, m].numpy() for m in (0, 1)],
        RANDOM: [norms[:, [m]] * units for m in (0, 1)],
    }
    written[MISMATCHED] = []
    for m in (0, 1):
        other = np.zeros((len(names), planted.width))
        theirs = planted.directions[:, m].numpy()[partner]
        length = np.linalg.norm(theirs, axis=1, keepdims=True)
        other[alive] = norms[alive][:, [m]] * theirs / np.where(length > 0, length, 1)
        written[MISMATCHED].append(other)
    hidden = [x.numpy()[probes.sequence] for x in (tokens.base, tokens.chat)]

    def shift(arm, m):
        taken = probes.code[:, None] * written[arm][m][probes.latent]
        h = torch.from_numpy(hidden[m])
        return planted.read_outs[m].divergence(h, h - torch.from_numpy(taken))

    kl = {arm: {m: shift(arm, m) for m in (0, 1)} for arm in (LATENT, RANDOM, MISMATCHED)}
    shifts = Shifts(kl, kl, {})
    table = Table.of(alive, probes, shifts)
    options = {"min_probes": 30, "n_resamples": 200, "seed": 0}
    found = Equivalence.of(table, norms[alive], partners=has_partner, **options)
    latents = Latents(
        alive, names[alive], norms[alive], planted.cosine[alive], partner, found.n_probes
    )
    return PairResult(latents, found, 30, 0.7, 0.5, 200, 0)


def by_latent(result, values):
    return dict(zip(result.latents.latent.tolist(), values.tolist(), strict=True))


def test_the_gaps_are_the_latents_that_were_turned(result):
    assert set(result.gaps()["latents"]) == set(TURNED)
    assert result.gaps()["sure"] == [13]  # 64 probes leave the other one open
    assert result.gap_share.value == pytest.approx(1 / 14)
    assert result.gap_share_point.value == pytest.approx(2 / 14)
    r = by_latent(result, result.found.forward.values["pearson"])
    assert min(r[j] for j in range(12)) > 0.75


def test_magnitude_alone_hides_what_was_turned_until_it_is_held_fixed():
    small = ablated(pair(0.3))  # shifts are almost f² times a constant
    assert small.gaps()["latents"] == []
    r, left = (
        by_latent(small, small.found.forward.values[name]) for name in ("pearson", "partial_log")
    )
    assert min(r[j] for j in TURNED) > 0.8
    assert max(left[j] for j in TURNED) < 0.4
    assert min(left[j] for j in range(12)) > 0.7


def test_latents_of_one_model_are_undefined_with_the_side_named(planted, result):
    reasons = dict(zip(result.latents.latent.tolist(), result.found.reasons, strict=True))
    for j, latent in enumerate(planted.latents):
        if latent.name == "dead":
            assert j not in reasons
        elif latent.base == 0:
            assert reasons[j] == "base decoder row is 0: no shift"
        elif latent.chat == 0:
            assert reasons[j] == "chat decoder row is 0: no shift"
        else:
            assert reasons[j] == ""


def test_shared_latents_are_above_mismatched_ones(result):
    shared = result.of_class("shared")
    assert shared["partial_log"].value > shared["mismatched_partial_log"].value
    assert shared["pearson_over_mismatched"].value > 0


def test_effects_are_the_planted_divergences(planted, result):
    tokens = planted.sample(2000, seed=1)
    for m, side in enumerate(("base", "chat")):
        found = by_latent(result, np.array(result.columns[f"effect_{side}"]))
        for j in (0, 12, 16):
            fires = np.flatnonzero(tokens.codes[:, j].numpy())[:N_PROBES]
            expected = planted.shift(m, tokens, j)[fires].mean()
            assert found[j] == pytest.approx(expected, rel=1e-5)
