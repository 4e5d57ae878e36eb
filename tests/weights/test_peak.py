"""Loading holds no second copy: the peak of the process is measured against what is kept.

What counts is the high-water mark of resident memory (``VmHWM``), mapped pages of the file included,
over that of the same process after it loaded a tiny file of the same kind.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import save_file

D_IN, D_SAE = 1024, 16_384  # 128 MiB for both matrices in float32

LOAD = """
import sys
from pathlib import Path
from saebench.adapters.reading.tensors import Tensors, scale_columns, scale_rows
from saebench.files import CheckpointFiles

def high_water():
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

def load(name, d_in, d_sae):
    files = CheckpointFiles(Path(sys.argv[1]), (name,), allow_pickle=True)
    tensors = Tensors(name, files.state_dict(name))
    linear = sys.argv[3] == "linear"
    W_enc = tensors.encoder("W_enc", d_in=d_in, d_sae=d_sae, linear=linear)
    W_dec = tensors.decoder("W_dec", d_sae=d_sae, d_out=d_in, linear=linear)
    scale = tensors.take("scale", d_sae=d_sae)
    return scale_columns(W_enc, scale), scale_rows(W_dec, scale)

load("tiny" + sys.argv[2], 8, 16)
before = high_water()
kept = load("big" + sys.argv[2], int(sys.argv[4]), int(sys.argv[5]))
print((high_water() - before) / sum(W.numel() * W.element_size() for W in kept))
"""


def npz(tensors: dict[str, torch.Tensor], path: Path) -> None:
    numpy.savez(path, **{key: tensor.numpy() for key, tensor in tensors.items()})


def old(tensors: dict[str, torch.Tensor], path: Path) -> None:
    torch.save(tensors, path, _use_new_zipfile_serialization=False)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="VmHWM is Linux's")
@pytest.mark.parametrize(
    ("layout", "dtype", "suffix", "save"),
    [
        ("rows", torch.float32, ".safetensors", save_file),
        ("linear", torch.float32, ".safetensors", save_file),
        ("rows", torch.bfloat16, ".safetensors", save_file),
        ("linear", torch.bfloat16, ".safetensors", save_file),
        ("rows", torch.float32, ".pt", torch.save),
        ("linear", torch.float32, ".pt", old),
        ("rows", torch.float32, ".npz", npz),
    ],
    ids=["f32", "f32 linear", "bf16", "bf16 linear", "pt", "pt before 1.6 linear", "npz"],
)
def test_the_peak_of_loading_is_at_most_1_15_of_what_is_kept(
    tmp_path: Path,
    layout: str,
    dtype: torch.dtype,
    suffix: str,
    save: Callable[[dict[str, torch.Tensor], Any], None],
) -> None:
    for name, d_in, d_sae in (("tiny", 8, 16), ("big", D_IN, D_SAE)):
        shapes = {"W_enc": (d_in, d_sae), "W_dec": (d_sae, d_in)}
        if layout == "linear":
            shapes = {key: shape[::-1] for key, shape in shapes.items()}
        tensors = {key: torch.ones(shape, dtype=dtype) for key, shape in shapes.items()}
        save({**tensors, "scale": torch.full((d_sae,), 2.0)}, tmp_path / f"{name}{suffix}")
    done = subprocess.run(
        [sys.executable, "-c", LOAD, tmp_path, suffix, layout, str(D_IN), str(D_SAE)],
        capture_output=True,
        text=True,
    )
    (tmp_path / f"big{suffix}").unlink()
    assert done.returncode == 0, done.stderr
    assert 0.95 < float(done.stdout) <= 1.15
