"""Listings as published repositories and libraries have them, and the checkpoints in each."""

from __future__ import annotations


def below(folder: str, *names: str) -> list[str]:
    return [f"{folder}/{name}" for name in names]


def all_in(*folders: str, names: tuple[str, ...]) -> dict[str, set[str]]:
    return {folder: set(below(folder, *names)) for folder in folders}


SAELENS = ("cfg.json", "sae_weights.safetensors")
LIBRARY = ("config.json", "ae.pt")
RUN = "gpt2-small_blocks.8.hook_resid_pre_12288_topk_16_0.0003_42_faithful-gpt2-small_128_24413"
HOOK_Z = "gpt2-small_L{}_Hcat_z_lr1.20e-03_l11.80e+00_ds24576_bs4096_dc1.00e-06_v9"
JBLOOM_PT = "final_sparse_autoencoder_gpt2-small_blocks.{}.hook_resid_pre_24576"

# name: the listing, and the checkpoints in it by path
PUBLISHED: dict[str, tuple[list[str], dict[str, set[str]]]] = {
    "google/gemma-scope-2b-pt-res": (
        ["embedding/width_4k/average_l0_6/params.npz"]
        + [f"layer_{i}/width_16k/average_l0_{n}/params.npz" for i, n in ((2, 141), (10, 77))],
        all_in(
            "embedding/width_4k/average_l0_6",
            "layer_2/width_16k/average_l0_141",
            "layer_10/width_16k/average_l0_77",
            names=("params.npz",),
        ),
    ),
    "google/gemma-scope-2-1b-pt": (
        below("resid_post/layer_7_width_16k_l0_small", "config.json", "params.safetensors")
        + below("resid_post/layer_7_width_16k_l0_small", "examples.safetensors")
        + below("clt/width_262k_l0_big_affine", "config.json")
        + below(
            "clt/width_262k_l0_big_affine", *(f"params_layer_{i}.safetensors" for i in (0, 10, 2))
        )
        + below("crosscoder/layer_7_13_width_65k_l0_medium", "config.json")
        + below("crosscoder/layer_7_13_width_65k_l0_medium", "params_layer_0.safetensors")
        + below("crosscoder/layer_7_13_width_65k_l0_medium", "params_layer_1.safetensors"),
        all_in("resid_post/layer_7_width_16k_l0_small", names=("config.json", "params.safetensors"))
        | all_in(
            "clt/width_262k_l0_big_affine",
            names=("config.json", *(f"params_layer_{i}.safetensors" for i in (0, 2, 10))),
        )
        | all_in(
            "crosscoder/layer_7_13_width_65k_l0_medium",
            names=("config.json", *(f"params_layer_{i}.safetensors" for i in (0, 1))),
        ),
    ),
    "EleutherAI/sae-llama-3-8b-32x": (
        [
            "config.json",
            "optimizer.pt",
            "lr_scheduler.pt",
            "state.pt",
            *below("embed_tokens", "cfg.json", "sae.safetensors"),
            *below("layers.3.mlp", "cfg.json", "sae.safetensors"),
            *below("layers.10", "cfg.json", "sae.safetensors"),
        ],
        all_in("embed_tokens", "layers.3.mlp", "layers.10", names=("cfg.json", "sae.safetensors")),
    ),
    "fnlp/Llama3_1-8B-Base-LXR-8x": (
        [
            f"Llama3_1-8B-Base-L{i}R-8x/{name}"
            for i in (2, 10)
            for name in ("hyperparams.json", "lm_config.json", "checkpoints/final.safetensors")
        ],
        all_in(
            "Llama3_1-8B-Base-L2R-8x",
            "Llama3_1-8B-Base-L10R-8x",
            names=("hyperparams.json", "lm_config.json", "checkpoints/final.safetensors"),
        ),
    ),
    "fnlp/Llama-Scope-R1-Distill": (
        below("800M-Slimpajama-0-OpenR1-Math-220k/L0R", "config.json", "sae_weights.safetensors"),
        all_in(
            "800M-Slimpajama-0-OpenR1-Math-220k/L0R",
            names=("config.json", "sae_weights.safetensors"),
        ),
    ),
    "saprmarks, with the steps of each run": (
        [
            f"pythia-70m/resid_post_layer_3/trainer_{i}/{name}"
            for i in (0, 1)
            for name in (
                *LIBRARY,
                "eval_results.json",
                "checkpoints/ae_0.pt",
                "checkpoints/ae_10.pt",
            )
        ]
        + ["pythia-70m/resid_post_layer_3/results.json"],
        all_in(
            *(f"pythia-70m/resid_post_layer_3/trainer_{i}" for i in (0, 1)),
            names=LIBRARY,
        ),
    ),
    "canrager, with the steps in folders beside": (
        below("topk/resid_post_layer_5/trainer_0", *LIBRARY, "eval_results.json")
        + below("topk/resid_post_layer_5_checkpoints/trainer_0_step_9765", *LIBRARY),
        all_in(
            "topk/resid_post_layer_5/trainer_0",
            "topk/resid_post_layer_5_checkpoints/trainer_0_step_9765",
            names=LIBRARY,
        ),
    ),
    "andyrdt/saes-llama-3.1-8b-instruct": (
        [
            f"resid_post_layer_{i}/trainer_1/{n}"
            for i in (3, 27)
            for n in (*LIBRARY, "eval_results.json")
        ],
        all_in("resid_post_layer_3/trainer_1", "resid_post_layer_27/trainer_1", names=LIBRARY),
    ),
    "Ftm23/cbd-sae-diff-gemma2-2pair-frgv": (
        [f"layer_{i}/{name}" for i in (13, 24) for name in ("config.json", "model.safetensors")],
        all_in("layer_13", "layer_24", names=("config.json", "model.safetensors")),
    ),
    "caiovicentino1/gemma2-2b-crosscoder-model-diff-papergrade": (
        [
            "cfg.json",
            "crosscoder_final.safetensors",
            "crosscoder_resume.pt",
            "feature_taxonomy.json",
            "train_log.json",
        ],
        {"": {"cfg.json", "crosscoder_final.safetensors"}},
    ),
    "Qwen/SAE-Res-Qwen3-1.7B-Base-W32K-L0_50": (
        ["config.json", *(f"layer{i}.sae.pt" for i in (0, 2, 10))],
        {f"layer{i}.sae.pt": {"config.json", f"layer{i}.sae.pt"} for i in (0, 2, 10)},
    ),
    "mwhanna/qwen3-4b-transcoders": (
        ["config.yaml", "wanb-config.yaml", *(f"layer_{i}.safetensors" for i in (0, 2, 10))],
        {
            f"layer_{i}.safetensors": {"config.yaml", "wanb-config.yaml", f"layer_{i}.safetensors"}
            for i in (0, 2, 10)
        },
    ),
    "mntss/clt-gemma-2-2b-426k": (
        [
            "config.yaml",
            *(f"W_{side}_{i}.safetensors" for side in ("enc", "dec") for i in (0, 1, 10)),
        ],
        {
            "": {"config.yaml"}
            | {f"W_{s}_{i}.safetensors" for s in ("enc", "dec") for i in (0, 1, 10)}
        },
    ),
    "jbloom/GPT2-Small-SAEs-Reformatted": (
        [
            f"blocks.{i}.hook_resid_pre/{name}"
            for i in (0, 11)
            for name in (*SAELENS, "sparsity.safetensors")
        ],
        all_in("blocks.0.hook_resid_pre", "blocks.11.hook_resid_pre", names=SAELENS),
    ),
    "jbloom/GPT2-Small-SAEs, one pickle per layer": (
        [
            f"{JBLOOM_PT.format(i)}{end}"
            for i in (0, 1)
            for end in (".pt", "_log_feature_sparsity.pt")
        ],
        {f"{JBLOOM_PT.format(i)}.pt": {f"{JBLOOM_PT.format(i)}.pt"} for i in (0, 1)},
    ),
    "tommmcgrath/gpt2-small-mlp-out-saes": (
        below("sae_group_gpt2_blocks.0.hook_mlp_out_24576:v1", *SAELENS),
        all_in("sae_group_gpt2_blocks.0.hook_mlp_out_24576:v1", names=SAELENS),
    ),
    "ckkissane/attn-saes-gpt2-small-all-layers": (
        [f"{HOOK_Z.format(i)}{end}" for i in (0, 1) for end in (".pt", "_cfg.json")],
        {
            f"{name}.pt": {f"{name}.pt", f"{name}_cfg.json"}
            for name in (HOOK_Z.format(0), HOOK_Z.format(1))
        },
    ),
    "ckkissane crosscoder, as it trains": (
        [f"version_3/{i}{end}" for i in (0, 1, 10) for end in (".pt", "_cfg.json")],
        {f"version_3/{i}.pt": {f"version_3/{i}.pt", f"version_3/{i}_cfg.json"} for i in (0, 1, 10)},
    ),
    "ckkissane crosscoder, as it is published": (
        below("blocks.14.hook_resid_pre", "cfg.json", "cc_weights.pt"),
        all_in("blocks.14.hook_resid_pre", names=("cfg.json", "cc_weights.pt")),
    ),
    "seonglae, runs of FaithfulSAE": (
        below(RUN, "sae.pt", "config.json") + below(f"{RUN[:-5]}999", "sae.pt", "config.json"),
        all_in(RUN, f"{RUN[:-5]}999", names=("sae.pt", "config.json")),
    ),
    "BatchTopK, as it trains": (
        below(f"checkpoints/{RUN}", "sae.pt", "config.json"),
        all_in(f"checkpoints/{RUN}", names=("sae.pt", "config.json")),
    ),
    "Solshine/gemma4_e2b_gf1_behaviorSAE_topk_k16_L25_bnb4bit": (
        ["cfg.json", "gemma4_e2b_gf1_behaviorSAE_topk_k16_L25_bnb4bit.pt"],
        {"": {"cfg.json", "gemma4_e2b_gf1_behaviorSAE_topk_k16_L25_bnb4bit.pt"}},
    ),
    "nanochat, as it trains": (
        ["config.json", "best_model.pt", "checkpoint_step1000.pt", "checkpoint_step200.pt"],
        {"": {"config.json", "best_model.pt"}},
    ),
    "crosscoder_learning, as it trains": (
        ["config.json", "checkpoint_1000.pt", "checkpoint_2000.pt", "model_final.pt"],
        {"": {"config.json", "model_final.pt"}},
    ),
    "crosscode": (
        below("epoch_1_step_100", "model_cfg.yaml", "model.pt"),
        all_in("epoch_1_step_100", names=("model_cfg.yaml", "model.pt")),
    ),
    "crosslayer-coding": (
        [
            "cfg.json",
            "norm_stats.json",
            "clt_checkpoint_100.safetensors",
            "clt_checkpoint_latest.safetensors",
        ],
        {"": {"cfg.json", "norm_stats.json", "clt_checkpoint_latest.safetensors"}},
    ),
    "crosslayer-coding, one file per process": (
        ["cfg.json", *below("step_100", "rank_0_model.pt", "rank_1_model.pt", "rank_0_state.pt")],
        {"step_100": {"cfg.json", "step_100/rank_0_model.pt", "step_100/rank_1_model.pt"}},
    ),
    "diffing-toolkit": (
        below("layer_13/run-k100/dictionary_model", "config.json", "model.safetensors")
        + below("layer_13/run-k100", "training_config.yaml", "training_metrics.json"),
        {
            "layer_13/run-k100/dictionary_model": {
                *below("layer_13/run-k100", "training_config.yaml", "training_metrics.json"),
                *below("layer_13/run-k100/dictionary_model", "config.json", "model.safetensors"),
            }
        },
    ),
    "diffing-toolkit, as it is pushed": (
        ["config.json", "model.safetensors", "trainer_config.json", "training_metrics.json"],
        {"": {"config.json", "model.safetensors", "trainer_config.json", "training_metrics.json"}},
    ),
    "canrager/temporalSAEs": (
        below("gemma-2-2B/layer_12/temporal", "conf.yaml", "latest_ckpt.safetensors"),
        all_in("gemma-2-2B/layer_12/temporal", names=("conf.yaml", "latest_ckpt.safetensors")),
    ),
    "Goodfire/Llama-3.1-8B-Instruct-SAE-l19": (
        ["Llama-3.1-8B-Instruct-SAE-l19.pth"],
        {"": {"Llama-3.1-8B-Instruct-SAE-l19.pth"}},
    ),
    "openai, one file per layer": (
        [f"resid_post_mlp/v5_32k/{i}.pt" for i in (0, 2, 10)],
        {f"resid_post_mlp/v5_32k/{i}.pt": {f"resid_post_mlp/v5_32k/{i}.pt"} for i in (0, 2, 10)},
    ),
    "SAELens, as it trains": (
        below("w1l97lpv/500000", *SAELENS, "trainer_state.pt", "activation_scaler.json")
        + below("w1l97lpv/500000", "activation_whitening.safetensors", "sparsity.safetensors")
        + below("w1l97lpv/500000", "activations_store_state.safetensors", "runner_cfg.json"),
        all_in(
            "w1l97lpv/500000",
            names=(
                *SAELENS,
                "activation_scaler.json",
                "activation_whitening.safetensors",
                "runner_cfg.json",
            ),
        ),
    ),
    "the same weights in two formats": (
        [
            "cfg.json",
            "sae.pt",
            "sae.safetensors",
            *below("b", "x_1.pt", "x_1.safetensors", "x_2.pt"),
        ],
        {"": {"cfg.json", "sae.safetensors"}},
    ),
    "a language model with SAEs in a folder": (
        [
            "config.json",
            "generation_config.json",
            "tokenizer.json",
            "model.safetensors",
            *below("saes/layer_1", *SAELENS),
        ],
        all_in("saes/layer_1", names=SAELENS),
    ),
    "a language model in parts": (
        [
            "config.json",
            "tokenizer.json",
            "model.safetensors.index.json",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
        ],
        {"": {"config.json", *(f"model-0000{i}-of-00002.safetensors" for i in (1, 2))}},
    ),
    "no checkpoint at all": (
        ["config.json", "sparsity.safetensors", "optimizer.pt", "a/cfg.pt", "b/rng_state_0.pth"],
        {},
    ),
}
