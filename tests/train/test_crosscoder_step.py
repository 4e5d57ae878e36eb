"""A crosscoder's step, loss and selection against the same written plainly; what it gives in raw units."""

import math

import pytest
import torch
from torch.nn import functional as F

from saebench.sae import SAE, Crosscoder
from saebench.train import Recipe, Trainer
from saebench.train.start import geometric_median

D, M, D_SAE, N = 10, 3, 40, 64
OFFSETS = (1.0, -6.0, 40.0)
SIZES = (1.0, 9.0, 0.2)


def recipe_of(**changes):
    settings = {"reads": "models", "others": ["b", "c"], "architecture": "batchtopk"}
    settings |= {"d_sae": D_SAE, "k": 3, "tokens": 6400, "batch_size": N, "lr": 5e-3}
    return Recipe(**{**settings, "warmup": 0.0, **changes})


def batch(seed, n=N):
    """Activations of three sources that share some directions, at other sizes and about other means."""
    world = torch.Generator().manual_seed(3)
    atoms = torch.randn(25, M * D, generator=world)
    atoms[:5, :D] = 0  # not in the first source
    sizes = torch.tensor(SIZES).repeat_interleave(D)
    offsets = torch.tensor(OFFSETS).repeat_interleave(D)
    generator = torch.Generator().manual_seed(seed)
    codes = torch.rand(n, 25, generator=generator)
    codes *= torch.rand(n, 25, generator=generator) < 0.15
    noise = 0.05 * torch.randn(n, M * D, generator=generator)
    return (codes @ atoms + noise) * sizes + offsets


def trained(steps, **changes):
    trainer = Trainer(recipe_of(**changes), D)
    trainer.start(batch(0, 500))
    for seed in range(steps):
        trainer.step(batch(seed))
    return trainer


def plain_losses(parameters, x, k, dead, recipe):
    """Reconstruction loss, auxiliary loss and codes of normalised ``x``, dense and source by source."""
    W_enc, W_dec, b_enc, b_dec = (parameters[n] for n in ("W_enc", "W_dec", "b_enc", "b_dec"))
    pre = b_enc
    for m in range(M):
        part = slice(m * D, (m + 1) * D)
        pre = pre + (x[:, part] - b_dec[part]) @ W_enc[:, part].T
    with torch.no_grad():
        norms = sum(W_dec[:, m * D : (m + 1) * D].norm(dim=1) for m in range(M))
        ranked = pre.relu() * norms
        cut = ranked.flatten().topk(k * len(x)).values[-1]
    codes = pre.relu() * (ranked >= cut)
    rebuilt = codes @ W_dec + b_dec
    error = (x - rebuilt).square()
    loss = sum(error[:, m * D : (m + 1) * D].mean() for m in range(M))
    if not dead.any():
        return loss, None, codes
    residual = (x - rebuilt).detach()
    aux_pre = ((x - b_dec).detach() @ W_enc.T + b_enc).relu() * dead
    n_aux = min(recipe.aux_latents(D), int(dead.sum()))
    aux_codes = aux_pre * (aux_pre >= aux_pre.topk(n_aux, dim=1).values[:, -1:])
    aux = (aux_codes @ W_dec - residual).square().mean()
    return loss, aux / residual.var(0, correction=0).mean(), codes


def copies(trainer):
    return {
        name: p.detach().clone().requires_grad_() for name, p in trainer.weights.named_parameters()
    }


@pytest.mark.parametrize("normalization", ["scale", "centre", "standardize"])
def test_loss_and_gradients_equal_those_of_dense_autograd(normalization):
    trainer = trained(5, normalization=normalization, dead_window=128, aux_k=4)
    with torch.no_grad():
        trainer.weights.W_enc[25:] *= 0.01  # too weak to be chosen
    for seed in (20, 21):
        trainer.losses(batch(seed))
    dead = trainer._dead()
    assert 4 < int(dead.sum()) < D_SAE
    x = batch(22)
    parameters = copies(trainer)
    loss, aux, _ = plain_losses(parameters, trainer.inputs(x), 3, dead, trainer.recipe)
    (loss + aux / 32).backward()
    got_loss, got_aux = trainer.losses(x)
    (got_loss + got_aux / 32).backward()
    torch.testing.assert_close(got_loss, loss)
    torch.testing.assert_close(got_aux, aux)
    for name, parameter in trainer.weights.named_parameters():
        assert parameters[name].grad.abs().max() > 1e-4
        torch.testing.assert_close(parameter.grad, parameters[name].grad, rtol=1e-4, atol=1e-6)


