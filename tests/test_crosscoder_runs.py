"""Runs of the crosscoder suite: a record and a section for two models, and reasons for everything else."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from safetensors.torch import load_file

from saebench import cli
from saebench.metrics.catalogue import CROSSCODER
from saebench.record import Record
from saebench.report.crosscoder import section
from tests.kind_runs import OK, USAGE, Runs, opened, refuse_models, strict_json
from tests.kinds import F

SUITES = ("--suite=crosscoder", "--suite=reconstruction", "--gate=fve_lowest_reading >= -1000")
LOOSE = "--gate=cc_fve_lowest >= -1000"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    with opened(tmp_path_factory.mktemp("crosscoders")) as found:
        yield found


def records(runs: Runs, name: str, *more: str) -> dict[str, dict[str, Any]]:
    """The parts of a run by name; each kind is run once."""
    folder = runs.root / "out" / f"{name}-classes"
    if not folder.exists():
        code = runs.command(name, *SUITES, *more, LOOSE, out=folder.name)
        assert code == OK
    found = [strict_json(path) for path in (folder / "records").glob("*.json")]
    return {record["part"]: record for record in found}


def test_a_crosscoder_over_two_models_is_measured_in_the_pass_of_all_suites(runs):
    found = records(runs, "model-crosscoder")
    assert set(found) == {"", "crosscoder"}
    measured = found["crosscoder"]["measurements"]
    assert set(measured) == {item.metric for item in CROSSCODER}
    assert found["crosscoder"]["passes"] == {}  # nothing beyond the pass over the run's own text
    each = found[""]["measurements"]["fve@1"]["detail"]["by_reading"].values()
    own = [measured[f"cc_fve_{side}@1"]["value"] for side in ("base", "chat")]
    assert own == pytest.approx(list(each), rel=1e-6)
    lowest = found[""]["measurements"]["fve_lowest_reading@1"]
    for name in ("value", "low", "high"):
        assert measured["cc_fve_lowest@1"][name] == pytest.approx(lowest[name], rel=1e-6)
    dead = found[""]["measurements"]["dead_fraction@1"]
    assert [measured["cc_dead@1"][k] for k in ("value", "low", "high")] == pytest.approx(
        [dead[k] for k in ("value", "low", "high")]
    )


def test_norms_are_in_activation_units_and_the_factors_are_stated(runs):
    details = records(runs, "model-crosscoder")["crosscoder"]["details"]["crosscoder"]
    weights = load_file(runs.path("model-crosscoder") / "crosscoder_final.safetensors")
    norms = weights["W_dec"].norm(dim=2).median(0).values  # of [F, 2, D]
    row = details["classes"]["shared"]
    expected = [float(norms[0]) / 0.17, float(norms[1]) / 0.16]
    assert [row["norms"]["base"], row["norms"]["chat"]] == pytest.approx(expected, rel=1e-5)
    factors = details["normalization"]["factors"]
    assert factors["base"]["factor"] == pytest.approx(1 / 0.17, rel=1e-6)
    assert factors["chat"]["factor"] == pytest.approx(1 / 0.16, rel=1e-6)


def test_factors_estimated_on_the_text_are_undone_too(runs):
    record = records(runs, "unscaled-crosscoder")["crosscoder"]
    details = record["details"]["crosscoder"]
    scale = record["checkpoint"]["facts"]["input_scale"]["value"]
    found = details["normalization"]["factors"]
    assert found["base"]["factor"] == pytest.approx(1 / scale[0], rel=1e-5)
    assert found["chat"]["factor"] == pytest.approx(1 / scale[1], rel=1e-5)
    norms = details["classes"]["shared"]["norms"]
    assert norms["base"] * scale[0] == pytest.approx(norms["chat"] * scale[1], rel=0.2)
    assert norms["base"] != pytest.approx(1, rel=0.01)


def test_the_section_is_written_from_the_record_alone(runs):
    record = Record.from_json(records(runs, "model-crosscoder")["crosscoder"])
    text = section(record)
    assert f"of {F} latents never fired" in text
    assert "| Base | `model` |" in text
    assert "5.88" in text


APART = {
    "sae": "it reads one activation",
    "transcoder": "it reads one activation",
    "layer-crosscoder": "layers of one model",
    "difference": "the difference of two models",
    "cross-layer": "layers of one model",
}


@pytest.mark.parametrize("name", APART)
def test_what_is_no_crosscoder_over_two_models_has_no_value_and_says_why(runs, name):
    folder = runs.root / "out" / f"{name}-apart"
    # no shipped limit is meant for its kind: nothing is judged
    assert runs.command(name, "--suite=crosscoder", out=folder.name) == USAGE
    found = [strict_json(path) for path in (folder / "records").glob("*.json")]
    record = next(one for one in found if one["part"] == "crosscoder")
    assert set(record["measurements"]) == {item.metric for item in CROSSCODER}
    for measured in record["measurements"].values():
        assert measured["value"] is None
        assert APART[name] in measured["reason"]
    assert APART[name] in section(Record.from_json(record))


def test_another_protocol_measures_again_and_the_same_one_does_not(runs, monkeypatch):
    records(runs, "model-crosscoder")
    with monkeypatch.context() as patch:
        refuse_models(patch)
        assert (
            runs.command("model-crosscoder", *SUITES, LOOSE, out="model-crosscoder-classes") == OK
        )
    config = runs.root / "gates.toml"
    before = config.read_text()
    config.write_text(f"{before}\n[crosscoder]\nmin_firings = 100000\n")
    try:
        assert runs.command("model-crosscoder", *SUITES, LOOSE, out="strict") == OK
    finally:
        config.write_text(before)
    found = [strict_json(path) for path in (runs.root / "out/strict/records").glob("*.json")]
    record = next(one for one in found if one["part"] == "crosscoder")
    assert record["measurements"]["cc_nu_error_shared@1"]["value"] is None
    scaling = record["details"]["crosscoder"]["scaling"]
    assert scaling["undefined"]["few_firings"]["n"] == F - scaling["undefined"]["never_fired"]["n"]


@pytest.mark.parametrize("n_models", [1, 3])
def test_another_number_of_models_than_sources_is_refused(runs, n_models, capsys):
    options = runs.options("model-crosscoder", runs.root / "out" / f"models-{n_models}")
    models = [option for option in options if option.startswith("--model=")]
    rest = [option for option in options if option not in models]
    given = (models + models)[:n_models]
    path = str(runs.path("model-crosscoder"))
    assert cli.main(["run", path, *rest, *given, "--suite=crosscoder"]) == USAGE
    said = capsys.readouterr().err
    counted = "only 1 was given (" if n_models == 1 else "reads 2 language models: 3 were given ("
    assert counted in said
