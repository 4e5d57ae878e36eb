"""Runs of the difference suite: one pass, exact figures, what is missing, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from saebench.errors import ConfigError, DataError
from saebench.loading import open_checkpoint
from saebench.measure.difference import job as job_module
from saebench.measure.difference import rows as rows_module
from saebench.metrics.catalogue import DIFFERENCE
from tests.difference_runs import (
    D_SAE,
    make_pair_world,
    measured,
    prepared,
    prompt_rows,
    tuned,
    write_prompts,
)
from tests.small_world import SITE


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_pair_world(tmp_path_factory.mktemp("pair") / "world")


@pytest.fixture(scope="module")
def prompts(world):
    return str(write_prompts(world.folder / "prompts.jsonl"))


@pytest.fixture(scope="module")
def found(world, prompts):
    """The records of two difference SAEs and an SAE of one model."""
    base = (str(world.folder / "saes" / "good"),)
    run = prepared(world, saes=("diff", "diff-k8", "good"), text=prompts, base_saes=base)
    return measured(run)


def by_hand(world, prompts, direction=1):
    """Token by token with transformers: δ, fire labels, prompts and SAE output of the first checkpoint."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(world.model)
    models = [AutoModelForCausalLM.from_pretrained(p) for p in (world.model, tuned(world))]
    deltas, fire, of_token = [], [], []
    for number, row in enumerate(map(json.loads, Path(prompts).read_text().splitlines())):
        encoded = tokenizer(row["text"], add_special_tokens=False, return_offsets_mapping=True)
        ids = torch.tensor([[tokenizer.bos_token_id, *encoded["input_ids"]]])
        with torch.no_grad():
            states = [m(ids, output_hidden_states=True).hidden_states[2][0, 1:] for m in models]
        deltas.append(direction * (states[1] - states[0]))
        for start, end in encoded["offset_mapping"]:
            fire.append(any(start < e and end > s for s, e in row["fire"]))
            of_token.append(number)
    delta = torch.cat(deltas)
    sae = open_checkpoint(
        world.folder / "saes" / "diff", site=SITE, settings={"direction": "difference_ftb"}
    ).sae
    return delta, np.array(fire), np.array(of_token), sae


def value(record, name):
    return record.get(name).value