def test_training_equals_plain_dense_training_with_free_norms_and_falling_k():
    recipe = recipe_of(tokens=8 * N, dead_window=128, k_start=9, k_anneal=0.5, grad_clip=0.3)
    trainer = Trainer(recipe, D)
    trainer.start(batch(0, 500))
    parameters = copies(trainer)
    optimizer = torch.optim.Adam(parameters.values(), eps=6.25e-10, foreach=False)
    idle = torch.zeros(D_SAE)
    clipped = 0
    for step in range(8):
        x = trainer.inputs(batch(step))
        k = [9, 8, 6, 4, 3, 3, 3, 3][step]  # 9 − 1.5 a step, rounded to even
        dead = idle >= recipe.dead_window
        loss, aux, codes = plain_losses(parameters, x, k, dead, recipe)
        optimizer.zero_grad()
        (loss if aux is None else loss + aux / 32).backward()
        norm = math.sqrt(sum(float(p.grad.square().sum()) for p in parameters.values()))
        clipped += norm > 0.3
        for p in parameters.values():
            p.grad *= min(1.0, 0.3 / norm)
        optimizer.param_groups[0]["lr"] = trainer.schedule.at(step)
        optimizer.step()
        idle = torch.where((codes > 0).any(0), 0, idle + N)
        stats = trainer.step(batch(step))
        assert stats.k == k
        assert stats.loss == pytest.approx(float(loss.detach()), rel=1e-4)
        assert stats.grad_norm == pytest.approx(norm, rel=1e-3)
    assert clipped
    for name, parameter in trainer.weights.named_parameters():
        torch.testing.assert_close(parameter, parameters[name], atol=2e-5, rtol=1e-4)
    norms = trainer.weights.W_dec.detach().norm(dim=1)
    assert float(norms.max() / norms.min()) > 1.02


def test_the_loss_of_an_sae_is_that_of_a_crosscoder_with_one_source():
    """Per dimension and summed over sources: M equal sources have M times the loss of one."""
    one = Trainer(Recipe(d_sae=D_SAE, k=3, batch_size=N, architecture="batchtopk"), D)
    three = Trainer(recipe_of(), D)
    x = batch(0)[:, :D]
    one.inputs.fit(x)
    three.inputs.fit(x.repeat(1, M))
    with torch.no_grad():
        for name, parameter in three.weights.named_parameters():
            given = getattr(one.weights, name)
            parameter.copy_(given if name == "b_enc" else given.repeat(*(given.ndim - 1) * (1,), M))
        three.weights.W_enc /= M  # so that the pre-activations are those of one source
    (alone, _), (together, _) = one.losses(x), three.losses(x.repeat(1, M))
    torch.testing.assert_close(together, M * alone)


class TestSelection:
    def test_keeps_what_weighs_most_not_what_is_largest(self):
        trainer = trained(3)
        with torch.no_grad():  # the same function, of codes ten times smaller
            trainer.weights.W_enc[:10] *= 0.1
            trainer.weights.W_dec[:10] *= 10
        x = batch(50)
        pre = torch.addmm(
            trainer.weights.b_enc,
            trainer.inputs(x) - trainer.weights.b_dec,
            trainer.weights.W_enc.T,
        ).detach()
        norms = trainer.weights.summed_norms()
        active = trainer._select(pre, norms)
        mask = torch.zeros(N, D_SAE, dtype=torch.bool)
        tokens = torch.arange(N).repeat_interleave(active.offsets.diff())
        mask[tokens, active.indices.long()] = True
        expected = torch.zeros(N * D_SAE, dtype=torch.bool)
        expected[(pre.relu() * norms).flatten().topk(3 * N).indices] = True
        assert torch.equal(mask.flatten(), expected)
        unweighted = torch.zeros(N * D_SAE, dtype=torch.bool)
        unweighted[pre.flatten().topk(3 * N).indices] = True
        assert not torch.equal(expected, unweighted), "the weights make no difference here"

    def test_does_not_depend_on_how_a_latent_is_split_between_encoder_and_decoder(self):
        trainer = trained(8)
        before = trainer.sae()
        factor = torch.linspace(0.2, 5, D_SAE)[:, None]
        with torch.no_grad():
            trainer.weights.W_enc.mul_(factor)
            trainer.weights.b_enc.mul_(factor[:, 0])
            trainer.weights.W_dec.div_(factor)
        after, x = trainer.sae(), batch(60)
        assert torch.equal(before.codes(x).indices, after.codes(x).indices)
        torch.testing.assert_close(before(x.view(N, M, D)), after(x.view(N, M, D)))


