"""What holds of a checkpoint of any format: how it fails, and what its codes depend on."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from pickle import UnpicklingError

import pytest
import torch
from torch import Tensor

from saebench.errors import CheckpointError
from saebench.files import CheckpointFiles
from saebench.loading import load_sae
from tests.adapters.goldens import given, golden_parameters, is_matrix
from tests.adapters.rewriting import change_tensors, files_in, fill_archive_with_nan

every_golden = pytest.mark.parametrize("path", golden_parameters())


@every_golden
def test_nan_in_the_matrices_is_refused_by_the_name_of_one(path: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(path, tmp_path / path.name))
    spoilt = []

    def change(name: str, values: Tensor) -> Tensor:
        if not is_matrix(tuple(values.shape)) or not values.is_floating_point():
            return values
        spoilt.append(name)
        return torch.full_like(values, math.nan)

    try:
        change_tensors(folder, change)
    except UnpicklingError:  # a config pickled as an object: the tensors are reached without it
        (weights,) = files_in(folder, weights=True)
        header = CheckpointFiles(folder, (weights.name,), allow_pickle=True).header(weights.name)
        matrices = {name: info for name, info in header.items() if is_matrix(info.shape)}
        fill_archive_with_nan(weights, 4 * min(math.prod(m.shape) for m in matrices.values()))
        spoilt = list(matrices)
    with pytest.raises(CheckpointError, match="NaN") as error:
        load_sae(folder, **given(path))
    names = [name.removeprefix("module.").removeprefix("_orig_mod.") for name in spoilt]
    assert any(f"tensor {name!r} of " in error.value.asked for name in names)


@every_golden
def test_codes_do_not_depend_on_the_batch(path: Path) -> None:
    sae = load_sae(path, **given(path))
    cfg = sae.cfg
    sources = (cfg.n_sources,) if cfg.n_sources > 1 else ()
    lead = (3, 2) if sae.needs_sequences else (6,)
    x = torch.randn(*lead, *sources, cfg.d_in, generator=torch.Generator().manual_seed(3))
    if sae.pending:
        sae.calibrate(x.reshape(-1, cfg.width_in))
    whole = sae.encode(x)
    for row in range(lead[0]):
        alone = sae.encode(x[row : row + 1])
        assert torch.equal(alone != 0, whole[row : row + 1] != 0)
        assert torch.allclose(alone, whole[row : row + 1], rtol=1e-4, atol=1e-5)


@every_golden
def test_what_the_contract_needs_is_on_record_with_its_origin(path: Path) -> None:
    facts = load_sae(path, **given(path)).cfg.facts
    needed = {"architecture", "d_in", "d_sae", "d_out", "dtype", "normalization", "subtract_b_dec"}
    assert needed <= set(facts)
    assert all(fact.source and fact.how in ("file", "user", "assumed") for fact in facts.values())
