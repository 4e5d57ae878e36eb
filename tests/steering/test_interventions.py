"""Adding a vector, and setting a latent's code with everything else kept."""

import pytest
import torch

from saebench.activations import ReLU, TopK
from saebench.errors import CheckpointError
from saebench.models.steered import at_positions, steered
from saebench.sae import SAE, SAEConfig
from saebench.sae.latent_bias import LatentBiasSAE
from saebench.sae.normalization import Affine, LayerNorm
from saebench.steering.interventions import (
    Add,
    Clamp,
    code_of,
    decoded,
    latent_direction,
    latent_directions,
    linear_decoded,
)
from tests.small_runs import identity_sae, random_sae
from tests.tiny_models import TINY_MODELS, WIDTH, shared_model, some_ids, tiny_model

SITE = "blocks.1.hook_resid_post"
LATENT = 3


def activations(rows=2, tokens=5, seed=0, width=WIDTH):
    return torch.randn(rows, tokens, width, generator=torch.Generator().manual_seed(seed))


def orthonormal_sae(width=WIDTH, n_latents=6):
    """Encoder and decoder are the same orthonormal directions, so that a code set is a code read."""
    drawn = torch.randn(width, n_latents, generator=torch.Generator().manual_seed(1))
    basis = torch.linalg.qr(drawn)[0]
    return SAE(
        SAEConfig("standard", width, n_latents, width),
        ReLU(),
        W_enc=basis,
        W_dec=basis.T.contiguous(),
        b_dec=torch.full((width,), 0.3),
    )


def logits_of(model, ids):
    with torch.no_grad():
        return model.model(input_ids=ids).logits


# --- adding ----------------------------------------------------------------------------------------


def test_adding_moves_every_token_by_the_size_along_the_unit_direction():
    h, direction = activations(), torch.arange(1.0, WIDTH + 1)
    moved = Add(direction, -2.5)(h) - h
    expected = -2.5 * direction / direction.norm()
    torch.testing.assert_close(moved, expected.expand_as(h), atol=1e-6, rtol=1e-5)


def test_a_longer_vector_is_the_same_direction():
    h, direction = activations(), torch.randn(WIDTH)
    torch.testing.assert_close(Add(direction, 2.0)(h), Add(7 * direction, 2.0)(h))


@pytest.mark.parametrize("name", TINY_MODELS)
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_adding_nothing_is_the_unsteered_run_to_the_bit(name, zero):
    model, ids = shared_model(name), some_ids()
    with steered(model, SITE, Add(torch.ones(WIDTH), zero)):
        got = logits_of(model, ids)
    assert torch.equal(got, logits_of(model, ids))


def test_adding_nothing_keeps_the_sign_of_zero():
    h = torch.tensor([[[-0.0, 1.0]]])
    assert Add(torch.ones(2), 0.0)(h) is h


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_activation_keeps_its_dtype_and_the_vector_is_rounded_once(dtype):
    direction, h = torch.randn(WIDTH), activations().to(dtype)
    change = Add(direction, 3.0)
    got = change(h)
    assert got.dtype == dtype
    assert torch.equal(
        got, h + (3 * (direction.double() / direction.double().norm()).float()).to(dtype)
    )
    assert torch.equal(change(h), got)
    clamped = Clamp(random_sae(), LATENT, 1.0)(h)
    assert clamped.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_model_of_16_bits_is_steered(dtype):
    model = tiny_model("llama")
    model.model.to(dtype)
    ids = some_ids()
    with steered(model, SITE, Add(torch.arange(WIDTH).cos(), 5.0)):
        got = logits_of(model, ids)
    assert got.dtype == dtype
    assert got.isfinite().all()
    assert not torch.equal(got, logits_of(model, ids))


@pytest.mark.parametrize("direction", [torch.zeros(WIDTH), torch.full((WIDTH,), torch.nan)])
def test_a_direction_without_a_length_is_refused(direction):
    with pytest.raises(CheckpointError, match="a direction to steer along"):
        Add(direction, 1.0)


