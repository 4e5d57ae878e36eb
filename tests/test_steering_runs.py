"""Steering in small runs: a planted direction steers, controls say how much, and what cannot be is said."""

import json

import numpy as np
import pytest
import torch

from saebench.config.schema import ModelSpec
from saebench.errors import CheckpointError
from saebench.generation.completions import complete
from saebench.labelling import load_rules
from saebench.measure import steering as part
from saebench.measure.cases import Case, CasePart
from saebench.measure.jobs import run_jobs
from saebench.measure.steering import job
from saebench.measure.steering.job import PART, SteeringJob, _single
from saebench.measure.steering.prompts import _with_column, prompts_of
from saebench.metrics.catalogue.steering import STEERING
from saebench.models.steered import steered
from saebench.passes import Reading, Subject
from saebench.sites import parse_site
from saebench.steering.directions import random_directions
from saebench.steering.interventions import Add
from saebench.steering.outcomes import label_outcomes
from saebench.steering.teacher_forced import Text, cross_entropy
from tests.small_runs import random_sae
from tests.small_world import SITE
from tests.steering_runs import (
    HALF,
    PLANTED,
    QUICK,
    concept,
    make_steering_world,
    measured,
    planted_direction,
    prepared,
)
from tests.tiny_models import VOCAB, WIDTH

FEW = {"n_random": 2, "n_latents": 1, "n_permutations": 50, "n_prompts": 6, "max_new_tokens": 2}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_steering_world(tmp_path_factory.mktemp("steering"))


@pytest.fixture(scope="module")
def run(world):
    return prepared(world)


@pytest.fixture(scope="module")
def record(run):
    return measured(run)["planted/upper"]


def few(world, *concepts, **options):
    (found,) = measured(prepared(world, *concepts, **{**FEW, **options})).values()
    return found


def identity(run, concept="upper"):
    return job.identity(run, Case(run.targets[0], concept, "concepts"))


def value(record, name):
    return record.get(name).value


def row(record, alpha):
    return next(item for item in record.details[PART]["rows"] if item["alpha"] == alpha)


# --- the planted direction -------------------------------------------------------------------------


def test_the_planted_latent_is_found_and_steers(record):
    details = record.details[PART]
    assert details["direction"]["latent"] == PLANTED
    assert details["direction"]["separation"] > 2
    assert value(record, "steer_cosine_mean_difference") > 0.9
    assert value(record, "steer_spearman") > 0.6
    assert value(record, "steer_spearman_p") < 0.001
    assert record.get("steer_slope").low > 0
    assert value(record, "steer_logit_p_random") == pytest.approx(1 / 21)
    assert value(record, "steer_kl_p_random") == pytest.approx(1 / 21)
    assert row(record, -2.0)["rate"] < row(record, None)["rate"] < row(record, 2.0)["rate"]


def test_every_metric_is_there_and_the_record_is_plain(record):
    assert {item.name for item in record.measurements.values()} == {item.id for item in STEERING}
    assert all(item.value is not None for item in record.measurements.values())
    assert record.checkpoint["of"] == "planted"
    assert record.checkpoint["case"] == "upper"
    json.dumps(record.to_json(), allow_nan=False)


def test_strength_zero_is_the_unsteered_run(record):
    assert value(record, "steer_neutral_at_zero") == 1
    plain, zero = dict(row(record, None)), dict(row(record, 0.0))
    assert plain.pop("alpha") is None
    assert zero.pop("alpha") == 0
    assert plain == zero
    assert zero["kl"] == 0


def test_the_table_is_what_completing_by_hand_gives(run, record):
    """One strength with the planted direction itself, put in by a context of the test's own."""
    model, prompts = run.models[0], prompts_of(run, "upper").ids
    size = record.details[PART]["scale"]["value"]
    peaks = largest_code(run)
    assert size == pytest.approx(peaks, rel=1e-5)  # the direction has norm 1
    change = Add(planted_direction(), 0.5 * size)
    found = complete(
        model,
        prompts,
        seeds=(0,),
        max_new_tokens=QUICK["max_new_tokens"],
        intervene=lambda: steered(model, SITE, change),
        batch_size=8,
    )
    rules = load_rules(run.config.concepts[0].rules)
    labels = label_outcomes([item.text for item in found], rules, ("low", "high"), "high")
    wanted = row(record, 0.5)
    assert wanted["n"] == int((~np.isnan(labels)).sum())
    assert wanted["n_dropped"] == len(prompts) - wanted["n"] > 0
    assert wanted["rate"] == pytest.approx(np.nanmean(labels))
    texts = [Text(p, item.ids) for p, item in zip(prompts, found, strict=True)]
    assert wanted["ce"] == pytest.approx(cross_entropy(model, texts, batch_size=3).mean(), rel=1e-4)


def largest_code(run):
    """The largest projection of a completion token of the training texts on the planted direction."""
    text = run.concept("upper").train
    best = 0.0
    for batch in text.stream.batches(8):
        h = run.models[0].prefix(batch.ids, batch.attention_mask, [SITE]).at(SITE)
        best = max(best, float((h @ planted_direction())[batch.counted].max()))
    return best


