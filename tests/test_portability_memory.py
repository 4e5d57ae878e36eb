"""Variants and memory: as many together as are likely to fit, and what happens where they do not."""

import json
from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from saebench.errors import ModelError
from saebench.measure.portability import memory
from saebench.measure.portability import variants as portability_variants
from saebench.measure.portability.variants import find_variant
from saebench.models import locate, weights
from saebench.protocols import Variant
from tests.portability_runs import (
    SAME,
    copy_of,
    measured,
    nine_tenths,
    nudge,
    numbers,
    prepared,
    saved,
    values,
)
from tests.small_world import make_world

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("portability"))


@pytest.fixture(scope="module")
def tuned(world):
    return str(copy_of(world, "tuned", nudge))


@pytest.fixture(scope="module")
def native(world):
    """A checkpoint trained on the variant."""
    return str(saved(nine_tenths(), world.folder / "native"))


def weight_of(folder):
    return sum(path.stat().st_size for path in locate(folder).files)


def together(found, *names):
    return [found[f"good@{name}"].details["portability"]["together"] for name in names]


@pytest.mark.parametrize(
    ("stored", "precision", "factor"),
    [
        ("float32", "float32", 1),
        ("float32", "bfloat16", 1),
        ("bfloat16", "bfloat16", 1),
        ("bfloat16", "float32", 2),
        ("bfloat16", "rtn4", 2),  # held dequantised, in float32
        ("bfloat16", "rtn4+bf16", 1),
        ("bfloat16", "int8+reference+bf16", 2),  # integers are held as float32
        ("float32", "int8+bitsandbytes", 1),  # also where that cannot be had
    ],
)
def test_a_variant_needs_its_files_and_twice_as_much_where_they_are_widened(
    world, tmp_path, stored, precision, factor
):
    model = AutoModelForCausalLM.from_pretrained(world.model, dtype=getattr(torch, stored))
    model.save_pretrained(tmp_path)
    assert memory.needed(locate(tmp_path), precision, CPU) == factor * weight_of(tmp_path)


def test_files_that_do_not_say_their_type_count_as_of_16_bits(tuned, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(tuned)
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for name in ("dtype", "torch_dtype"):
        config.pop(name, None)
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert memory.needed(locate(tmp_path), "float32", CPU) == 2 * weight_of(tmp_path)


@pytest.mark.parametrize(
    ("fitting", "at_once", "expected"),
    [
        (2.2, None, [2, 2, 1]),
        (0, None, [1, 1, 1]),
        (None, None, [3, 3, 3]),
        (100, None, [3, 3, 3]),
        (0, 2, [2, 2, 1]),
    ],
)
def test_as_many_variants_are_together_as_fit_into_free_memory(
    world, tuned, monkeypatch, fitting, at_once, expected
):
    size = weight_of(tuned)
    found = None if fitting is None else int(fitting * size / (1 - memory.KEPT_FREE))
    monkeypatch.setattr(memory, "free", lambda device: found)
    variants = [Variant(name, tuned) for name in "abc"]
    records = measured(prepared(world, *variants, saes=("good",), at_once=at_once))
    assert together(records, "a", "b", "c") == expected
    assert all(numbers(record)["portable"].value == 1 for record in records.values())


def test_a_container_has_less_memory_than_its_machine(tmp_path, monkeypatch):
    (tmp_path / "meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 5000 kB\n")
    monkeypatch.setattr(memory, "MEMORY_FILE", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "GROUP", tmp_path)
    assert memory.free(CPU) == 5000 * 1024
    (tmp_path / "memory.max").write_text("max\n")
    assert memory.free(CPU) == 5000 * 1024
    (tmp_path / "memory.max").write_text("3000\n")
    (tmp_path / "memory.current").write_text("2500\n")
    (tmp_path / "memory.stat").write_text("anon 100\ninactive_file 200\n")
    assert memory.free(CPU) == 700
    monkeypatch.setattr(memory, "MEMORY_FILE", tmp_path / "none")
    (tmp_path / "memory.max").unlink()
    found = memory.free(CPU)
    assert found is None or found > 0


def test_a_variant_that_does_not_fit_beside_another_is_read_once_that_one_is_gone(
    world, tuned, monkeypatch
):
    run = prepared(world, SAME, Variant("tuned", tuned), saes=("good",))
    assert run.models
    whole, tries = weights.AutoModelForCausalLM.from_pretrained, []

    def short(root, **options):
        tries.append(root.name)
        if tries.count("tuned") == 1 and root.name == "tuned":
            raise torch.OutOfMemoryError("no")
        return whole(root, **options)

    monkeypatch.setattr(weights.AutoModelForCausalLM, "from_pretrained", short)
    found = measured(run)
    assert tries.count("tuned") == 2
    assert together(found, "same", "tuned") == [1, 1]
    assert all(numbers(record)["portable"].value == 1 for record in found.values())


def test_memory_that_runs_out_before_the_pass_begins_is_tried_again_with_each_alone(
    world, tuned, native, monkeypatch
):
    variants = [Variant(name, tuned, sae=native) for name in ("one", "two")]
    whole, tries = portability_variants.place, []

    def short(*given):
        tries.append(given)
        if len(tries) == 1:
            raise torch.OutOfMemoryError("no")
        whole(*given)

    monkeypatch.setattr(portability_variants, "place", short)
    found = measured(prepared(world, *variants, saes=("good",)))
    assert together(found, "one", "two") == [1, 1]
    for record in found.values():
        assert values(record)["fve_native"] == pytest.approx(0.985, abs=0.01)


def test_memory_that_runs_out_before_the_pass_of_a_single_variant_is_a_reason(
    world, tuned, native, monkeypatch
):

    def short(*given):
        raise torch.OutOfMemoryError("no")

    monkeypatch.setattr(portability_variants, "place", short)
    variants = SAME, Variant("tuned", tuned, sae=native)
    found = measured(prepared(world, *variants, saes=("good",)))
    assert "does not fit into memory" in numbers(found["good@tuned"])["fve_variant"].reason
    assert numbers(found["good@same"])["portable"].value == 1


def test_a_native_checkpoint_runs_in_the_dtype_of_the_run_and_leaves_the_device(
    world, tuned, native, monkeypatch
):
    run = prepared(world, Variant("tuned", tuned, sae=native), saes=("good",))
    run = replace(run, config=replace(run.config, sae_dtype="bfloat16"))
    kept = find_variant(run, "tuned").native
    moves, whole = [], torch.nn.Module.to

    def moved(self, *given, **options):
        if self is kept.sae:
            moves.append(given)
        return whole(self, *given, **options)

    monkeypatch.setattr(torch.nn.Module, "to", moved)
    assert values(measured(run)["good@tuned"])["fve_native"] > 0.9
    assert moves == [(CPU, torch.bfloat16), (CPU,)]


def test_a_model_of_the_run_that_does_not_fit_is_an_error_with_a_remedy(world, monkeypatch):
    def short(root, **options):
        raise torch.OutOfMemoryError("no")

    monkeypatch.setattr(weights.AutoModelForCausalLM, "from_pretrained", short)
    run = prepared(world, SAME, saes=("good",))
    with pytest.raises(ModelError, match=r"does not fit into memory. Choose a smaller precision"):
        assert run.models