# --- clamping --------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [0.0, 0.7, 12.0])
def test_a_code_that_was_set_is_read_back_where_directions_are_orthonormal(value):
    sae, h = orthonormal_sae(), activations()
    before, after = sae.encode(h), sae.encode(Clamp(sae, LATENT, value)(h))
    # where the latent is silent its encoder is below 0 by some margin, which clamping cannot see
    fires = before[..., LATENT] > 0
    assert fires.any()
    torch.testing.assert_close(
        after[..., LATENT][fires], torch.full_like(before[..., LATENT], value)[fires]
    )
    others = torch.arange(sae.cfg.d_sae) != LATENT
    torch.testing.assert_close(after[..., others], before[..., others])


def test_the_error_of_the_sae_is_kept():
    sae, h = random_sae(k=None), activations()
    changed = Clamp(sae, LATENT, 2.0)(h)
    f = sae.encode(h)
    f_set = f.clone()
    f_set[..., LATENT] = 2.0
    error = h - sae.decode(f)
    assert error.norm() > 1
    torch.testing.assert_close(changed, sae.decode(f_set) + error, atol=1e-5, rtol=1e-5)


def test_ablation_takes_out_the_latents_part_alone():
    sae, h = random_sae(k=None), activations()
    f = sae.encode(h)
    part = f[..., LATENT, None] * sae.W_dec[LATENT]
    torch.testing.assert_close(Clamp(sae, LATENT, 0.0)(h), h - part)


def test_setting_a_code_to_what_it_is_leaves_the_model_as_it_was():
    model, ids = shared_model("llama"), some_ids(rows=1, tokens=1)
    sae = random_sae(k=None)
    h = model.prefix(ids, None, [SITE]).at(SITE)
    code = float(sae.encode(h)[0, 0, LATENT])
    change = Clamp(sae, LATENT, code)
    torch.testing.assert_close(change(h), h, atol=1e-6, rtol=0)
    with steered(model, SITE, change):
        got = logits_of(model, ids)
    torch.testing.assert_close(got, logits_of(model, ids), atol=1e-5, rtol=1e-5)


def test_a_silent_latent_that_is_ablated_changes_nothing_to_the_bit():
    model, ids = shared_model("llama"), some_ids()
    sae = random_sae(k=None)
    sae.W_enc[:, LATENT], sae.b_enc[LATENT] = 0, -1
    with steered(model, SITE, Clamp(sae, LATENT, 0.0)):
        got = logits_of(model, ids)
    assert torch.equal(got, logits_of(model, ids))


@pytest.mark.parametrize("k", [None, 4])
def test_codes_of_a_latent_are_those_of_the_encoder(k):
    sae, h = random_sae(k=k), activations().flatten(0, 1)
    for latent in range(sae.cfg.d_sae):
        assert torch.allclose(code_of(sae.codes(h), latent), sae.encode(h)[:, latent], atol=1e-6)


def test_along_another_vector_each_token_moves_as_far():
    sae, h = random_sae(k=None), activations()
    other = torch.randn(WIDTH, generator=torch.Generator().manual_seed(5))
    own = Clamp(sae, LATENT, 2.0)(h) - h
    along = Clamp(sae, LATENT, 2.0, along=other)(h) - h
    torch.testing.assert_close(own.norm(dim=-1), along.norm(dim=-1), atol=1e-5, rtol=1e-4)
    cosines = torch.cosine_similarity(along, other.expand_as(along), dim=-1)
    torch.testing.assert_close(cosines.abs(), torch.ones_like(cosines), atol=1e-4, rtol=0)


