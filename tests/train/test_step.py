import math

import pytest
import torch
from torch.nn import functional as F

from saebench.errors import ConfigError, ModelError
from saebench.train import Recipe, Trainer

ARCHITECTURES = ["topk", "batchtopk"]


def recipe_of(**changes):
    settings = {"d_sae": 64, "k": 3, "tokens": 20_000, "batch_size": 256, "lr": 5e-3, "warmup": 0.0}
    return Recipe(**{**settings, **changes})


def trained(planted, steps, **changes):
    recipe = recipe_of(**changes)
    trainer = Trainer(recipe, planted.atoms.shape[1])
    stream = planted.chunks(1, recipe.batch_size)
    trainer.start(next(stream))
    for _ in range(steps):
        trainer.step(next(stream))
    return trainer


def weaken(trainer):
    """Make most latents too weak to be ever among the largest, though they are often positive."""
    with torch.no_grad():
        trainer.weights.W_enc[20:] *= 0.02


def dense_reference(trainer, batches):
    """The same training written plainly: dense, one autograd graph, an optimiser that is not fused."""
    recipe = trainer.recipe
    parameters = {
        name: p.detach().clone().requires_grad_() for name, p in trainer.weights.named_parameters()
    }
    W_enc, W_dec, b_enc, b_dec = (parameters[name] for name in ("W_enc", "W_dec", "b_enc", "b_dec"))
    optimizer = torch.optim.Adam(
        parameters.values(), betas=(0.9, 0.999), eps=6.25e-10, foreach=False
    )
    idle = torch.zeros(trainer.d_sae)
    for step, raw in enumerate(batches):
        x = raw * trainer.scale
        pre = ((x - b_dec) @ W_enc.T + b_enc).relu()
        if recipe.architecture == "topk":
            cut = pre.topk(recipe.k, dim=1).values[:, -1:]
        else:
            cut = pre.flatten().topk(recipe.k * len(x)).values[-1]
        codes = pre * (pre >= cut)
        residual = x - (codes @ W_dec + b_dec)
        loss = residual.square().mean()
        dead = idle >= recipe.dead_window
        if dead.any():
            target = residual.detach()
            aux_pre = ((x - b_dec).detach() @ W_enc.T + b_enc).relu() * dead
            cut = aux_pre.topk(
                min(recipe.aux_latents(trainer.d_in), int(dead.sum())), dim=1
            ).values[:, -1:]
            miss = (aux_pre * (aux_pre >= cut)) @ W_dec - target
            loss = loss + miss.square().mean() / target.var(0, correction=0).mean() / 32
        optimizer.zero_grad()
        loss.backward()
        with torch.no_grad():
            W_dec.grad -= (W_dec.grad * W_dec).sum(1, keepdim=True) * W_dec
            norm = math.sqrt(sum(float(p.grad.square().sum()) for p in parameters.values()))
            if norm > recipe.grad_clip:
                for p in parameters.values():
                    p.grad *= recipe.grad_clip / norm
            optimizer.param_groups[0]["lr"] = trainer.schedule.at(step)
            optimizer.step()
            W_dec /= W_dec.norm(dim=1, keepdim=True)
        idle = torch.where((codes > 0).any(0), 0, idle + len(x))
    return parameters


class TestAStep:
    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    @pytest.mark.parametrize("grad_clip", [1.0, 0.01])
    def test_equals_the_plain_dense_training_with_dead_latents(
        self, planted, architecture, grad_clip
    ):
        recipe = recipe_of(architecture=architecture, dead_window=256, grad_clip=grad_clip, aux_k=5)
        trainer = Trainer(recipe, planted.atoms.shape[1])
        stream = planted.chunks(1, 256)
        batches = [next(stream) for _ in range(6)]
        trainer.start(batches[0])
        weaken(trainer)
        expected = dense_reference(trainer, batches)
        stats = [trainer.step(batch) for batch in batches]
        assert any(row.aux_loss is not None for row in stats)
        for name, parameter in trainer.weights.named_parameters():
            torch.testing.assert_close(
                parameter,
                expected[name],
                atol=2e-5,
                rtol=1e-4,
                msg=lambda text, name=name: f"{name}: {text}",
            )

    def test_leaves_decoder_rows_of_norm_one(self, planted):
        trainer = trained(planted, 5)
        torch.testing.assert_close(trainer.weights.W_dec.norm(dim=1), torch.ones(64))

    def test_learns_from_a_gradient_without_a_part_along_the_rows(self, planted, monkeypatch):
        trainer = trained(planted, 2)
        seen = {}

        def look():
            rows, grad = trainer.weights.W_dec.detach(), trainer.weights.W_dec.grad
            seen["along"] = torch.linalg.vecdot(grad, rows).abs().max()
            seen["norm"] = grad.norm(dim=1).max()

        monkeypatch.setattr(trainer._optimizer, "step", look)
        trainer.step(planted.sample(256))
        assert seen["along"] < 1e-6 * seen["norm"]

    def test_uses_the_rates_of_the_schedule(self, planted):
        recipe = recipe_of(tokens=2560, warmup=2, lr=0.01)
        trainer = Trainer(recipe, planted.atoms.shape[1])
        rates = [trainer.step(planted.sample(256, seed=i)).lr for i in range(10)]
        assert rates == pytest.approx([0.005] + [0.01] * 8 + [0.005])

    def test_stops_at_a_loss_that_is_not_finite_and_says_which_step(self, planted):
        trainer = trained(planted, 3)
        with pytest.raises(ModelError, match="batch 3"):
            trainer.step(torch.full((4, 24), float("nan")))
        with torch.no_grad():
            trainer.weights.b_enc += float("inf")
        with pytest.raises(ConfigError, match=r"step 3.*learning rate"):
            trainer.step(planted.sample(256))


