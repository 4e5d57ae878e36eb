"""What a config of no known format says: looked up under all the names that people give a thing.

Configs lie beside the weights (``cfg.json``, ``config.json``, ``<file>.json``, yaml) or inside the weight
file, flat or one table deep.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from saebench.adapters.reading.fields import MAX_SIZE, Fields
from saebench.files import CheckpointFiles
from saebench.sae import Fact
from saebench.weights import StateDict, is_weights


def _keys(text: str) -> tuple[str, ...]:
    return tuple(text.split())


INSIDE = _keys("cfg config sae_cfg sae_config hparams hyperparameters args params")
TABLES = {
    *INSIDE,
    *("sae", "ae", "autoencoder", "trainer", "architecture", "model_config", "model_args"),
    *("activation_fn_kwargs", "activation_kwargs", "activation_state_dict", "activation"),
}
_STEMS = _keys("cfg config sae_cfg sae_config hyperparams hparams conf args metadata params")

LANGUAGE_MODEL = {"architectures", "vocab_size", "num_attention_heads"}  # not of a dictionary

# Keys whose value is surely a width of the dictionary, and keys that may be of something else.
D_IN = _keys("d_in act_size activation_dim input_dim in_features d_input n_inputs input_size")
D_SAE = _keys(
    "d_sae dict_size n_latents num_latents dictionary_size d_dict n_dirs latent_dim d_latent "
    "sae_dim n_learned_features nb_concepts"
)
D_OUT = _keys("d_out output_dim out_features d_output")
MAYBE_D_IN = _keys("d_model in_dim dim n_dim embed_dim hidden_size")
MAYBE_D_SAE = _keys("hidden_dim n_features num_features d_hidden n_hidden width")
EXPANSION = _keys("expansion_factor expansion dict_mult dict_multiplier")
K = _keys("k top_k topk k_sparse k_active n_active num_active sparsity_k l0")
ACTIVATION = _keys(
    "activation activation_fn activation_fn_str act_fn activation_function activation_type "
    "nonlinearity name architecture sae_type type arch variant model_type sae_architecture"
)
SUBTRACT = _keys(
    "apply_b_dec_to_input subtract_b_dec subtract_decoder_bias use_pre_bias "
    "apply_decoder_bias_to_pre_encoder pre_bias subtract_bias"
)
RELU = _keys("relu use_relu apply_relu")
NORMALIZATION = _keys(
    "normalize_activations input_unit_norm normalization normalize_input normalize_inputs "
    "input_normalization normalise_activations norm_input"
)
SCALE = _keys("norm_factor scaling_factor activation_scale input_scale act_scale")
TIED = _keys("tied tied_weights tie_weights tied_decoder")
SITE = _keys("hook_name hook_point hook site hookpoint module_path")
MODEL = _keys("model_name base_model lm_name model_id llm model")
THRESHOLD = _keys("threshold jumprelu_threshold jump_relu_threshold")
_NAMES = {
    "relu": "relu standard vanilla l1",
    "topk": "topk ksparse autoencodertopk",
    "batchtopk": "batchtopk matryoshkabatchtopk",
    "jumprelu": "jumprelu",
    "gated": "gated",
    "abstopk": "abstopk",
}
ACTIVATIONS = tuple(_NAMES)
ACTIVATION_WORDS = tuple(key for key in ACTIVATION if key not in ("name", "type", "model_type"))
_MEANING = {word: name for name, many in _NAMES.items() for word in many.split()}


def activation_named(value: Any) -> str | None:
    """The activation that a config's value means (``TopKSAE`` is topk), or None."""
    if not isinstance(value, str):
        return None
    word = re.sub(r"[^a-z0-9]", "", value[:80].lower())
    short = re.sub(r"^(sae|sparse)|(sae|autoencoder|dict|activation)$", "", word)
    return _MEANING.get(word) or _MEANING.get(short)


def a_size(value: Any) -> int | None:
    """A positive integer, or None for anything else."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    sound = number and 0 < value < MAX_SIZE and value == int(value)  # false of NaN too
    return int(value) if sound else None


def a_number(value: Any) -> float | None:
    """A finite number, or None for anything else."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if number and abs(value) < 1e30 else None


def a_flag(value: Any) -> bool | None:
    """True or false, or None for anything else."""
    return value if isinstance(value, bool) else None


def a_text(value: Any) -> str | None:
    """A text that is not empty, or None for anything else."""
    return value if isinstance(value, str) and value else None


class Knowledge:
    """All configs of a checkpoint, the one nearest to the weights first."""

    def __init__(self, sources: Sequence[Fields]) -> None:
        self.sources = tuple(sources)

    def all(self, keys: Sequence[str], accept: Callable[[Any], Any]) -> list[Fact]:
        """What is said under any of the keys, as long as ``accept`` makes something of it."""
        found = []
        for fields in self.sources:
            for key, value in _entries(fields, keys):
                accepted = accept(value)
                if accepted is not None:
                    found.append(Fact(accepted, f"{fields.file}: {key}"))
        return found

    def described(self) -> str:
        """The configs and their first keys, for an error."""
        shown = []
        for fields in self.sources:
            first = ", ".join(f"{key!r:.40}" for key in list(fields.data)[:8])
            shown.append(f"{fields.file} ({first}{', …' if len(fields.data) > 8 else ''})")
        return "; ".join(shown) or "none beside the weights or inside the file"


def gather(files: CheckpointFiles, weight: str, content: StateDict) -> tuple[Knowledge, list[str]]:
    """The configs inside and beside a weight file, and the names of those beside it."""
    sources = []
    siblings = dict(content.siblings or {})
    for key in INSIDE:
        inside = siblings.get(key)
        if isinstance(inside, dict):
            sources.append(Fields(f"{weight}: {key}", {str(k): v for k, v in inside.items()}))
    plain = {key: value for key, value in siblings.items() if not isinstance(value, dict)}
    names = config_names(files, weight)
    for name in names:
        data = files.json(name) if name.lower().endswith(".json") else files.yaml(name)
        if not LANGUAGE_MODEL & set(data):
            sources.append(Fields(name, data))
    if plain:
        sources.append(Fields(weight, plain))
    return Knowledge(sources), names


def config_names(files: CheckpointFiles, weight: str) -> list[str]:
    """The configs that may belong to a weight file, its namesakes first."""
    stems = [weight.rsplit(".", 1)[0]]
    while "." in stems[-1]:
        stems.append(stems[-1].rsplit(".", 1)[0])
    wanted = [f"{stem}{end}" for stem in stems for end in ("", "_cfg", "_config")]
    order = {stem: place for place, stem in enumerate([*wanted, *_STEMS])}
    found = [n for n in files.names if not is_weights(n) and n.rsplit(".", 1)[0] in order]
    return sorted(found, key=lambda name: order[name.rsplit(".", 1)[0]])


def _entries(fields: Fields, keys: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """Values under the keys at the top, then those in tables that describe the dictionary."""
    for key in keys:
        if fields.data.get(key) is not None:
            yield key, fields.data[key]
    for table, inside in fields.data.items():
        if isinstance(inside, dict) and (table in TABLES or {*D_SAE} & set(inside)):
            for key in keys:
                if inside.get(key) is not None:
                    yield f"{table}.{key}", inside[key]
