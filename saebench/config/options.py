"""The options that the command line and the pytest plugin share, defined once.

``saebench run --batch-size 16`` hands ``--saebench-batch-size 16`` to pytest; both end up as keyword
arguments of :func:`saebench.config.merge_options`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from saebench.config.reading import load_config, merge_options
from saebench.config.schema import Config


@dataclass(frozen=True)
class Option:
    """One option: its flag without prefix, the keyword of ``merge_options``, and argparse settings."""

    flag: str
    keyword: str
    help: str
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def is_switch(self) -> bool:
        """Whether the option takes no value."""
        return self.settings.get("action") in ("store_true", "store_const")

    @property
    def repeats(self) -> bool:
        """Whether the option may be given several times."""
        return self.settings.get("action") == "append"


OPTIONS = (
    Option(
        "model",
        "model",
        "language model: a folder or a hub id (repeat, in their order, for checkpoints that read several)",
        {"action": "append", "metavar": "REF"},
    ),
    Option("revision", "revision", "revision of the model on the hub", {"metavar": "REV"}),
    Option(
        "precision",
        "precision",
        "regime the model runs in: float32, bfloat16, float16, int8, nf4, nf4+double+bf16, fp8, rtn4 …",
        {"metavar": "REGIME"},
    ),
    Option(
        "sae-dtype",
        "sae_dtype",
        "precision of the checkpoints' own products: float32, bfloat16 or float16",
        {"metavar": "DTYPE"},
    ),
    Option(
        "data",
        "data",
        "text: a .jsonl, .txt, .csv or .parquet file, a folder, hf:dataset#split:column, faithful:MODEL, "
        "uniform, unigram:SPEC or shuffled:SPEC",
        {"metavar": "SPEC"},
    ),
    Option("context-size", "context_size", "tokens per sequence", {"type": int, "metavar": "N"}),
    Option("sequences", "n_sequences", "how many sequences to read", {"type": int, "metavar": "N"}),
    Option("tokens", "n_tokens", "how many tokens to read", {"type": int, "metavar": "N"}),
    Option("mask", "mask", "positions not counted: special, bos or none", {"metavar": "POLICY"}),
    Option("out", "out", "folder for records and the report", {"metavar": "DIR"}),
    Option("batch-size", "batch_size", "sequences per forward pass", {"type": int, "metavar": "N"}),
    Option("device", "device", "auto, cpu, cuda, cuda:0 or mps", {"metavar": "DEVICE"}),
    Option(
        "suite",
        "suites",
        "run only this suite (repeat for several)",
        {"action": "append", "metavar": "NAME"},
    ),
    Option(
        "gate",
        "gates",
        "a limit for every checkpoint, such as 'fve >= 0.8' (repeat for several)",
        {"action": "append", "metavar": "LIMIT"},
    ),
    Option(
        "site",
        "site",
        "hook point, where the file names none or a wrong one: blocks.2.hook_resid_post, "
        "model.layers.2 or hidden_states[2]",
        {"metavar": "SITE"},
    ),
    Option(
        "set",
        "settings",
        "what a checkpoint's files leave open, such as k=10 or activation=topk (repeat for several)",
        {"action": "append", "metavar": "NAME=VALUE"},
    ),
    Option(
        "map",
        "tensors",
        "which tensor has which role, such as encoder=W_enc (repeat for several)",
        {"action": "append", "metavar": "ROLE=TENSOR"},
    ),
    Option(
        "group",
        "groups",
        "checkpoints that differ in their seed, by name patterns: 'topk=topk-s*' (repeat for several)",
        {"action": "append", "metavar": "NAME=PATTERN"},
    ),
    Option(
        "task",
        "tasks",
        "labelled text to probe on: a folder with train and test files, or sst2, cola, ag_news, "
        "yelp_polarity (repeat for several)",
        {"action": "append", "metavar": "[NAME=]REF"},
    ),
    Option(
        "match",
        "matching",
        "how groups are matched, such as threshold=0.7 (repeat for several)",
        {"action": "append", "metavar": "NAME=VALUE"},
    ),
    Option(
        "fake",
        "fake",
        "how fake features are counted, such as threshold=0.9 or unit=sequence (repeat for several)",
        {"action": "append", "metavar": "NAME=VALUE"},
    ),
    Option(
        "probe",
        "probe",
        "how probes are trained, such as pooling=last (repeat for several)",
        {"action": "append", "metavar": "NAME=VALUE"},
    ),
    Option(
        "variant",
        "variants",
        "another form of the model to carry checkpoints to: a precision (nf4), or a model "
        "(org/name@revision, a folder, also with ?precision=nf4) (repeat for several)",
        {"action": "append", "metavar": "[NAME=]WHAT"},
    ),
    Option(
        "concept",
        "concepts",
        "texts of two classes, with columns text and label (repeat for several)",
        {"action": "append", "metavar": "[NAME=]SPEC"},
    ),
    Option(
        "protocol",
        "protocols",
        "one value of a suite's protocol, such as steering.mode=clamp (repeat for several)",
        {"action": "append", "metavar": "SUITE.NAME=VALUE"},
    ),
    Option(
        "confidence",
        "confidence",
        "gate on the bound of the interval instead of the estimate",
        {"action": "store_const", "const": True},
    ),
    Option(
        "allow-pickle",
        "allow_pickle",
        "read .pt and .pkl files, as data only: no code in them is run",
        {"action": "store_const", "const": True},
    ),
)


def add_options(add: Callable[..., Any], *, prefix: str = "--", destination: str = "") -> None:
    """Declare every option through ``add`` (argparse's or pytest's ``add...`` method)."""
    for option in OPTIONS:
        settings = {"default": None, "help": option.help, **option.settings}
        add(f"{prefix}{option.flag}", dest=f"{destination}{option.keyword}", **settings)


def as_arguments(values: argparse.Namespace, *, prefix: str) -> list[str]:
    """The options that were given, written out again as arguments with another ``prefix``."""
    arguments: list[str] = []
    for option in OPTIONS:
        value = getattr(values, option.keyword)
        if value is None:
            continue
        if option.is_switch:
            arguments.append(f"{prefix}{option.flag}")
        else:
            items: Iterable[Any] = value if option.repeats else [value]
            arguments += [f"{prefix}{option.flag}={item}" for item in items]
    return arguments


def configured(
    config_file: str | None, saes: Iterable[str], value_of: Callable[[str], Any]
) -> Config:
    """The configuration of a file (or the nearest one) with the given options over it.

    Naming checkpoints, model and data on the command line needs no file; one that happens to lie in a
    parent folder is then still read, for its gates. Raises :class:`ConfigError`.
    """
    given = {option.keyword: value_of(option.keyword) for option in OPTIONS}
    options = {key: value for key, value in given.items() if value is not None}
    return merge_options(load_config(config_file), sae=tuple(saes), **options)
