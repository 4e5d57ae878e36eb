"""Fake features of whole runs: planted latents are found, and the passes are as few as they can be."""

import json
from collections import Counter

import pytest

from saebench.data import random_stream
from saebench.errors import ConfigError, DataError
from saebench.measure.fake_features import PART, FakeFeaturesJob, identity
from saebench.measure.jobs import run_jobs
from saebench.metrics.catalogue.fake_features import FAKE_FEATURES
from saebench.metrics.fake_features.results import ALL_DEAD
from tests.fake_world import (
    DEAD,
    DENSE,
    EVEN,
    LATENTS,
    NOISE,
    RARE,
    SELDOM_LATENT,
    make_fake_world,
    opened,
)
from tests.small_world import LENGTH
from tests.tiny_models import VOCAB

M = len(LATENTS)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_fake_world(tmp_path_factory.mktemp("fake-world"))


def records(run):
    job = FakeFeaturesJob(run, run.targets)
    return {record.name: record for record in run_jobs(run, [job])}


def measured(world, out, *names, **options):
    return records(opened(world, out, *(names or ("planted",)), **options))


@pytest.fixture(scope="module")
def planted(world, tmp_path_factory):
    return measured(world, tmp_path_factory.mktemp("out"), "planted", "dead")


def value(record, name):
    return record.get(name).value


def shares(record):
    return {one["latent"]: one for one in record.details[PART]["top"]}


def test_a_dense_latent_and_a_noise_detector_are_told_apart(planted):
    """Dense, noise and even fire on a tenth of random tokens; noise alone not on real text."""
    record = planted["planted"]
    assert value(record, "fake_token") == pytest.approx(3 / M)
    assert value(record, "fake_specific") == pytest.approx(1 / M)
    assert value(record, "fake_dense") == pytest.approx(2 / M)
    top = shares(record)
    assert list(top) == [DENSE, EVEN, NOISE, SELDOM_LATENT]
    assert (top[DENSE]["random_share"], top[DENSE]["real_share"]) == (1.0, 1.0)
    assert top[NOISE]["random_share"] == pytest.approx(1 - RARE / VOCAB, abs=0.05)
    assert top[NOISE]["real_share"] == 0.0


def test_a_random_share_is_that_of_the_ids_drawn(world, planted):
    run = opened(world, world.folder / "out", "planted")
    drawn = random_stream(
        run.tokenizer, vocab_size=VOCAB, length=LENGTH, n_sequences=50, special=True, seed=0
    )
    batch = next(drawn.batches(50))
    ids = batch.ids[batch.counted]
    assert len(ids) == 50 * (LENGTH - 1)
    top = shares(planted["planted"])
    assert top[NOISE]["random_share"] == float((ids >= RARE).double().mean())
    assert top[EVEN]["random_share"] == float((ids % 2 == 0).double().mean())


def test_alive_latents_are_those_that_fire_on_real_text(planted):
    record = planted["planted"]
    assert record.details[PART]["alive"]["n"] == 3
    assert value(record, "fake_token_alive") == pytest.approx(2 / 3)
    ratio = record.details[PART]["rate_ratio"]
    assert ratio["only_random"]["n"] == 2
    assert ratio["on_neither"] == 1


def test_the_unigram_and_shuffled_controls_have_no_rare_tokens(planted):
    record = planted["planted"]
    for name in ("fake_unigram", "fake_shuffled"):
        assert value(record, name) == pytest.approx(
            3 / M
        )  # dense, even, and what the text is made of
    rows = {(row["text"], row["protocol"]): row for row in record.details[PART]["table"]}
    real, shuffled = rows["real", "token"], rows["shuffled", "token"]
    assert shuffled["n_sequences"] == min(50, real["n_sequences"])
    assert rows["unigram", "token"]["mean_share"] == pytest.approx(real["mean_share"], rel=0.1)


def test_a_sequence_counts_where_the_sum_of_codes_is_above_the_threshold(planted):
    """Every latent but the dead one reaches a sum of 1 in nearly all sequences of 15 tokens."""
    record = planted["planted"]
    assert value(record, "fake_sequence") == pytest.approx((M - 1) / M)
    assert record.get("fake_sequence").detail["n_units"] == 50