class TestTheSae:
    @pytest.mark.parametrize("architecture", ARCHITECTURES)
    def test_acts_on_raw_activations_as_training_did_on_scaled_ones(self, planted, architecture):
        trainer = trained(planted, 60, architecture=architecture)
        w, s, x = trainer.weights, trainer.scale, planted.sample(300)
        assert not 0.5 < s < 2, "the scale makes no difference: the test shows nothing"
        with torch.no_grad():
            pre = (x * s - w.b_dec) @ w.W_enc.T + w.b_enc
            if architecture == "topk":
                cut = pre.topk(3, dim=1).values[:, -1:]
                inside = pre.relu() * (pre >= cut)
            else:
                inside = pre.relu() * (pre > trainer.threshold)
            reconstruction = (inside @ w.W_dec + w.b_dec) / s
        sae = trainer.sae()
        assert torch.equal(sae.encode(x) != 0, inside != 0)
        torch.testing.assert_close(sae.encode(x) * s, inside, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(sae(x), reconstruction, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(64))

    def test_does_not_change_when_training_goes_on(self, planted):
        trainer = trained(planted, 3)
        sae = trainer.sae()
        before = {name: tensor.clone() for name, tensor in sae.state_dict().items()}
        trainer.step(planted.sample(256))
        assert all(torch.equal(before[name], tensor) for name, tensor in sae.state_dict().items())

    def test_has_matrices_that_survive_storage_in_16_bits(self, planted):
        sae = trained(planted, 3, dtype="bfloat16").sae()
        for matrix in (sae.W_enc, sae.W_dec):
            assert matrix.dtype == torch.float32
            assert torch.equal(matrix, matrix.bfloat16().float())

    def test_says_what_it_is(self, planted):
        cfg = (
            trained(
                planted, 1, architecture="batchtopk", site="blocks.0.hook_resid_post", model="m"
            )
            .sae()
            .cfg
        )
        assert (cfg.architecture, cfg.k, cfg.d_in, cfg.d_sae) == ("batchtopk", 3, 24, 64)
        assert (cfg.site, cfg.model) == ("blocks.0.hook_resid_post", "m")


class TestDeadLatents:
    def share_after(self, planted, aux_k):
        recipe = recipe_of(tokens=60_000, dead_window=2000, aux_k=aux_k)
        trainer = Trainer(recipe, planted.atoms.shape[1])
        stream = planted.chunks(1, 256)
        trainer.start(next(stream))
        weaken(trainer)
        for _ in range(recipe.steps):
            trainer.step(next(stream))
        return trainer.dead_share

    def test_are_revived_by_the_auxiliary_loss(self, planted):
        without, with_aux = self.share_after(planted, 0), self.share_after(planted, None)
        assert without > 0.5
        assert with_aux < without / 2

    def test_are_unknown_until_the_window_has_passed_once(self, planted):
        trainer = trained(planted, 3, dead_window=1000)
        assert trainer.dead_share is None
        trainer.step(planted.sample(256))
        assert trainer.dead_share is not None

    def test_are_those_that_did_not_fire_within_the_window(self):
        trainer = Trainer(Recipe(d_sae=4, k=1, batch_size=10, dead_window=20), 4)
        with torch.no_grad():
            trainer.weights.W_enc.copy_(torch.eye(4))
        for latent, n in ((0, 10), (1, 10), (2, 15)):
            trainer.losses(F.one_hot(torch.full((n,), latent), 4).float())
        trainer.tokens = 35
        assert trainer._tokens_since_fired.tolist() == [25, 15, 0, 35]
        assert trainer.dead_share == 0.5

    def test_get_no_say_in_the_gradients_of_the_others(self, planted):
        trainer = trained(planted, 0, dead_window=512)
        weaken(trainer)
        x = planted.sample(256)
        for _ in range(2):
            trainer.losses(x)
        dead = trainer._dead()
        assert 0 < int(dead.sum()) < 64
        _, aux = trainer.losses(x)
        aux.backward()
        for name in ("W_enc", "W_dec", "b_enc"):
            grad = getattr(trainer.weights, name).grad
            assert grad[dead].abs().sum() > 0
            assert grad[~dead].abs().sum() == 0
        assert trainer.weights.b_dec.grad is None


class TestThreshold:
    def test_is_the_corrected_moving_average_of_the_smallest_kept_code(self, planted):
        trainer = trained(planted, 0, architecture="batchtopk", threshold_decay=0.9)
        assert trainer.threshold == 0.0
        smallest = []
        for seed in range(4):
            x = planted.sample(256, seed)
            w = trainer.weights
            pre = (x * trainer.scale - w.b_dec) @ w.W_enc.T + w.b_enc
            smallest.append(float(pre.flatten().topk(3 * 256).values[-1].detach()))
            trainer.step(x)
        weights = [0.9**age for age in (3, 2, 1, 0)]
        expected = sum(w * v for w, v in zip(weights, smallest, strict=True)) / sum(weights)
        assert trainer.threshold == pytest.approx(expected, rel=1e-5)

    def test_is_kept_by_batchtopk_only(self, planted):
        assert trained(planted, 2).threshold == 0.0
