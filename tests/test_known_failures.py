"""How checkpoints are known to go wrong: each is refused with what is wrong, or loaded with it noted.

The rows are the symptoms that users of these formats report. Where loading cannot tell, the record has
to say what was assumed, so that the comparison with the other reading can be made.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from saebench.activations import JumpReLU, TopK
from saebench.diagnosis import diagnose
from saebench.errors import CheckpointError
from saebench.loading import load_sae
from saebench.sae import SAE
from tests.adapters.goldens import GOLDEN, given
from tests.adapters.rewriting import change_configs, change_tensors, files_in

ESTIMATE = "--set threshold=estimate"


def filled(key: str, value: float) -> Callable[[Path], None]:
    """All values of one tensor replaced, in every file that has it."""
    return tensor(key, lambda values: torch.full_like(values, value))


def tensor(key: str, change: Callable[[Tensor], Tensor | None]) -> Callable[[Path], None]:
    """One tensor as ``change`` gives it; None leaves it out."""

    def edit(folder: Path) -> None:
        seen = []

        def changed(name: str, values: Tensor) -> Tensor | None:
            if name != key:
                return values
            seen.append(name)
            return change(values)

        change_tensors(folder, changed)
        assert seen, f"there is no {key}"

    return edit


def replaced(old: object, new: object) -> Callable[[Path], None]:
    """One value of the configs in the place of another."""
    return lambda folder: change_configs(
        folder, lambda v: new if v == old and type(v) is type(old) else v
    )


def logarithms(values: Tensor) -> Tensor:
    return values.clamp_min(1e-3).log()


@dataclass(frozen=True)
class Refused:
    """A golden case edited until it has the fault, and what the message has to name."""

    row: str
    golden: str
    edit: Callable[[Path], None]
    says: tuple[str, ...]
    settings: dict[str, str] = field(default_factory=dict)


NEVER, LOG = ("-1, the initial value",), ("negative", "logarithm")
REFUSED = (
    *(
        Refused(
            f"dense L0: threshold −1 ({golden})", golden, filled(key, -1.0), (key, file, *NEVER)
        )
        for golden, file, key in (
            ("dictionary_learning/BatchTopKSAE", "ae.pt", "threshold"),
            ("dictionary_learning/MatryoshkaBatchTopKSAE", "ae.pt", "threshold"),
            ("dictionary_crosscoders/crosscoder", "model.safetensors", "threshold"),
            ("difference_sae/global", "model.safetensors", "threshold"),
            ("saelens/trained-batchtopk-exported", "sae_weights.safetensors", "threshold"),
            ("gemma_scope/residual", "params.npz", "threshold"),
            ("gemma_scope_2/resid_post", "params.safetensors", "threshold"),
            ("circuit_tracer/jumprelu", "layer_5.safetensors", "activation_function.threshold"),
            ("open_interp/final", "crosscoder_final.safetensors", "threshold"),
        )
    ),
    *(
        Refused(
            f"dense L0: logarithms ({golden})", golden, tensor(key, logarithms), (key, file, *LOG)
        )
        for golden, file, key in (
            ("dictionary_learning/JumpReluAutoEncoder", "ae.pt", "threshold"),
            ("difference_sae/jumprelu", "model.safetensors", "threshold"),
            ("saelens/jumprelu-none-b_dec-subtracted", "sae_weights.safetensors", "threshold"),
            ("gemma_scope/residual", "params.npz", "threshold"),
            ("gemma_scope_2/clt_affine", "params_layer_0.safetensors", "threshold"),
            ("circuit_tracer/clt-jumprelu", "W_enc_0.safetensors", "threshold_0"),
            ("open_interp/final", "crosscoder_final.safetensors", "threshold"),
        )
    ),
    Refused(
        "dense L0: thresholds never calibrated",
        "open_interp/final",
        filled("threshold", 0.0),
        ("crosscoder_final.safetensors", "never estimated", ESTIMATE),
    ),
    Refused(
        "dense L0: no threshold in the config",
        "llama_scope/v1-jumprelu",
        lambda folder: _drop(folder, "jump_relu_threshold"),
        ("hyperparams.json", "jump_relu_threshold", "no such key", "--set threshold="),
    ),
    Refused(
        "NaN output: half a normaliser",
        "difference_sae/global",
        filled("activation_std", math.nan),
        ("activation_std", "model.safetensors", "NaN only in"),
    ),
    Refused(
        "NaN output: one NaN in a mean",
        "dictionary_crosscoders/crosscoder",
        tensor("activation_mean", lambda values: values.index_fill(1, torch.tensor([0]), math.nan)),
        ("activation_mean", "model.safetensors", "NaN"),
    ),
    Refused(
        "negative FVE: normaliser without its averages",
        "llama_scope/v1-jumprelu",
        lambda folder: _drop(folder, "dataset_average_activation_norm"),
        ("hyperparams.json", "dataset_average_activation_norm.in", "no such key"),
    ),
    Refused(
        "garbage: transposed encoder",
        "dictionary_learning/BatchTopKSAE",
        tensor("encoder.weight", lambda values: values.T.contiguous()),
        ("ae.pt", "encoder.weight", "[d_sae 20, d_in 8]", "[8, 20]", "transposed"),
    ),
    Refused(
        "garbage: transposed decoder",
        "gemma_scope_2/resid_post",
        tensor("w_dec", lambda values: values.T.contiguous()),
        ("params.safetensors", "w_dec", "[d_sae 20, d_out 8]", "[8, 20]", "transposed"),
    ),
    Refused(
        "garbage: square matrices, orientation unknown",
        "generic/square-matrices",
        lambda folder: None,
        ("orientation", "--set orientation="),
        {"orientation": "", "decoder_orientation": ""},
    ),
    Refused(
        "weights without values",
        "crosscode/to_three_layers",
        tensor("_W_dec_LXoDo", lambda values: values[..., :0]),
        ("d_out of at least 1", "model.pt", "incomplete"),
    ),
    Refused(
        "k missing",
        "openai/topk-without-k",
        lambda folder: None,
        ("k", "--set k="),
        {"k": ""},
    ),
)


def _drop(folder: Path, key: str) -> None:
    for path in files_in(folder, weights=False):
        text = path.read_text()
        path.write_text(text.replace(f'"{key}"', '"of another version"'))


def copied(golden: str, target: Path) -> Path:
    return Path(shutil.copytree(GOLDEN / golden, target / Path(golden).name))


def arguments(golden: str, **settings: str) -> dict[str, Any]:
    """What the case needs; a setting of nothing leaves out what the case has."""
    known = given(GOLDEN / golden)
    both = {**known.get("settings", {}), **settings}
    return {**known, "settings": {key: value for key, value in both.items() if value}}


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.row)
def test_what_would_measure_nonsense_is_refused_by_file_key_and_value(
    case: Refused, tmp_path: Path
) -> None:
    folder = copied(case.golden, tmp_path)
    load_sae(folder, **arguments(case.golden))
    case.edit(folder)
    with pytest.raises(CheckpointError) as error:
        load_sae(folder, **arguments(case.golden, **case.settings))
    assert not [text for text in case.says if text not in str(error.value)], str(error.value)
    assert error.value.next_step


@dataclass(frozen=True)
class Noted:
    """A golden case that loads, what has to be in its notes, and what has to hold of it."""

    row: str
    golden: str
    edit: Callable[[Path], None]
    note: str
    holds: Callable[[SAE], bool] = lambda sae: True


NOTED = (
    Noted(
        "config constant and buffer differ: the buffer decides",
        "difference_sae/global",
        lambda folder: None,
        "config.json says target_rms 1 and the buffer of model.safetensors 100",
        lambda sae: sae.cfg.facts["target_rms"].value == 100.0,
    ),
    Noted(
        "config k and stored k differ: the stored one decides",
        "dictionary_crosscoders/crosscoder",
        lambda folder: None,
        "k is 100 and model.safetensors: k 4, used here",
        lambda sae: sae.cfg.k == 4,
    ),
    Noted(
        "a bias that the family never adds",
        "batchtopk/topk",
        filled("b_enc", 3.0),
        "b_enc of sae.pt is not zero (largest value 3)",
        lambda sae: sae.b_enc is None or not bool(sae.b_enc.any()),
    ),
    Noted(
        "input scale that no file has",
        "saelens/standard-expected_average_only_in-b_dec-subtracted",
        lambda folder: None,
        "no file has the scale",
    ),
    Noted(
        "input rule of top-k that no file has",
        "nanochat_sae/behaviour-parameters",
        lambda folder: None,
        "relu False is assumed",
        lambda sae: sae.cfg.facts["relu"].how == "assumed",
    ),
    Noted(
        "mid-training: backup of a run",
        "dictionary_learning/BatchTopKSAE-backup",
        lambda folder: None,
        "is the backup of an unfinished run",
    ),
    Noted(
        "mid-training: scaler not folded",
        "saelens/run-batchtopk-expected_average_only_in-middle",
        lambda folder: None,
        "the run was not finished",
    ),
    Noted(
        "mid-training: running threshold",
        "saelens/trained-batchtopk-checkpoint",
        lambda folder: None,
        "a training checkpoint",
    ),
    Noted(
        "mid-training: resume file",
        "open_interp/resume",
        lambda folder: None,
        "a checkpoint of a run that had not ended",
    ),
    Noted(
        "mid-training: state beside the weights",
        "nanochat_sae/run-checkpoint",
        lambda folder: None,
        "the tensors lay under 'sae_state_dict'",
    ),
    Noted(
        "thresholds of dead latents",
        "open_interp/final",
        lambda folder: None,
        "5 of 20 thresholds are 0",
    ),
)


@pytest.mark.parametrize("case", NOTED, ids=lambda case: case.row)
def test_what_the_files_contradict_or_leave_open_is_noted(case: Noted, tmp_path: Path) -> None:
    folder = copied(case.golden, tmp_path)
    case.edit(folder)
    sae = load_sae(folder, **arguments(case.golden))
    assert isinstance(sae, SAE)
    assert [note for note in sae.cfg.notes if case.note in note], sae.cfg.notes
    assert case.holds(sae)


def opened(golden: str) -> SAE:
    sae = load_sae(GOLDEN / golden, **given(GOLDEN / golden))
    assert isinstance(sae, SAE)
    return sae


@pytest.mark.parametrize("golden", ["difference_sae/nan", "dictionary_crosscoders/none"])
def test_buffers_of_nan_are_no_normaliser(golden: str) -> None:
    sae = opened(golden)
    assert sae.cfg.normalization == "none"
    assert "NaN" in sae.cfg.facts["normalization"].source
    x = torch.randn(3, *((sae.cfg.n_sources,) if sae.cfg.n_sources > 1 else ()), sae.cfg.d_in)
    assert bool(sae(x).isfinite().all())


@pytest.mark.parametrize(
    "golden",
    ["openai/topk", "batchtopk/topk", "sparsify/topk_sae", "saelens/topk-none-b_dec-subtracted"],
)
def test_top_k_stays_top_k_whatever_the_tensors_are_called(golden: str) -> None:
    sae = opened(golden)
    assert isinstance(sae.activation, TopK)
    x = 3 * torch.randn(50, sae.cfg.d_in)
    assert int((sae.encode(x) != 0).sum(-1).max()) <= (sae.cfg.k or 0) < sae.cfg.d_sae


@pytest.mark.parametrize(
    "golden",
    ["saelens/abstopk-rescaled-none-b_dec-subtracted", "generic/scaled-input-and-raw-top-k"],
)
def test_negative_codes_are_active(golden: str) -> None:
    sae = opened(golden)
    x = torch.randn(20, sae.cfg.d_in)
    codes = sae.encode(x)
    assert bool((codes < 0).any())
    assert torch.equal(sae.codes(x).counts(), (codes != 0).sum(-1).int())


@pytest.mark.parametrize(
    "golden", ["saelens/standard-none-b_dec-subtracted", "gemma_scope/residual"]
)
def test_decoder_norms_other_than_one_are_reported_and_not_required(golden: str) -> None:
    found = {finding.code: finding.severity for finding in diagnose(opened(golden))}
    assert found["norms"] == "info"


def test_16_bit_weights_are_computed_in_float32_and_said_to_be_16_bit() -> None:
    sae = opened("goodfire/bfloat16")
    assert sae.cfg.dtype == "bfloat16"
    assert sae.dtype is torch.float32
    assert "stored_16_bit" in {finding.code for finding in diagnose(sae)}


def test_stored_logarithms_are_thresholds_where_the_format_says_so() -> None:
    activation = opened("batchtopk/jumprelu").activation
    assert isinstance(activation, JumpReLU)
    assert bool((activation.threshold > 0).all())


def test_nested_dictionaries_and_skips_are_kept() -> None:
    assert (
        sum(opened("dictionary_learning/MatryoshkaBatchTopKSAE").cfg.facts["group_sizes"].value)
        == 20
    )
    for golden in (
        "sparsify/topk_transcoder_skip",
        "saelens/skip_transcoder-none",
        "circuit_tracer/relu-skip",
    ):
        assert opened(golden).W_skip is not None


@pytest.mark.parametrize(
    ("golden", "key", "dim"),
    [
        ("llama_scope/v1-jumprelu", "decoder.weight", 1),
        ("saelens/topk-rescaled-none-b_dec-subtracted", "W_dec", 0),
        ("llamascopium/sae-topk-plain", "W_D", 0),
        ("dictionary_crosscoders/crosscoder", "decoder.weight", 1),
    ],
)
def test_a_latent_without_a_decoder_direction_makes_no_nan_where_norms_scale_codes(
    golden: str, key: str, dim: int, tmp_path: Path
) -> None:
    folder = copied(golden, tmp_path)
    tensor(key, lambda values: values.index_fill(dim, torch.tensor([2]), 0.0))(folder)
    sae = load_sae(folder, **arguments(golden))
    sources = (sae.cfg.n_sources,) if sae.cfg.n_sources > 1 else ()
    x = 3 * torch.randn(50, *sources, sae.cfg.d_in)
    assert bool(sae.encode(x).isfinite().all())
    assert bool(sae(x).isfinite().all())
    assert bool(sae.decoder_norms().isfinite().all())
    assert float(sae.decoder_norms()[2].sum()) == 0
