"""What a plan says of the suites about two models."""

import pytest

from saebench.config import Config, SAESpec
from saebench.config.schema import DataSpec, ModelSpec
from saebench.plan import plan
from saebench.protocols import CausalProtocol, DifferenceProtocol
from saebench.sae import SAE
from tests import kinds
from tests.difference_runs import D_SAE, make_pair_world, prompt_rows, tuned, write_prompts
from tests.kind_runs import OK, opened
from tests.small_world import LENGTH, SITE

SUITES = ("difference", "crosscoder", "causal")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_pair_world(tmp_path_factory.mktemp("plan") / "world")


def planned(world, names, suites=SUITES, others=True, **options):
    config = Config(
        model=ModelSpec(str(world.model)),
        others=(ModelSpec(str(tuned(world))),) if others else (),
        data=DataSpec(str(world.data), context_size=LENGTH),
        out=world.folder / "out",
        device="cpu",
        suites=suites,
        **options,
    )
    entries = []
    for name in names:
        ref = str(world.folder / "saes" / name)
        settings = {"direction": "difference_ftb"} if name.startswith("diff") else {}
        site = {"site": SITE, "settings": settings} if settings else {}
        entries.append((name, ref, SAESpec(ref, **site)))
    return plan(config, entries)


def test_labelled_prompts_cost_one_more_pass_of_each_model(world):
    prompts = str(write_prompts(world.folder / "prompts.jsonl"))
    found = planned(world, ["diff", "good"], difference=DifferenceProtocol(text=prompts))
    n = len(prompt_rows())
    expected = f"for 1 of 2 checkpoints: {n} labelled prompts of {prompts}, one more pass of each"
    assert expected in found


def test_a_run_on_its_own_text_says_that_no_labels_are_there(world):
    found = planned(world, ["diff"], ("difference",))
    assert "difference   for 1 checkpoint: on the run's own text, which labels no tokens" in found


def test_the_number_of_ablations_is_that_of_the_configuration(world):
    asked = CausalProtocol(max_latents=8, n_probes=40)
    found = planned(world, ["diff"], ("causal",), causal=asked)
    expected = "for 1 checkpoint: up to 8 latents × 40 probes × 1 model, 2 directions each"
    assert f"causal       {expected}" in found
    wide = planned(world, ["diff"], ("causal",))
    assert f"up to {D_SAE} latents × 64 probes" in wide
    assert "of the pass over the run's own text alone" in wide


def test_a_suite_that_fits_no_checkpoint_says_so(world):
    found = planned(world, ["good"], ("difference", "crosscoder"), others=False)
    assert "none of 1 checkpoints reads the difference of two models" in found
    assert "none of 1 checkpoints is a crosscoder over two models" in found


def test_suites_that_are_not_asked_for_are_not_in_the_plan(world):
    found = planned(world, ["diff"], ("reconstruction",))
    assert not any(name in found for name in ("difference  ", "crosscoder  ", "causal  "))
    assert found.endswith("for the matrix products")


def test_a_crosscoder_is_ablated_in_both_models(tmp_path, capsys):
    with opened(tmp_path) as runs:
        suites = ("--suite=crosscoder", "--suite=causal")
        assert runs.command("model-crosscoder", *suites, verb="plan") == OK
    found = capsys.readouterr().out
    assert "crosscoder   for 1 checkpoint: classes and scaling of latents" in found
    latents = f"up to {kinds.F} latents (and 256 of each other class)"
    assert f"{latents} × 64 probes × 2 models, 3 directions each" in found
    assert "its files hold no" not in found


def test_what_the_files_lack_is_said_before_a_run_estimates_it(world, monkeypatch):
    monkeypatch.setattr(SAE, "pending", property(lambda sae: ("input_scale",)))
    found = planned(world, ["diff"], ("difference",))
    assert "its files hold no input_scale: estimated on the run's first sequences" in found
