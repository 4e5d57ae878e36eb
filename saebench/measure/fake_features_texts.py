"""Which texts fake features are counted on, and under which protocols."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from saebench.data import TokenStream
from saebench.data.random_ids import random_stream, unigram_probabilities
from saebench.data.shuffled import shuffled_stream
from saebench.errors import ConfigError
from saebench.measure.run import Run
from saebench.metrics.fake_features.counting import (
    SEQUENCE,
    TOKEN,
    check_protocol,
    normalised,
    same_rule,
)
from saebench.protocols import FakeProtocol

REAL = "real"
CONFIGURED = "configured"
# The metrics of a protocol on a text; "" is whatever text the configuration names.
METRICS = {
    ("uniform", "token"): {
        "fake": "fake_token",
        "alive": "fake_token_alive",
        "specific": "fake_specific",
        "dense": "fake_dense",
    },
    ("uniform", "sequence"): {"fake": "fake_sequence", "alive": "fake_sequence_alive"},
    ("unigram", "token"): {"fake": "fake_unigram"},
    ("shuffled", "token"): {"fake": "fake_shuffled"},
    ("", CONFIGURED): {"fake": "fake_configured", "alive": "fake_configured_alive"},
}


@dataclass(frozen=True)
class Plan:
    """What is read and counted: ``protocol`` as configured, sequences of ``length`` tokens, BOS included.

    ``rides`` says whether the run's own text is the control: its sequences are as long. Who is alive, and
    relative thresholds, are of the run's own text in any case. The texts of the
    standard protocols have the length, number and seed of the configured one, and nothing else of it.
    """

    protocol: FakeProtocol
    length: int
    rides: bool

    @classmethod
    def of(cls, run: Run) -> Plan:
        """The plan of a run; raises :class:`ConfigError` for a protocol that counts nothing."""
        protocol = run.config.fake_features
        check_protocol(protocol)
        length = protocol.length or run.stream.context_size
        longest = run.located[0].context_size
        if longest is not None and length > longest:
            raise ConfigError(
                f"random sequences of length = {length} tokens",
                f"the model {run.located[0].id} was made for at most {longest}",
                "Lower length in [fake_features].",
            )
        return cls(replace(protocol, length=length), length, length == run.stream.context_size)

    @property
    def configured_on(self) -> str | None:
        """The text of the configured protocol; None where it says nothing beyond the standard ones."""
        ids, usual = self.protocol.ids, self.protocol.special and self.protocol.bos
        if ids == "shuffled" or (usual and ids == "unigram"):
            return ids
        if not usual:
            return CONFIGURED
        known = any(same_rule(self.protocol, one) for one in (TOKEN, SEQUENCE))
        return None if known else ids

    @property
    def protocols(self) -> dict[str, FakeProtocol]:
        """The protocols by name: ``token``, ``sequence``, and ``configured`` where it is another."""
        own = self.protocol
        found = {
            name: replace(one, length=own.length, n_sequences=own.n_sequences, seed=own.seed)
            for name, one in (("token", TOKEN), ("sequence", SEQUENCE))
        }
        return found | ({CONFIGURED: own} if self.configured_on else {})

    def protocols_on(self, text: str) -> dict[str, FakeProtocol]:
        """The protocols counted on a text: relative thresholds are only known after the real one."""
        return {
            name: protocol
            for name, protocol in self.protocols.items()
            if not (text == REAL and protocol.relative)
        }

    def resampled_on(self, text: str) -> list[str]:
        """The protocols that get an interval on a text; on the real one, what it is compared with."""
        if text == REAL:
            return ["token"]
        names = [protocol for where, protocol in METRICS if where == text]
        return names + ([CONFIGURED] if text == self.configured_on else [])

    def requested(self, text: str, protocol: str) -> int | None:
        """The tokens asked for, which the published code divides by; None where nothing does."""
        if text in (REAL, "shuffled") or self.protocols[protocol].unit != "token":
            return None
        return self.protocol.n_sequences * self.length

    def control(self, run: Run) -> TokenStream:
        """The real text: the run's own, or the same cut to this length."""
        return run.stream if self.rides else self.opened(run, self.protocol.n_sequences)

    def opened(self, run: Run, n_sequences: int) -> TokenStream:
        """The first sequences of the run's text, cut to this length."""
        data = run.config.data
        assert data is not None  # checked when the run was prepared
        most = n_sequences if data.n_sequences is None else min(n_sequences, data.n_sequences)
        return run.open(
            data.spec,
            context_size=self.length,
            n_sequences=most,
            n_tokens=data.n_tokens,
            pack=data.pack,
        )

    def identity(self, run: Run) -> dict[str, Any]:
        """JSON values that tell one plan from another."""
        found: dict[str, Any] = {
            "fake_features": normalised(self.protocol).to_json(),
            "random": self.random(run, special=True, bos=True).digest,
        }
        return found if self.rides else {**found, "real": self.control(run).digest}

    def random(self, run: Run, *, special: bool, bos: bool, **drawn: Any) -> TokenStream:
        """Random ids of the tokenizer's whole vocabulary, as far as the model has it."""
        return random_stream(
            run.tokenizer,
            vocab_size=drawn_from(run),
            length=self.length,
            n_sequences=self.protocol.n_sequences,
            special=special,
            bos=bos,
            seed=self.protocol.seed,
            **drawn,
        )


def texts(run: Run, plan: Plan, control: TokenStream) -> dict[str, TokenStream]:
    """Every random text that a plan reads, by name; what they are made from is read here."""
    protocol = plan.protocol
    # ids of the text may lie in the padding of the model's vocabulary, beyond the tokenizer: left out
    frequencies = unigram_probabilities(run.stream, drawn_from(run))
    n_sequences = min(protocol.n_sequences, control.tally().n_sequences)
    found = {
        "uniform": plan.random(run, special=True, bos=True),
        "unigram": plan.random(run, special=True, bos=True, probabilities=frequencies),
        "shuffled": shuffled_stream(plan.opened(run, n_sequences), seed=protocol.seed),
    }
    if plan.configured_on == CONFIGURED:
        drawn = {"probabilities": frequencies} if protocol.ids == "unigram" else {}
        found[CONFIGURED] = plan.random(run, special=protocol.special, bos=protocol.bos, **drawn)
    return found


def drawn_from(run: Run) -> int:
    """How many ids can be drawn: those of the tokenizer that the model has."""
    return min(run.vocab_size, len(run.tokenizer))
