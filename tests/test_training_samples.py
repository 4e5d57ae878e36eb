"""A checkpoint with more latents than training samples: what it says of these samples is no quality."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from saebench import cli
from saebench.data import TokenStream, open_stream, stream_from_ids
from saebench.errors import CheckpointError
from saebench.loading import load_sae
from saebench.measure.training_samples import training_of, without_memory
from saebench.record import Measurement
from saebench.sae import Fact, SAEConfig
from saebench.train import Recipe, save_checkpoint, train, train_recipes
from tests.small_runs import random_sae

FAILED = 1
WIDTH, D_SAE, SAMPLES = 64, 256, 38
WORDS = 400
LENGTH = 20  # of a sequence, its first token included
SITE = "blocks.1.hook_resid_post"
WITHHELD = (
    *("fve", "fve_legacy", "fve_scalar", "mse", "cosine", "l2_ratio"),
    *(
        "ce_spliced",
        "ce_delta",
        "kl",
        "kl_reverse",
    ),  # the others are undefined on this random model
)
KEPT = ("l0", "dead_fraction", "l2_norm_in", "ce_clean", "kl_zero", "fve_pca", "fve_random_init")


@dataclass(frozen=True)
class Trap:
    """A model, 38 words to train on, other words to judge by, and the checkpoint trained on the 38."""

    folder: Path
    printed: str

    def path(self, name: str) -> Path:
        return self.folder / name

    @property
    def provenance(self) -> Mapping[str, Any]:
        """What the checkpoint says of its training."""
        return json.loads((self.path("sae") / "cfg.json").read_text())["saebench"]

    def stream(self, name: str, length: int = LENGTH) -> TokenStream:
        """A text as a run reads it."""
        tokenizer = PreTrainedTokenizerFast.from_pretrained(self.path("model"))
        return open_stream(str(self.path(name)), tokenizer, context_size=length)

    def run(self, out: Path, text: str, *more: str, sae: str = "sae") -> tuple[int, dict[str, Any]]:
        """The exit code and the record of ``saebench run`` on a text."""
        code = cli.main(
            [
                *("run", str(self.path(sae)), f"--model={self.path('model')}"),
                *(f"--data={self.path(text)}", f"--out={out}", "--device=cpu"),
                *(() if any("context" in item for item in more) else [f"--context-size={LENGTH}"]),
                *more,
            ]
        )
        (record,) = json.loads((out / "report.json").read_text())["records"]
        return code, record


def write_model(folder: Path) -> None:
    """A random model 64 wide, whose tokens are words."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=WORDS,
            hidden_size=WIDTH,
            intermediate_size=96,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=64,
            bos_token_id=1,
            eos_token_id=1,
            pad_token_id=0,
        )
        model = LlamaForCausalLM(config)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    words = {"<pad>": 0, "<s>": 1} | {f"w{i}": i for i in range(2, WORDS)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="<s>"
    ).save_pretrained(folder)


def write_text(path: Path, first: int, last: int) -> None:
    path.write_text(json.dumps({"text": " ".join(f"w{i}" for i in range(first, last))}) + "\n")


@pytest.fixture(scope="module")
def trap(tmp_path_factory: pytest.TempPathFactory) -> Trap:
    """The trainer's own way: a recipe whose text has 38 tokens, read again 500 times."""
    folder = tmp_path_factory.mktemp("trap")
    write_model(folder / "model")
    write_text(folder / "train.jsonl", 2, 2 + SAMPLES)
    write_text(folder / "held_out.jsonl", 2 + SAMPLES, WORDS)
    recipe = folder / "recipe.toml"
    recipe.write_text(
        f"model = '{folder / 'model'}'\ndata = '{folder / 'train.jsonl'}'\n"
        f"held_out = '{folder / 'held_out.jsonl'}'\nsite = '{SITE}'\ncontext_size = {LENGTH}\n"
        f"d_sae = {D_SAE}\nk = 4\ntokens = {500 * SAMPLES}\nbatch_size = {SAMPLES}\nlr = 4e-3\n"
        f"device = 'cpu'\nout = '{folder / 'sae'}'\n"
    )
    (printed,) = train_recipes([recipe], progress=False)
    return Trap(folder, printed)


