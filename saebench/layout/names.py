"""What a file of a checkpoint's folder is by its name, as the libraries that write them name them."""

from __future__ import annotations

import re

from saebench.weights import WEIGHT_SUFFIXES

# Weight-like files that hold no dictionary: state of the training, statistics, examples.
_SIDE = re.compile(
    r"""(.*_)?optimi[sz]er.* | optim(_\w+)?
    | ((lr|lambda|l1)_)?scheduler.* | scaler | grad_scaler
    | (trainer|training)_(state|args).* | state | rank_?\d+_state | (rng|random)_states?.*
    | sparsity | (.*_)?log_feature_sparsity.* | feature_(sparsity|density|densities|stats).*
    | activations_store_state | activation_whitening | examples | (acts|activations)(_\w+)?
    | cfg | config | args | hparams | settings | adapter_model""",
    re.VERBOSE,
)
_COMPANIONS = ("activation_whitening.safetensors",)  # read with the weights that they lie beside

_SIDE_CONFIG = re.compile(
    r"""tokenizer.* | vocab | merges | special_tokens_map | added_tokens | (pre)?processor_config
    | generation_config | adapter_config | .*\.index | dataset_infos? | package(-lock)?
    | .*taxonomy.* | (.*[_-])?(logs?|history|metrics|results?|summary) | eval_results.*
    | (trainer|training)_state | wandb-(summary|metadata) | feature_.* | .*explanations.*
    | .*dashboard.*""",
    re.VERBOSE,
)
# What a run says of itself, of which one may have a name as reports do.
_RUN_CONFIG = re.compile(r"(training_(config|metrics)|trainer_config)\.(json|ya?ml)", re.IGNORECASE)
MODEL_FOLDER = "dictionary_model"  # weights and their config, in the folder of the run's own
MODEL_CONFIGS = ("tokenizer.json", "tokenizer_config.json", "generation_config.json")

# Where a run keeps its steps: a folder of them, and the folder of one.
STEPS_FOLDER = re.compile(r"checkpoints?|ckpts?|steps", re.IGNORECASE)
STEP_FOLDER = re.compile(
    rf"{STEPS_FOLDER.pattern}|((checkpoint|ckpt|step|epoch)[-_]?)?\d+", re.IGNORECASE
)
_STEP = re.compile(
    r"((\w+_)?(checkpoint|ckpt|step|epoch)|ae)[-_]?(step|epoch)?[-_]?\d+(_.*)?|.*_resume|.*_backup",
    re.IGNORECASE,
)

# The end of a run by its name, the one to prefer first.
FINAL_STEMS = (
    "sae_weights",
    "ae",
    "sae",
    "params",
    "cc_weights",
    "crosscoder_final",
    "pruned",
    "final",
    "model_final",
    "final_model",
    "model",
    "clt",
    "crosscoder",
    "transcoder",
    "best_model",
    "best",
    "clt_checkpoint_latest",
    "latest_ckpt",
    "latest",
    "last",
)

# Files of one checkpoint together: one for each layer, rank or part.
_TOGETHER = (
    re.compile(r"(w)_(?:enc|dec|skip)_\d+"),
    re.compile(r"(params_layer)_\d+"),
    re.compile(r"(rank)_?\d+_model"),
    re.compile(r"(.+)-\d{5}-of-\d{5}"),
)
_CONFIG_WORDS = "cfg|config"


def in_order(name: str) -> tuple[tuple[int, int | str], ...]:
    """A sorting key that puts ``layer_2`` before ``layer_10``."""
    parts = re.split(r"([0-9]+)", name)
    return tuple((0, int(part)) if part.isdecimal() else (1, part) for part in parts if part)


def stem(name: str) -> str:
    """The name of a weight file without its suffix, in lower case."""
    lower = name.lower()
    suffix = max((end for end in WEIGHT_SUFFIXES if lower.endswith(end)), key=len, default="")
    return lower.removesuffix(suffix)


def is_side(name: str) -> bool:
    """Whether a weight-like file holds no dictionary."""
    return bool(_SIDE.fullmatch(stem(name)))


def is_companion(name: str) -> bool:
    """Whether a weight-like file is read together with the weights beside it."""
    return name in _COMPANIONS


def is_side_config(name: str) -> bool:
    """Whether a JSON or YAML file says nothing about how to read the weights beside it."""
    return bool(_SIDE_CONFIG.fullmatch(name.lower().rpartition(".")[0]))


def is_run_config(name: str) -> bool:
    """Whether a JSON or YAML file says how the run was made that left the weights beside or below it."""
    return bool(_RUN_CONFIG.fullmatch(name))


def is_step(name: str) -> bool:
    """Whether a weight file is of a moment in training, by its name."""
    return bool(_STEP.fullmatch(stem(name)))


def group_of(name: str) -> str | None:
    """What the parts of one checkpoint have in common; None where the file is no part."""
    for pattern in _TOGETHER:
        if match := pattern.fullmatch(stem(name)):
            return f"{match[1]}*"
    return None


def stems_of(weights: str) -> set[str]:
    """The names that a config may be the namesake of: ``layer3.sae`` and ``layer3``."""
    return {stem(weights), stem(weights).removesuffix(".sae")}


def namesakes(config: str) -> set[str]:
    """The stems of weights that a config may belong to: ``0_cfg`` and ``0`` for ``0_cfg.json``."""
    own = config.lower().rpartition(".")[0]
    before = re.fullmatch(rf"(.+)[_.-](?:{_CONFIG_WORDS})", own)
    after = re.fullmatch(rf"(?:{_CONFIG_WORDS})[_.-](.+)", own)
    return {own, *(match[1] for match in (before, after) if match)}


def is_config_word(name: str) -> bool:
    """Whether a file calls itself a config."""
    return bool(re.search(_CONFIG_WORDS, name.lower()))
