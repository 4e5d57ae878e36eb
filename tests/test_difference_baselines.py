"""SAEs of the base model beside a difference SAE: what they give, and which are refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from saebench.activations import BatchTopK
from saebench.errors import ConfigError
from saebench.measure.difference import baselines
from saebench.measure.difference import job as job_module
from saebench.measure.difference.places import Labels, Place
from saebench.measure.difference.rows import Rows
from saebench.passes import Reading, SiteView
from saebench.protocols import DifferenceProtocol
from saebench.sites import parse_site
from saebench.train import save_checkpoint
from tests.difference_runs import make_pair_world, measured, prepared, write_prompts
from tests.small_runs import identity_sae, random_sae
from tests.small_world import SITE
from tests.tiny_models import WIDTH

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_pair_world(tmp_path_factory.mktemp("baselines") / "world")


@pytest.fixture(scope="module")
def prompts(world):
    return str(write_prompts(world.folder / "prompts.jsonl"))


def place_of(x, centred=False, model=1, minus=0):
    """A place on rows ``x[n, 2 d]`` of two models, sequences of four tokens."""
    site = parse_site(SITE)
    stack = (Reading(site, 0), Reading(site, 1))
    rows = Rows(stack, len(x), None)
    rows.update(SiteView(stack, x, torch.arange(len(x)) // 4))
    reading = Reading(site, model, minus, centred)
    return Place(rows, reading, Labels(), DifferenceProtocol(), CPU, n_resamples=20, seed=0)


def activations(n=40, d=WIDTH):
    """Rows of two models ``[n, 2 d]``, the means of which over dimensions are far from 0."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, 2 * d, generator=generator)
    x[:, d:] = 3 * x[:, d:] + 5
    return x


class OneRun:
    """As much of a run as a base SAE is measured with."""

    def __init__(self):
        self.kept, self.config = {}, replace_config()


def replace_config():
    """A configuration that computes in float32."""
    from saebench.config import Config
    from saebench.config.schema import DataSpec

    return Config(data=DataSpec("x"), sae_dtype="float32", device="cpu")


class OneCheckpoint:
    """An SAE under a reference."""

    def __init__(self, sae):
        self.sae, self.reference = sae, "base"


@pytest.mark.parametrize(("model", "minus"), [(1, 0), (0, 1)])
def test_latents_of_either_side_count_in_l0(model, minus):
    x, sae = activations(), random_sae(k=3)
    arm, _ = baselines.base_difference(
        OneRun(), place_of(x, False, model, minus), OneCheckpoint(sae)
    )
    sides = [sae.encode(part) != 0 for part in x.chunk(2, 1)]
    assert arm.l0.tolist() == (sides[0] | sides[1]).sum(1).tolist()
    assert any((arm.l0 > side.sum(1).numpy()).any() for side in sides)


@pytest.mark.parametrize(("model", "minus"), [(1, 0), (0, 1)])
def test_what_a_base_sae_lacks_is_estimated_on_the_base_model(model, minus):
    x, run = activations(), OneRun()
    sae, expected = random_sae(k=None), random_sae(k=None)
    sae.activation, expected.activation = BatchTopK(3), BatchTopK(3)
    expected.calibrate(x[:, :WIDTH])
    where = place_of(x, False, model, minus)
    _, notes = baselines.base_difference(run, where, OneCheckpoint(sae))
    assert sae.activation.threshold == pytest.approx(expected.activation.threshold)
    assert notes == ["threshold estimated on the base model's first 40 tokens"]
    _, again = baselines.base_difference(run, where, OneCheckpoint(sae))
    assert again == notes  # also for the next difference that it is measured beside


def test_a_centred_difference_has_no_mean_over_dimensions():
    x = activations()
    delta = (x[:, WIDTH:] - x[:, :WIDTH]).double()
    delta -= delta.mean(1, keepdim=True)
    where = place_of(x, centred=True)
    found = torch.cat([part for _, part in where.chunks()])
    assert torch.allclose(found.double(), delta, atol=1e-5)
    assert where.norms == pytest.approx(delta.norm(dim=1).numpy(), rel=1e-5)
    assert np.allclose(where.mean, delta.mean(0), atol=1e-5)
    plain = place_of(x)
    assert (plain.norms > 1.1 * where.norms).any()


def test_a_base_sae_of_centred_models_is_centred_too():
    arm, _ = baselines.base_difference(
        OneRun(), place_of(activations(), centred=True), OneCheckpoint(identity_sae())
    )
    assert arm.sse == pytest.approx(np.zeros(40), abs=1e-8)


def saved(world, name, sae, site=SITE):
    """The reference of an SAE of the base model at a site."""
    path = world.folder / "saes" / name
    sae.cfg = replace(sae.cfg, site=site, model="counting")
    save_checkpoint(sae, path)
    return str(path)


def refused(world, prompts, base, out, **asked):
    """What a run says of its base SAEs when records are looked for, before any model is loaded."""
    run = prepared(world, text=prompts, base_saes=base, out=out, **asked)
    with pytest.raises(ConfigError, match="base_saes") as caught:
        job_module.identity(run)
    assert "models" not in vars(run)
    return str(caught.value)


def test_a_base_sae_of_another_site_is_refused_before_models_are_loaded(world, prompts):
    other = saved(world, "elsewhere", random_sae(), "blocks.0.hook_resid_post")
    base = (str(world.folder / "saes" / "good"), other)  # one that fits does not help the other
    said = refused(world, prompts, base, "site")
    assert f"it reads blocks.0.hook_resid_post, and diff {SITE}" in said


def test_a_base_sae_of_another_width_is_refused_with_both_widths(world, prompts):
    other = saved(world, "narrow", random_sae(width=WIDTH // 2))
    said = refused(world, prompts, (other,), "width", saes=("diff", "diff-k8"))
    assert f"it has d_in {WIDTH // 2} at {SITE}, and diff {WIDTH}, diff-k8 {WIDTH}" in said


def test_another_name_of_the_site_fits(world, prompts):
    base = (saved(world, "renamed", identity_sae(), "blocks.2.hook_resid_pre"),)
    record = measured(prepared(world, text=prompts, base_saes=base, out="renamed"))["diff"]
    assert record.get("diff_fve_base_sae").value == pytest.approx(1)


def test_without_any_difference_sae_a_base_sae_is_not_refused(world, prompts):
    other = saved(world, "alone", random_sae(), "blocks.0.hook_resid_post")
    run = prepared(world, saes=("diff", "good"), text=prompts, base_saes=(other,), out="alone")
    assert job_module.identity(replace(run, targets=run.targets[1:]))


def test_a_place_without_a_base_sae_says_what_does_not_fit(world, prompts):
    base = (str(world.folder / "saes" / "good"),)
    run = prepared(world, text=prompts, base_saes=base, out="reason")
    x = activations(d=WIDTH // 2)
    narrow = baselines.missing(run, place_of(x))
    assert f"has d_in {WIDTH}, the difference {WIDTH // 2}" in narrow
    assert baselines.at(run, place_of(x)) is None
    assert baselines.at(run, place_of(activations())) is not None
    elsewhere = place_of(x)
    elsewhere.reading = Reading(parse_site("blocks.0.hook_resid_post"), 1, 0)
    assert baselines.missing(run, elsewhere) == "none of base_saes reads this site"
