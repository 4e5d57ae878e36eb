"""Records of cases over runs: what is tried again and what is not, and what a run reads once."""

import json
import sys
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from saebench.config import SAESpec
from saebench.errors import DataError, HubError, MissingExtraError
from saebench.evals.reconstruction import random_init
from saebench.measure import measure, measuring
from saebench.measure import run as run_module
from saebench.measure.cases import may_pass, once, refusal
from saebench.measure.concepts import rows
from saebench.measure.measuring import CASES_BY_SUITE
from saebench.measure.portability import PortabilityJob
from saebench.measure.steering import job as steering_job
from saebench.protocols import ConceptsProtocol, CrossValidation, PortabilityProtocol, Variant
from saebench.record import Measurement, Record
from saebench.store import RecordStore
from tests.steering_runs import QUICK, concept, make_steering_world, prepared
from tests.tiny_models import WIDTH

FEW = {**QUICK, "n_random": 2, "n_latents": 1, "n_permutations": 50, "n_prompts": 6}
SUITES = ("portability", "concepts", "cv_probing", "steering")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_steering_world(tmp_path_factory.mktemp("records"))


def quick(world, out, *concepts, suites=SUITES, saes=("planted",), **options):
    """A configuration of these suites, with a folder of its own, and its checkpoints."""
    config = prepared(world, *concepts, **FEW).config
    config = replace(
        config,
        out=out,
        suites=suites,
        concept_statistics=ConceptsProtocol(min_firings=3, n_permutations=19, n_resamples=4),
        cross_validation=CrossValidation(repeats=1, n_permutations=19, ks=(1,), n_path=2),
        **options,
    )
    places = {name: str(world.folder / "saes" / name) for name in saes}
    return config, [(name, ref, SAESpec(ref)) for name, ref in places.items()]


@pytest.fixture
def of_one_class(world):
    path = world.folder / "one.jsonl"
    path.write_text('{"prompt": "w3 w4", "completion": "w5 w6", "label": "high"}\n' * 8)
    return concept(world, name="one", data=str(path), rules=False)


@pytest.fixture
def counted(monkeypatch):
    """The names of the cases that were measured, run by run."""
    measured = []

    def jobs(run, jobs):
        measured.append([c.name for job in jobs for c in getattr(job, "cases", ())])
        return run_jobs(run, jobs)

    run_jobs = measuring.run_jobs
    monkeypatch.setattr(measuring, "run_jobs", jobs)
    return measured


# --- all suites in a dtype of the checkpoints --------------------------------------------------------


def test_all_suites_measure_a_checkpoint_in_bfloat16(world, tmp_path):
    found = measure(
        *quick(
            world,
            tmp_path,
            sae_dtype="bfloat16",
            variants=(Variant("half", precision="bfloat16"),),
            portability=PortabilityProtocol(),
        )
    )
    assert set(found.cases) == {"planted@half", "planted/upper"}
    for name, metrics in {
        "planted@half": ("port_fve_variant", "port_d_max"),
        "planted/upper": ("concept_d_max", "cv_auroc_random", "steer_slope", "steer_p_latents"),
    }.items():
        for metric in metrics:
            assert found.cases[name].get(metric).value is not None, metric
        assert found.cases[name].policy["sae_dtype"] == "bfloat16"


# --- what is tried again -----------------------------------------------------------------------------


def test_what_can_never_be_measured_is_not_tried_again(world, tmp_path, of_one_class, counted):
    suites = SUITES[1:]
    for _ in range(2):
        found = measure(*quick(world, tmp_path, of_one_class, suites=suites)).cases["planted/one"]
    assert counted == [["planted/one"] * 3]
    assert all(m.value is None for m in found.measurements.values())
    assert {part: found.details[part]["retry"] for part in suites} == dict.fromkeys(suites, False)


def test_a_transcoder_is_refused_by_steering_once(world, tmp_path, counted):
    folder = world.folder / "saes" / "layers.1.mlp"
    folder.mkdir()
    config = {"activation": "topk", "num_latents": 12, "k": 3, "d_in": WIDTH, "transcode": True}
    (folder / "cfg.json").write_text(json.dumps(config))
    weights = {"encoder.weight": torch.randn(12, WIDTH), "encoder.bias": torch.zeros(12)}
    weights |= {"W_dec": torch.randn(12, WIDTH), "b_dec": torch.zeros(WIDTH)}
    save_file(weights, folder / "sae.safetensors")
    for _ in range(2):
        found = measure(*quick(world, tmp_path, suites=("steering",), saes=("layers.1.mlp",)))
    (name,) = found.cases
    assert counted == [[name]]
    assert "not with a transcoder" in found.cases[name].details["steering"]["reason"]


def test_what_may_have_passed_is_tried_again_until_it_has(world, tmp_path, monkeypatch, counted):
    given = quick(world, tmp_path, suites=("steering",))
    with monkeypatch.context() as broken:

        def refuses(*_):
            raise MissingExtraError("a package", "not installed", "Install it.")

        broken.setattr(steering_job, "linear_decoded", refuses)
        found = measure(*given).cases["planted/upper"]
        assert found.details["steering"]["retry"] is True
    for _ in range(2):
        found = measure(*given).cases["planted/upper"]
    assert counted == [["planted/upper"]] * 2
    assert found.get("steer_slope").value is not None


