#!/usr/bin/env bash
# Makes .venv-oracles with the peers whose own output the tests compare with. Their pins get an environment
# of their own; the tests find it there, or at SAEBENCH_ORACLE_PYTHON.
set -euo pipefail
cd "$(dirname "$0")/../.."
python3 -m venv .venv-oracles
.venv-oracles/bin/pip install --quiet torch==2.13.0
.venv-oracles/bin/pip install --quiet sae-lens==6.54.12 dictionary-learning==0.1.0
# a plain install brings a torchvision that does not fit a CPU build of torch
.venv-oracles/bin/pip uninstall --quiet --yes torchvision
