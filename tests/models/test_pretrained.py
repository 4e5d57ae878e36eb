"""Loading a model: from a folder, from the hub's cache, and every way in which that fails."""

import json

import pytest
import torch
from huggingface_hub import errors
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

import saebench.models.pretrained as pretrained
import saebench.models.weights as weights
from saebench.errors import ConfigError, ModelError
from saebench.models import LanguageModel
from tests.tiny_models import close, some_ids, tiny_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(tmp_path):
    """A saved model without a tokenizer."""
    path = tmp_path / "tiny"
    tiny_model("llama").model.save_pretrained(path)
    return path


@pytest.fixture
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(pretrained.HfApi, "model_info", refuse)


def logits_of(model):
    prefix = model.prefix(some_ids(), None, ["layers.1"])
    return model.unembed(model.resume(prefix, "layers.1", prefix.at("layers.1"))[0])


def test_a_saved_model_loads_as_it_was(folder):
    model = LanguageModel.load(folder)
    close(logits_of(model), logits_of(tiny_model("llama")))
    assert model.tokenizer is None
    assert model.identity() == {
        "id": "tiny",
        "revision": None,
        "class": "LlamaForCausalLM",
        "dtype": "float32",
        "precision": {
            "regime": "float32",
            "backend": "torch",
            "emulated": False,
            "compute_dtype": "float32",
        },
        "device": "cpu",
        "digest": model.digest,
        "digest_of": "files",
    }


def test_what_a_model_is_can_be_said_before_its_weights_are_read(folder):
    located = pretrained.locate(folder)
    model = LanguageModel.open(located)
    assert located.digest == model.digest
    assert located.vocab_size == model.vocab_size
    assert located.context_size == model.context_size == 32
    assert (located.id, located.revision) == (model.id, model.revision)


def test_its_tokenizer_comes_with_it(folder):
    vocabulary = {f"w{i}": i for i in range(64)}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(folder)
    assert LanguageModel.load(str(folder)).tokenizer("w5")["input_ids"] == [5]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_it_loads_in_the_precision_asked_for(folder, dtype):
    model = LanguageModel.load(folder, precision=dtype)
    assert model.identity()["dtype"] == dtype
    assert {parameter.dtype for parameter in model.model.parameters()} == {model.dtype}


def test_the_digest_is_of_the_files_wherever_they_lie_and_changes_with_them(folder, tmp_path):
    first = LanguageModel.load(folder).digest
    moved = folder.rename(tmp_path / "elsewhere")
    assert LanguageModel.load(moved).digest == first
    assert LanguageModel.load(moved, precision="bf16").digest == first
    other = tiny_model("llama").model
    with torch.no_grad():
        other.lm_head.weight[0, 0] += 1
    other.save_pretrained(moved)
    changed = LanguageModel.load(moved).digest
    assert changed != first
    config = json.loads((moved / "config.json").read_text())
    (moved / "config.json").write_text(json.dumps(config | {"rms_norm_eps": 0.1}))
    assert LanguageModel.load(moved).digest not in (first, changed)


def test_a_model_in_memory_is_digested_by_its_config_and_tensors():
    one, same, other = tiny_model("llama"), tiny_model("llama"), tiny_model("mistral")
    assert one.digest == same.digest
    assert torch.equal(one.model.lm_head.weight, other.model.lm_head.weight)
    assert other.digest != one.digest
    assert one.identity()["digest_of"] == "tensors"
    in_16_bits = LanguageModel(tiny_model("llama").model.to(torch.bfloat16))
    assert in_16_bits.digest != one.digest


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "config.json cannot be used"),
        ({"model_type": "unheard_of"}, "config.json cannot be used.*unheard_of"),
        ({}, "config.json cannot be used"),
        ({"model_type": "t5"}, "'t5', which is not a causal language model"),
        (
            {"model_type": "own", "auto_map": {"AutoConfig": "m.C", "AutoModelForCausalLM": "m.M"}},
            "needs code of its own, which saebench never runs",
        ),
    ],
)
def test_a_folder_that_is_no_causal_language_model_is_refused(tmp_path, config, message):
    text = config if isinstance(config, str) else json.dumps(config)
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match=message):
        LanguageModel.load(tmp_path)


def test_a_folder_without_a_config_is_refused_with_what_it_holds(tmp_path):
    with pytest.raises(ModelError, match=r"no config\.json; it has nothing"):
        LanguageModel.load(tmp_path)
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ModelError, match=r"it has notes\.txt"):
        LanguageModel.load(tmp_path)


