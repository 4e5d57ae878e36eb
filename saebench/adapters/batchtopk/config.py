"""What is known of a BatchTopK run beside its tensors: its ``config.json``, else its run name.

Both say the same in the same words, and the config counts where they differ. A name is a hint: what
is read from it is marked as assumed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from saebench.adapters.batchtopk.run_name import RunName, parse_run_name
from saebench.adapters.reading.choices import Choices
from saebench.adapters.reading.claims import Claim
from saebench.adapters.reading.fields import Fields
from saebench.adapters.reading.processing import FOLDED_VALUES, is_of_heads
from saebench.adapters.reading.tensors import Tensors
from saebench.errors import CheckpointError
from saebench.files import CheckpointFiles
from saebench.sae import Fact
from saebench.weights import is_weights

CONFIG_FILE = "config.json"
NAME = "the folder's name"
JUMP = "jumprelu"
GROUPED = ("global-matryoshka-topk",)
UNPROCESSED = ("batch-topk", *GROUPED)  # matryoshka_sae, which loads its models without processing
BATCH = ("batchtopk", *UNPROCESSED)
KINDS = ("vanilla", "topk", JUMP, *BATCH)
UNPUBLISHED = {"nnet": "NNetSAE", "sym": "SymSAE"}  # named by FaithfulSAE, defined nowhere
HOOKS = {"resid_pre", "resid_mid", "resid_post", "mlp_out", "attn_out"}
RUN_KEYS = (
    *("lr", "seed", "dataset_path", "seq_len", "step", "num_tokens", "batch_size", "l1_coeff"),
    *("top_k_aux", "aux_penalty", "n_batches_to_dead", "bandwidth", "group_sizes", "dtype"),
)
OTHER_ACTIVATIONS = ("abs", "quadratic", "softplus", "gelu")
MAX_GROUPS_TEXT = 10_000
RENAMED = {"model_name": "model", "dataset_path": "dataset"}  # config key: field of a run name


def is_config(data: Mapping[str, Any]) -> bool:
    """Whether a config is of this family, by keys that no other one has together."""
    return isinstance(data.get("sae_type"), str) and {"act_size", "dict_size"} <= set(data)


def run_name_of(hint: str) -> RunName | None:
    """The run name in the last folder of the path that a checkpoint goes by."""
    parts = [part for part in hint.split("/") if part]
    if parts and is_weights(parts[-1]):
        parts.pop()
    return parse_run_name(parts[-1]) if parts else None


@dataclass(frozen=True)
class Description:
    """Facts of a run: ``fields`` are of the config, or of the run name if there is no config."""

    fields: Fields
    name: RunName | None
    named_only: bool

    @classmethod
    def of(cls, files: CheckpointFiles, claim: Claim) -> Description:
        """What lies beside the claimed weights."""
        name = run_name_of(files.hint)
        if claim.configs:
            return cls(Fields(claim.config, files.json(claim.config)), name, False)
        assert name is not None  # sniff saw it
        said = asdict(name)
        data = {key: said.pop(field) for key, field in RENAMED.items()} | said
        return cls(Fields(NAME, data), name, True)

    def text(self, key: str) -> Fact | None:
        """A string, marked as assumed where it is from the name."""
        return self._mark(self.fields.text(key))

    def size(self, key: str) -> Fact:
        """A positive integer that has to be there."""
        fact = self._mark(self.fields.size(key))
        assert fact is not None
        return fact

    def sae_type(self) -> Fact:
        """The class trained; raises :class:`CheckpointError` for one without a published formula."""
        fact = self.text("sae_type")
        assert fact is not None  # sniff saw it
        if fact.value in UNPUBLISHED:
            raise CheckpointError(
                f"the formula of {fact.source} {fact.value!r}",
                f"its class {UNPUBLISHED[fact.value]} is named by FaithfulSAE's converter and "
                "defined in no published code",
                "Ask its author for the class, or for a conversion to SAELens.",
            )
        if fact.value not in KINDS:
            raise CheckpointError(
                f"{fact.source} (one of {', '.join(KINDS)})",
                repr(fact.value)[:200],
                "Correct the config, or fetch the config that belongs to these weights.",
            )
        for key, refused in (("tied_weights", (True,)), ("activation", OTHER_ACTIVATIONS)):
            if self.fields.value(key) in refused:
                raise CheckpointError(
                    f"{key} of {self.fields.file}",
                    f"{self.fields.value(key)!r}, which only unreleased versions of the class read",
                    "Convert the checkpoint to SAELens with the code that trained it.",
                )
        return fact

    def sizes(self, tensors: Tensors) -> tuple[Fact, Fact]:
        """``d_in`` and ``d_sae``: of a matryoshka SAE, the groups together."""
        shape = tensors.shape("W_enc")
        if len(shape) != 2:
            raise CheckpointError(
                f"tensor 'W_enc' of {tensors.file} with shape [d_in, d_sae]",
                f"shape {list(shape)}",
                "The config names a class that these weights are not of.",
            )
        source = f"{tensors.file}: shape of W_enc"
        d_in = self.fields.optional_size("act_size") or Fact(shape[0], source)
        groups = self._groups()
        if groups is not None and self.fields.value("sae_type") in GROUPED:
            return d_in, Fact(sum(groups), f"{self.fields.file}: sum of group_sizes")
        return d_in, self.size("dict_size")

    def site(self) -> Fact | None:
        """The hook point by its name, or by kind and layer."""
        named = self.text("hook_point")
        kind, layer = self.fields.value("site"), self.fields.value("layer")
        if named is not None or kind not in HOOKS or type(layer) is not int or layer < 0:
            return named
        return Fact(f"blocks.{layer}.hook_{kind}", f"{self.fields.file}: site and layer")

    def normalization(self, choices: Choices) -> Fact:
        """Whether tokens are standardised; a run name does not tell, and neither value is usual."""
        given = choices.text("normalization", ("layer_norm", "none"))
        if given is not None:
            return given
        if self.named_only:
            raise CheckpointError(
                f"input_unit_norm of a run without {CONFIG_FILE}",
                f"{NAME} does not say whether tokens were standardised, and runs differ",
                "Copy its config.json into the folder, or give --set normalization=layer_norm "
                "or --set normalization=none.",
            )
        flag = self.fields.flag("input_unit_norm", default=False)
        return replace(flag, value="layer_norm" if flag.value else "none")

    def adds_encoder_bias(self, kind: Fact) -> Fact:
        """Whether ``b_enc`` is added: by the class, or by an option of early versions."""
        if kind.value in ("vanilla", JUMP):
            return Fact(True, f"definition of sae_type {kind.value}", "assumed")
        if "use_encoder_bias" in self.fields:
            return self.fields.flag("use_encoder_bias", default=False)
        return Fact(False, f"definition of sae_type {kind.value}", "assumed")

    def processing(self, kind: Fact) -> Fact:
        """How TransformerLens had processed the model whose activations were trained on."""
        if kind.value in UNPROCESSED:
            return Fact("none", "matryoshka_sae loads models without processing", "assumed")
        return Fact(
            "TransformerLens default", "BatchTopK and FaithfulSAE load models so", "assumed"
        )

    def centred(self, kind: Fact) -> Fact:
        """Whether that processing took the mean over dimensions out of the residual stream."""
        return Fact(kind.value not in UNPROCESSED, self.processing(kind).source, "assumed")

    def notes(self, kind: Fact, normalization: Fact, d_sae: Fact) -> list[str]:
        """What a reader should know about config and name."""
        notes = []
        if kind.value not in UNPROCESSED and normalization.value == "none":
            notes.append(
                "activations came from TransformerLens with its default processing, which centres "
                "the residual stream of models with LayerNorm (GPT-2, Pythia); so does a run here, "
                "unless centred=false is set"
            )
        if kind.value not in UNPROCESSED and is_of_heads(self.site()):
            notes.append(FOLDED_VALUES)
        if self.named_only:
            notes.append(f"no {CONFIG_FILE}: what it would say is taken from {NAME}")
        said = self.fields.value("dict_size")
        if said != d_sae.value:
            notes.append(f"{d_sae.source} is {d_sae.value}, dict_size {said!r:.40}")
        return notes + self._differences()

    def provenance(self) -> dict[str, Any]:
        """How it was trained, as far as config and name tell."""
        run = {key: value for key in RUN_KEYS if (value := self.fields.value(key)) is not None}
        if self.name is not None:
            run.setdefault("step", self.name.step)
        return {"run": run}

    def _differences(self) -> list[str]:
        """Where the name contradicts the config; data sets and models are named by their last part."""
        if self.name is None or self.named_only:
            return []
        notes = []
        for field, said in asdict(self.name).items():
            key = next((key for key, name in RENAMED.items() if name == field), field)
            value = self.fields.value(key)
            if isinstance(value, str):
                value = value.rsplit("/", 1)[-1]
            if said is not None and value is not None and value != said:
                notes.append(
                    f"{NAME} says {key} {said!r}, {self.fields.file} {value!r:.80}, which counts"
                )
        return notes

    def _groups(self) -> list[int] | None:
        """The sizes of the groups, which the writer of the config turns into text."""
        value = self.fields.value("group_sizes")
        if value is None:
            return None
        groups = value
        if isinstance(value, str) and len(value) < MAX_GROUPS_TEXT:
            try:
                groups = json.loads(value)
            except (ValueError, RecursionError):
                groups = None
        if isinstance(groups, list) and groups and all(type(n) is int and n > 0 for n in groups):
            return groups
        raise CheckpointError(
            f"group_sizes in {self.fields.file} (positive integers)",
            repr(value)[:200],
            "Correct the config, or fetch the config that belongs to these weights.",
        )

    def _mark(self, fact: Fact | None) -> Fact | None:
        return replace(fact, how="assumed") if fact is not None and self.named_only else fact