def test_memory_packages_files_and_the_hub_may_come_back():
    plain = DataError("a", "b", "c")
    assert not may_pass(plain)
    assert not refusal(plain)["retry"]
    assert refusal(HubError("a", "b", "c"))["retry"]
    assert refusal(MissingExtraError("a", "b", "c"))["retry"]
    for cause in (OSError(), MemoryError(), ImportError(), torch.OutOfMemoryError()):
        later = DataError("a", "b", "c")
        later.__cause__ = cause
        assert refusal(later)["retry"], cause


@pytest.mark.parametrize(
    ("value", "details", "again"),
    [
        (None, {"failed": "no memory"}, True),
        (None, {"failed": "never", "retry": False}, False),
        (0.0, {"not_portable": "another width"}, False),
    ],
)
def test_variants_are_tried_again_unless_there_is_a_verdict_or_the_record_says_not(
    value, details, again
):
    measured = {"port_portable@1": Measurement("port_portable@1", value, reason="why")}
    record = Record("k", {}, {}, {}, {}, measured, details={"portability": details})
    assert CASES_BY_SUITE["portability"].to_try_again(record) is again
    other = replace(record, details={"steering": details})
    assert not CASES_BY_SUITE["steering"].to_try_again(other)


# --- what is read once -------------------------------------------------------------------------------


def test_texts_that_do_not_serve_are_opened_once_for_all_suites_and_checkpoints(
    world, tmp_path, of_one_class, monkeypatch
):
    calls = []

    def opens(wanted, *args, **options):
        calls.append(wanted.name)
        return open_concept(wanted, *args, **options)

    open_concept = run_module.open_concept
    monkeypatch.setattr(run_module, "open_concept", opens)
    concepts = of_one_class, concept(world)
    found = measure(
        *quick(world, tmp_path, *concepts, suites=SUITES[1:], saes=("planted", "noise"))
    )
    assert sorted(calls) == ["one", "upper"]
    assert found.cases["noise/one"].get("cv_p").value is None
    assert found.cases["noise/upper"].get("cv_p").value is not None


def test_what_raised_raises_again_without_being_made_again(world):
    run, made = prepared(world), []

    def fails():
        made.append(1)
        raise DataError("a", "b", "c")

    for _ in range(3):
        with pytest.raises(DataError, match="a: b"):
            once(run, "things", "x", fails)
    assert len(made) == 1
    assert once(run, "things", "y", lambda: 3) == once(run, "things", "y", fails) == 3


@pytest.mark.parametrize("suite", SUITES[1:])
def test_keys_and_records_share_one_identity_of_each_case(world, tmp_path, monkeypatch, suite):
    part, asked = CASES_BY_SUITE[suite], []

    def identity(run, case):
        asked.append(case.name)
        return part.identity(run, case)

    monkeypatch.setitem(CASES_BY_SUITE, suite, replace(part, identity=identity))
    monkeypatch.setattr(sys.modules[part.job.__module__], "identity", identity)
    found = measure(*quick(world, tmp_path, suites=(suite,)))
    assert asked == ["planted/upper"]
    key = found.cases["planted/upper"].key
    assert RecordStore(tmp_path).read(key).name == "planted/upper"


def test_a_kept_record_names_the_other_sae_as_this_run_does(world, tmp_path, counted):
    config, entries = quick(world, tmp_path, suites=("cv_probing",), saes=("planted", "noise"))
    first = measure(config, entries).cases["planted/upper"]
    renamed = [("planted", *entries[0][1:]), ("other", *entries[1][1:])]
    second = measure(config, renamed).cases["planted/upper"]
    assert len(counted) == 1
    assert second.key == first.key
    assert [r.details["cv_probing"]["other"] for r in (first, second)] == ["noise", "other"]


# --- untrained SAEs ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("suites", "n"), [(("concepts",), 0), (("concepts", "cv_probing"), 2)])
def test_untrained_saes_run_where_probes_are_set_beside_them_alone(
    world, tmp_path, monkeypatch, suites, n
):
    dtypes = []

    def places(sae, device, dtype):
        place(sae, device, dtype)
        dtypes.append(sae.dtype)

    place = rows.place
    monkeypatch.setattr(rows, "place", places)
    options = {"suites": suites, "sae_dtype": "bfloat16"}
    found = measure(*quick(world, tmp_path, **options)).cases["planted/upper"]
    assert dtypes == [torch.bfloat16] * n  # of the texts to train on and of those held out
    assert found.get("concept_d_max").value is not None


def test_variants_run_no_untrained_sae(world, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(rows, "random_init", lambda *a: made.append(1) or random_init(*a))
    options = {"variants": (Variant("same", precision="float32"),), "suites": ("portability",)}
    found = measure(*quick(world, tmp_path, **options)).cases["planted@same"]
    assert found.get("port_d_max").value is not None
    assert not made
    assert CASES_BY_SUITE["portability"].job is PortabilityJob
