"""Runs in precision regimes: of the model, and, as another setting, of the checkpoint's own products."""

from dataclasses import replace

import pytest
import torch

from saebench.config import Config, SAESpec
from saebench.config.schema import DataSpec, ModelSpec
from saebench.loading import load_sae
from saebench.measure import measure
from saebench.measure.run import ROUNDED, place, sae_dtype_used
from tests.small_world import LENGTH, make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("precision"))


def record(world, *, precision="float32", **options):
    config = Config(
        model=ModelSpec(str(world.model), precision=precision),
        data=DataSpec(str(world.data), context_size=LENGTH),
        out=world.folder / "out",
        device="cpu",
        **options,
    )
    return measure(config, [("bad", str(world.bad), SAESpec(str(world.bad)))]).records["bad"]


def test_the_regime_of_the_model_is_in_the_record_and_in_its_key(world):
    records = [record(world, precision=name) for name in ("float32", "bfloat16", "rtn4")]
    regimes = [item.model["precision"]["regime"] for item in records]
    assert regimes == ["float32", "bfloat16", "rtn4"]
    assert len({item.key for item in records}) == 3
    values = [item.get("fve").value for item in records]
    assert len(set(values)) == 3
    assert values[1] == pytest.approx(values[0], rel=0.02)


def test_the_precision_of_the_checkpoint_is_another_setting(world):
    whole, half = record(world), record(world, sae_dtype="bfloat16")
    assert whole.policy["sae_dtype"] == "float32"
    assert half.policy["sae_dtype"] == "bfloat16"
    assert half.model["dtype"] == "float32"
    assert whole.key != half.key
    assert half.get("fve").value != whole.get("fve").value
    assert half.get("fve").value == pytest.approx(whole.get("fve").value, rel=0.05)


def test_on_a_cpu_float16_rounds_the_weights_and_multiplies_in_float32(world):
    found = record(world, sae_dtype="float16")
    assert found.policy["sae_dtype"] == ROUNDED
    sae = load_sae(str(world.bad))
    exact = sae.W_enc.clone()
    place(sae, torch.device("cpu"), ROUNDED)
    assert sae.dtype == torch.float32
    assert torch.equal(sae.W_enc, exact.half().float())
    assert not torch.equal(sae.W_enc, exact)


def test_an_accelerator_multiplies_in_float16(world):
    config = Config(sae_dtype="float16", device="cuda:0")
    assert sae_dtype_used(config) == "float16"
    assert sae_dtype_used(replace(config, device="cpu")) == ROUNDED
    assert sae_dtype_used(replace(config, sae_dtype="bfloat16")) == "bfloat16"
