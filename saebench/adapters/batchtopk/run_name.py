"""Run names that hold a training configuration, as the BatchTopK repository and its forks write them.

``{model}_{hook point}_{dict_size}_{sae_type}_{top_k}_{lr}[_{seed}[_{dataset}_{seq_len}[_{l1}]]]_{step}``:
BatchTopK itself writes no seed, matryoshka_sae may write one, FaithfulSAE adds the data. Models and
data sets may contain the separator, so that the parts are found from the hook point outwards.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

SAE_TYPES = (
    "vanilla",
    "topk",
    "batchtopk",
    "batch-topk",
    "global-matryoshka-topk",
    "jumprelu",
    "nnet",
    "sym",
)
MAX_NAME = 255  # as long as a folder can be called

_NUMBER = r"\d{1,20}(?:\.\d{1,20})?(?:e[+-]?\d{1,3})?"
_NAME = re.compile(
    r"(?P<model>.+?)"
    r"_(?P<hook_point>blocks\.\d{1,4}\.(?:\w+\.)?hook_[a-z]+(?:_[a-z]+)*)"
    r"_(?P<dict_size>\d{1,12})"
    rf"_(?P<sae_type>{'|'.join(SAE_TYPES)})"
    r"_(?P<top_k>\d{1,12})"
    rf"_(?P<lr>{_NUMBER})"
    r"(?P<data>_.+)?"
    r"_(?P<step>\d{1,12})",
    re.ASCII,
)
_DATA = re.compile(
    r"_(?P<seed>\d{1,12})"
    rf"(?:_(?P<dataset>.+)_(?P<seq_len>\d{{1,9}})(?:_(?P<l1_coeff>(?!\d+$){_NUMBER}))?)?",
    re.ASCII,
)


@dataclass(frozen=True)
class RunName:
    """What a run name says; ``lr`` and ``l1_coeff`` as numbers, None for parts that it lacks."""

    model: str
    hook_point: str
    dict_size: int
    sae_type: str
    top_k: int
    lr: float
    step: int
    seed: int | None = None
    dataset: str | None = None
    seq_len: int | None = None
    l1_coeff: float | None = None


def parse_run_name(name: str) -> RunName | None:
    """The parts of a run name; None for any other text.

    An L1 coefficient is told from a sequence length by not being a plain integer: the writers print
    a Python float.
    """
    found = _NAME.fullmatch(name) if len(name) <= MAX_NAME else None
    if found is None:
        return None
    data = _DATA.fullmatch(found["data"] or "")
    if found["data"] is not None and data is None:
        return None
    rest: dict[str, str | None] = data.groupdict() if data else {}
    lr, l1_coeff = _number(found["lr"]), _number(rest.get("l1_coeff"))
    if lr is None or not all(math.isfinite(value or 0.0) for value in (lr, l1_coeff)):
        return None
    return RunName(
        model=found["model"],
        hook_point=found["hook_point"],
        dict_size=int(found["dict_size"]),
        sae_type=found["sae_type"],
        top_k=int(found["top_k"]),
        lr=lr,
        step=int(found["step"]),
        seed=_integer(rest.get("seed")),
        dataset=rest.get("dataset"),
        seq_len=_integer(rest.get("seq_len")),
        l1_coeff=l1_coeff,
    )


def _integer(text: str | None) -> int | None:
    return None if text is None else int(text)


def _number(text: str | None) -> float | None:
    return None if text is None else float(text)
