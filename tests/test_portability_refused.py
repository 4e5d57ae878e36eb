"""Variants that do not fit, cannot be had, or overflow: a reason each, and the others run."""

import importlib
import json
from dataclasses import replace

import pytest
import torch
from transformers import LlamaForCausalLM

from saebench.measure.portability import failures
from saebench.measure.portability import variants as portability_variants
from saebench.metrics.portability.sums import PairSums
from saebench.models import LanguageModel, regimes
from saebench.protocols import Variant
from saebench.train import save_checkpoint
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
from tests.small_world import make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("portability"))


def test_another_width_is_a_result_and_the_other_variants_run(world):
    ref = other_model(world, "narrow", hidden_size=8)
    found = measured(prepared(world, Variant("narrow", str(ref)), SAME))
    record = found["good@narrow"]
    got = numbers(record)
    assert got["portable"].value == got["equivalent"].value == 0
    assert "not portable: 16 against 8" in got["portable"].detail["reason"]
    assert "not portable: 16 against 8" in got["fve_variant"].reason
    assert got["fve_variant"].value is None
    assert "16 against 8" in record.details["portability"]["not_portable"]
    assert numbers(found["good@same"])["portable"].value == 1


def test_fewer_layers_and_other_tokens_are_results(world):
    shallow = other_model(world, "shallow", num_hidden_layers=1)
    strange = copy_of(world, "strange", lambda model: None)
    tokenizer = json.loads((strange / "tokenizer.json").read_text())
    vocab = tokenizer["model"]["vocab"]
    vocab["w2"], vocab["w3"] = vocab["w3"], vocab["w2"]
    (strange / "tokenizer.json").write_text(json.dumps(tokenizer))
    variants = Variant("shallow", str(shallow)), Variant("strange", str(strange))
    found = measured(prepared(world, *variants, saes=("good",)))
    layers, tokens = (numbers(found[f"good@{v.name}"]) for v in variants)
    assert layers["portable"].value == tokens["portable"].value == 0
    assert "1 layers" in layers["fve_variant"].reason
    assert "cannot be aligned" in tokens["fve_variant"].reason


def test_a_folder_without_a_tokenizer_takes_the_tokens_of_the_reference(world):
    ref = copy_of(world, "bare", nudge, tokenizer=False)
    got = values(measured(prepared(world, Variant("bare", str(ref)), saes=("good",)))["good@bare"])
    assert got["portable"] == 1


def test_what_cannot_be_had_costs_its_own_cases_only(world):
    damaged = copy_of(world, "damaged", lambda model: None)
    weights = damaged / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    variants = (
        Variant("missing", str(world.folder / "nowhere")),
        Variant("damaged", str(damaged)),
        SAME,
    )
    found = measured(prepared(world, *variants, saes=("good",)))
    for name in ("missing", "damaged"):
        got = numbers(found[f"good@{name}"])
        assert all(one.value is None for one in got.values())
        assert name in got["portable"].reason
        assert found[f"good@{name}"].details["portability"]["failed"] == got["kl"].reason
    assert numbers(found["good@same"])["portable"].value == 1


def test_memory_that_runs_out_is_a_reason_and_other_variants_run(world, monkeypatch):
    whole = LanguageModel.open.__func__

    def short_of_memory(cls, located, *, precision="float32", device=None):
        if precision == "bfloat16":
            raise torch.OutOfMemoryError("no")
        return whole(cls, located, precision=precision, device=device)

    run = prepared(world, SAME, Variant("bf16", precision="bfloat16"), saes=("good",))
    assert run.models
    monkeypatch.setattr(LanguageModel, "open", classmethod(short_of_memory))
    found = measured(run)
    got = numbers(found["good@bf16"])
    assert "does not fit into memory" in got["fve_variant"].reason
    assert "bfloat16" in got["fve_variant"].reason
    assert numbers(found["good@same"])["portable"].value == 1


