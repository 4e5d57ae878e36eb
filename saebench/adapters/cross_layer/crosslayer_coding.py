"""Cross-layer transcoders of crosslayer-coding: ``cfg.json`` and one file with all layers.

Each layer has an encoder, and a decoder with a bias for itself and for every later layer. Inputs and
outputs were standardised with means and deviations that lie in ``norm_stats.json``, and deviations
have 1e-6 added. Runs with top-k rank latents by statistics of the batch, so that only those with
ReLU, or converted to JumpReLU, have codes that do not depend on the batch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saebench.activations import Activation, JumpReLU, ReLU
from saebench.adapters.reading.choices import Choices
from saebench.adapters.reading.claims import Claim
from saebench.adapters.reading.fields import Fields, config_from
from saebench.adapters.reading.readable import readable_headers
from saebench.adapters.reading.tensors import Tensors
from saebench.errors import CheckpointError
from saebench.files import CheckpointFiles
from saebench.sae import SAE, CrossLayerTranscoder, Fact
from saebench.sae.normalization import Affine
from saebench.weights import is_weights

FORMAT = "crosslayer_coding"
CONFIG_FILE = "cfg.json"
STATS_FILE = "norm_stats.json"
CONFIG_KEYS = ("num_features", "num_layers", "d_model", "activation_fn")
SHARD = re.compile(r"rank_\d+_model\.(pt|safetensors)")
STD_EPS = 1e-6
TEMPLATES = {"sites": "tl_input_template", "sites_out": "tl_output_template"}
METHODS = {  # by their names in all versions of the config
    "none": "none",
    "mean_std": "mean_std",
    "auto": "mean_std",
    "estimated_mean_std": "mean_std",
}


@dataclass(frozen=True)
class Names:
    """Where a version of the library keeps encoders, decoders and thresholds."""

    encoders: str
    decoders: str
    log_threshold: str


VERSIONS = (
    Names("encoder_module.encoders", "decoder_module.decoders", "theta_manager.log_threshold"),
    Names("encoders", "decoders", "log_threshold"),
)


def sniff(files: CheckpointFiles) -> Claim | None:
    """A claim when ``cfg.json`` counts features and layers and a file has numbered encoders."""
    if CONFIG_FILE not in files.names:
        return None
    fields = Fields(CONFIG_FILE, files.json(CONFIG_FILE))
    if not all(key in fields for key in CONFIG_KEYS):
        return None
    weights = [name for name, header in readable_headers(files) if _version(header) is not None]
    weights = weights or [name for name in files.names if SHARD.fullmatch(name)]
    weights = weights or [name for name in files.names if is_weights(name)][:1]
    if not weights:
        return None
    configs = (CONFIG_FILE, STATS_FILE) if STATS_FILE in files.names else (CONFIG_FILE,)
    evidence = (f"{CONFIG_FILE}: {', '.join(CONFIG_KEYS)}", f"weights {', '.join(weights[:4])}")
    return Claim(FORMAT, evidence, tuple(weights), configs)


def _version(tensors: Mapping[str, Any]) -> Names | None:
    return next((names for names in VERSIONS if f"{names.encoders}.0.weight" in tensors), None)


def read(files: CheckpointFiles, claim: Claim, choices: Choices) -> CrossLayerTranscoder:
    """The transcoder; raises :class:`CheckpointError` where its codes depend on the batch."""
    if len(claim.weights) > 1 or SHARD.fullmatch(claim.weight):
        raise CheckpointError(
            f"one weight file with all latents in {files.root}",
            ", ".join(claim.weights[:6]),
            "Merge the shards of a distributed run with the library, or reference one file.",
        )
    fields = Fields(CONFIG_FILE, files.json(CONFIG_FILE))
    stats = files.json(STATS_FILE) if STATS_FILE in claim.configs else None
    tensors = Tensors(claim.weight, files.state_dict(claim.weight))
    version = next((n for n in VERSIONS if f"{n.encoders}.0.weight" in tensors), VERSIONS[0])
    return _Reader(fields, tensors, version, stats, choices).read()


class _Reader:
    """One checkpoint in the course of being read."""

    def __init__(
        self,
        fields: Fields,
        tensors: Tensors,
        names: Names,
        stats: dict[str, Any] | None,
        choices: Choices,
    ) -> None:
        self.fields, self.tensors, self.names, self.stats = fields, tensors, names, stats
        self.sizes = {key: fields.size(key) for key in ("num_layers", "num_features", "d_model")}
        self.n, self.d_sae, self.d = (fact.value for fact in self.sizes.values())
        self.gate = self._gate()
        self._refuse_tied()
        self.method = self._method(choices)

    def read(self) -> CrossLayerTranscoder:
        self._check_sizes()
        bias = torch.zeros(self.n, self.d)
        thresholds = self._thresholds()
        layers = [self._layer(source, thresholds, bias) for source in range(self.n)]
        for target in range(self.n):
            mean, std = self._stats(target, "targets")
            bias[target] = bias[target] * std + mean
        sites = {name: self._sites(key) for name, key in TEMPLATES.items()}
        count = self.sizes["num_layers"]
        facts: dict[str, Fact | None] = {
            "architecture": Fact("cross_layer_transcoder", f"{CONFIG_FILE}: num_layers"),
            "activation": self.gate,
            "d_in": self.sizes["d_model"],
            "d_out": self.sizes["d_model"],
            "d_sae": Fact(self.n * self.d_sae, f"{CONFIG_FILE}: num_features times num_layers"),
            "n_sources": count,
            "n_targets": count,
            "model": self.fields.text("model_name"),
            "normalization": self.method,
            "dtype": Fact(self.tensors.dtype(self._encoder(0)), self._encoder(0)),
            "subtract_b_dec": Fact(False, "definition of the library's encoders", "assumed"),
            **sites,
        }
        unused = self.tensors.unused()
        notes = [f"tensors of {self.tensors.file} not used: {', '.join(unused)}"] if unused else []
        config = config_from(
            facts, format=FORMAT, notes=notes, provenance={"config": dict(self.fields.data)}
        )
        targets = [range(source, self.n) for source in range(self.n)]
        return CrossLayerTranscoder(config, layers, targets, bias)

    def _check_sizes(self) -> None:
        """Raise before anything is allocated by what the config says alone."""
        for layer in (0, self.n - 1):
            shape = self.tensors.shape(self._encoder(layer))
            if shape != (self.d_sae, self.d):
                raise CheckpointError(
                    f"tensor {self._encoder(layer)!r} of {self.tensors.file} with shape "
                    f"[num_features {self.d_sae}, d_model {self.d}]",
                    f"shape {list(shape)}",
                    "Fetch the config that belongs to these weights.",
                )

    def _gate(self) -> Fact:
        gate = self.fields.one_of(("relu", "jumprelu", "topk", "batchtopk"), "activation_fn")
        assert gate is not None  # sniff saw it
        if gate.value in ("topk", "batchtopk"):
            raise CheckpointError(
                f"{gate.source} of relu or jumprelu",
                f"{gate.value!r}, which ranks latents by their mean and deviation in the batch at hand",
                "Convert the checkpoint to JumpReLU with the library.",
            )
        return gate

    def _refuse_tied(self) -> None:
        for key, plain in (("decoder_tying", "none"), ("skip_connection", False)):
            value = self.fields.value(key)
            if value not in (None, plain):
                raise CheckpointError(
                    f"{CONFIG_FILE}: {key} {plain!r}",
                    repr(value)[:100],
                    "Only transcoders with a decoder for each pair of layers and no skips are read.",
                )

    def _method(self, choices: Choices) -> Fact:
        method = choices.text("normalization", tuple(METHODS))
        method = method or self.fields.text("normalization_method")
        if method is None and self.stats is not None:
            method = Fact("mean_std", f"{STATS_FILE} lies beside the weights", "assumed")
        if method is None or method.value not in METHODS:
            raise CheckpointError(
                f"{CONFIG_FILE}: normalization_method (none or mean_std)",
                "no such key" if method is None else repr(method.value)[:100],
                "Give it: --set normalization=none, or mean_std with norm_stats.json in the folder.",
            )
        found = METHODS[method.value]
        if found == "mean_std" and self.stats is None:
            raise CheckpointError(
                f"{STATS_FILE} beside {self.tensors.file} ({method.source} is {method.value})",
                "no such file",
                "Copy the statistics that belong to these weights into the folder.",
            )
        return Fact(found if found == "none" else Affine.name, method.source, method.how)

    def _encoder(self, layer: int) -> str:
        return f"{self.names.encoders}.{layer}.weight"

    def _thresholds(self) -> Tensor | None:
        if self.gate.value == "relu":
            if self.names.log_threshold in self.tensors:
                raise CheckpointError(
                    f"{self.gate.source} of jumprelu, for {self.tensors.file} has thresholds "
                    f"({self.names.log_threshold!r})",
                    "'relu'",
                    "Fetch the config that belongs to these weights; converted ones have another.",
                )
            return None
        logs = self.tensors.take(self.names.log_threshold, layers=self.n, d_sae=self.d_sae)
        return logs.exp()

    def _layer(self, source: int, thresholds: Tensor | None, bias: Tensor) -> SAE:
        n_targets = self.n - source
        W_dec = None
        scales = []
        for target in range(source, self.n):
            key = f"{self.names.decoders}.{source}->{target}"
            one = self.tensors.decoder(f"{key}.weight", d_sae=self.d_sae, d_out=self.d, linear=True)
            if W_dec is None:
                W_dec = one.new_empty(self.d_sae, n_targets, self.d)
            W_dec[:, target - source] = one
            bias[target] += self.tensors.take(f"{key}.bias_param", d_out=self.d)
            scales.append(self._stats(target, "targets")[1])
        assert W_dec is not None
        mean, std = self._stats(source, "inputs")
        activation: Activation = ReLU() if thresholds is None else JumpReLU(thresholds[source])
        facts: dict[str, Fact | None] = {
            "architecture": self.gate,
            "d_in": self.sizes["d_model"],
            "d_out": self.sizes["d_model"],
            "d_sae": self.sizes["num_features"],
            "n_targets": Fact(n_targets, f"{CONFIG_FILE}: num_layers"),
        }
        return SAE(
            config_from(facts, format=FORMAT, notes=[], provenance={}),
            activation,
            W_dec=W_dec.reshape(self.d_sae, -1),
            W_enc=self.tensors.encoder(
                self._encoder(source), d_in=self.d, d_sae=self.d_sae, linear=True
            ),
            b_enc=self.tensors.take(f"{self.names.encoders}.{source}.bias_param", d_sae=self.d_sae),
            b_dec=torch.zeros(n_targets * self.d),
            normalization=Affine(
                1 / std,
                mean,
                scale_out=torch.cat(scales),
                shift_out=torch.zeros(n_targets * self.d),
            ),
        )

    def _stats(self, layer: int, side: str) -> tuple[Tensor, Tensor]:
        """Mean and deviation of what a layer reads (``inputs``) or writes (``targets``), ``[d_model]``."""
        if self.method.value == "none":
            return torch.zeros(self.d), torch.ones(self.d)
        fields = Fields(STATS_FILE, self.stats or {})
        found = []
        for name in ("mean", "std"):
            key = f"{layer}.{side}.{name}"
            values = fields.value(key)
            numbers = isinstance(values, list) and all(
                isinstance(v, int | float) and not isinstance(v, bool) and abs(v) < 1e30
                for v in values
            )
            if not numbers or len(values) != self.d or (name == "std" and min(values) < 0):
                raise CheckpointError(
                    f"{STATS_FILE}: {key} ({self.d} numbers)",
                    "no such key" if values is None else repr(values)[:100],
                    "Fetch the statistics that belong to these weights.",
                )
            found.append(torch.tensor(values, dtype=torch.float32))
        return found[0], found[1] + STD_EPS

    def _sites(self, key: str) -> Fact | None:
        """Hook points of all layers from a template with {} for the layer."""
        template = self.fields.text(key)
        if template is None or "{}" not in template.value:
            return None
        names = tuple(template.value.replace("{}", str(i)) for i in range(self.n))
        return Fact(names, template.source)