def test_damaged_weights_are_refused(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ModelError, match="weights cannot be read"):
        LanguageModel.load(folder)
    file.unlink()
    with pytest.raises(ModelError, match="weights cannot be read"):
        LanguageModel.load(folder)


def test_weights_that_do_not_fit_the_config_are_refused(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"intermediate_size": 20}))
    with pytest.raises(ModelError, match="weights cannot be read"):
        LanguageModel.load(folder)


def test_missing_tensors_are_refused_and_not_made_up(tmp_path):
    tiny_model("llama").model.model.save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"lack 1 tensors, such as lm_head\.weight"):
        LanguageModel.load(tmp_path)


def test_a_damaged_tokenizer_is_refused(folder):
    (folder / "tokenizer.json").write_text("{")
    with pytest.raises(ModelError, match="tokenizer cannot be read"):
        LanguageModel.load(folder)


def test_unknown_precisions_and_devices_are_refused(folder):
    with pytest.raises(ConfigError, match="float32, bfloat16, float16"):
        LanguageModel.load(folder, precision="int3")
    with pytest.raises(ModelError, match="torch cannot use it"):
        LanguageModel.load(folder, device="abacus")


@pytest.mark.parametrize("ref", ["./not/there", "/not/there/either", "a/b/c", "", "../x"])
def test_a_path_that_is_not_there_is_refused_without_asking_the_hub(ref, monkeypatch):
    monkeypatch.setattr(pretrained, "HfApi", None)
    with pytest.raises(ModelError, match="no such directory, and not a hub id"):
        LanguageModel.load(ref)


def test_a_hub_model_out_of_reach_is_refused(no_network, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelError, match=r"not in the hub's cache, .*not reachable .Connection"):
        LanguageModel.load("some-org/no-such-model-here")


def test_a_hub_model_in_the_cache_loads_without_a_network(no_network, monkeypatch, folder):
    snapshot = folder.rename(folder.parent / COMMIT)
    asked = []

    def cached(name, revision=None, local_files_only=False):
        asked.append((name, revision, local_files_only))
        return str(snapshot)

    monkeypatch.setattr(pretrained, "snapshot_download", cached)
    model = LanguageModel.load("hf:org/tiny@v2")
    assert asked == [("org/tiny", "v2", True)]
    assert (model.id, model.revision) == ("org/tiny", COMMIT)


def test_a_hub_revision_is_resolved_to_its_commit_before_anything_is_fetched(monkeypatch, folder):
    snapshot = folder.rename(folder.parent / COMMIT)

    class File:
        rfilename = "model.safetensors"

    class Info:
        sha = COMMIT
        siblings = (File,)

    fetched = {}
    monkeypatch.setattr(pretrained.HfApi, "model_info", lambda *args, **kwargs: Info)
    monkeypatch.setattr(
        pretrained,
        "snapshot_download",
        lambda name, **kwargs: fetched.update(kwargs) or str(snapshot),
    )
    assert LanguageModel.load("org/tiny", revision="main").revision == COMMIT
    assert fetched["revision"] == COMMIT
    assert "*.safetensors" in fetched["allow_patterns"]
    assert "*.bin" not in fetched["allow_patterns"]


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (errors.RepositoryNotFoundError, "no such public repository"),
        (errors.RevisionNotFoundError, "no revision 'v9'"),
        (errors.GatedRepoError, "gated"),
    ],
)
def test_what_the_hub_refuses_is_said_in_plain_words(kind, message, monkeypatch):
    def refuse(*args, **kwargs):
        raise kind.__new__(kind)

    monkeypatch.setattr(pretrained.HfApi, "model_info", refuse)
    with pytest.raises(ModelError, match=message):
        LanguageModel.load("org/tiny", revision="v9")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_weights_that_do_not_fit_are_no_broken_download(folder, monkeypatch, error):
    def too_large(*args, **kwargs):
        raise error

    monkeypatch.setattr(weights.AutoModelForCausalLM, "from_pretrained", too_large)
    with pytest.raises(torch.OutOfMemoryError):
        LanguageModel.load(folder)


def test_weights_that_a_reader_rejects_are_a_broken_download(folder, monkeypatch):
    def damaged(*args, **kwargs):
        raise RuntimeError("header too large")

    monkeypatch.setattr(weights.AutoModelForCausalLM, "from_pretrained", damaged)
    with pytest.raises(ModelError, match="download is complete"):
        LanguageModel.load(folder)