def test_differences_of_logits_are_those_of_the_words_of_the_rules(run, record):
    tokens = record.details[PART]["tokens"]
    assert set(tokens["positive"]) == {f"w{i}" for i in range(HALF, VOCAB)}
    model, prompts = run.models[0], prompts_of(run, "upper").ids
    found = []
    for ids in prompts:
        with torch.no_grad():
            logits = model.model(input_ids=torch.tensor([ids])).logits[0, -1]
        shares = logits.softmax(-1)
        found.append(float((shares[HALF:].sum() / shares[2:HALF].sum()).log()))
    assert row(record, None)["logit_difference"] == pytest.approx(np.mean(found), abs=1e-4)


def test_prompts_are_the_held_out_ones_without_their_completions(run, record):
    held_out = run.concept("upper").held_out
    train = {tuple(ids) for ids in prompt_parts(run.concept("upper").train)}
    found = prompts_of(run, "upper")
    assert len(set(found.ids)) == len(found.ids) == record.details[PART]["prompts"]["n"]
    assert set(found.ids) <= set(prompt_parts(held_out))
    assert not set(found.ids) & train
    assert all(ids[0] == 1 and 3 <= len(ids) <= 5 for ids in found.ids)


def prompt_parts(text):
    """BOS and the words of the prompt of each sequence: all but the six words of its completion."""
    return [
        tuple(ids[mask][:-6].tolist())
        for batch in text.stream.batches(8)
        for ids, mask in zip(batch.ids, batch.attention_mask, strict=True)
    ]


def test_all_controls_have_been_run(record):
    names = record.details[PART]["control_names"]
    assert sum(name.startswith("random") for name in names) == QUICK["n_random"]
    latents = [name for name in names if name.startswith("latent")]
    assert len(latents) == QUICK["n_latents"]
    assert f"latent {PLANTED}" not in latents


def test_a_control_is_a_random_direction_as_long_as_the_latents(run, record):
    model, prompts = run.models[0], prompts_of(run, "upper").ids
    size = record.details[PART]["scale"]["value"]
    direction = random_directions(WIDTH, 1, seed=0)[0]
    found = []
    for alpha in (-2, 2):
        logits = []
        for ids in prompts:
            with torch.no_grad(), steered(model, SITE, lambda h, a=alpha: h + a * size * direction):
                logits.append(model.model(input_ids=torch.tensor([ids])).logits[0, -1])
        shares = torch.stack(logits).softmax(-1)
        found.append(float((shares[:, HALF:].sum(1) / shares[:, 2:HALF].sum(1)).log().mean()))
    control = record.details[PART]["controls"]["logit_difference/random"]["controls"][0]
    assert control == pytest.approx((found[1] - found[0]) / 4, rel=1e-3)


# --- invariance ------------------------------------------------------------------------------------


def test_batches_change_nothing(world):
    small, large = (few(world, batch_size=size) for size in (1, 50))
    for name, item in small.measurements.items():
        other = large.measurements[name].value
        assert item.value == pytest.approx(other, rel=1e-3, abs=1e-5), name


def test_controls_and_sweep_do_not_depend_on_each_other(world):
    alone, more = few(world), few(world, n_random=4, n_latents=3)
    assert alone.details[PART]["rows"] == more.details[PART]["rows"]
    theirs = [r.details[PART]["controls"]["kl/random"]["controls"] for r in (alone, more)]
    assert theirs[0] == pytest.approx(theirs[1][:2])


def test_what_numbers_depend_on_is_in_the_key(world, tmp_path):
    prompts = tmp_path / "p.jsonl"
    prompts.write_text("".join(json.dumps({"text": f"w{i} w9"}) + "\n" for i in range(5, 9)))
    same = tmp_path / "q.jsonl"
    same.write_text(prompts.read_text())
    base = identity(prepared(world), "upper")
    assert identity(prepared(world), "upper") == base
    others = [
        identity(prepared(world, **options), "upper")
        for options in ({"mode": "clamp"}, {"seed": 1}, {"alphas": (0.0, 1.0)}, {"latent": 4})
    ]
    others.append(identity(prepared(world, concept(world, rules=False, label="label")), "upper"))
    others.append(identity(prepared(world, prompts=str(prompts)), "upper"))
    assert all(other != base for other in others)
    assert identity(prepared(world, prompts=str(same)), "upper") == others[-1]


# --- ways to steer ---------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["decoded_difference", "mean_difference"])
def test_differences_of_classes_are_steered_along_by_their_own_length(world, direction):
    found = few(world, direction=direction)
    details = found.details[PART]
    assert details["direction"]["latent"] is None
    assert details["scale"]["value"] == pytest.approx(details["direction"]["norm"])
    if direction == "mean_difference":
        assert value(found, "steer_cosine_mean_difference") == pytest.approx(1)
        assert value(found, "steer_logit_slope") > 0


def test_a_clamp_at_zero_ablates_and_at_its_own_code_changes_nothing(world):
    found = few(world, mode="clamp")
    assert value(found, "steer_neutral_at_zero") == 1
    assert row(found, 0.0)["kl"] > 0
    assert row(found, None)["kl"] == 0
    assert value(found, "steer_logit_spearman") > 0.5