class TestThreshold:
    def test_is_the_average_of_the_smallest_weighted_code_that_was_kept(self):
        trainer = trained(0, threshold_decay=0.9)
        smallest = []
        for seed in range(4):
            x = trainer.inputs(batch(seed))
            w = trainer.weights
            pre = (x - w.b_dec) @ w.W_enc.T + w.b_enc
            weighed = pre * w.W_dec.view(D_SAE, M, D).norm(dim=2).sum(1)
            smallest.append(float(weighed.flatten().topk(3 * N).values[-1].detach()))
            trainer.step(batch(seed))
        weights = [0.9**age for age in (3, 2, 1, 0)]
        expected = sum(w * v for w, v in zip(weights, smallest, strict=True)) / sum(weights)
        assert trainer.threshold == pytest.approx(expected, rel=1e-5)

    def test_lets_through_as_many_latents_on_average_as_training_did(self):
        trainer = trained(100)
        sae = trainer.sae()
        x = torch.cat([batch(seed) for seed in range(200, 240)])
        assert float(sae.codes(x).counts().float().mean()) == pytest.approx(3, rel=0.1)
        norms = sae.W_dec.view(D_SAE, M, D).norm(dim=2).sum(1)
        torch.testing.assert_close(
            sae.activation.threshold * norms, torch.full((D_SAE,), trainer.threshold)
        )

    def test_lets_a_latent_without_a_decoder_never_pass(self):
        trainer = trained(20)
        with torch.no_grad():
            trainer.weights.W_dec[4] = 0
            trainer.weights.b_enc[4] = 1e6
        sae = trainer.sae()
        assert math.isinf(sae.activation.threshold[4])
        assert not (sae.codes(batch(70)).indices == 4).any()