def test_all_latents_dead_is_a_measurement_with_a_reason(planted):
    for item in planted["dead"].measurements.values():
        assert (item.value, item.reason) == (None, ALL_DEAD)


def test_a_record_holds_protocols_texts_and_table_as_plain_json(planted):
    record = planted["planted"]
    details = record.details[PART]
    json.dumps(details, allow_nan=False)
    assert record.part == PART
    assert details["protocols"]["sequence"]["length"] == details["length"] == LENGTH
    assert set(details["texts"]) == {"real", "uniform", "unigram", "shuffled"}
    assert all(text["digest"] for text in details["texts"].values())
    assert {item.n_tokens for item in record.measurements.values()} >= {50 * (LENGTH - 1)}
    detail = record.get("fake_token").detail
    assert (detail["n_units"], detail["n_requested"]) == (50 * (LENGTH - 1), 50 * LENGTH)


def test_the_definitions_are_all_measured_and_the_configured_one_only_where_there_is_one(
    world, planted, tmp_path
):
    names = {item.name for item in planted["planted"].measurements.values()}
    everything = {one.id for one in FAKE_FEATURES}
    assert names == {name for name in everything if "configured" not in name}
    found = measured(world, tmp_path, share=0.3)["planted"]
    assert {item.name for item in found.measurements.values()} == everything
    assert value(found, "fake_configured") == pytest.approx(2 / M)  # a quarter is no longer enough
    assert value(found, "fake_token") == value(planted["planted"], "fake_token")


def test_the_standard_protocols_by_another_name_are_not_measured_twice(world, tmp_path):
    run = opened(world, tmp_path, "planted", unit="sequence", share=0.05, aggregate="sum")
    assert FakeFeaturesJob(run, run.targets).plan.configured_on is None


@pytest.mark.parametrize(
    ("protocol", "fake"),
    [
        ({"ids": "unigram", "share": 0.6}, [DENSE]),
        ({"ids": "shuffled", "share": 0.3}, [DENSE, EVEN, SELDOM_LATENT]),
        ({"unit": "sequence", "aggregate": "max", "share": 0.5, "bos": False}, range(M - 2)),
        ({"special": False, "threshold": 0.1, "share": 0.2}, [DENSE, NOISE, EVEN, "weak"]),
    ],
)
def test_every_choice_of_a_protocol_is_followed(world, tmp_path, protocol, fake):
    found = measured(world, tmp_path, **protocol)["planted"]
    assert value(found, "fake_configured") == pytest.approx(len(fake) / M)
    assert found.details[PART]["protocols"]["configured"]["length"] == LENGTH


def test_random_text_without_bos_counts_its_first_token(world, tmp_path):
    details = measured(world, tmp_path, bos=False)["planted"].details[PART]
    rows = {(row["text"], row["protocol"]): row for row in details["table"]}
    assert rows["configured", "configured"]["n_units"] == 50 * LENGTH
    assert rows["uniform", "token"]["n_units"] == 50 * (LENGTH - 1)


def test_a_relative_threshold_is_each_latents_own(world, tmp_path):
    """Each latent has one strength, in one bin: at .9 of the bin none is above, at .1 all are."""
    found = measured(world, tmp_path, relative=True, threshold=0.9)["planted"]
    assert value(found, "fake_configured") == 0.0
    apart = found.details[PART]["without_threshold"]
    assert apart["n"] == 3  # noise, weak and dead never fire on the text
    assert apart["fire_on_more_tokens_than_share"] == 2
    said = found.details[PART]["relative_threshold"]
    assert "9.1%" in said["resolution"]
    assert (said["codes_below"], said["codes_beyond"]) == (0, 0)
    low = measured(world, tmp_path / "low", relative=True, threshold=0.1)["planted"]
    assert value(low, "fake_configured") == pytest.approx(2 / M)  # dense and even


