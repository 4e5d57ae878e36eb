"""Run names: each part found, in every variant that is written, and nothing else taken for one."""

from __future__ import annotations

import time

import pytest

from saebench.adapters.batchtopk.run_name import RunName, parse_run_name

FAITHFUL = (
    "gpt2-small_blocks.8.hook_resid_pre_12288_topk_16_0.0003_42_faithful-gpt2-small_128_24413"
)


def test_a_name_of_faithful_sae_says_model_site_sizes_and_data() -> None:
    assert parse_run_name(FAITHFUL) == RunName(
        model="gpt2-small",
        hook_point="blocks.8.hook_resid_pre",
        dict_size=12288,
        sae_type="topk",
        top_k=16,
        lr=0.0003,
        step=24413,
        seed=42,
        dataset="faithful-gpt2-small",
        seq_len=128,
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "gemma-2-2b_blocks.8.hook_resid_pre_36864_batchtopk_32_0.0003_122069",
            RunName("gemma-2-2b", "blocks.8.hook_resid_pre", 36864, "batchtopk", 32, 3e-4, 122069),
        ),
        (
            "gpt2_blocks.6.hook_resid_post_12288_global-matryoshka-topk_32_0.0003_42_48827",
            RunName(
                *("gpt2", "blocks.6.hook_resid_post", 12288, "global-matryoshka-topk", 32, 3e-4),
                *(48827, 42),
            ),
        ),
        (
            "my_model.v1_blocks.3.attn.hook_z_64_vanilla_50_1e-05_7_web_text_v1.2_128_512_9",
            RunName(
                *("my_model.v1", "blocks.3.attn.hook_z", 64, "vanilla", 50, 1e-05, 9, 7),
                *("web_text_v1.2_128", 512),
            ),
        ),
        (
            "m_blocks.3.hook_mlp_out_64_jumprelu_50_1e-05_7_web_128_0.01_9",
            RunName(
                *("m", "blocks.3.hook_mlp_out", 64, "jumprelu", 50, 1e-05, 9, 7, "web", 128, 0.01),
            ),
        ),
        (
            "m_blocks.3.hook_mlp_out_64_jumprelu_50_1e-05_7_web_128_1e-05_9",
            RunName(
                *("m", "blocks.3.hook_mlp_out", 64, "jumprelu", 50, 1e-05, 9, 7, "web", 128, 1e-05),
            ),
        ),
    ],
)
def test_separators_in_models_and_data_sets_are_not_taken_for_parts(
    name: str, expected: RunName
) -> None:
    assert parse_run_name(name) == expected


@pytest.mark.parametrize(
    "name",
    [
        "",
        "trainer_0",
        FAITHFUL.removesuffix("_24413") + "_final",
        FAITHFUL.replace("topk", "quantile"),
        FAITHFUL.replace("blocks.8.hook_resid_pre", "layers.8"),
        FAITHFUL.replace("_12288", ""),
        FAITHFUL.replace("gpt2-small_blocks", "_blocks", 1),
        FAITHFUL.replace("0.0003", "1e999"),
        FAITHFUL.replace("42_faithful-gpt2-small_128", "42_128"),
        FAITHFUL.replace("_42_", "_٤٢_"),  # digits, and not ASCII ones
        f"{FAITHFUL}\n",
        "x" * 200 + FAITHFUL,
    ],
)
def test_other_names_are_no_run_names(name: str) -> None:
    assert parse_run_name(name) is None


@pytest.mark.parametrize(
    "hostile", ["a_" * 127, "1_" * 127, f"m_blocks.1.hook_{'a_' * 110}", FAITHFUL + "_1" * 80]
)
def test_a_hostile_name_costs_no_time(hostile: str) -> None:
    start = time.perf_counter()
    parse_run_name(hostile)
    assert time.perf_counter() - start < 0.1
