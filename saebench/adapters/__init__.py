"""Checkpoint formats: one room per ecosystem, recognised by content, in one ordered registry.

All adapters look at all files, the most specific first. Two that claim the same files are an error, so
that the order settles nothing: it is the order of evidence in errors. What each goes by, with tensors
by their shapes in latents F, width D and M models or layers:

=============================== ====================================================================
gemma_scope.scope_1             one .npz of exactly W_enc, W_dec, b_enc, b_dec, threshold
gemma_scope.scope_2             .safetensors with w_enc, w_dec, b_enc, b_dec, threshold in lower
                                case
eleuther.clt_training           encoder.weight [F, D] with what only this fork of sparsify writes
                                (W_decs.N, post_enc)
eleuther.sparsify               cfg.json with d_in, encoder.weight and W_dec of the same shape [F,
                                D]
openmoss.llama_scope            hyperparams.json or config.json with hook_point_in; encoder.weight,
                                decoder.weight
openmoss.llamascopium           config.json with d_model and sae_type sae, crosscoder, clt …; W_E
native.crosscoder               three dimensions of W_enc with our tensor format_version, or our
                                format in cfg.json
crosscoders.crosscode           tensors _W_enc_XiDiL and _W_dec_LXoDo
cross_layer.circuit_tracer      W_enc and W_dec both [F, D] in a .safetensors per layer; or
                                W_enc_N, W_dec_N
cross_layer.crosslayer_coding   cfg.json with num_features, num_layers, d_model, activation_fn
crosscoders.open_interp         W_enc [2, D, F], W_dec [F, 2, D] and a threshold [F]
crosscoders.replication         W_enc [2, D, F], W_dec [F, 2, D] and no threshold
dictionary_learning.crosscoders encoder.weight and decoder.weight with three dimensions, or a class
                                that has them
dictionary_learning.run         config.json with trainer.dict_class, not one of a crosscoder
dictionary_learning.hub         config.json with activation_dim and dict_size at its top
batchtopk.sae                   config.json with sae_type, act_size and dict_size, or a run name
                                with them
saelens.sae                     cfg.json with d_in and d_sae; W_dec [F, D] and, unless it is tied,
                                W_enc [D, F]
saelens.connor_rob              NAME_cfg.json with act_size, dict_size, act_name beside NAME
single_file.openai              pre_bias, latent_bias and encoder.weight
single_file.goodfire            encoder_linear.weight and decoder_linear.weight
single_file.nanochat_sae        a pickle with a config of d_in, d_sae and an activation, beside
                                tensors of an SAE
saelens.temporal                conf.yaml with llm.dimin and sae.exp_factor; D, b and attn_layers.N
saelens.legacy                  a pickle of tensors and, under cfg, the config object of SAELens
                                before version 2
generic.dictionary              where none of these fits: tensors that are an encoder and a decoder
                                by name or shape
=============================== ====================================================================
"""

from __future__ import annotations

from saebench.adapters.batchtopk import sae as batchtopk_sae
from saebench.adapters.cross_layer import circuit_tracer, crosslayer_coding
from saebench.adapters.crosscoders import crosscode, open_interp
from saebench.adapters.crosscoders import replication as crosscoder_replication
from saebench.adapters.dictionary_learning import crosscoders as dictionary_crosscoders
from saebench.adapters.dictionary_learning import hub as dictionary_hub
from saebench.adapters.dictionary_learning import run as dictionary_run
from saebench.adapters.dictionary_learning.files import CONFIG_FILE
from saebench.adapters.eleuther import clt_training, sparsify
from saebench.adapters.gemma_scope import scope_1 as gemma_scope_1
from saebench.adapters.gemma_scope import scope_2 as gemma_scope_2
from saebench.adapters.generic import dictionary as generic_dictionary
from saebench.adapters.native import crosscoder as native_crosscoder
from saebench.adapters.openmoss import llama_scope, llamascopium
from saebench.adapters.reading.choices import Choices
from saebench.adapters.reading.claims import Adapter, Claim
from saebench.adapters.saelens import connor_rob, legacy, temporal
from saebench.adapters.saelens import sae as saelens_sae
from saebench.adapters.single_file import goodfire, nanochat_sae, openai
from saebench.errors import CheckpointError, UnknownFormatError
from saebench.files import CheckpointFiles
from saebench.weights import is_pickle, is_weights

