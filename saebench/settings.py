"""What can be said about a checkpoint where its files are silent: names and their meaning.

Not every format takes every setting: one that has no use for it refuses it.
"""

from __future__ import annotations

from collections.abc import Mapping

SETTINGS: Mapping[str, str] = {
    "activation": "relu, topk, batchtopk, jumprelu, gated or abstopk",
    "k": "latents kept per token (topk, abstopk), or on average (batchtopk)",
    "relu": "true or false: whether top-k rectifies the values it keeps",
    "threshold": "of jumprelu or batchtopk, in units of pre-activations; or estimate (from data, by k), "
    "log (the file holds logarithms) or stored (negative ones as they are)",
    "log_threshold": "true or false: whether the threshold tensor holds logarithms, as threshold=log",
    "subtract_b_dec": "true or false: whether b_dec is subtracted before the encoder",
    "orientation": "of the encoder in the file: d_in,d_sae or d_sae,d_in",
    "decoder_orientation": "of the decoder in the file: d_sae,d_in or d_in,d_sae",
    "d_in": "the width of the input, where shapes allow two readings",
    "d_sae": "the number of latents, where shapes allow two readings",
    "tied": "true: the missing matrix is the other one transposed",
    "normalize_decoder": "true: each decoder direction is scaled to norm 1 before use",
    "normalization": "none, layer_norm or constant_norm_rescale",
    "input_scale": "multiplied into the input and divided out again; of several sources, one each",
    "direction": "difference_ftb (second model minus first) or difference_bft",
    "sources": "models or layers: what a crosscoder reads side by side",
    "site": "the hook point read, and written unless site_out says otherwise",
    "site_out": "the hook point that a transcoder writes",
    "sites": "the hook points read, separated by commas, of one model",
    "sites_out": "the hook points written, separated by commas",
    "model": "the language model it was trained on",
    "models": "the language models it reads, separated by commas, in the order of the sources",
    "centred": "true: activations of a model that TransformerLens had centred (its default)",
    "training_samples": "how many different activations it was trained on",
    "training_text": "true: the text of the run is what it was trained on",
    "ignore": "names of tensors, separated by commas, that take no part",
}

ROLES: Mapping[str, str] = {
    "encoder": "the encoder matrix, in either orientation",
    "decoder": "the decoder matrix, in either orientation",
    "b_enc": "added to the pre-activations [d_sae]",
    "b_dec": "added to the reconstruction [d_out]; see --set subtract_b_dec",
    "b_in": "subtracted from the input and not added back [d_in]",
    "mean": "subtracted from the input and added back to the reconstruction [d_in]",
    "scale": "multiplied into the input after the mean and divided out again [d_in] or one number",
    "std": "divided out of the input after the mean and multiplied back [d_in] or one number",
    "threshold": "JumpReLU thresholds [d_sae], or one BatchTopK threshold",
    "skip": "the skip path of a transcoder [d_out, d_in]",
    "gate": "a gate matrix of its own, in the encoder's orientation",
    "b_gate": "the bias of the gate [d_sae]",
    "r_mag": "log of the ratio of magnitude to gate weights [d_sae]",
    "b_mag": "the bias of the magnitude [d_sae]",
}
