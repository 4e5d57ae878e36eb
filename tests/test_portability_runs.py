"""Portability as a part of a run: variants that are the model itself, close to it, or do not fit it."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from saebench.errors import ConfigError
from saebench.evals.portability import ModelEval, SpreadEval, VariantEval
from saebench.measure.portability import variants as portability_variants
from saebench.measure.portability.job import identity
from saebench.models import LanguageModel
from saebench.passes import (
    Calibration,
    PassRequest,
    Subject,
    SubjectView,
    as_stack,
    run_pass,
)
from saebench.protocols import Concept, Variant
from saebench.sites import parse_site
from tests.portability_runs import (
    SAME,
    copy_of,
    measured,
    nine_tenths,
    nudge,
    numbers,
    other_model,
    prepared,
    saved,
    values,
)
from tests.small_runs import identity_sae, random_sae
from tests.small_world import SITE, make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("portability"))


def test_the_model_itself_shifts_exactly_nothing(world):
    found = measured(prepared(world, SAME))
    assert set(found) == {"good@same", "bad@same"}
    for record in found.values():
        got = numbers(record)
        zero = ("fve_shift", "alive_shift", "drift", "ce_shift", "kl", "kl_reverse")
        one = ("l0_ratio", "drift_cosine", "survival", "survival_median", "jaccard")
        one += ("jaccard_pooled", "sample_correlation", "top_k_agreement")
        for name in zero:
            assert (got[name].value, got[name].low, got[name].high) == (0, 0, 0), name
        for name in one:
            assert (got[name].value, got[name].low, got[name].high) == (1, 1, 1), name
        for name in ("fve", "alive", "l0", "ce"):
            assert got[f"{name}_reference"].value == got[f"{name}_variant"].value, name
        assert got["ce_recovered"].value == got["ce_recovered_reference"].value
        assert got["kl_spliced"].value == got["kl_spliced_reference"].value
    good, bad = (numbers(found[f"{name}@same"]) for name in ("good", "bad"))
    assert good["portable"].value == good["equivalent"].value == 1
    assert good["fve_drop"].value == 0
    assert bad["portable"].value is None  # an FVE below 0 cannot fall by a share
    assert "not positive" in bad["portable"].reason


def test_the_reference_has_the_numbers_of_the_main_pass(world):
    from tests.small_runs import measured as measured_alone

    run = prepared(world, SAME)
    model = LanguageModel.load(world.model, device="cpu")
    ids = [row[row != 0].tolist() for batch in run.stream.batches(64) for row in batch.ids]
    alone = measured_alone(
        model, ids, {"bad": random_sae()}, SITE, mask="special", special_ids=(0, 1)
    )
    expected = alone.measurements("bad")
    got = numbers(measured(run)["bad@same"])
    pairs = {"fve_reference": "fve", "l0_reference": "l0", "alive_reference": "alive"}
    pairs |= {"ce_reference": "ce_clean", "ce_recovered_reference": "ce_recovered"}
    pairs |= {"kl_spliced_reference": "kl"}
    for ours, theirs in pairs.items():
        assert got[ours].value == pytest.approx(expected[theirs].value, rel=1e-6), ours
        if expected[theirs].low is not None:
            assert got[ours].low == pytest.approx(expected[theirs].low, rel=1e-6), ours


def test_doubled_activations_drift_by_their_own_length_and_leave_every_latent_in_place(world):
    def double(model):
        model.model.embed_tokens.weight *= 2

    ref = copy_of(world, "doubled", double)
    got = values(
        measured(prepared(world, Variant("doubled", str(ref)), saes=("good",)))["good@doubled"]
    )
    exact = {"drift": 1, "drift_cosine": 1, "fve_variant": 1, "fve_drop": 0, "l0_ratio": 1}
    exact |= {"survival": 1, "survival_median": 1, "jaccard": 1, "sample_correlation": 1}
    exact |= {"top_k_agreement": 1, "alive_shift": 0, "error_over_drift": 0}
    for name, value in exact.items():
        assert got[name] == pytest.approx(value, abs=1e-4), name


def test_a_fine_tune_moves_a_little_and_stays_portable(world):
    ref = copy_of(world, "tuned", nudge)
    record = measured(prepared(world, Variant("tuned", str(ref))))["good@tuned"]
    got = numbers(record)
    assert 0.05 < got["drift"].value < 0.2
    assert 0 < got["kl"].value < 0.5
    assert got["kl"].value != got["kl_reverse"].value
    assert got["ce_shift"].value == pytest.approx(
        got["ce_variant"].value - got["ce_reference"].value
    )
    assert got["survival"].value > 0.9
    assert 0.5 < got["jaccard"].value < 1
    assert got["portable"].value == 1
    assert record.model["reference"]["digest"] != record.model["digest"]
    assert record.model["id"] == "tuned"
    assert record.checkpoint["of"] == "good"
    assert record.checkpoint["case"] == "tuned"
    assert record.details["portability"]["regime"]["regime"] == "float32"
    assert record.passes["prefix"] > 0


def test_clean_divergence_is_that_of_both_models_logits(world):
    ref = copy_of(world, "tuned", nudge)
    run = prepared(world, Variant("tuned", str(ref)), saes=("good",))
    got = values(measured(run)["good@tuned"])
    models = [LanguageModel.load(path, device="cpu") for path in (world.model, ref)]
    forward, backward, losses = [], [], [[], []]
    for batch in run.stream.batches(4):
        mask = batch.attention_mask.long()
        with torch.no_grad():
            logits = [m.model(input_ids=batch.ids, attention_mask=mask).logits for m in models]
        logs = [one.double().log_softmax(-1) for one in logits]
        for row in range(len(batch.ids)):
            for t in range(batch.ids.shape[1] - 1):
                if not (batch.counted[row, t] and batch.attention_mask[row, t + 1]):
                    continue
                p, q = (one[row, t] for one in logs)
                forward.append(float((p.exp() * (p - q)).sum()))
                backward.append(float((q.exp() * (q - p)).sum()))
                for side, one in enumerate((p, q)):
                    losses[side].append(-float(one[batch.ids[row, t + 1]]))
    mean = lambda items: sum(items) / len(items)  # noqa: E731
    assert got["kl"] == pytest.approx(mean(forward), rel=1e-4)
    assert got["kl_reverse"] == pytest.approx(mean(backward), rel=1e-4)
    assert got["ce_reference"] == pytest.approx(mean(losses[0]), rel=1e-5)
    assert got["ce_variant"] == pytest.approx(mean(losses[1]), rel=1e-5)


def test_numbers_depend_neither_on_batches_nor_on_how_many_variants_run_at_once(world):
    ref = copy_of(world, "tuned", nudge)
    variants = SAME, Variant("tuned", str(ref))
    found = [
        measured(prepared(world, *variants, batch_size=size, at_once=at_once))
        for size, at_once in ((8, None), (8, 1), (3, None))
    ]
    for other in found[1:]:
        assert other.keys() == found[0].keys()
        for name, record in found[0].items():
            for metric, value in values(record).items():
                assert values(other[name])[metric] == pytest.approx(value, rel=1e-4, abs=1e-6), (
                    metric
                )
    together, alone = (one["good@tuned"].passes["prefix"] for one in found[:2])
    assert together > alone  # of three models in one pass, and of two


def test_the_verdict_asks_for_retraining_where_the_fve_falls(world):
    """An SAE that takes the same length off every entry loses more of smaller activations."""

    def shrink(model):
        model.model.embed_tokens.weight *= 0.25

    sae = identity_sae()
    sae.b_enc.fill_(-0.2)
    saved(sae, world.folder / "saes" / "soft")
    ref = copy_of(world, "shrunk", shrink)
    record = measured(prepared(world, Variant("shrunk", str(ref)), saes=("soft",)))["soft@shrunk"]
    got = numbers(record)
    assert got["fve_reference"].value > 0.9
    assert got["fve_drop"].value > 0.3
    assert got["portable"].value == 0
    assert got["portable"].detail["exceeded"] == ["fve_drop"]
    assert got["equivalent"].value == 0
    assert got["equivalent"].detail["verdict"] == "different"


def test_a_checkpoint_trained_on_the_variant_is_set_beside(world):
    tuned = copy_of(world, "tuned", nudge)
    native = saved(nine_tenths(), world.folder / "native")
    variant = Variant("tuned", str(tuned), sae=str(native))
    run = prepared(world, variant)
    found = measured(run)
    got = values(found["good@tuned"])
    assert got["fve_native"] == pytest.approx(0.985, abs=0.01)  # 1 − .1² of what is not the mean
    assert got["transfer_gap"] == pytest.approx(got["fve_variant"] - got["fve_native"])
    assert values(found["bad@tuned"])["fve_native"] == got["fve_native"]
    assert identity(run, "tuned")["portability"]["variant"]["sae"]


def test_concepts_are_told_apart_by_the_same_latent_on_both_models(world):
    from saebench.concepts import Columns, separate
    from saebench.evals.pooling import PooledSubject

    drawn = torch.randint(0, 28, (80, 6), generator=torch.Generator().manual_seed(1)).tolist()
    rows = [
        {"text": " ".join(f"w{word + 2 + 32 * (i % 2)}" for word in words), "label": i % 2}
        for i, words in enumerate(drawn)
    ]
    (world.folder / "concept.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    concept = Concept("half", str(world.folder / "concept.jsonl"))
    tuned = copy_of(world, "tuned", nudge)
    variants = SAME, Variant("tuned", str(tuned))
    run = prepared(world, *variants, saes=("bad",), concepts=(concept,))
    found = measured(run)
    same, moved = (values(found[f"bad@{v.name}"]) for v in variants)
    assert same["d_max"] == same["d_max_reference"]
    assert same["d_best"] == same["d_best_reference"]
    assert moved["d_best"] != moved["d_best_reference"] == same["d_best_reference"]
    row = found["bad@tuned"].details["portability"]["concepts"][0]
    text = run.concept("half").held_out
    model, pooled = LanguageModel.load(tuned, device="cpu"), PooledSubject(len(text.labels), "mean")
    subject = Subject.at("bad", random_sae(), model.site(SITE))
    run_pass([model], text.stream.batches(8), PassRequest([subject], {}, {"bad": [pooled]}))
    columns = Columns.of(pooled.latents)
    d = separate(columns, columns.ranks(), text.labels == 1).d
    assert abs(row["d_best"]) == pytest.approx(abs(d[row["latent"]]), rel=1e-4)
    assert row["d_max"] >= abs(row["d_best"])
    assert identity(run, "tuned")["portability"]["concepts"]["digests"]["half"]


def test_every_metric_of_the_family_is_in_every_record(world):
    from saebench.metrics.catalogue.portability import PORTABILITY

    ref = other_model(world, "narrow", hidden_size=8)
    found = measured(prepared(world, SAME, Variant("narrow", str(ref)), saes=("good",)))
    for record in found.values():
        assert set(record.measurements) == {one.metric for one in PORTABILITY}
        for one in record.measurements.values():
            assert one.value is not None or one.reason != "not measured", one.metric


def test_the_identity_holds_digest_regime_and_protocol_and_not_what_changes_no_number(world):
    tuned = copy_of(world, "tuned", nudge)
    variants = Variant("a", str(tuned)), Variant("b", precision="bfloat16")
    run, other = prepared(world, *variants), prepared(world, *variants, at_once=1)
    assert identity(run, "a") == identity(other, "a")
    assert identity(run, "a") != identity(run, "b")
    assert identity(run, "a") != identity(prepared(world, *variants, top_k=3), "a")
    json.dumps(identity(run, "a"))
    before = identity(run, "a")
    weights = load_file(tuned / "model.safetensors")
    save_file(
        {name: value + 1 for name, value in weights.items()},
        tuned / "model.safetensors",
        {"format": "pt"},
    )
    assert identity(prepared(world, *variants), "a") != before


def test_views_of_different_batches_are_not_compared():
    sae, x = identity_sae(), torch.randn(6, 16, generator=torch.Generator().manual_seed(0))
    codes, x_hat = sae.reconstruct(x)
    stack = as_stack(parse_site(SITE))
    spread = SpreadEval(stack)
    spread.begin(Calibration({stack[0]: x.mean(0)}, 1, 6))
    reference = ModelEval(spread, predictions=False)
    device = torch.device("cpu")
    variant = VariantEval(reference, spread, d_sae=32, top_k=3, device=device, predictions=False)
    reference.update(SubjectView(x, x, codes, x_hat, torch.zeros(6, dtype=torch.int64)))
    with pytest.raises(ConfigError, match="tokens of a batch"):
        variant.update(SubjectView(x, x, codes, x_hat, torch.ones(6, dtype=torch.int64)))


def test_halves_of_a_batch_are_paired_after_memory_ran_out(world, monkeypatch):
    tuned = copy_of(world, "tuned", nudge)
    variant = Variant("tuned", str(tuned))
    expected = values(measured(prepared(world, variant, saes=("good",)))["good@tuned"])
    whole = LanguageModel.prefix

    def short(self, ids, mask, sites):
        if self.id == "tuned" and len(ids) > 3:
            raise torch.OutOfMemoryError("no")
        return whole(self, ids, mask, sites)

    monkeypatch.setattr(LanguageModel, "prefix", short)
    got = values(measured(prepared(world, variant, saes=("good",)))["good@tuned"])
    for name, value in expected.items():
        assert got[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name


def test_variants_are_looked_for_once(world, monkeypatch):
    tuned = copy_of(world, "tuned", nudge)
    run = prepared(world, Variant("tuned", str(tuned)))
    calls = []
    whole = portability_variants.locate_model
    monkeypatch.setattr(
        portability_variants, "locate_model", lambda *a, **k: calls.append(a) or whole(*a, **k)
    )
    identity(run, "tuned")
    measured(run)
    assert len(calls) == 1


def test_two_models_are_compared_without_any_subject_that_predicts(world):
    run = prepared(world, SAME, saes=("good",))
    model = run.models[0]
    seen = []

    class Pair:
        def update(self, view):
            seen.append(view)

    class Codes:
        needs_predictions = needs_reconstruction = False

        def update(self, view):
            pass

    subjects = [Subject.at("one", identity_sae(), model.site(SITE))]
    request = PassRequest(subjects, {}, {"one": [Codes()]}, {(0, 0): [Pair()]})
    run_pass([model], run.stream.batches(8), request)
    assert seen
    assert all(float(view.losses.kl.max()) == 0 for view in seen)