ADAPTERS: tuple[Adapter, ...] = (
    gemma_scope_1,
    gemma_scope_2,
    clt_training,
    sparsify,
    llama_scope,
    llamascopium,
    native_crosscoder,
    crosscode,
    circuit_tracer,
    crosslayer_coding,
    open_interp,
    crosscoder_replication,
    dictionary_crosscoders,
    dictionary_run,
    dictionary_hub,
    batchtopk_sae,
    saelens_sae,
    connor_rob,
    openai,
    goodfire,
    nanochat_sae,
    temporal,
    legacy,
)
FALLBACK: Adapter = generic_dictionary  # asked only where none of the others fits

SHOWN = 6  # files, config keys of each and tensors of each listed in an error

__all__ = ["ADAPTERS", "Adapter", "Choices", "Claim", "claim"]


def claim(files: CheckpointFiles) -> tuple[Adapter, Claim]:
    """The one adapter that recognises the files.

    Raises :class:`UnknownFormatError` when none does, listing what was found, or when two do.
    """
    claims = [(adapter, found) for adapter in ADAPTERS if (found := adapter.sniff(files))]
    if len(claims) == 1:
        return claims[0]
    if claims:
        both = "; ".join(f"{item.format} by {', '.join(item.evidence)}" for _, item in claims)
        raise UnknownFormatError(
            f"the format of {files.root}",
            f"more than one fits: {both}",
            "Move the files of the other checkpoint out of the folder.",
        )
    found = FALLBACK.sniff(files)
    if found is not None:
        return FALLBACK, found
    raise _unknown(files)


def _unknown(files: CheckpointFiles) -> UnknownFormatError:
    """The error where no adapter fits, with the likely reason when there is one."""
    asked = f"the format of {files.root}"
    contents = {name: _content(files, name) for name in files.names}
    bare = [name for name, inside in contents.items() if set(inside) >= saelens_sae.KEY_TENSORS]
    if bare and not {saelens_sae.CONFIG_FILE, CONFIG_FILE} & set(files.names):
        return UnknownFormatError(
            asked,
            f"{saelens_sae.CONFIG_FILE} is missing beside {_shown(bare[0], contents[bare[0]])}",
            f"Copy the {saelens_sae.CONFIG_FILE} that belongs to these weights into the folder.",
        )
    parts = [_shown(name, inside) for name, inside in contents.items()]
    more = [f"and {len(parts) - SHOWN} more files"] if len(parts) > SHOWN else []
    found = f"none of the {len(ADAPTERS)} known formats fits {'; '.join(parts[:SHOWN] + more)}"
    if "architectures" in contents.get(CONFIG_FILE, {}):
        return UnknownFormatError(
            asked,
            f"{CONFIG_FILE} has 'architectures', as that of a language model has; {found}",
            "Reference the folder of an SAE here; this looks like the language model itself.",
        )
    next_step = "Convert it to the SAELens layout (cfg.json and sae_weights.safetensors)."
    return UnknownFormatError(asked, found, next_step)


def _content(files: CheckpointFiles, name: str) -> dict[str, str]:
    """The keys of a config, or the tensors of a weight file with their shapes; {} if unreadable."""
    try:
        if name.endswith(".json"):
            return dict.fromkeys(files.json(name), "")
        if name.endswith((".yaml", ".yml")):
            return {str(key): "" for key in files.yaml(name)}
        if is_weights(name) and (files.allow_pickle or not is_pickle(name)):
            return {key: f" {list(item.shape)}" for key, item in files.header(name).items()}
    except CheckpointError:
        if is_weights(name):
            raise  # of damaged weights that is the news, of a big tokenizer.json it is not
    return {}


def _shown(name: str, inside: dict[str, str]) -> str:
    """A file and the first of what is in it."""
    first = [f"{key!r:.80}{shape}" for key, shape in list(inside.items())[:SHOWN]]
    more = ", …" if len(inside) > SHOWN else ""
    return f"{name} ({', '.join(first)}{more})" if inside else name