def test_centred_codes_are_those_of_the_centred_activation():
    sae, h = random_sae(k=None), activations() + 5
    centred = h - h.mean(-1, keepdim=True)
    expected = Clamp(sae, LATENT, 1.0)(centred) + h.mean(-1, keepdim=True)
    torch.testing.assert_close(
        Clamp(sae, LATENT, 1.0, centred=True)(h), expected, atol=1e-5, rtol=1e-5
    )


# --- directions of latents -------------------------------------------------------------------------


def affine_sae():
    sae = random_sae(k=None)
    sae.normalization = Affine(torch.tensor(4.0), torch.full((WIDTH,), 0.5))
    return sae


def scaled_sae():
    sae = random_sae(k=None)
    sae.latent_scale = torch.linspace(0.5, 2, sae.cfg.d_sae)
    return sae


def standardising_sae():
    base = random_sae(k=None)
    cfg = SAEConfig("standard", WIDTH, base.cfg.d_sae, WIDTH, normalization="layer_norm")
    return SAE(cfg, ReLU(), W_enc=base.W_enc, W_dec=base.W_dec, b_dec=base.b_dec, b_enc=base.b_enc)


@pytest.mark.parametrize(
    "make", [random_sae, affine_sae, scaled_sae, standardising_sae, identity_sae]
)
def test_a_direction_is_what_a_code_of_one_adds_to_the_reconstruction(make):
    sae, h = make(), activations().flatten(0, 1)
    zero, one = (torch.zeros(h.shape[0], sae.cfg.d_sae) for _ in range(2))
    one[:, LATENT] = 1
    expected = sae.decode(one, h) - sae.decode(zero, h)
    found = latent_directions(sae, LATENT, h).expand_as(h)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    if not isinstance(sae.normalization, LayerNorm):
        torch.testing.assert_close(latent_direction(sae, LATENT), expected[0], atol=1e-5, rtol=1e-4)


def test_decoded_codes_are_their_reconstruction_without_the_bias():
    sae = scaled_sae()
    f = torch.randn(sae.cfg.d_sae, generator=torch.Generator().manual_seed(2))
    expected = sae.decode(f[None])[0] - sae.b_dec
    torch.testing.assert_close(
        decoded(sae, torch.arange(sae.cfg.d_sae), f), expected, atol=1e-5, rtol=1e-4
    )


# --- what cannot be steered ------------------------------------------------------------------------


def test_a_transcoder_is_refused_with_both_sites():
    with pytest.raises(CheckpointError, match=r"mlp.hook_in read and .*mlp_out written"):
        linear_decoded(random_sae(d_out=WIDTH))


def test_what_reads_several_sites_is_refused():
    sae = random_sae()
    wide = SAE(
        SAEConfig("test", WIDTH // 2, sae.cfg.d_sae, WIDTH // 2, n_sources=2, n_targets=2),
        TopK(2),
        W_enc=sae.W_enc,
        W_dec=sae.W_dec,
        b_dec=sae.b_dec,
    )
    with pytest.raises(CheckpointError, match="2 activations read and 2 written"):
        linear_decoded(wide)


def test_a_decoder_that_is_not_linear_is_refused():
    sae = random_sae()
    biased = LatentBiasSAE(
        SAEConfig("test", WIDTH, sae.cfg.d_sae, WIDTH),
        TopK(2),
        latent_bias=torch.ones(sae.cfg.d_sae, 1),
        W_enc=sae.W_enc,
        W_dec=sae.W_dec,
        b_dec=sae.b_dec,
    )
    with pytest.raises(CheckpointError, match="linear in the codes"):
        Clamp(biased, 0, 1.0)


def test_an_intervention_is_made_at_some_positions_only():
    h, where = activations(), torch.zeros(2, 5, dtype=torch.bool)
    where[:, 2:] = True
    changed = at_positions(Add(torch.ones(WIDTH), 1.0), where)(h)
    assert torch.equal(changed[:, :2], h[:, :2])
    assert not torch.equal(changed[:, 2:], h[:, 2:])
