"""A configuration that has every key, and short ways to read one and its limits."""

from __future__ import annotations

from pathlib import Path

from saebench.config import Config, gates_for, load_config

FULL = """
model = "models/tiny"
data = "text/heldout.jsonl"
out = "reports/x"
batch_size = 8
device = "cuda:1"
confidence = true
suites = ["sparsity", "reconstruction"]
[gates]
fve = ">= 0.80"
ce_recovered = { limit = ">= 0.9", confidence = false, reason = "ours" }
l0 = false
[[sae]]
ref = "saes/topk-s0"
name = "first"
site = "blocks.2.hook_resid_pre"
allow_pickle = true
[sae.gates]
l0 = "16"
[[sae]]
ref = "hf:org/repo@main:a/b"
[[waiver]]
sae = "first"
metric = "fve"
reason = "trained for a tenth of the tokens"
expires = 2027-01-31
"""


def load(text: str, name: str = "saebench.toml") -> Config:
    Path(name).write_text(text, encoding="utf-8")
    return load_config(name)


def limits(config: Config, name: str = "any", k: int | None = None) -> dict[str, str]:
    return {gate.metric: str(gate.limit) for gate in gates_for(config, name, k)}
