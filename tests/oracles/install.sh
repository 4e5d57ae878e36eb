#!/usr/bin/env bash
# Makes .venv-oracles with the peers whose own output the tests compare with. Their pins get an environment
# of their own; the tests find it there, or at SAEBENCH_ORACLE_PYTHON.
set -euo pipefail
cd "$(dirname "$0")/../.."
python3 -m venv .venv-oracles
export PIP_CONSTRAINT=.venv-oracles/constraints.txt  # nothing may replace the CPU build of torch
echo torch==2.13.0 > "$PIP_CONSTRAINT"
pip=".venv-oracles/bin/pip install --quiet"
$pip torch
$pip sae-lens==6.54.12 dictionary-learning==0.1.0
# These ask for versions of transformers, numpy and datasets that contradict each other; what the
# comparisons use of them works with the ones that are there.
$pip --no-deps eai-sparsify==1.3.3 sae-bench==0.6.0 circuit-tracer==0.5.0 llamascopium==2.0.0b34
$pip accelerate cattrs json-repair more-itertools natsort openai pydantic-settings pymongo schedulefree \
  simple-parsing tomlkit
# a plain install brings a torchvision that does not fit a CPU build of torch
.venv-oracles/bin/pip uninstall --quiet --yes torchvision
