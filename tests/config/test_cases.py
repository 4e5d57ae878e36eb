"""Variants of the model, concepts, and the protocols of the suites about them."""

from dataclasses import replace
from pathlib import Path

import pytest

from saebench.config import load_config, merge_options
from saebench.config.cases import parse_variants, variant_from_text
from saebench.config.schema import Config, Place, SAESpec
from saebench.errors import ConfigError
from saebench.protocols import Concept, Variant
from saebench.session import Session
from saebench.train import save_checkpoint
from tests.small_runs import random_sae

RUN = {"suites": ["portability", "concepts", "cv_probing", "steering"]}


def place(tmp_path: Path) -> Place:
    return Place("saebench.toml", tmp_path, tmp_path)


def read(tmp_path, text):
    (tmp_path / "saebench.toml").write_text(text)
    return load_config(tmp_path / "saebench.toml", cwd=tmp_path)


@pytest.mark.parametrize(
    ("text", "variant"),
    [
        ("nf4", Variant("nf4", precision="nf4")),
        ("bf16", Variant("bf16", precision="bfloat16")),
        ("quick=bf16", Variant("quick", precision="bfloat16")),
        ("org/name@v2", Variant("name", "org/name", "v2")),
        ("tuned=org/name", Variant("tuned", "org/name")),
        ("org/name@v2?precision=fp16", Variant("name", "org/name", "v2", "float16")),
        ("hf:org/name", Variant("name", "hf:org/name")),
    ],
)
def test_a_variant_is_a_precision_or_another_model(tmp_path, text, variant):
    assert variant_from_text(text, place(tmp_path)) == variant


def test_a_folder_that_is_called_like_a_precision_is_the_folder(tmp_path, monkeypatch):
    (tmp_path / "nf4").mkdir()
    monkeypatch.chdir(tmp_path)
    assert variant_from_text("nf4", place(tmp_path)).ref == "nf4"


def test_what_is_neither_precision_nor_model_names_the_regimes(tmp_path):
    with pytest.raises(ConfigError, match="nf4"):
        variant_from_text("nf5", place(tmp_path))


def test_variants_and_concepts_are_read_from_tables(tmp_path):
    config = read(
        tmp_path,
        """
        suites = ["portability", "concepts"]
        [[variant]]
        name = "tuned"
        ref = "./tuned"
        precision = "fp16"
        sae = "./other"
        [[variant]]
        precision = "nf4"
        [portability]
        survival = 0.8
        [[concept]]
        name = "duty"
        data = "texts.jsonl"
        control = "inputs.jsonl"
        prompt = "prompt"
        rules = "rules.toml"
        judges = ["a", "b"]
        [concepts]
        pooling = 0
        top_k = 5
        [cv_probing]
        ks = [1, 2, 4]
        [steering]
        alphas = [2, 0, -2]
        mode = "clamp"
        """,
    )
    assert config.variants == (
        Variant("tuned", "tuned", None, "float16", "other"),
        Variant("nf4", precision="nf4"),
    )
    assert config.portability.survival == 0.8
    assert config.concepts == (
        Concept(
            "duty",
            "texts.jsonl",
            control="inputs.jsonl",
            prompt="prompt",
            rules="rules.toml",
            judges=("a", "b"),
        ),
    )
    assert (config.concept_statistics.pooling, config.concept_statistics.top_k) == ("0", 5)
    assert config.cross_validation.ks == (1, 2, 4)
    assert (config.steering.alphas, config.steering.mode) == ((-2.0, 0.0, 2.0), "clamp")


def test_options_name_variants_concepts_and_single_values():
    config = merge_options(
        Config(),
        **RUN,
        variants=["nf4", "bf16"],
        concepts=["duty=texts.jsonl"],
        protocols=["steering.alphas=-1,0,1", "cv_probing.folds=4", "concepts.pooling=last"],
        sae_dtype="bfloat16",
    )
    assert [item.name for item in config.variants] == ["nf4", "bf16"]
    assert config.concepts == (Concept("duty", "texts.jsonl"),)
    assert config.steering.alphas == (-1.0, 0.0, 1.0)
    assert config.cross_validation.folds == 4
    assert config.concept_statistics.pooling == "last"
    assert config.sae_dtype == "bfloat16"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"variants": ["nf4"]}, "--variant"),
        ({"concepts": ["a.jsonl"]}, "--concept"),
        ({"protocols": ["steering.mode=clamp"]}, "--protocol"),
    ],
)
def test_an_option_whose_suite_does_not_run_is_an_error(options, said):
    with pytest.raises(ConfigError, match=said):
        merge_options(Config(), **options)


@pytest.mark.parametrize(
    ("protocol", "said"),
    [
        ("stearing.mode=clamp", "steering"),
        ("mode=clamp", "SUITE.NAME=VALUE"),
        ("steering.mode=clmap", "clamp"),
        ("steering.alphas=1,x", "'x'"),
        ("cv_probing.folds=1", "folds"),
        ("cv_probing.ks=0", "ks"),
        ("concepts.pooling=middle", "pooling"),
        ("concepts.held_out=1", "held_out"),
    ],
)
def test_a_wrong_value_says_which(protocol, said):
    with pytest.raises(ConfigError, match=said):
        merge_options(Config(), **RUN, protocols=[protocol])


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("[[variant]]\nname = 'a'", "nothing that differs"),
        ("[[variant]]\nprecision = 'nf4'\n[[variant]]\nprecision = 'nf4'", "two are called"),
        ("[[variant]]\nname = 'a@b'\nprecision = 'nf4'", "holds one of"),
        ("[[variant]]\nprecison = 'nf4'", "'precision'"),
        ("[[concept]]\nname = 'a'", "'data' is missing"),
        ("[[concept]]\nname = 'a'\ndata = 'x'\njudges = ['j']", "Name two"),
        ("[[concept]]\nname = 'a/b'\ndata = 'x'", "holds one of"),
        ("sae_dtype = 'nf4'", "sae_dtype"),
    ],
)
def test_a_wrong_table_says_what_is_wrong(tmp_path, table, said):
    with pytest.raises(ConfigError, match=said):
        read(tmp_path, table)


def test_two_variants_need_two_names(tmp_path):
    with pytest.raises(ConfigError, match="two are called"):
        parse_variants(["nf4", "nf4"], place(tmp_path))


def test_prompts_are_relative_to_the_file_that_names_them(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "saebench.toml").write_text('[steering]\nprompts = "p.jsonl"\n')
    config = load_config(tmp_path / "sub" / "saebench.toml", cwd=tmp_path)
    assert config.steering.prompts == "sub/p.jsonl"


def test_a_case_may_not_be_called_like_a_checkpoint(tmp_path):
    saes = tuple(SAESpec(str(make_folder(tmp_path, name)), name) for name in ("a", "a@nf4"))
    config = replace(Config(), saes=saes, suites=("portability",), variants=(Variant("nf4"),))
    with pytest.raises(ConfigError, match="goes by that name"):
        Session(config).gates("portability")


def make_folder(place: Path, name: str) -> Path:
    save_checkpoint(random_sae(), place / name)
    return place / name
