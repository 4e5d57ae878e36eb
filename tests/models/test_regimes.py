"""Precision regimes of whole models: what runs, what records say, that nothing else changes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

from saebench.errors import ConfigError, ModelError
from saebench.models import LanguageModel, bits_and_bytes, regimes
from saebench.models.regimes import regime_identity
from saebench.sites import Site
from tests.tiny_models import some_ids, tiny_model

SHIPPED = Path(__file__).parents[2] / "fixtures" / "model"
TINY = ("gpt2", "gemma4", "gemma4_per_layer_inputs")
EVERY = (
    *("bf16", "fp16", "nf4", "nf4+double", "fp4", "nf4+bf16", "nf4+fp16", "int8", "int8+bf16"),
    *("nf4+reference", "fp4+double+bf16+reference", "int8+reference", "rtn8", "rtn4", "rtn3+fp16"),
    *("fp8", "fp8+e5m2", "fp8+act", "fp8+act+bf16"),
)
needs_bitsandbytes = pytest.mark.skipif(
    bits_and_bytes.why_not(torch.device("cpu")) is not None, reason="bitsandbytes is not installed"
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The shipped model and saved tiny ones, by name."""
    made = {"shipped": SHIPPED}
    for name in TINY:
        made[name] = tmp_path_factory.mktemp(name)
        tiny_model(name).model.save_pretrained(made[name])
    return made


def load(folder, precision):
    return LanguageModel.load(folder, precision=precision, device="cpu")