def test_a_pass_that_fails_with_several_variants_is_tried_with_each_alone(world, monkeypatch):
    tuned = copy_of(world, "tuned", nudge)
    run = prepared(world, SAME, Variant("tuned", str(tuned)), saes=("good",))
    whole, tries = LanguageModel.prefix, []

    def fails(self, ids, mask, sites):
        tries.append(self.id)
        if self.id == "tuned":
            raise RuntimeError("no kernel image for this device")
        return whole(self, ids, mask, sites)

    monkeypatch.setattr(LanguageModel, "prefix", fails)
    found = measured(run)
    assert "no kernel image" in numbers(found["good@tuned"])["kl"].reason
    assert numbers(found["good@same"])["portable"].value == 1
    assert tries.count("tuned") == 2


def test_activations_that_overflow_are_counted_and_the_remedy_is_named(world, monkeypatch):
    tuned = copy_of(world, "tuned", nudge)
    run = prepared(world, Variant("half", str(tuned), precision="float16"), SAME, saes=("good",))
    whole = LanguageModel.prefix

    def overflows(self, ids, mask, sites):
        prefix = whole(self, ids, mask, sites)
        if self.id == "tuned":
            for value in prefix.activations.values():
                value[(ids == 20).to(value.device)] = torch.inf
        return prefix

    run_with = run.models  # opened before activations are spoilt
    assert run_with
    monkeypatch.setattr(LanguageModel, "prefix", overflows)
    found = measured(run)
    record = found["good@half"]
    counted = [(batch.ids[batch.counted] == 20).sum() for batch in run.stream.batches(8)]
    got = numbers(record)
    assert all(one.value is None for one in got.values())
    for word in (f"{int(sum(counted))} of ", "not finite", "half", "float16", "bfloat16"):
        assert word in got["fve_drop"].reason, word
    assert numbers(found["good@same"])["portable"].value == 1


def test_a_native_checkpoint_that_is_missing_or_elsewhere_leaves_its_reason(world):
    tuned = copy_of(world, "tuned", nudge)
    elsewhere = world.folder / "elsewhere"
    sae = nine_tenths()
    sae.cfg = replace(sae.cfg, site="blocks.0.hook_resid_post", model="counting")
    save_checkpoint(sae, elsewhere)
    variants = (
        Variant("none", str(tuned)),
        Variant("lost", str(tuned), sae=str(world.folder / "nothing")),
        Variant("other", str(tuned), sae=str(elsewhere)),
    )
    found = measured(prepared(world, *variants, saes=("good",)))
    reasons = [numbers(found[f"good@{v.name}"])["transfer_gap"].reason for v in variants]
    for reason, word in zip(reasons, ("is named", "cannot be read", "blocks.0"), strict=True):
        assert word in reason
    assert numbers(found["good@other"])["portable"].value == 1


def test_a_native_checkpoint_that_overflows_costs_its_own_numbers_only(world):
    tuned = copy_of(world, "tuned", nudge)
    sae = nine_tenths()
    sae.W_dec[3] = 1.5e38  # some reconstructions overflow, not all
    variant = Variant("tuned", str(tuned), sae=str(saved(sae, world.folder / "overflowing")))
    got = numbers(measured(prepared(world, variant, saes=("good",)))["good@tuned"])
    for name in ("fve_native", "transfer_gap"):
        assert got[name].value is None
        for word in (" counted tokens", "not finite", "checkpoint trained on it", "--sae-dtype"):
            assert word in got[name].reason, word
    assert got["portable"].value == 1


def test_a_reference_that_overflows_is_named_and_not_its_variant(world, monkeypatch):
    tuned = copy_of(world, "tuned", nudge)
    run = prepared(world, Variant("tuned", str(tuned)), saes=("good",))
    whole = LanguageModel.prefix

    def overflows(self, ids, mask, sites):
        prefix = whole(self, ids, mask, sites)
        if self.id != "tuned":
            for value in prefix.activations.values():
                value[(ids == 20).to(value.device)] = torch.inf
        return prefix

    monkeypatch.setattr(LanguageModel, "prefix", overflows)
    got = numbers(measured(run)["good@tuned"])
    assert "not finite under the reference" in got["fve_drop"].reason


def test_a_native_checkpoint_of_several_models_is_refused(world, monkeypatch):
    tuned = copy_of(world, "tuned", nudge)
    native = str(saved(nine_tenths(), world.folder / "native"))
    whole = portability_variants.open_checkpoint

    def of_two(ref):
        found = whole(ref)
        found.sae.cfg = replace(found.sae.cfg, difference="0-1")
        return found

    run = prepared(world, Variant("tuned", str(tuned), sae=native), saes=("good",))
    monkeypatch.setattr(portability_variants, "open_checkpoint", of_two)
    got = numbers(measured(run)["good@tuned"])
    assert "several models" in got["transfer_gap"].reason
    assert got["portable"].value == 1


