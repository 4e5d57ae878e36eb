"""The canonical model of a SAELens checkpoint, built from what was read of its config."""

from __future__ import annotations

from dataclasses import dataclass

from saebench.adapters.reading.choices import Choices
from saebench.adapters.reading.fields import Fields, config_from
from saebench.adapters.reading.tensors import Tensors
from saebench.adapters.saelens.architecture import PURSUIT, TEMPORAL
from saebench.adapters.saelens.context import provenance, warnings
from saebench.adapters.saelens.normalization import Inputs
from saebench.adapters.saelens.temporal_weights import read_attention, read_settings
from saebench.adapters.saelens.weights import read_weights
from saebench.errors import CheckpointError
from saebench.files import CheckpointFiles
from saebench.sae import SAE, Fact, SAEConfig
from saebench.sae.pursuit import MatchingPursuit
from saebench.sae.temporal import TemporalSAE

MAX_ROUNDS = 100_000  # of a pursuit; more would be a loop without an end


@dataclass
class Read:
    """A checkpoint's files, and what is known of it so far; ``architecture`` is the one it encodes as."""

    format: str
    files: CheckpointFiles
    fields: Fields
    tensors: Tensors
    choices: Choices
    architecture: Fact
    inputs: Inputs
    facts: dict[str, Fact | None]

    @property
    def sizes(self) -> tuple[int, int, int]:
        """``(d_in, d_sae, d_out)``."""
        return tuple(self.value(name) for name in ("d_in", "d_sae", "d_out"))  # type: ignore[return-value]

    def value(self, name: str) -> object:
        """The value of a fact that is there."""
        fact = self.facts[name]
        assert fact is not None
        return fact.value

    def config(self, notes: list[str]) -> SAEConfig:
        """The configuration, once all tensors that are needed were taken."""
        trained = self.facts["architecture"]
        assert trained is not None
        own = self.facts.get("threshold") is None
        more = warnings(self.fields, self.tensors, self.files, trained, own_threshold=own)
        return config_from(
            self.facts,
            format=self.format,
            notes=[*self.inputs.notes, *notes, *more],
            provenance=provenance(self.fields),
        )


def build(read: Read) -> SAE:
    """The model; raises :class:`CheckpointError` where tensors are missing or of other shapes."""
    if read.architecture.value == PURSUIT:
        return _pursuit(read)
    if read.architecture.value == TEMPORAL:
        return _temporal(read)
    weights = read_weights(
        read.fields, read.tensors, read.choices, read.architecture, read.sizes, read.facts["k"]
    )
    read.facts |= weights.facts
    return SAE(
        read.config(weights.notes),
        weights.activation,
        W_enc=weights.W_enc,
        W_dec=weights.W_dec,
        b_dec=weights.b_dec,
        b_enc=weights.b_enc,
        b_in=weights.b_dec if read.value("subtract_b_dec") else None,
        latent_scale=weights.latent_scale,
        W_skip=weights.W_skip,
        normalization=read.inputs.normalization,
    )


def _pursuit(read: Read) -> MatchingPursuit:
    """Matching pursuit: the decoder only, and the rules that end the pursuit of a token."""
    fields, (d_in, d_sae, _) = read.fields, read.sizes
    rounds = fields.optional_size("max_iterations")
    if rounds is None:
        source = f"not in {fields.file}: max_iterations defaults to d_in"
        rounds = Fact(d_in, source, "assumed")
    if rounds.value > MAX_ROUNDS:
        raise CheckpointError(
            f"{rounds.source} of at most {MAX_ROUNDS:,}", f"{rounds.value:,}", "Correct the config."
        )
    threshold = _residual_threshold(fields)
    repeat = fields.flag("stop_on_duplicate_support", default=True)
    W_dec = read.tensors.decoder("W_dec", d_sae=d_sae, d_out=d_in)
    b_dec = read.tensors.take("b_dec", d_in=d_in)
    read.facts |= {
        "max_iterations": rounds,
        "residual_threshold": threshold,
        "stop_on_duplicate_support": repeat,
    }
    centred = bool(read.value("subtract_b_dec"))
    notes = [] if centred else ["b_dec is in neither encoder nor decoder, as in SAELens"]
    return MatchingPursuit(
        read.config(notes),
        W_dec=W_dec,
        b_dec=b_dec if centred else b_dec * 0,
        b_in=b_dec if centred else None,
        residual_threshold=threshold.value,
        max_rounds=rounds.value,
        stop_on_repeat=repeat.value,
        normalization=read.inputs.normalization,
    )


def _residual_threshold(fields: Fields) -> Fact:
    key = "residual_threshold"
    value = fields.value(key)
    if value is None:
        return Fact(1e-2, f"not in {fields.file}: {key} defaults to 0.01", "assumed")
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise CheckpointError(
            f"{fields.file}: {key} (a number)", repr(value)[:200], "Correct the config."
        )
    return Fact(float(value), f"{fields.file}: {key}")


def _temporal(read: Read) -> TemporalSAE:
    """A temporal SAE: b_dec is left out where the encoder is tied and the input not centred."""
    tensors, (d_in, d_sae, _) = read.tensors, read.sizes
    settings = read_settings(read.fields, read.choices)
    read.facts |= settings.facts
    tied, centred = settings.tied_weights.value, bool(read.value("subtract_b_dec"))
    W_dec = tensors.decoder("W_dec", d_sae=d_sae, d_out=d_in)
    W_enc = None if tied else tensors.encoder("W_enc", d_in=d_in, d_sae=d_sae)
    b_dec = tensors.take("b_dec", d_in=d_in)
    attention = read_attention(tensors, settings, d_sae)
    notes = ["codes are of what earlier tokens do not predict: decoding them alone leaves that out"]
    return TemporalSAE(
        read.config(notes),
        settings.activation,
        W_dec=W_dec,
        b_dec=b_dec * 0 if tied and not centred else b_dec,
        W_enc=W_enc,
        b_in=b_dec if centred else None,
        attention=attention,
        normalization=read.inputs.normalization,
    )