@pytest.fixture(scope="module")
def on_training_text(trap: Trap, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the text that the checkpoint was trained on, with a gate that the memory would pass."""
    out = tmp_path_factory.mktemp("runs") / "out"
    code, _ = trap.run(out, "train.jsonl", "--gate=fve >= 0.8")
    assert code == FAILED
    return out


def measured(out: Path) -> dict[str, dict[str, Any]]:
    """The measurements of the one checkpoint of a run by short name."""
    (record,) = json.loads((out / "report.json").read_text())["records"]
    return {key.split("@")[0]: value for key, value in record["measurements"].items()}


def test_the_trainer_counts_different_activations_and_says_where_they_are_too_few(trap):
    assert trap.provenance["training_samples"] == SAMPLES
    assert trap.provenance["tokens"] == 500 * SAMPLES
    assert trap.provenance["data"]["text_digest"] == trap.stream("train.jsonl").digest
    assert "only 38 different activations" in trap.printed


def test_sequences_that_are_held_out_are_no_training_samples(trap, tmp_path):
    """Without a text of its own the first sequence of the training text is held out."""
    recipe = Recipe(
        model=str(trap.path("model")),
        data=str(trap.path("train.jsonl")),
        site=SITE,
        context_size=LENGTH,
        heldout_tokens=LENGTH - 1,
        d_sae=24,
        k=4,
        tokens=5 * SAMPLES,
        batch_size=SAMPLES,
        device="cpu",
    )
    stated = train(recipe, progress=False).provenance
    assert stated["training_samples"] == stated["data"]["samples"] == SAMPLES // 2
    few = train(replace(recipe, tokens=7, batch_size=7), progress=False).provenance
    assert few["training_samples"] == 7


def test_the_samples_are_learnt_by_heart_and_other_text_is_not_known(trap, on_training_text):
    fve = measured(on_training_text)["fve"]["detail"]
    assert fve["on_training_samples"]["value"] > 0.9
    assert fve["held_out"] < 0.5
    assert fve["held_out"] == trap.provenance["final"]["fve"]


def test_on_its_training_samples_quality_is_not_evaluable(on_training_text):
    found = measured(on_training_text)
    for metric in WITHHELD:
        assert found[metric]["value"] is found[metric]["low"] is found[metric]["high"] is None, (
            metric
        )
        assert "38 training samples for 256 latents" in found[metric]["reason"]
        assert found[metric]["detail"]["on_training_samples"]["training_samples"] == SAMPLES
    held_out = found["fve"]["detail"]["held_out"]
    assert found["fve"]["reason"].startswith(
        f"held out {held_out:.4g}, as its files state; 38 train"
    )
    assert found["mse"]["reason"].endswith("; measure on other text")


def test_what_a_memory_does_not_flatter_keeps_its_value(on_training_text):
    found = measured(on_training_text)
    for metric in KEPT:
        assert found[metric]["value"] is not None, metric


def test_the_card_says_so_with_the_held_out_number_beside_it(on_training_text):
    card = (on_training_text / "README.md").read_text()
    held_out = measured(on_training_text)["fve"]["detail"]["held_out"]
    assert "NOT EVALUABLE" in card
    assert "38 training samples for 256 latents" in card
    (row,) = [line for line in card.splitlines() if line.startswith("| FVE | –")]
    assert f"held out {held_out:.4g}, as its files state" in row
    assert "type: fve\n" not in card  # no result for the index of models


def test_text_it_was_not_trained_on_judges_it(trap, tmp_path):
    _, record = trap.run(tmp_path / "out", "held_out.jsonl")
    fve = record["measurements"]["fve@1"]
    assert fve["value"] == pytest.approx(trap.provenance["final"]["fve"], abs=1e-4)
    assert "on_training_samples" not in fve["detail"]


def test_the_same_files_cut_up_otherwise_are_the_same_text(trap, tmp_path):
    assert trap.stream("train.jsonl", 12).digest != trap.stream("train.jsonl").digest
    _, record = trap.run(tmp_path / "out", "train.jsonl", "--context-size=12")
    assert record["measurements"]["fve@1"]["value"] is None


def test_the_user_can_say_it_of_a_checkpoint_whose_files_do_not(trap, tmp_path):
    foreign = random_sae(width=WIDTH)
    foreign.cfg = replace(foreign.cfg, site=SITE)
    save_checkpoint(foreign, trap.path("foreign"))
    said = ["--set=training_samples=23", "--set=training_text=true"]
    _, record = trap.run(tmp_path / "both", "train.jsonl", *said, sae="foreign")
    fve = record["measurements"]["fve@1"]
    assert fve["value"] is None
    assert "23 training samples for 24 latents" in fve["reason"]
    assert fve["detail"]["on_training_samples"]["source"] == "--set training_samples=23"
    assert record["checkpoint"]["facts"]["training_samples"]["how"] == "user"
    for name, others in (("few", said[:1]), ("enough", ["--set=training_samples=24", said[1]])):
        _, record = trap.run(tmp_path / name, "train.jsonl", *others, sae="foreign")
        assert record["measurements"]["fve@1"]["value"] is not None, name


@pytest.mark.parametrize(
    "setting", ["training_samples=-1", "training_samples=many", "training_text=x"]
)
def test_a_setting_that_is_no_such_value_is_refused(trap, setting):
    name, _, value = setting.partition("=")
    with pytest.raises(CheckpointError, match=setting):
        load_sae(trap.path("sae"), settings={name: value})


# The rule itself, without a run -------------------------------------------------------------------

TEXT = stream_from_ids([[5, 6, 7], [8, 9, 10]], mask="none")


def config(d_sae: int = 100, facts: Mapping[str, Any] | None = None, **stated: Any) -> SAEConfig:
    """A checkpoint that states these things about its training."""
    said = {key: Fact(value, f"--set {key}", "user") for key, value in (facts or {}).items()}
    provenance = {"saebench": stated} if stated else {}
    return SAEConfig("topk", 8, d_sae, 8, facts=said, provenance=provenance)


def fve(value: float | None = 0.99) -> dict[str, Measurement]:
    return {"fve@1": Measurement("fve@1", value, low=0.9, high=1.0, reason=None)}


HERE = {"text_digest": TEXT.digest, "epochs": 1}


@pytest.mark.parametrize(("samples", "withheld"), [(99, True), (100, False), (101, False)])
def test_as_many_samples_as_latents_are_enough(samples, withheld):
    found = without_memory(fve(), config(training_samples=samples, data=HERE), TEXT)
    assert (found["fve@1"].value is None) == withheld


def test_the_number_found_stays_in_the_detail():
    item = without_memory(fve(), config(training_samples=3, data=HERE), TEXT)["fve@1"]
    kept = item.detail["on_training_samples"]
    assert (kept["value"], kept["low"], kept["high"], kept["d_sae"]) == (0.99, 0.9, 1.0, 100)
    assert "0.99" in item.reason


def test_what_has_no_value_keeps_its_own_reason():
    nothing = {"fve@1": Measurement("fve@1", None, reason="no token was counted")}
    found = without_memory(nothing, config(training_samples=3, data=HERE), TEXT)
    assert found == nothing


@pytest.mark.parametrize(
    ("tokens", "epochs", "samples"), [(300, 1, 300), (300, 4, 100), (301, 3, 150), (300, 2, 300)]
)
def test_of_older_files_the_most_that_the_samples_can_be_counts(tokens, epochs, samples):
    known = training_of(config(tokens=tokens, data={"epochs": epochs}), TEXT)
    assert known is not None
    assert known.samples == samples


@pytest.mark.parametrize(
    "stated",
    [
        {},
        {"tokens": 10},
        {"training_samples": "38"},
        {"training_samples": True},
        {"training_samples": 0},
        {"data": "train.jsonl", "tokens": 5},
        {"tokens": -4, "data": {"epochs": 1}},
    ],
)
def test_files_that_say_nothing_usable_change_nothing(stated):
    assert training_of(config(**stated), TEXT) is None
    assert without_memory(fve(), config(**stated), TEXT) == fve()


def test_what_the_user_says_overrules_the_files():
    cfg = config(facts={"training_samples": 500}, training_samples=3, data=HERE)
    assert without_memory(fve(), cfg, TEXT) == fve()
    cfg = config(facts={"training_text": False}, training_samples=3, data=HERE)
    assert without_memory(fve(), cfg, TEXT) == fve()


def test_text_of_another_column_or_commit_is_other_text():
    named = {"files": {"a.jsonl": 10}, "column": "text"}
    for source, withheld in (
        (named, True),
        ({**named, "column": "other"}, False),
        ({**named, "files": {"a.jsonl": 11}}, False),
        ({}, False),
    ):
        stream = stream_from_ids([[5, 6, 7]]).named("a.jsonl", source)
        found = without_memory(fve(), config(training_samples=3, data=named), stream)
        assert (found["fve@1"].value is None) == withheld, source


def test_text_that_nobody_names_is_not_taken_for_the_same():
    assert without_memory(fve(), config(training_samples=3, data={"epochs": 1}), TEXT) == fve()
    assert without_memory(fve(), config(training_samples=3), TEXT) == fve()
