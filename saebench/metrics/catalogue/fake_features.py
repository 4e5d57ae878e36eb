"""Definitions of latents that fire on random text."""

from __future__ import annotations

from saebench.metrics.catalogue.definition import SHARE, Definition

RESAMPLED = (
    "bootstrap over sequences, latents taken as given and judged again in each (noise at the limit only): "
    "percentile and basic together, with the limit half a unit either side, and at least one latent"
)

_TOKEN = "#{j : fⱼ > 1 on > 10 % of random tokens"
_SEQUENCE = "#{j : Σₜ fⱼₜ > 1 in > 5 % of random sequences"
_CONFIGURED = "#{j : fake by the rule of [fake_features]"
_CODE = (
    "FaithfulSAE (arXiv 2506.17673), released code; there the share is of the tokens asked for, BOS "
    "included, here of those counted"
)
_PLANNED = "the count per sequence; it grows with their length, which is recorded"


def _share(name: str, label: str, formula: str, source: str) -> Definition:
    return Definition(
        name, label, formula, "fraction of latents", "lower", SHARE, source, RESAMPLED
    )


def _both(name: str, label: str, rule: str, source: str) -> tuple[Definition, Definition]:
    """The share of all latents, and that of those which fire on the run's real text."""
    alive = f"{rule}, and fⱼ ≠ 0 on real text}} / #{{j : fⱼ ≠ 0 on real text}}"
    return (
        _share(name, label, f"{rule}}} / m", source),
        _share(f"{name}_alive", f"{label}, of alive", alive, f"as {name}, over alive latents"),
    )


FAKE_FEATURES: tuple[Definition, ...] = (
    *_both("fake_token", "Fake features (tokens)", _TOKEN, _CODE),
    *_both("fake_sequence", "Fake features (sequences)", _SEQUENCE, _PLANNED),
    *_both("fake_configured", "Fake features (as configured)", _CONFIGURED, "the run's protocol"),
    _share(
        "fake_specific",
        "Fake features not on real text",
        f"{_TOKEN} and on ≤ 10 % of real tokens}} / m",
        "fake_token, with the same rule on real text as control",
    ),
    _share(
        "fake_dense",
        "Fake features dense on real text",
        f"{_TOKEN} and on > 10 % of real tokens}} / m",
        "fake_token − fake_specific: dense latents, fake by construction",
    ),
    _share(
        "fake_unigram",
        "Fake features (unigram text)",
        "fake_token on ids drawn with the frequencies of the real text",
        "control: which ids occur, without their order",
    ),
    _share(
        "fake_shuffled",
        "Fake features (shuffled text)",
        "fake_token on real sequences whose tokens are permuted",
        "control: real ids of one text, without their order",
    ),
)