class TestTheCrosscoder:
    @pytest.mark.parametrize("normalization", ["scale", "centre", "standardize"])
    def test_in_raw_units_does_what_training_did_in_scaled_ones(self, normalization):
        trainer = trained(40, normalization=normalization)
        w, x = trainer.weights, batch(80)
        with torch.no_grad():
            scaled = trainer.inputs(x)
            assert not torch.allclose(scaled, x, rtol=0.1)
            pre = (scaled - w.b_dec) @ w.W_enc.T + w.b_enc
            norms = w.W_dec.view(D_SAE, M, D).norm(dim=2).sum(1)
            codes = pre.relu() * (pre * norms > trainer.threshold)
            rebuilt = codes @ w.W_dec + w.b_dec
            affine = trainer.inputs.affine
            raw = rebuilt / affine.scale + affine.shift
        sae = trainer.sae()
        assert isinstance(sae, Crosscoder)
        torch.testing.assert_close(sae.encode(x.view(N, M, D)), codes, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(sae(x.view(N, M, D)).view(N, -1), raw, rtol=1e-4, atol=1e-4)

    def test_has_decoder_norms_in_units_of_activations(self):
        trainer = trained(40, normalization="standardize")
        rows = trainer.weights.W_dec.detach() / trainer.inputs.affine.scale
        expected = rows.view(D_SAE, M, D).norm(dim=2)
        torch.testing.assert_close(trainer.sae().decoder_norms(), expected)

    def test_does_not_change_when_training_goes_on(self):
        trainer = trained(3)
        sae = trainer.sae()
        before = {name: tensor.clone() for name, tensor in sae.state_dict().items()}
        trainer.step(batch(90))
        assert all(torch.equal(before[name], tensor) for name, tensor in sae.state_dict().items())

    def test_may_be_moved_and_cast_without_the_trainer(self):
        trainer = trained(1)
        trainer.sae().double()
        assert trainer.inputs.affine.scale.dtype == torch.float32

    def test_says_what_it_is(self):
        trainer = trained(1, model="a", site="blocks.2.hook_resid_post", dtype="bfloat16")
        cfg = trainer.sae().cfg
        assert (cfg.architecture, cfg.k, cfg.d_in, cfg.n_sources) == ("batchtopk", 3, D, M)
        assert (cfg.n_targets, cfg.models, cfg.model) == (M, ("a", "b", "c"), "a")
        assert (cfg.normalization, cfg.difference, cfg.dtype) == ("affine", None, "bfloat16")
        assert [(s.site, s.model) for s in cfg.reads] == [(cfg.site, m) for m in range(M)]
        matrix = trainer.sae().W_dec
        assert torch.equal(matrix, matrix.bfloat16().float())

    def test_over_layers_names_its_sites_and_one_model(self):
        sites = ("blocks.0.hook_resid_post", "blocks.4.hook_resid_post")
        layers = recipe_of(reads="layers", sites=list(sites), model="a", read_model=2)
        cfg = Trainer(layers, D).sae().cfg
        assert (cfg.sites, cfg.site, cfg.model, cfg.models) == (sites, None, "c", ())
        assert [source.site for source in cfg.reads] == list(sites)


@pytest.mark.parametrize("normalization", ["scale", "standardize"])
@pytest.mark.parametrize(
    ("reads", "expected"), [("difference_ftb", "1-0"), ("difference_bft", "0-1")]
)
def test_an_sae_of_a_difference_says_which_and_undoes_its_scale(reads, expected, normalization):
    trainer = Trainer(recipe_of(reads=reads, normalization=normalization, model="a"), D)
    stream = [batch(seed)[:, D : 2 * D] for seed in range(30)]
    trainer.start(torch.cat(stream))
    for x in stream:
        trainer.step(x)
    sae, x = trainer.sae(), stream[0]
    assert type(sae) is SAE
    assert (sae.cfg.difference, sae.cfg.models, sae.cfg.n_models) == (expected, ("a", "b"), 2)
    assert sae.cfg.normalization == ("none" if normalization == "scale" else "affine")
    torch.testing.assert_close(trainer.weights.W_dec.norm(dim=1), torch.ones(D_SAE))
    w, scaled = trainer.weights, trainer.inputs(x)
    with torch.no_grad():
        pre = (scaled - w.b_dec) @ w.W_enc.T + w.b_enc
        rebuilt = (pre * (pre > trainer.threshold)) @ w.W_dec + w.b_dec
        affine = trainer.inputs.affine
        raw = rebuilt / trainer.scale if affine is None else rebuilt / affine.scale + affine.shift
    torch.testing.assert_close(sae(x), raw, rtol=1e-4, atol=1e-4)


def test_rows_of_a_crosscoder_start_as_shared_latents_of_norm_one():
    rows = Trainer(recipe_of(), D).weights.W_dec.view(D_SAE, M, D)
    torch.testing.assert_close(rows.flatten(1).norm(dim=1), torch.ones(D_SAE))
    cosine = F.cosine_similarity(rows[:, :1], rows, dim=2)
    torch.testing.assert_close(cosine, torch.ones(D_SAE, M))


@pytest.mark.parametrize("normalization", ["scale", "standardize"])
def test_the_decoder_bias_starts_in_the_middle_of_each_source(normalization):
    """As that source alone would have it: a source with large activations does not decide for all."""
    trainer = trained(0, normalization=normalization)
    x = batch(0, 500)
    middles = torch.cat([geometric_median(source) for source in x.split(D, 1)])
    torch.testing.assert_close(trainer.weights.b_dec.detach(), trainer.inputs(middles))
    together = trainer.inputs(geometric_median(x))
    assert not torch.allclose(together, trainer.inputs(middles), atol=1e-3)