def raising(error, module):
    """A function of another package that raises."""
    space = {"__name__": module, "error": error}
    exec("def fails(*given, **options):\n    raise error", space)
    return space["fails"]


@pytest.mark.parametrize("several", [False, True])
def test_a_mistake_of_ours_in_the_pass_is_raised_and_no_reason(world, monkeypatch, several):
    tuned = copy_of(world, "tuned", nudge)
    variants = (Variant("tuned", str(tuned)), *((SAME,) if several else ()))
    run = prepared(world, *variants, saes=("good",))
    whole = LanguageModel.prefix

    def fails(self, ids, mask, sites):
        if self.id == "tuned":
            raise RuntimeError("The size of tensor a (3) must match the size of tensor b (4)")
        return whole(self, ids, mask, sites)

    monkeypatch.setattr(LanguageModel, "prefix", fails)
    with pytest.raises(RuntimeError, match="size of tensor"):
        measured(run)


def test_a_kernel_that_lacks_outside_the_model_is_no_fault_of_the_variant(world, monkeypatch):
    run = prepared(world, SAME, saes=("good",))
    fails = raising(RuntimeError("\"top_k\" not implemented for 'Half'"), "saebench.metrics")
    monkeypatch.setattr(PairSums, "update", fails)
    with pytest.raises(RuntimeError, match="not implemented for"):
        measured(run)


@pytest.mark.parametrize(
    "error",
    [
        NotImplementedError("Could not run 'aten::_int_mm' with arguments from this backend"),
        RuntimeError("\"addmm_impl_cpu_\" not implemented for 'Half'"),
        RuntimeError("CUDA error: no kernel image is available"),
    ],
)
def test_a_kernel_that_the_variants_forward_lacks_is_its_reason(world, monkeypatch, error):
    tuned = copy_of(world, "tuned", nudge)
    run = prepared(world, Variant("tuned", str(tuned)), SAME, saes=("good",))
    whole = LanguageModel._decode
    fails = raising(error, "torch.nn.functional")

    def lacks(self, ids, mask):
        return fails() if self.id == "tuned" else whole(self, ids, mask)

    monkeypatch.setattr(LanguageModel, "_decode", lacks)
    found = measured(run)
    reason = numbers(found["good@tuned"])["kl"].reason
    assert str(error).split(":")[-1][-20:] in reason
    assert "Choose another precision or device." in reason
    assert numbers(found["good@same"])["portable"].value == 1


def test_a_mistake_of_ours_while_a_variant_is_opened_is_raised(world, monkeypatch):
    run = prepared(world, Variant("rtn4", precision="rtn4"), saes=("good",))
    fails = raising(TypeError("quantise_model() takes 1 argument"), "saebench.quantisation")
    monkeypatch.setattr(regimes, "quantise_model", fails)
    with pytest.raises(TypeError, match="takes 1 argument"):
        measured(run)


def test_whatever_a_foreign_package_raises_while_a_variant_is_opened_is_its_reason(
    world, monkeypatch
):
    tuned = copy_of(world, "tuned", nudge)
    run = prepared(world, Variant("tuned", str(tuned)), saes=("good",))
    assert run.models
    fails = raising(ValueError("no such rope"), "transformers.models.llama")
    monkeypatch.setattr(LlamaForCausalLM, "forward", fails)
    got = numbers(measured(run)["good@tuned"])
    assert "could not be opened: ValueError: no such rope" in got["kl"].reason


def test_a_torch_without_accelerator_errors_will_do(monkeypatch):
    monkeypatch.delattr(torch, "AcceleratorError", raising=False)
    try:
        module = importlib.reload(failures)
        assert module.is_of_loading(NotImplementedError("no such kernel"))
        assert module.is_of_loading(RuntimeError("CUDA error: no kernel image is available"))
        assert not module.is_of_loading(RuntimeError("The size of tensor a (3) must match"))
    finally:
        monkeypatch.undo()
        importlib.reload(failures)