def test_every_metric_is_that_of_a_loop_with_transformers(world, prompts, found):
    delta, fire, _, sae = by_hand(world, prompts)
    record = found["diff"]
    codes = sae.encode(delta)
    error = (delta - sae.decode(codes)).double().square().sum(1).numpy()
    x = delta.double().numpy()
    far = ((x - x.mean(0)) ** 2).sum(1)

    def fve(keep, mean=None):
        total = far[keep].sum() if mean is None else ((x[keep] - mean) ** 2).sum()
        return 1 - error[keep].sum() / total

    every = np.ones(len(x), dtype=bool)
    assert value(record, "diff_fve") == pytest.approx(fve(every), rel=1e-4)
    assert value(record, "diff_fve_fire") == pytest.approx(fve(fire, x[fire].mean(0)), rel=1e-3)
    assert value(record, "diff_fve_fire_global") == pytest.approx(fve(fire), rel=1e-3)
    assert value(record, "diff_tss_share_fire") == pytest.approx(
        far[fire].sum() / far.sum(), rel=1e-4
    )
    bottom = np.argsort(np.linalg.norm(x, axis=1))[: len(x) // 2]
    assert value(record, "diff_fve_bottom_global") == pytest.approx(fve(bottom), rel=5e-3)
    assert value(record, "diff_l0") == pytest.approx(float((codes != 0).sum(1).float().mean()))
    dead = int((codes != 0).any(0).logical_not().sum())
    assert value(record, "diff_dead_fraction") == pytest.approx(dead / D_SAE)
    assert record.get("diff_fve_fire").n_tokens == fire.sum() == 6


def test_top_and_rest_add_up_to_all(found):
    table = {row["name"]: row for row in found["diff"].details["difference"]["table"]}
    parts = [
        table[name]["tss_share"]["value"] * table[name]["fve_global"]["value"]
        for name in ("top", "rest")
    ]
    assert sum(parts) == pytest.approx(table["all"]["fve"]["value"], rel=1e-9)
    shares = [
        row["tss_share"]["value"] for row in found["diff"].details["difference"]["conditions"]
    ]
    assert sum(shares) == pytest.approx(1)


def test_all_checkpoints_share_one_pass_over_both_models(found):
    passes = {tuple(record.passes.items()) for record in found.values()}
    assert passes == {(("prefix", 2 * 5),)}  # 24 prompts, 5 a batch, two models; no logits


def test_an_identity_base_sae_gives_the_difference_back(found):
    assert value(found["diff"], "diff_fve_base_sae") == pytest.approx(1)


def test_pca_is_that_of_scikit_learn(world, prompts, found):
    from sklearn.decomposition import PCA

    delta, *_ = by_hand(world, prompts)
    measurement = found["diff-k8"].get("diff_fve_pca")
    k = round(value(found["diff-k8"], "diff_l0"))
    assert measurement.detail["components"] == k
    expected = PCA(k).fit(delta.double().numpy()).explained_variance_ratio_.sum()
    assert measurement.value == pytest.approx(expected, rel=1e-4)
    assert measurement.low < measurement.value < measurement.high


def test_the_other_sign_gives_the_same_subsets_and_another_reconstruction(world, prompts, found):
    run = prepared(world, direction="difference_bft", text=prompts, out="reversed")
    reverse = measured(run)["diff"]
    assert value(reverse, "diff_tss_share_fire") == pytest.approx(
        value(found["diff"], "diff_tss_share_fire")
    )
    assert value(reverse, "diff_fve_pca") == pytest.approx(
        value(found["diff"], "diff_fve_pca"), rel=0.3
    )
    assert value(reverse, "diff_fve") != pytest.approx(value(found["diff"], "diff_fve"), rel=1e-3)
    delta, _, _, sae = by_hand(world, prompts, direction=-1)
    error = (delta - sae(delta)).double().square().sum()
    total = (delta.double() - delta.double().mean(0)).square().sum()
    assert value(reverse, "diff_fve") == pytest.approx(float(1 - error / total), rel=1e-4)


def test_an_sae_of_one_model_has_a_record_without_values(found):
    record = found["good"]
    assert {m.reason for m in record.measurements.values()} == {
        "it does not read the difference of two models"
    }
    assert set(record.measurements) == {item.metric for item in DIFFERENCE}


def test_records_are_plain_json_with_every_metric(found):
    for record in found.values():
        assert json.loads(json.dumps(record.to_json(), allow_nan=False))
        assert {item.metric for item in DIFFERENCE} == set(record.measurements)


@pytest.mark.parametrize("batch_size", [1, 24])
def test_figures_do_not_depend_on_batches_or_chunks(world, prompts, found, batch_size, monkeypatch):
    monkeypatch.setattr(rows_module, "CHUNK_TOKENS", 9)
    run = prepared(world, text=prompts, batch_size=batch_size, out=f"batch{batch_size}")
    other = measured(run)["diff"]
    for key, measurement in found["diff"].measurements.items():
        if key != "diff_fve_base_sae@1" and measurement.value is not None:
            assert other.measurements[key].value == pytest.approx(measurement.value, rel=1e-4)


def test_rows_in_a_file_give_the_same_and_leave_nothing_behind(world, prompts, found, monkeypatch):
    monkeypatch.setattr(rows_module, "IN_MEMORY_BYTES", 0)
    made = []
    monkeypatch.setattr(rows_module.np, "memmap", memmap_watched(made))
    base = (str(world.folder / "saes" / "good"),)
    other = measured(prepared(world, text=prompts, out="file", base_saes=base))["diff"]
    assert made
    assert not [path for path in (world.folder / "file").rglob("*") if path.is_file()]
    for key, measurement in found["diff"].measurements.items():
        assert other.measurements[key].value == measurement.value


def memmap_watched(made):
    plain = np.memmap

    def watched(*given, **options):
        made.append(options["shape"])
        return plain(*given, **options)

    return watched


def test_a_file_that_does_not_fit_is_an_error_before_anything_is_read(world, prompts, monkeypatch):
    from saebench.errors import OutputError

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(rows_module, "IN_MEMORY_BYTES", 0)
    monkeypatch.setattr(rows_module.os, "posix_fallocate", full)
    with pytest.raises(OutputError, match="max_tokens"):
        measured(prepared(world, text=prompts, out="full"))


def test_without_labelled_text_the_runs_own_is_measured_in_the_main_pass(world):
    run = prepared(world, out="own")
    record = measured(run)["diff"]
    assert record.passes == {}
    assert record.get("diff_fve").n_tokens == run.stream.tally().n_counted
    for name in (
        "diff_fve_fire",
        "diff_fve_fire_matched",
        "diff_fve_matched",
        "diff_f1",
        "diff_prompt_auroc",
    ):
        assert "text = in [difference]" in record.get(name).reason
    assert record.details["difference"]["text"] == {"own": True}
    assert "conditions" in record.details["difference"]


def test_max_tokens_keeps_whole_sequences_of_the_own_text(world):
    record = measured(prepared(world, max_tokens=100, out="few"))["diff"]
    n = record.get("diff_fve").n_tokens
    assert 100 - 15 <= n <= 100
    none = measured(prepared(world, max_tokens=5, out="none"))["diff"]
    assert "less than the first sequence" in none.get("diff_fve").reason


def test_prompts_without_a_fire_token_name_the_empty_subset(world):
    rows = [row | {"fire": []} for row in prompt_rows()]
    text = str(write_prompts(world.folder / "no-fire.jsonl", rows))
    record = measured(prepared(world, text=text, out="no-fire"))["diff"]
    assert record.get("diff_fve_fire").reason == "no prompt has a span of fire tokens"
    for name in ("diff_fve_fire_matched", "diff_fve_matched"):
        assert record.get(name).reason == "no prompt has a span of fire tokens"
    assert record.get("diff_recall").reason == "no prompt has a span of fire tokens"
    assert record.get("diff_fve").value is not None


def test_fire_tokens_and_their_counterparts_are_as_many_with_norms_as_large(world):
    rows = prompt_rows(240)
    for row in rows:  # the last word of every prompt gives the answer
        row["answer"] = [[row["text"].rindex(" ") + 1, len(row["text"])]]
    text = str(write_prompts(world.folder / "many.jsonl", rows))
    record = measured(prepared(world, text=text, out="many"))["diff"]
    table = {one["name"]: one for one in record.details["difference"]["table"]}
    paired, others = table["fire_matched"], table["matched"]
    assert 10 <= paired["n_tokens"] == others["n_tokens"] <= table["fire"]["n_tokens"]
    assert paired["mean_norm"] == pytest.approx(others["mean_norm"], rel=0.05)
    for name, one in (("diff_fve_fire_matched", paired), ("diff_fve_matched", others)):
        assert value(record, name) == one["fve"]["value"] is not None
        assert record.get(name).n_tokens == paired["n_tokens"]


def test_few_fire_tokens_have_no_counterparts(found):
    reason = found["diff"].get("diff_fve_matched").reason
    assert "of 6 fire tokens have a counterpart" in reason
    assert found["diff"].get("diff_fve_fire_matched").reason == reason


def test_fire_tokens_that_are_cut_off_say_so(world, prompts):
    record = measured(prepared(world, text=prompts, length=4, out="cut"))["diff"]
    assert "cut off at the length" in record.get("diff_fve_fire").reason


def test_documents_are_resampled_and_halved_whole(world, prompts, found):
    rows = [row | {"source": f"d{i // 4}"} for i, row in enumerate(prompt_rows())]
    text = str(write_prompts(world.folder / "documents.jsonl", rows))
    record = measured(prepared(world, text=text, out="documents"))["diff"]
    assert record.policy["resampling"].startswith("documents")
    assert found["diff"].policy["resampling"].startswith("sequences")
    details = record.details["difference"]
    assert details["sums"]["groups"] == list(range(6))
    fve, before = record.get("diff_fve"), found["diff"].get("diff_fve")
    assert fve.value == pytest.approx(before.value)
    assert (fve.low, fve.high) != (before.low, before.high)
    assert "over documents" in fve.interval
    assert "over sequences" in before.interval
    assert details["latents"]["n_documents"] == {"choosing": 3, "judging": 3}
    assert found["diff"].details["difference"]["latents"]["n_documents"] == {}
    assert details["latents"]["prompts_of_condition"] == dict.fromkeys(
        ("clean", "mismatch", "poison", "single"), 3
    )


def test_a_base_sae_at_another_site_or_none_has_a_reason(world, prompts):
    record = measured(prepared(world, text=prompts, out="no-base"))["diff"]
    assert "base_saes names none" in record.get("diff_fve_base_sae").reason


def test_a_base_sae_that_reads_a_difference_is_refused(world, prompts):
    base = (str(world.folder / "saes" / "diff"),)
    run = prepared(world, text=prompts, base_saes=base, out="refused")
    with pytest.raises(ConfigError, match="base_saes"):
        measured(run)


def test_a_text_that_does_not_serve_is_refused_before_any_pass(world):
    path = world.folder / "broken.jsonl"
    path.write_text(json.dumps({"text": "w5 w6", "fire": [[0, 50]]}) + "\n")
    with pytest.raises(DataError, match="within the 5 characters"):
        job_module.identity(prepared(world, text=str(path), out="broken"))


def test_the_key_knows_protocol_labels_and_base_saes(world, prompts):
    rows = prompt_rows()
    rows[0]["fire"] = []
    other = str(write_prompts(world.folder / "other.jsonl", rows))
    base = (str(world.folder / "saes" / "good"),)
    found = [
        json.dumps(job_module.identity(prepared(world, out="key", **asked)))
        for asked in (
            {},
            {"text": prompts},
            {"text": other},
            {"text": prompts, "top": 0.1},
            {"text": prompts, "base_saes": base},
            {"text": prompts, "length": 6},
        )
    ]
    assert len(set(found)) == len(found)


def test_sites_where_both_models_are_alike_say_so(world, prompts, tmp_path):
    """Only the unembedding differs, so that no activation does."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(world.model)
    model.lm_head.weight.data += 1
    model.save_pretrained(tmp_path / "other")
    AutoTokenizer.from_pretrained(world.model).save_pretrained(tmp_path / "other")
    run = prepared(world, text=prompts, out="alike", second=tmp_path / "other")
    reasons = {m.reason for m in measured(run)["diff"].measurements.values()}
    assert reasons == {f"both models have the same activations at {SITE}"}


def test_activations_that_are_not_finite_name_the_model(world, prompts, monkeypatch):
    def broken(rows, view):
        view.x[0, -1] = float("nan")  # the second model's part
        return plain(rows, view)

    plain = rows_module.Rows.update
    monkeypatch.setattr(rows_module.Rows, "update", broken)
    record = measured(prepared(world, text=prompts, out="nan"))["diff"]
    reason = record.get("diff_fve").reason
    assert "not finite" in reason
    assert "tuned on 5 of 192 tokens" in reason  # one of each batch


def test_a_checkpoint_in_bfloat16_is_measured(world, prompts, found):
    run = prepared(world, text=prompts, out="bfloat16", sae_dtype="bfloat16")
    record = measured(run)["diff"]
    assert value(record, "diff_fve") == pytest.approx(value(found["diff"], "diff_fve"), abs=0.05)
    assert value(record, "diff_f1") is not None


def test_many_conditions_are_told_apart_up_to_a_limit():
    names, number = job_module._conditions([f"c{i % 40}" for i in range(45)] + [""])
    assert len(names) == job_module.MOST_CONDITIONS
    assert names[-1] == "other"
    assert number.max() == job_module.MOST_CONDITIONS - 1
    assert [names[i] for i in number[:5]] == [
        "c0",
        "c1",
        "c2",
        "c3",
        "c4",
    ]  # the ones there are twice