def test_batches_change_nothing(world, planted, tmp_path):
    for size in (1, 7):
        found = measured(world, tmp_path / str(size), batch_size=size)["planted"]
        for metric, item in found.measurements.items():
            assert item == planted["planted"].measurements[metric]


def test_the_text_rides_on_the_pass_of_the_run_and_each_other_is_one_prefix_for_all(
    world, tmp_path
):
    run = opened(world, tmp_path, "planted", "dead", batch_size=100)
    model = run.models[0]
    before = Counter(model.calls)
    job = FakeFeaturesJob(run, run.targets)
    made = list(run_jobs(run, [job]))
    assert set(job.subject_observers) == {"planted", "dead"}
    assert Counter(model.calls) - before == {"prefix": 4}  # no suffix and no unembedding
    assert made[0].passes == {"prefix": 3}


def test_another_length_reads_the_control_at_that_length(world, tmp_path):
    run = opened(world, tmp_path, "planted", length=8)
    job = FakeFeaturesJob(run, run.targets)
    (riding,) = job.subject_observers["planted"]
    assert riding.sums.counts == {}  # who fires at all, and nothing else
    (record,) = run_jobs(run, [job])
    details = record.details[PART]
    assert details["length"] == 8
    assert {text["context_size"] for text in details["texts"].values()} == {8}
    assert record.get("fake_token").n_tokens == 50 * 7
    assert value(record, "fake_specific") == pytest.approx(1 / M)


def test_alive_is_of_the_runs_own_text_whatever_the_length(world, planted, tmp_path):
    """Two sequences of three tokens lack what 60 of 16 have; thresholds are of the own text too."""
    options = {"length": 3, "n_sequences": 2, "relative": True, "threshold": 0.9}
    found = measured(world, tmp_path, **options)["planted"].details[PART]
    usual = planted["planted"].details[PART]
    assert found["alive"] == usual["alive"]
    assert found["alive"]["n_tokens"] > 2 * 2
    assert found["without_threshold"]["n"] == M - found["alive"]["n"]
    real = next(row for row in found["table"] if row["text"] == "real")
    assert real["n_tokens"] == 2 * 2


def test_ids_in_the_padding_of_a_vocabulary_do_not_stop_a_run(world, tmp_path, monkeypatch):
    """The tokenizer has fewer ids than the text: those beyond it are not drawn, and the others are."""
    monkeypatch.setattr("saebench.measure.fake_features_texts.drawn_from", lambda run: 40)
    run = opened(world, tmp_path, "planted")
    job = FakeFeaturesJob(run, run.targets)
    drawn = next(job.texts["unigram"].batches(50))
    assert int(drawn.ids.max()) < 40
    present = {int(i) for batch in run.stream.batches(8) for i in batch.ids[batch.counted]}
    assert max(present) >= 40
    (record,) = run_jobs(run, [job])
    assert value(record, "fake_unigram") is not None


def test_texts_that_cannot_be_made_are_refused_before_any_pass(world, tmp_path, monkeypatch):
    monkeypatch.setattr("saebench.measure.fake_features_texts.drawn_from", lambda run: 2)
    run = opened(world, tmp_path, "planted")
    with pytest.raises(DataError):
        FakeFeaturesJob(run, run.targets)
    assert "models" not in vars(run)  # not even loaded


def test_what_numbers_depend_on_is_in_the_identity(world, tmp_path):
    def of(**protocol):
        return identity(opened(world, tmp_path, "planted", **protocol))

    base = of()
    json.dumps(base, allow_nan=False)
    assert of() == base == of(length=LENGTH)
    changes = ({"seed": 1}, {"length": 8}, {"n_sequences": 49}, {"share": 0.2}, {"bos": False})
    assert len({json.dumps(of(**change)) for change in changes} | {json.dumps(base)}) == 6


def test_sequences_longer_than_the_model_takes_are_refused(world, tmp_path):
    run = opened(world, tmp_path, "planted", length=33)
    with pytest.raises(ConfigError, match="length = 33"):
        identity(run)


def test_the_dead_latent_fires_nowhere(planted):
    assert DEAD not in shares(planted["planted"])
