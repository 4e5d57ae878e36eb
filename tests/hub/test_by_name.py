"""The checkpoints behind this project load by their names on the hub, here from replicas of them."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

import pytest
import torch

from saebench import cli
from saebench.errors import UnsafeFileError
from saebench.loading import expand, inspect, load_sae, open_checkpoint
from tests import replicas
from tests.hub.fake_hub import FakeHub
from tests.replicas import BEHAVIOUR, CROSSCODER, DIFFERENCE, FAITHFUL, SCOPE, Replica

TOLERANCE = 1e-5


def facts_of(ref: str) -> dict[str, tuple[Any, str]]:
    """Value and origin of every fact."""
    found = inspect(ref, allow_pickle=True).facts
    return {name: (fact.value, fact.how) for name, fact in found.items()}


def assert_facts(ref: str, expected: Mapping[str, tuple[Any, str]]) -> None:
    found = facts_of(ref)
    assert {name: found.get(name) for name in expected} == dict(expected)
    assert {how for _, how in found.values()} <= {"file", "assumed"}


def assert_numbers(ref: str, replica: Replica, scale: float = 2.0, **given: Any) -> None:
    """Codes and reconstruction are those of the formula written out."""
    sae = load_sae(ref, allow_pickle=True, **given)
    x = torch.randn(40, *replica.shape, generator=torch.Generator().manual_seed(0)) * scale + 0.5
    codes = replica.encode(x)
    assert 0 < int((codes != 0).sum()) < codes.numel(), "shows nothing"
    found = sae.encode(x)
    assert torch.equal(found != 0, codes != 0)
    for ours, theirs in ((found, codes), (sae(x), replica.decode(codes, x))):
        assert float((ours - theirs).abs().max()) <= TOLERANCE * float(theirs.abs().max())


# --- difference SAE ---------------------------------------------------------------------------------


def test_the_difference_sae_is_one_checkpoint_for_each_layer(hub: FakeHub) -> None:
    files, layers = replicas.difference_repository()
    commit = hub.push(DIFFERENCE, files)
    names = [f"hf:{DIFFERENCE}@{commit}:layer_{n}" for n in (13, 24)]
    assert [str(ref) for ref in expand(f"hf:{DIFFERENCE}")] == names
    for folder, replica in layers.items():
        assert_numbers(f"hf:{DIFFERENCE}:{folder}", replica)
    assert "README.md" not in hub.downloads()


def test_the_difference_sae_reads_buffers_and_what_its_path_says(hub: FakeHub) -> None:
    hub.push(DIFFERENCE, replicas.difference_repository()[0])
    ref = f"hf:{DIFFERENCE}:layer_24"
    assert_facts(
        ref,
        {
            "architecture": ("batchtopk", "file"),
            "d_in": (36, "file"),
            "d_sae": (144, "file"),
            "k": (8, "file"),
            "site": ("blocks.24.hook_resid_post", "assumed"),
            "difference": ("1-0", "assumed"),
            "target_rms": (100.0, "file"),
            "subtract_b_dec": (True, "assumed"),
        },
    )
    found = inspect(ref)
    assert any("target_rms 1 and the buffer" in note for note in found.notes)
    assert "config.json" in found.digests
    said = load_sae(ref, settings={"models": "google/gemma-2-2b-it,Ftm23/cbd-gemma2-2pair-frgv"})
    assert said.cfg.describe(said.cfg.reads) == [
        "blocks.24.hook_resid_post of Ftm23/cbd-gemma2-2pair-frgv − google/gemma-2-2b-it"
    ]


# --- behaviour SAE and checkpoint of a run that goes on -----------------------------------------------


def test_the_behaviour_sae_is_one_pt_file_named_as_its_repository(hub: FakeHub) -> None:
    replica = replicas.behaviour_sae()
    hub.push(BEHAVIOUR, replica.files)
    with pytest.raises(UnsafeFileError, match="allow"):
        load_sae(f"hf:{BEHAVIOUR}")
    assert hub.downloads() == []
    assert_numbers(f"hf:{BEHAVIOUR}", replica)
    name = BEHAVIOUR.partition("/")[2]
    assert hub.downloads() == ["cfg.json", f"{name}.pt"]
    assert_numbers(f"hf:{BEHAVIOUR}:{name}.pt", replica)
    assert_facts(
        f"hf:{BEHAVIOUR}",
        {
            "architecture": ("topk", "file"),
            "k": (16, "file"),
            "model": ("google/gemma-4-E2B", "file"),
            "site": ("blocks.25.hook_resid_post", "assumed"),
            "relu": (False, "assumed"),
            "subtract_b_dec": (False, "assumed"),
        },
    )


@pytest.mark.parametrize(
    "settings", [{"relu": "true"}, {"subtract_b_dec": "true"}, {"relu": "true", "k": "12"}]
)
def test_what_the_card_leaves_open_is_an_option(hub: FakeHub, settings: dict[str, str]) -> None:
    replica = replicas.behaviour_sae()
    hub.push(BEHAVIOUR, replica.files)
    sae = load_sae(f"hf:{BEHAVIOUR}", allow_pickle=True, settings=settings)
    assert {name: sae.cfg.facts[name].how for name in settings} == dict.fromkeys(settings, "user")
    w = torch.load(io.BytesIO(next(d for n, d in replica.files.items() if n.endswith(".pt"))))
    x, k = torch.randn(30, *replica.shape) * 0.5, int(settings.get("k", 16))
    pre = (x - w["b_dec"] if "subtract_b_dec" in settings else x) @ w["W_enc"] + w["b_enc"]
    codes = replicas.kept(pre.relu() if "relu" in settings else pre, k)
    torch.testing.assert_close(sae.encode(x), codes)
    assert bool((codes < 0).any()) == ("relu" not in settings)


def test_weights_that_are_replaced_stay_what_they_were_at_their_revision(hub: FakeHub) -> None:
    first, second = replicas.scope_sae(17), replicas.scope_sae(18)
    commit = hub.push(SCOPE, first.files)
    newest = hub.push(SCOPE, second.files)
    assert_numbers(f"hf:{SCOPE}@{commit}", first)
    assert_numbers(f"hf:{SCOPE}", second)
    assert open_checkpoint(f"hf:{SCOPE}", allow_pickle=True).commit == newest
    assert_facts(
        f"hf:{SCOPE}@{commit}",
        {
            "architecture": ("batchtopk", "file"),
            "selection": ("per token", "assumed"),
            "k": (64, "file"),
            "site": ("blocks.17.hook_resid_post", "file"),
            "relu": (False, "assumed"),
            "subtract_b_dec": (False, "assumed"),
        },
    )
    norms = load_sae(f"hf:{SCOPE}", allow_pickle=True).decoder_norms()
    torch.testing.assert_close(norms, torch.ones_like(norms))


# --- crosscoder ---------------------------------------------------------------------------------------


def test_the_crosscoder_of_two_models_leaves_its_side_files_where_they_are(hub: FakeHub) -> None:
    replica = replicas.model_diff_crosscoder()
    commit = hub.push(CROSSCODER, replica.files)
    assert [str(ref) for ref in expand(f"hf:{CROSSCODER}")] == [f"hf:{CROSSCODER}@{commit}"]
    assert_numbers(f"hf:{CROSSCODER}", replica, scale=30.0)
    assert hub.downloads() == ["cfg.json", "crosscoder_final.safetensors"]
    assert_facts(
        f"hf:{CROSSCODER}",
        {
            "architecture": ("batchtopk", "file"),
            "n_sources": (2, "file"),
            "models": (("google/gemma-2-2b", "google/gemma-2-2b-it"), "file"),
            "site": ("blocks.13.hook_resid_post", "assumed"),
            "input_scale": ((0.021, 0.034), "file"),
            "k": (10, "file"),
        },
    )
    found = inspect(f"hf:{CROSSCODER}")
    assert found.provenance["val_metrics"]["ve_A"] == 0.8773
    assert "model not known" not in " ".join(found.to_text().split())


def test_headers_say_what_it_is_without_its_matrices(hub: FakeHub) -> None:
    hub.push(CROSSCODER, replicas.model_diff_crosscoder().files)
    whole = inspect(f"hf:{CROSSCODER}")
    outline = inspect(f"hf:{CROSSCODER}", headers_only=True)
    assert (outline.facts, outline.tensors) == (whole.facts, whole.tensors)
    assert outline.norms is None


# --- FaithfulSAE --------------------------------------------------------------------------------------


@pytest.fixture
def family(hub: FakeHub) -> dict[str, Replica]:
    """Runs over models, seeds and data sets, one of them trained with sparsify, by folder."""
    runs = [
        replicas.faithful_run("gpt2-small", "blocks.8.hook_resid_pre", 42, "faithful-gpt2-small"),
        replicas.faithful_run("Llama-3.2-1B", "blocks.11.hook_resid_pre", 43, "fineweb_10BT"),
        replicas.sparsify_run(),
    ]
    hub.push(FAITHFUL, replicas.CARD | {n: data for run in runs for n, data in run.files.items()})
    weights = ("sae.pt", "sae.safetensors")
    return {n.rpartition("/")[0]: run for run in runs for n in run.files if n.endswith(weights)}


def test_every_run_of_a_family_is_found_and_computes_its_formula(
    hub: FakeHub, family: dict[str, Replica]
) -> None:
    found = [ref.path for ref in expand(f"hf:{FAITHFUL}")]
    assert sorted(found) == sorted(family)
    for folder, replica in family.items():
        assert_numbers(f"hf:{FAITHFUL}:{folder}", replica)
    assert not any("optimizer" in name for name in hub.downloads())


def test_each_run_of_a_family_says_where_it_belongs(family: dict[str, Replica]) -> None:
    gpt2, llama, sparsify = family
    assert_facts(
        f"hf:{FAITHFUL}:{gpt2}",
        {
            "architecture": ("topk", "file"),
            "model": ("gpt2-small", "file"),
            "site": ("blocks.8.hook_resid_pre", "file"),
            "normalization": ("layer_norm", "file"),
            "adds_b_enc": (False, "assumed"),
            "centred": (True, "assumed"),
        },
    )
    assert_facts(f"hf:{FAITHFUL}:{llama}", {"normalization": ("none", "file"), "k": (8, "file")})
    assert_facts(
        f"hf:{FAITHFUL}:{sparsify}",
        {"architecture": ("topk", "file"), "site": ("layers.3", "assumed"), "d_sae": (48, "file")},
    )


def test_a_run_without_its_config_is_known_by_its_name(hub: FakeHub) -> None:
    replica = replicas.faithful_run("Llama-3.2-1B", "blocks.11.hook_resid_pre", 43, "fineweb_10BT")
    (weights,) = [name for name in replica.files if name.endswith("sae.pt")]
    hub.push(FAITHFUL, {weights: replica.files[weights]})
    ref = f"hf:{FAITHFUL}:{weights.rpartition('/')[0]}"
    sae = load_sae(ref, allow_pickle=True, settings={"normalization": "none"})
    assert (sae.cfg.k, sae.cfg.facts["k"].how) == (8, "assumed")
    assert (sae.cfg.model, sae.cfg.facts["model"].how) == ("Llama-3.2-1B", "assumed")
    assert_numbers(ref, replica, settings={"normalization": "none"})


# --- the command --------------------------------------------------------------------------------------


def test_the_command_line_takes_the_names(
    hub: FakeHub, family: dict[str, Replica], capsys: pytest.CaptureFixture[str]
) -> None:
    hub.push(SCOPE, replicas.scope_sae().files)
    given = ["--allow-pickle", "--set=relu=true", "--json"]
    assert cli.main(["inspect", f"hf:{SCOPE}", *given]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["facts"]["relu"] == {"value": True, "source": "--set relu=true", "how": "user"}
    assert found["commit"] == hub.commit(SCOPE)
    assert cli.main(["inspect", f"hf:{FAITHFUL}"]) == cli.USAGE_ERROR
    message = capsys.readouterr().err
    assert all(folder in message for folder in family)