def test_the_scale_may_be_the_norm_of_activations(world):
    scale = few(world, scale="residual_norm").details[PART]["scale"]
    assert scale["value"] == scale["mean_norm"] > 1


def test_steering_completions_alone_leaves_the_first_token(world):
    found = few(world, positions="completion")
    assert "only tokens after the first" in found.get("steer_logit_slope").reason
    assert value(found, "steer_slope") is not None
    for example in found.details[PART]["examples"]:
        assert len({row["text"].split()[0] for row in example["completions"]}) == 1
    assert value(few(world, positions="prompt"), "steer_logit_slope") is not None


def test_a_model_of_16_bits_is_steered(world):
    run = prepared(world, **FEW)
    specs = (ModelSpec(str(world.model), precision="bfloat16"),)
    object.__setattr__(run, "specs", specs)
    (found,) = measured(run).values()
    assert found.model["dtype"] == "bfloat16"
    assert value(found, "steer_neutral_at_zero") == 1
    assert value(found, "steer_logit_slope") > 0


def test_prompts_may_be_named(world, tmp_path):
    place = tmp_path / "prompts.jsonl"
    texts = ["w5 w6", "w40", "w5 w6", "w7 " * 30]
    place.write_text("".join(json.dumps({"ask": text}) + "\n" for text in texts))
    found = few(world, prompts=f"{place}#ask")
    facts = found.details[PART]["prompts"]
    assert (facts["n"], facts["n_read"]) == (3, 4)
    assert value(found, "steer_kl_at_1") > 0


# --- what cannot be measured -----------------------------------------------------------------------


def test_without_rules_labels_are_not_read_and_the_rest_is(world):
    found = few(world, concept(world, rules=False, label="label"))
    assert "no rules" in found.get("steer_spearman").reason
    assert "no rules" in found.get("steer_logit_slope").reason
    assert value(found, "steer_kl_at_1") > 0
    assert value(found, "steer_kl_p_random") is not None
    assert value(found, "steer_ce_increase") is not None
    assert all("rate" not in item for item in found.details[PART]["rows"])


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"latent": 24}, "latents 0 to 23"),
        ({"alphas": (1.0,)}, "two that differ"),
        ({"alphas": (0.0, 1.0, 1.0)}, "none may be there twice"),
        ({"mode": "clamp", "direction": "mean_difference"}, "only a latent has a code"),
        ({"prompts": "no/such.jsonl"}, "no file or folder"),
        ({"max_new_tokens": 31}, "Lower max_new_tokens"),
    ],
)
def test_what_leaves_nothing_to_steer_is_a_record_with_the_reason(world, options, reason):
    found = few(world, **options)
    assert {item.value for item in found.measurements.values()} == {None}
    assert all(reason in item.reason for item in found.measurements.values())
    assert reason in found.details[PART]["reason"]


def test_a_concept_without_prompts_does_not_keep_the_others_from_being_measured(world):
    plain = concept(world, name="plain", prompt="", rules=False, label="label")
    found = measured(prepared(world, plain, concept(world), **FEW))
    assert list(found) == ["planted/plain", "planted/upper"]
    assert "no column of prompts" in found["planted/plain"].get("steer_slope").reason
    assert found["planted/upper"].get("steer_slope").value is not None


def test_cases_without_a_record_alone_are_measured(world):
    run = prepared(world, saes=("planted", "noise"), **FEW)
    cases = CasePart(PART, part.identity, SteeringJob).cases(run)
    assert [case.name for case in cases] == ["planted/upper", "noise/upper"]
    job = SteeringJob(run, cases[1:])
    assert [record.name for record in run_jobs(run, [job])] == ["noise/upper"]


def test_a_checkpoint_that_writes_elsewhere_than_it_reads_is_refused():
    sites = [Reading(parse_site(name)) for name in (SITE, "blocks.2.hook_resid_post")]
    sae = random_sae(d_out=WIDTH)
    with pytest.raises(CheckpointError, match="one site that is read and written"):
        _single(Subject("t", sae, (sites[0],), (sites[1],)))
    with pytest.raises(CheckpointError):
        _single(Subject("t", sae, (Reading(sites[0].site, 0, 1),), (Reading(sites[0].site, 0, 1),)))
    less_the_first = (Reading(sites[0].site, 1, minus=0),)
    with pytest.raises(CheckpointError):
        _single(Subject("t", sae, less_the_first, less_the_first))


def test_prompts_of_a_table_may_be_in_the_column_that_completions_take(tmp_path):
    table = tmp_path / "p.jsonl"
    table.write_text('{"prompt": "w3 w4"}\n{"prompt": "w5"}\n')
    assert _with_column(str(table)) == f"{table}#prompt"
    assert _with_column(f"{table}#other") == f"{table}#other"
    table.write_text('{"text": "w3 w4"}\n')
    assert _with_column(str(table)) == str(table)
    assert _with_column("uniform?seed=1") == "uniform?seed=1"