def ids_for(model):
    return torch.randint(4, model.vocab_size, (3, 9), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def logits(model, ids=None):
    return model.model(input_ids=ids_for(model) if ids is None else ids).logits.float()


def kl(model, reference):
    p, q = (logits(m).log_softmax(-1) for m in (reference, model))
    return float((p.exp() * (p - q)).sum(-1).mean())


@pytest.fixture
def without_bitsandbytes(monkeypatch):
    def version(package):
        raise bits_and_bytes.PackageNotFoundError(package)

    monkeypatch.setattr(bits_and_bytes, "version", version)


# --- what the regimes compute -----------------------------------------------------------------------


@needs_bitsandbytes
@pytest.mark.parametrize("name", ["shipped", *TINY])
@pytest.mark.parametrize("precision", ["nf4", "fp4", "nf4+double", "nf4+bf16"])
def test_4_bit_models_of_bitsandbytes_and_of_the_reference_have_the_same_logits(
    folders, name, precision
):
    theirs, ours = load(folders[name], precision), load(folders[name], f"{precision}+reference")
    # bfloat16 products, and a few scales that bitsandbytes' CPU kernel rounds by a coarse table
    atol = 1e-2 if "+" in precision else 1e-5
    torch.testing.assert_close(logits(theirs), logits(ours), atol=atol, rtol=atol)
    assert kl(theirs, load(folders[name], "fp32")) > 1e-4
    assert theirs.regime.backend.startswith("bitsandbytes ")
    assert ours.regime.backend == "reference"
    assert theirs.regime.unquantised == ours.regime.unquantised


@needs_bitsandbytes
@pytest.mark.parametrize("name", ["shipped", *TINY])
def test_int8_models_of_both_lie_closer_to_each_other_than_to_float32(folders, name):
    theirs, ours = load(folders[name], "int8"), load(folders[name], "int8+reference")
    exact = load(folders[name], "fp32")
    apart = float((logits(theirs) - logits(ours)).norm())
    # each layer agrees to 2e-5; from there on single roundings differ and are carried through the blocks
    assert apart < 0.8 * float((logits(theirs) - logits(exact)).norm())


def test_divergence_grows_as_bits_are_taken_away(folders):
    exact = load(SHIPPED, "fp32")
    found = {name: kl(load(SHIPPED, name), exact) for name in ("rtn8", "rtn6", "rtn4", "rtn3")}
    assert list(found.values()) == sorted(found.values())
    nf4, fp4, fp8 = (kl(load(SHIPPED, f"{p}"), exact) for p in ("nf4", "fp4", "fp8"))
    assert 0 < fp8 < nf4 < fp4 < found["rtn3"]
    assert kl(load(SHIPPED, "fp16"), exact) < kl(load(SHIPPED, "bf16"), exact) < fp8
    assert fp8 < kl(load(SHIPPED, "fp8+act"), exact)
    assert fp8 < kl(load(SHIPPED, "fp8+e5m2"), exact)


@pytest.mark.parametrize("precision", EVERY)
@pytest.mark.parametrize("name", ["shipped", "gpt2", "gemma4_per_layer_inputs"])
def test_resuming_from_a_site_equals_the_full_forward_in_every_regime(folders, name, precision):
    model = load(folders[name], precision)
    ids = ids_for(model)
    expected = logits(model, ids)
    scale = float(expected.abs().max())
    for kind in ("resid_pre", "attn_z", "attn_out", "mlp_in", "mlp_out", "resid_post"):
        site = Site(1, kind)
        prefix = model.prefix(ids, None, [site])
        hidden = model.resume(prefix, site, prefix.at(site))
        got = model.unembed(hidden.flatten(0, 1)).view_as(expected).float()
        assert float((got - expected).abs().max()) < 1e-3 * scale
        moved = model.resume(prefix, site, prefix.at(site) * 1.5 + 0.5)
        assert not torch.allclose(moved, hidden, atol=1e-2)


@pytest.mark.parametrize("precision", ["nf4+fp16", "fp16", "int8+bf16", "nf4"])
def test_unembedding_into_a_buffer_is_the_same(precision):
    model = load(SHIPPED, precision)
    hidden = torch.randn(5, model.d_model, generator=torch.Generator().manual_seed(0))
    buffer = torch.empty(5, model.vocab_size, dtype=model.dtype)
    got = model.unembed(hidden, out=buffer)
    assert got.data_ptr() == buffer.data_ptr()
    torch.testing.assert_close(got, model.unembed(hidden))


# --- what is said of them ---------------------------------------------------------------------------


@pytest.mark.parametrize("precision", EVERY)
def test_a_record_says_which_regime_ran_and_a_key_says_the_same_before(precision):
    model = load(SHIPPED, precision)
    said = model.identity()["precision"]
    assert json.loads(json.dumps(said)) == said
    known = regime_identity(precision, "cpu")
    assert {key: said[key] for key in known} == known
    assert said["regime"] == str(model.regime.precision)
    assert said["compute_dtype"] == model.identity()["dtype"]
    assert said["emulated"] == (model.regime.backend == "reference" and "why" in said)
    quantised = said["regime"] not in ("bfloat16", "float16")
    assert said.get("unquantised") == (["gpt_neox.embed_in", "lm_head"] if quantised else None)


def test_the_digest_is_that_of_the_files_in_every_regime():
    assert load(SHIPPED, "nf4").digest == load(SHIPPED, "int8+reference").digest
    assert load(SHIPPED, "rtn4").digest == load(SHIPPED, "fp32").digest


def test_a_key_is_made_without_reading_a_model(monkeypatch):
    monkeypatch.setattr(regimes, "read_weights", None)
    assert regime_identity("bf16", "cpu") == {
        "regime": "bfloat16",
        "backend": "torch",
        "emulated": False,
        "compute_dtype": "bfloat16",
    }
    assert regime_identity("rtn4+bf16", "cpu")["backend"] == "reference"
    with pytest.raises(ConfigError, match="no regime 'nf5'"):
        regime_identity("nf5", "cpu")
    with pytest.raises(ModelError, match="torch cannot use it"):
        regime_identity("nf4", "abacus")


# --- without bitsandbytes ---------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["nf4+double", "fp4", "int8"])
def test_without_bitsandbytes_the_reference_runs_and_says_so(precision, without_bitsandbytes):
    model = load(SHIPPED, precision)
    said = model.identity()["precision"]
    assert said["backend"] == "reference"
    assert said["regime"] == precision
    assert "bitsandbytes is not installed" in said["why"]
    assert torch.equal(logits(model), logits(load(SHIPPED, f"{precision}+reference")))
    assert regime_identity(precision, "cpu")["backend"] == "reference"


def test_insisting_on_bitsandbytes_without_it_is_refused(without_bitsandbytes):
    message = r"nf4\+bitsandbytes: the package bitsandbytes is not installed.*pip install"
    with pytest.raises(ModelError, match=message):
        load(SHIPPED, "nf4+bitsandbytes")
    with pytest.raises(ModelError, match=message):
        regime_identity("nf4+bitsandbytes", "cpu")
    assert load(SHIPPED, "rtn4").regime.backend == "reference"


def test_a_bitsandbytes_that_does_not_know_the_device_is_not_used(monkeypatch):
    class Library:
        supported_torch_devices = frozenset({"cuda"})

    monkeypatch.setattr(bits_and_bytes, "load", Library)
    monkeypatch.setattr(bits_and_bytes, "version", lambda package: "0.1")
    bits_and_bytes._trial.cache_clear()
    try:
        why = load(SHIPPED, "nf4").identity()["precision"]["why"]
    finally:
        bits_and_bytes._trial.cache_clear()
    assert why == "bitsandbytes 0.1 has no backend for cpu"


@needs_bitsandbytes
def test_loading_and_running_says_nothing_on_stderr():
    code = (
        "import torch; from saebench.models import LanguageModel as M;"
        f"[M.load({str(SHIPPED)!r}, precision=p, device='cpu').model(torch.ones(1, 4).long())"
        " for p in ('nf4+double', 'int8', 'nf4+fp16')]"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert done.stdout == ""


# --- what cannot run --------------------------------------------------------------------------------


def overflowing(tmp_path):
    model = tiny_model("llama").model
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.mul_(1e5)
    model.save_pretrained(tmp_path)
    return tmp_path


def test_activations_too_large_for_float16_are_refused_with_the_regime_and_the_remedy(tmp_path):
    folder = overflowing(tmp_path)
    for precision in ("fp16", "rtn8+fp16"):
        with pytest.raises(
            ModelError, match=r"float16 \(test_.*\): .*NaN or infinity.*bfloat16 or float"
        ):
            load(folder, precision)
    assert logits(load(folder, "bf16"), some_ids()).isfinite().all()
    assert load(folder, "fp32").regime.precision.compute == "float32"


def test_a_number_type_that_the_device_lacks_is_refused_with_the_regime(monkeypatch):
    def lacks(dtype, device):
        if dtype in (torch.bfloat16, torch.float8_e4m3fn):
            raise TypeError(f"no {dtype} here")
        return True

    monkeypatch.setattr(regimes, "_has", lacks)
    message = r"rtn4\+bfloat16: cpu lacks bfloat16 .*Use float32, float16"
    with pytest.raises(ModelError, match=message):
        load(SHIPPED, "rtn4+bf16")
    with pytest.raises(ModelError, match="precision fp8: cpu lacks float8_e4m3fn"):
        load(SHIPPED, "fp8")
    assert load(SHIPPED, "fp8+e5m2")


@needs_bitsandbytes
def test_files_that_are_quantised_already_are_run_as_stored_and_not_quantised_again(tmp_path):
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32
    )
    quantised = AutoModelForCausalLM.from_pretrained(
        SHIPPED, dtype=torch.float32, quantization_config=config, device_map={"": "cpu"}
    )
    quantised.save_pretrained(tmp_path)
    model = load(tmp_path, "fp32")
    torch.testing.assert_close(logits(model), logits(load(SHIPPED, "nf4")), atol=1e-4, rtol=1e-4)
    said = model.identity()["precision"]
    assert said["stored"]["bnb_4bit_quant_type"] == "nf4"
    assert said["backend"].startswith("bitsandbytes ")
    assert json.dumps(said)
    with pytest.raises(ModelError, match=r"in int8: its files are quantised already .*as stored"):
        load(tmp_path, "int8")


@needs_bitsandbytes
def test_files_quantised_by_bitsandbytes_need_it(tmp_path, without_bitsandbytes):
    config = json.loads((SHIPPED / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"bitsandbytes is not installed.*pip install"):
        load(tmp_path, "fp32")
