"""Passes over what reads several activations: layers, models, differences, whole sequences."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from saebench.activations import BatchTopK, JumpReLU, TopK
from saebench.codes import SparseCodes
from saebench.data import stream_from_ids
from saebench.evals import ReconstructionEval, SiteEval, SparsityEval
from saebench.passes import PassRequest, Reading, Subject, run_pass
from saebench.sae import SAE, Crosscoder, CrossLayerTranscoder, SAEConfig
from saebench.sites import Site
from tests.small_runs import K, random_sae, tokens
from tests.tiny_models import WIDTH, shared_model, tiny_model

LATENTS = 24
BATCH = 3


def other_model(name="gpt2"):
    """The same architecture with other weights: what a fine-tune is to its base."""
    model = tiny_model(name)
    torch.manual_seed(5)
    for parameter in model.model.parameters():
        parameter.data.add_(0.05 * torch.randn_like(parameter))
    return model


def normal(*shape, seed=0):
    return 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(seed + len(shape)))


def crosscoder(n=2, activation=None, **cfg):
    config = SAEConfig("crosscoder", WIDTH, LATENTS, WIDTH, n_sources=n, n_targets=n, **cfg)
    return Crosscoder(
        config,
        activation or TopK(K),
        W_enc=normal(n * WIDTH, LATENTS),
        W_dec=normal(LATENTS, n * WIDTH, seed=1),
        b_dec=normal(n * WIDTH, seed=2),
        b_enc=normal(LATENTS, seed=3),
    )


def evaluate(models, ids, subject, **how):
    """Every measurement of one subject, by short name, and the evaluation of its stack."""
    site = SiteEval(subject.writes)
    rebuilt = ReconstructionEval(site, subject.sae.cfg.width_out, predictions=True)
    firing = SparsityEval(subject.sae.cfg.d_sae, torch.device("cpu"))
    request = PassRequest([subject], {subject.writes: [site]}, {subject.name: [rebuilt, firing]})
    calibration = run_pass(models, stream_from_ids(ids).batches(how.pop("batch", BATCH)), request)
    found = rebuilt.measurements(n_sequences=len(ids), seed=0)
    found |= firing.measurements(n_sequences=len(ids), seed=0)
    return {item.name: item for item in found.values()}, calibration


def fve(x, x_hat):
    x, x_hat = x.double(), x_hat.double()
    return float(1 - (x - x_hat).square().sum() / (x - x.mean(0)).square().sum())


def ce(model, hidden, ids):
    logits = model.unembed(hidden[:, :-1].flatten(0, 1)).double()
    return float(F.cross_entropy(logits, ids[:, 1:].flatten()))


def activations(model, ids, site):
    return model.prefix(ids, None, [site]).at(site)


def with_site(model, ids, site, replacement):
    prefix = model.prefix(ids, None, [site])
    return model.resume(prefix, site, replacement)


def test_a_crosscoder_of_two_layers_is_judged_at_each_and_pooled():
    model, ids = shared_model("gpt2"), tokens(6)
    sites = [Site(0, "resid_post"), Site(1, "mlp_out")]
    stack = tuple(Reading(model.site(site)) for site in sites)
    sae = crosscoder()
    found, _ = evaluate(model, ids, Subject("c", sae, stack, stack))
    x = torch.stack([activations(model, ids, site) for site in sites], -2)
    x_hat = sae(x)
    by_site = [fve(x[..., i, :].flatten(0, 1), x_hat[..., i, :].flatten(0, 1)) for i in range(2)]
    assert found["fve"].value == pytest.approx(
        fve(x.flatten(0, 1).flatten(1), x_hat.flatten(0, 1).flatten(1))
    )
    assert list(found["fve"].detail["by_reading"].values()) == pytest.approx(by_site, rel=1e-5)
    assert found["fve_lowest_reading"].value == pytest.approx(min(by_site), rel=1e-5)
    spliced = [
        ce(model, with_site(model, ids, s, x_hat[..., i, :]), ids) for i, s in enumerate(sites)
    ]
    assert list(found["ce_spliced"].detail["by_reading"].values()) == pytest.approx(
        spliced, rel=1e-5
    )
    assert found["ce_spliced"].value == pytest.approx(sum(spliced) / 2, rel=1e-5)
    assert found["ce_spliced"].n_tokens == ids[:, 1:].numel()
    assert found["l0"].value == pytest.approx(float((sae.encode(x) != 0).sum(-1).float().mean()))


def test_a_crosscoder_of_two_models_is_spliced_into_each():
    base, tuned, ids = shared_model("gpt2"), other_model(), tokens(6)
    site = Site(1, "resid_post")
    stack = (Reading(base.site(site), 0), Reading(base.site(site), 1))
    sae = crosscoder()
    found, _ = evaluate([base, tuned], ids, Subject("c", sae, stack, stack))
    x = torch.stack([activations(m, ids, site) for m in (base, tuned)], -2)
    x_hat = sae(x)
    spliced = [
        ce(m, with_site(m, ids, site, x_hat[..., i, :]), ids) for i, m in enumerate((base, tuned))
    ]
    clean = [ce(m, with_site(m, ids, site, x[..., i, :]), ids) for i, m in enumerate((base, tuned))]
    by_model = found["ce_spliced"].detail["by_reading"]
    assert list(by_model.values()) == pytest.approx(spliced, rel=1e-5)
    assert found["ce_clean"].value == pytest.approx(sum(clean) / 2, rel=1e-5)
    assert list(by_model) == ["blocks.1.hook_resid_post", "blocks.1.hook_resid_post, model 1"]


@pytest.mark.parametrize("direction", [(1, 0), (0, 1)])
def test_a_difference_is_reconstructed_and_added_back_to_the_model_subtracted(direction):
    models, ids = [shared_model("gpt2"), other_model()], tokens(6)
    site, (plus, minus) = Site(1, "resid_post"), direction
    reading = Reading(models[0].site(site), plus, minus)
    sae = random_sae(3)
    found, _ = evaluate(models, ids, Subject.at("d", sae, reading))
    a, b = (activations(models[i], ids, site) for i in (plus, minus))
    x_hat = sae(a - b)
    assert found["fve"].value == pytest.approx(
        fve((a - b).flatten(0, 1), x_hat.flatten(0, 1)), rel=1e-4
    )
    spliced = ce(models[plus], with_site(models[plus], ids, site, b + x_hat), ids)
    assert found["ce_spliced"].value == pytest.approx(spliced, rel=1e-5)
    ablated = ce(models[plus], with_site(models[plus], ids, site, b), ids)
    assert found["ce_zero"].value == pytest.approx(ablated, rel=1e-5)


def test_a_cross_layer_transcoder_is_judged_at_every_layer_that_it_writes():
    model, ids = shared_model("llama"), tokens(6)
    reads = tuple(Reading(model.site(Site(i, "mlp_in"))) for i in range(2))
    writes = tuple(Reading(model.site(Site(i, "mlp_out"))) for i in range(2))
    layers = []
    for s, width in ((0, 2 * WIDTH), (1, WIDTH)):
        cfg = SAEConfig("jumprelu", WIDTH, LATENTS, WIDTH, n_targets=width // WIDTH)
        layers.append(
            SAE(
                cfg,
                JumpReLU(torch.tensor(0.1)),
                W_enc=normal(WIDTH, LATENTS, seed=s),
                W_dec=normal(LATENTS, width, seed=s + 5),
                b_dec=torch.zeros(width),
                b_enc=normal(LATENTS, seed=s + 8),
            )
        )
    cfg = SAEConfig("clt", WIDTH, 2 * LATENTS, WIDTH, n_sources=2, n_targets=2)
    clt = CrossLayerTranscoder(cfg, layers, [[0, 1], [1]], normal(2, WIDTH))
    found, _ = evaluate(model, ids, Subject("t", clt, reads, writes))
    x = torch.stack([activations(model, ids, r.site) for r in reads], -2)
    y = torch.stack([activations(model, ids, r.site) for r in writes], -2)
    y_hat = clt(x)
    each = [fve(y[..., i, :].flatten(0, 1), y_hat[..., i, :].flatten(0, 1)) for i in range(2)]
    assert list(found["fve"].detail["by_reading"].values()) == pytest.approx(each, rel=1e-5)
    assert found["l0"].value == pytest.approx(float((clt.encode(x) != 0).sum(-1).float().mean()))


@pytest.mark.parametrize("batch", [1, 2, 6])
def test_the_batch_size_changes_nothing(batch):
    models, ids = [shared_model("gpt2"), other_model()], tokens(6)
    stack = tuple(Reading(Site(1, "resid_post"), m) for m in range(2))
    subject = Subject("c", crosscoder(), stack, stack)
    whole, cut = (evaluate(models, ids, subject, batch=b)[0] for b in (6, batch))
    for name in ("fve", "ce_spliced", "ce_zero", "l0", "kl"):
        assert cut[name].value == pytest.approx(whole[name].value, rel=1e-5), name


def test_a_missing_threshold_is_estimated_on_the_first_sequences_before_anything_is_measured():
    model, ids = shared_model("gpt2"), tokens(40)
    sae = crosscoder(1, BatchTopK(K))
    found, calibration = evaluate(model, ids, Subject.at("b", sae, Reading(Site(1, "resid_post"))))
    first = activations(model, ids[:32], Site(1, "resid_post")).flatten(0, 1)
    pre = first @ sae.W_enc + sae.b_enc
    threshold = pre.flatten().sort(descending=True).values[K * first.shape[0]]
    assert calibration.estimated == {"b": {"threshold": pytest.approx(float(threshold), rel=1e-5)}}
    everything = activations(model, ids, Site(1, "resid_post")).flatten(0, 1)
    assert found["l0"].value == pytest.approx(float(sae.codes(everything).counts().double().mean()))


class Running(SAE):
    """Codes of each token from the mean of the tokens up to it: needs whole sequences."""

    needs_sequences = True

    def reconstruct_sequences(self, x, counted):
        steps = torch.arange(1, x.shape[1] + 1)[:, None]
        codes, x_hat = self.reconstruct((x.cumsum(1) / steps)[counted])
        assert isinstance(codes, SparseCodes)
        return codes, x_hat


def test_what_needs_the_tokens_before_is_given_whole_sequences():
    model, ids = shared_model("gpt2"), tokens(6)
    plain = random_sae(2)
    sae = Running(
        plain.cfg,
        plain.activation,
        W_enc=plain.W_enc,
        W_dec=plain.W_dec,
        b_dec=plain.b_dec,
        b_enc=plain.b_enc,
    )
    site = Site(1, "resid_post")
    found, _ = evaluate(model, ids, Subject.at("s", sae, Reading(model.site(site))))
    x = activations(model, ids, site)
    running = x.cumsum(1) / torch.arange(1, x.shape[1] + 1)[:, None]
    assert found["fve"].value == pytest.approx(
        fve(x.flatten(0, 1), plain(running).flatten(0, 1)), rel=1e-5
    )


def test_each_model_runs_once_per_batch_and_only_if_something_is_read_from_it():
    base, tuned, idle = shared_model("gpt2"), other_model(), other_model()
    before = base.calls.copy()
    stack = tuple(Reading(Site(1, "resid_post"), m) for m in range(2))
    evaluate([base, tuned, idle], tokens(6), Subject("c", crosscoder(), stack, stack), batch=3)
    assert (base.calls - before)["prefix"] == tuned.calls["prefix"] == 2
    assert (base.calls - before)["suffix"] == tuned.calls["suffix"] == 2 * (1 + 2 + 1)
    assert not idle.calls["prefix"]


@pytest.mark.parametrize("minus", [None, 0])
def test_a_centred_reading_has_mean_zero_and_gets_its_mean_back_before_the_model_goes_on(minus):
    models, ids = [shared_model("gpt2"), other_model()], tokens(6)
    site = Site(1, "resid_post")
    reading = Reading(models[0].site(site), 1, minus, centred=True)
    sae = random_sae(4)
    found, _ = evaluate(models, ids, Subject.at("c", sae, reading))
    whole = activations(models[1], ids, site)
    base = 0 if minus is None else activations(models[0], ids, site)
    x = whole - base - (whole - base).mean(-1, keepdim=True)
    x_hat = sae(x)
    assert found["fve"].value == pytest.approx(fve(x.flatten(0, 1), x_hat.flatten(0, 1)), rel=1e-4)
    spliced = ce(models[1], with_site(models[1], ids, site, whole - x + x_hat), ids)
    assert found["ce_spliced"].value == pytest.approx(spliced, rel=1e-5)
    ablated = ce(models[1], with_site(models[1], ids, site, whole - x), ids)
    assert found["ce_zero"].value == pytest.approx(ablated, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "ignores"), [("gpt2", True), ("gpt_neox", True), ("llama", False), ("gemma2", False)]
)
def test_only_a_model_of_layer_norms_ignores_the_mean_over_dimensions(name, ignores):
    model = shared_model(name)
    assert model.ignores_mean == ignores
