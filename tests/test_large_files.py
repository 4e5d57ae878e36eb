"""Checkpoints of many gigabytes are inspected by their headers; loading holds nothing twice.

What counts is the high-water mark of resident memory (``VmHWM``), mapped pages of the files included,
over what the process had before: after its imports, or after it loaded a tiny checkpoint of the same
kind. Files of gigabytes are holes: their size is declared, their header and vectors are written, and
no disk is used.
"""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.adapters.goldens import GOLDEN, given
from tests.adapters.rewriting import enlarge

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="VmHWM is Linux's"
)

MIB = 2**20
FACTOR = 320  # widths of 2560 and 6400: 125 MiB for the two matrices of one SAE in float32

INSPECT = """
import sys, time
from pathlib import Path
from typing import Any
from saebench.loading import inspect

def high_water():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

before, started = high_water(), time.monotonic()
found = inspect(sys.argv[1], headers_only=True)
print(high_water() - before, time.monotonic() - started, found.format, found.facts["d_sae"].value)
"""

LOAD = """
import json, sys
from pathlib import Path
from typing import Any
from saebench.loading import load_sae

def memory(what):
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(what))

tiny, large, arguments = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
load_sae(tiny, **arguments)
Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again
before = memory("VmHWM")
sae = load_sae(large, **arguments)
kept = {(b.data_ptr(), b.numel()): b.numel() * b.element_size() for b in sae.buffers()}
print((memory("VmHWM") - before) / sum(kept.values()), sum(kept.values()))
"""


def write_hole(path: Path, shapes: dict[str, tuple[int, ...]], vectors: dict[str, Tensor]) -> None:
    """A safetensors file of float32 with the vectors written and all else a hole (zeros)."""
    header: dict[str, dict[str, Any]] = {}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, vector in vectors.items():
            file.seek(8 + len(text) + header[name]["data_offsets"][0])
            file.write(vector.float().numpy().tobytes())
        file.truncate(8 + len(text) + end)
    if path.stat().st_blocks * 512 > path.stat().st_size / 10:
        path.unlink()
        pytest.skip("the file system has no holes: this would fill the disk")


def saelens_of_two_million(folder: Path) -> int:
    """2²¹ latents of 768 dimensions, as SAELens saves a JumpReLU SAE."""
    d_in, d_sae = 768, 2**21
    config = json.loads((GOLDEN / "saelens/jumprelu-none-b_dec-subtracted/cfg.json").read_text())
    (folder / "cfg.json").write_text(json.dumps({**config, "d_in": d_in, "d_sae": d_sae}))
    shapes = {
        "W_enc": (d_in, d_sae),
        "W_dec": (d_sae, d_in),
        "b_dec": (d_in,),
        "b_enc": (d_sae,),
        "threshold": (d_sae,),
    }
    write_hole(folder / "sae_weights.safetensors", shapes, {"threshold": torch.full((d_sae,), 0.5)})
    return d_sae


def crosscoder_of_two_models(folder: Path) -> int:
    """73,728 latents over two models of 2,304 dimensions, as OpenInterpretability saves one."""
    d_in, d_sae = 2304, 73_728
    config = json.loads((GOLDEN / "open_interp/final/cfg.json").read_text())
    changed = {**config, "d_model": d_in, "n_features": d_sae}
    (folder / "cfg.json").write_text(json.dumps(changed))
    shapes = {
        "W_enc": (2, d_in, d_sae),
        "W_dec": (d_sae, 2, d_in),
        "b_enc": (d_sae,),
        "b_dec": (2, d_in),
        "threshold": (d_sae,),
    }
    vectors = {"threshold": torch.full((d_sae,), 0.5)}
    write_hole(folder / "crosscoder_final.safetensors", shapes, vectors)
    return d_sae


def run(code: str, *arguments: object) -> list[str]:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.split()


@pytest.mark.parametrize("write", [saelens_of_two_million, crosscoder_of_two_models])
def test_headers_of_a_checkpoint_of_gigabytes_are_inspected_in_little_memory_and_time(
    write: Callable[[Path], int], tmp_path: Path
) -> None:
    d_sae = write(tmp_path)
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) > 2.5 * 2**30
    memory, seconds, *_, latents = run(INSPECT, tmp_path)
    assert int(latents) == d_sae
    assert int(memory) < 150 * MIB
    assert float(seconds) < 10


@pytest.mark.parametrize(
    "case",
    [
        "saelens/topk-rescaled-none-b_dec-subtracted",
        "dictionary_learning/BatchTopKSAE",  # two torch Linear in a .pt
        "difference_sae/per_dimension",  # two torch Linear in safetensors
        "goodfire/bfloat16",
        "gemma_scope/residual",  # .npz
        "open_interp/final",  # [2, D, F]
        "dictionary_crosscoders/relu",  # [M, F, D]
        "clt_training/three_targets",  # put side by side
        "generic/tied-to-the-decoder",
    ],
)
def test_loading_peaks_at_most_15_percent_above_what_is_kept(case: str, tmp_path: Path) -> None:
    golden = GOLDEN / case
    large = tmp_path / golden.name
    shutil.copytree(golden, large)
    enlarge(large, FACTOR)
    ratio, kept = run(LOAD, golden, large, json.dumps(given(golden)))
    shutil.rmtree(large)
    assert float(kept) > 60 * MIB
    assert float(ratio) <= 1.15
