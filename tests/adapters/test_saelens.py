"""SAELens configs and tensors: what is read from where, and every contradiction that is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from saebench.adapters.saelens.sae import LAYOUT_VERSION, PROVENANCE_KEY
from saebench.errors import CheckpointError, UnknownFormatError
from saebench.loading import load_sae
from saebench.sae import SAE

D_IN, D_SAE, D_OUT = 4, 10, 6
METADATA = {
    "model_name": "tiny",
    "hook_name": "blocks.1.hook_resid_post",
    "sae_lens_version": LAYOUT_VERSION,
}


def config(architecture: str = "standard", **keys: object) -> dict[str, Any]:
    base = {"architecture": architecture, "d_in": D_IN, "d_sae": D_SAE, "dtype": "float32"}
    base |= {"apply_b_dec_to_input": True, "normalize_activations": "none", "metadata": METADATA}
    found = base | keys
    return {key: value for key, value in found.items() if value is not ...}


def tensors(d_out: int = D_IN, **extra: Tensor) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    base = {"W_enc": normal(D_IN, D_SAE), "W_dec": normal(D_SAE, d_out)}
    return base | {"b_enc": normal(D_SAE), "b_dec": normal(d_out)} | extra


def write(path: Path, cfg: dict[str, Any], weights: dict[str, Tensor]) -> Path:
    path.mkdir(exist_ok=True)
    (path / "cfg.json").write_text(json.dumps(cfg))
    save_file({k: v.contiguous() for k, v in weights.items()}, path / "sae_weights.safetensors")
    return path


def refused(path: Path, cfg: dict[str, Any], weights: dict[str, Tensor]) -> str:
    with pytest.raises(CheckpointError) as error:
        load_sae(write(path / "sae", cfg, weights))
    return str(error.value)


class TestFacts:
    def test_every_fact_says_which_key_or_tensor_it_was_read_from(self, tmp_path: Path) -> None:
        weights = tensors() | {"W_dec": tensors()["W_dec"].half()}
        cfg = load_sae(write(tmp_path, config("topk", k=3), weights)).cfg
        sources = {name: (fact.value, fact.source, fact.how) for name, fact in cfg.facts.items()}
        assert sources["architecture"] == ("topk", "cfg.json: architecture", "file")
        assert sources["d_sae"] == (D_SAE, "cfg.json: d_sae", "file")
        assert sources["k"] == (3, "cfg.json: k", "file")
        assert sources["model"] == ("tiny", "cfg.json: metadata.model_name", "file")
        assert sources["site"][:2] == (METADATA["hook_name"], "cfg.json: metadata.hook_name")
        assert sources["dtype"] == ("float16", "sae_weights.safetensors: W_dec", "file")
        assert (cfg.format, cfg.k, cfg.dtype) == ("saelens", 3, "float16")

    def test_what_is_not_in_the_file_is_marked_as_assumed(self, tmp_path: Path) -> None:
        cfg = config(apply_b_dec_to_input=..., normalize_activations=..., architecture=...)
        facts = load_sae(write(tmp_path, cfg, tensors())).cfg.facts
        assert {name: facts[name].value for name in ("architecture", "subtract_b_dec")} == {
            "architecture": "standard",
            "subtract_b_dec": True,
        }
        for name in ("architecture", "subtract_b_dec", "normalization"):
            assert facts[name].how == "assumed"

    def test_weights_are_held_in_float32_whatever_the_file_stores(self, tmp_path: Path) -> None:
        weights = {key: value.bfloat16() for key, value in tensors().items()}
        sae = load_sae(write(tmp_path, config(), weights))
        assert sae.dtype == torch.float32
        assert torch.equal(sae.W_enc, weights["W_enc"].float())

    def test_an_exported_batchtopk_keeps_the_name_and_k_it_was_trained_with(
        self, tmp_path: Path
    ) -> None:
        trained = {
            "training_architecture": "matryoshka_batchtopk",
            "training_architecture_details": {"k": 3.0},
        }
        cfg = config("jumprelu", metadata=METADATA | trained)
        found = load_sae(write(tmp_path, cfg, tensors(threshold=torch.ones(D_SAE)))).cfg
        assert (found.architecture, found.k) == ("matryoshka_batchtopk", 3)
        assert found.facts["architecture"].source == "cfg.json: metadata.training_architecture"

    def test_flat_configs_of_older_versions_name_their_own_keys(self, tmp_path: Path) -> None:
        flat = {"hook_point": "blocks.2.hook_resid_pre", "model_name": "gpt2-small"}
        flat |= {"activation_fn_str": "topk", "activation_fn_kwargs": {"k": 2}}
        cfg = config("standard", metadata=..., normalize_activations=None, **flat)
        found = load_sae(write(tmp_path, cfg, tensors())).cfg
        assert (found.architecture, found.k, found.site) == ("topk", 2, "blocks.2.hook_resid_pre")
        assert found.facts["site"].source == "cfg.json: hook_point"
        assert found.facts["k"].source == "cfg.json: activation_fn_kwargs.k"

    def test_our_own_provenance_is_kept(self, tmp_path: Path) -> None:
        cfg = config(**{PROVENANCE_KEY: {"seed": 3}})
        provenance = load_sae(write(tmp_path, cfg, tensors())).cfg.provenance
        assert provenance[PROVENANCE_KEY] == {"seed": 3}

    def test_a_transcoder_reads_one_site_and_writes_another(self, tmp_path: Path) -> None:
        known = METADATA | {"hook_name_out": "blocks.1.hook_mlp_out"}
        cfg = config("transcoder", d_out=D_OUT, apply_b_dec_to_input=False, metadata=known)
        found = load_sae(write(tmp_path, cfg, tensors(D_OUT)))
        assert found.cfg.is_transcoder
        assert (found.cfg.d_out, found.cfg.site_out) == (D_OUT, "blocks.1.hook_mlp_out")
        assert found(torch.zeros(2, D_IN)).shape == (2, D_OUT)


class TestNotes:
    def note(self, path: Path, cfg: dict[str, Any], **extra: Tensor) -> str:
        return "; ".join(load_sae(write(path, cfg, tensors(**extra))).cfg.notes)

    @pytest.mark.parametrize("value", [True, "expected_average_only_in"])
    def test_scaling_by_an_average_is_not_applied_and_noted(
        self, tmp_path: Path, value: object
    ) -> None:
        plain = load_sae(write(tmp_path / "plain", config(), tensors()))
        scaled = load_sae(write(tmp_path / "x", config(normalize_activations=value), tensors()))
        x = torch.randn(3, D_IN)
        assert torch.equal(scaled(x), plain(x))
        assert scaled.cfg.normalization == "none"
        assert "is not applied" in scaled.cfg.notes[0]
        assert scaled.cfg.facts["normalization"].source == "cfg.json: normalize_activations"

    def test_an_unfinished_run_with_a_scale_of_its_own_is_noted(self, tmp_path: Path) -> None:
        write(tmp_path, config(), tensors())
        (tmp_path / "activation_scaler.json").write_text('{"scaling_factor": 0.25}')
        assert "its scale 0.25 is not folded in" in "; ".join(load_sae(tmp_path).cfg.notes)

    def test_tensors_that_nothing_uses_are_noted(self, tmp_path: Path) -> None:
        assert "not used: W_extra" in self.note(tmp_path, config(), W_extra=torch.ones(2))

    def test_a_threshold_never_estimated_is_noted(self, tmp_path: Path) -> None:
        cfg = config("batchtopk", k=2, rescale_acts_by_decoder_norm=True)
        zero = torch.zeros((), dtype=torch.float64)
        assert "training never estimated it" in self.note(tmp_path, cfg, topk_threshold=zero)

    def test_a_transcoder_without_an_output_site_is_noted(self, tmp_path: Path) -> None:
        cfg = config("transcoder", d_out=D_IN, apply_b_dec_to_input=False)
        assert "which hook point it writes" in self.note(tmp_path, cfg)

    def test_the_attention_head_is_noted(self, tmp_path: Path) -> None:
        cfg = config(metadata=METADATA | {"hook_head_index": 3})
        assert "attention head 3" in self.note(tmp_path, cfg)


class TestOlderScales:
    def test_a_finetuning_factor_scales_the_decoder_not_the_codes(self, tmp_path: Path) -> None:
        factor = torch.linspace(0.5, 2.0, D_SAE)
        cfg = config(metadata=..., finetuning_scaling_factor=True)
        sae = load_sae(write(tmp_path / "a", cfg, tensors(finetuning_scaling_factor=factor)))
        plain = load_sae(write(tmp_path / "b", config(), tensors()))
        x = torch.randn(5, D_IN)
        codes = plain.encode(x)
        assert torch.equal(sae.encode(x), codes)
        assert torch.allclose(sae.decode(codes), plain.decode(codes * factor), atol=1e-6)

    def test_factors_of_one_need_no_flag_and_others_do(self, tmp_path: Path) -> None:
        ones, twos = torch.ones(D_SAE), torch.full((D_SAE,), 2.0)
        load_sae(write(tmp_path / "a", config(), tensors(scaling_factor=ones)))
        message = refused(tmp_path, config(), tensors(scaling_factor=twos))
        assert "finetuning_scaling_factor true in cfg.json" in message

    def test_a_log_threshold_by_that_name_is_exponentiated(self, tmp_path: Path) -> None:
        logs = torch.linspace(-3, 0, D_SAE)
        sae = load_sae(write(tmp_path, config("jumprelu"), tensors(log_threshold=logs)))
        assert torch.allclose(sae.activation.threshold, logs.exp())

    def test_a_decoder_row_of_zeros_does_not_poison_a_rescaled_sae(self, tmp_path: Path) -> None:
        weights = tensors()
        weights["W_dec"][3] = 0
        cfg = config("topk", k=D_SAE, rescale_acts_by_decoder_norm=True)
        sae = load_sae(write(tmp_path, cfg, weights))
        assert bool(torch.isfinite(sae(torch.randn(4, D_IN))).all())


class TestContradictions:
    def test_a_width_other_than_the_tensors_names_file_key_expected_and_found(
        self, tmp_path: Path
    ) -> None:
        message = refused(tmp_path, config(d_in=D_IN + 1), tensors())
        assert "'W_enc' of sae_weights.safetensors with shape [d_in 5, d_sae 10]" in message
        assert f"shape [{D_IN}, {D_SAE}]" in message

    def test_a_number_of_latents_other_than_the_tensors(self, tmp_path: Path) -> None:
        assert "[d_in 4, d_sae 11]" in refused(tmp_path, config(d_sae=11), tensors())

    def test_transposed_weights(self, tmp_path: Path) -> None:
        weights = tensors() | {"W_enc": torch.ones(D_SAE, D_IN)}
        assert "neither is transposed" in refused(tmp_path, config(), weights)

    def test_more_latents_asked_for_than_there_are(self, tmp_path: Path) -> None:
        message = refused(tmp_path, config("topk", k=D_SAE + 1), tensors())
        assert "cfg.json: k of at most d_sae = 10: 11" in message

    @pytest.mark.parametrize("k", [0, -1, 2.5, "8", True, float("nan")])
    def test_a_k_that_is_no_positive_integer(self, tmp_path: Path, k: object) -> None:
        assert "cfg.json: k (a positive integer)" in refused(
            tmp_path, config("topk", k=k), tensors()
        )

    def test_a_k_of_null_is_called_null(self, tmp_path: Path) -> None:
        message = refused(tmp_path, config("topk", k=None), tensors())
        assert "k in cfg.json (a positive integer): null." in message

    def test_a_nested_k_of_null_is_called_null(self, tmp_path: Path) -> None:
        cfg = config(metadata=..., activation_fn_str="topk", activation_fn_kwargs={"k": None})
        message = refused(tmp_path, cfg, tensors())
        assert "activation_fn_kwargs.k in cfg.json (a positive integer): null." in message

    @pytest.mark.parametrize("dtype", ["float99", "int8", 7, True])
    def test_a_dtype_that_is_none(self, tmp_path: Path, dtype: object) -> None:
        message = refused(tmp_path, config(dtype=dtype), tensors())
        assert "cfg.json: dtype" in message
        assert f"{dtype!r}" in message

    @pytest.mark.parametrize("dtype", ["bfloat16", "torch.float32", None, ...])
    def test_a_dtype_of_any_version_is_accepted(self, tmp_path: Path, dtype: object) -> None:
        assert load_sae(write(tmp_path, config(dtype=dtype), tensors())).cfg.dtype == "float32"

    @pytest.mark.parametrize("value", ["hi", 3, ["a"], True])
    @pytest.mark.parametrize("key", ["metadata", "activation_fn_kwargs"])
    def test_a_table_that_is_none(self, tmp_path: Path, key: str, value: object) -> None:
        message = refused(tmp_path, config(**{key: value}), tensors())
        assert f"cfg.json: {key} (a table): {value!r}." in message

    @pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool])
    @pytest.mark.parametrize("name", ["W_enc", "b_dec"])
    def test_weights_that_are_no_floating_point_numbers(
        self, tmp_path: Path, name: str, dtype: torch.dtype
    ) -> None:
        weights = tensors()
        weights[name] = weights[name].to(dtype)
        message = refused(tmp_path, config(), weights)
        assert f"tensor '{name}' of sae_weights.safetensors with a floating dtype" in message
        assert str(dtype).removeprefix("torch.") in message

    def test_a_topk_without_k(self, tmp_path: Path) -> None:
        assert "k in cfg.json" in refused(tmp_path, config("topk"), tensors())

    @pytest.mark.parametrize("name", ["abs-topk", "\x1b[31mred"])
    def test_an_unknown_architecture_lists_the_known_ones(self, tmp_path: Path, name: str) -> None:
        message = refused(tmp_path, config(name), tensors())
        assert "one of standard, gated, jumprelu" in message
        assert "\x1b" not in message

    def test_an_activation_that_is_not_known(self, tmp_path: Path) -> None:
        cfg = config(metadata=..., activation_fn_str="gelu")
        assert "'gelu'" in refused(tmp_path, cfg, tensors())

    def test_a_normalisation_that_is_not_known(self, tmp_path: Path) -> None:
        cfg = config(normalize_activations="unit_norm")
        assert "'unit_norm'" in refused(tmp_path, cfg, tensors())

    def test_a_flag_that_is_no_flag(self, tmp_path: Path) -> None:
        cfg = config(apply_b_dec_to_input="yes")
        assert "cfg.json: apply_b_dec_to_input (true or false): 'yes'" in refused(
            tmp_path, cfg, tensors()
        )

    def test_a_transcoder_that_would_subtract_its_output_bias(self, tmp_path: Path) -> None:
        cfg = config("transcoder", d_out=D_OUT)
        assert "b_dec belongs to its output" in refused(tmp_path, cfg, tensors(D_OUT))

    @pytest.mark.parametrize(
        ("architecture", "missing"),
        [("gated", "r_mag"), ("jumprelu", "threshold"), ("skip_transcoder", "W_skip")],
    )
    def test_a_missing_tensor_is_named(
        self, tmp_path: Path, architecture: str, missing: str
    ) -> None:
        cfg = config(architecture, apply_b_dec_to_input=False, d_out=D_IN)
        extra = {} if architecture != "gated" else {"b_gate": torch.zeros(D_SAE)}
        message = refused(tmp_path, cfg, tensors(**extra))
        assert f"tensor '{missing}' in sae_weights.safetensors" in message

    @pytest.mark.parametrize(("value", "word"), [(float("nan"), "NaN"), (float("inf"), "infinite")])
    @pytest.mark.parametrize("name", ["W_enc", "W_dec", "b_enc", "b_dec"])
    def test_weights_that_are_not_finite(
        self, tmp_path: Path, name: str, value: float, word: str
    ) -> None:
        weights = tensors()
        weights[name].view(-1)[1] = value
        message = refused(tmp_path, config(), weights)
        assert f"tensor '{name}' of sae_weights.safetensors with finite values" in message
        assert f"1 of {weights[name].numel()} are {word}" in message

    def test_a_threshold_of_minus_one(self, tmp_path: Path) -> None:
        never = torch.full((D_SAE,), -1.0)
        message = refused(tmp_path, config("jumprelu"), tensors(threshold=never))
        assert "training never estimated it" in message

    def test_a_threshold_stored_as_its_logarithm(self, tmp_path: Path) -> None:
        logs = torch.linspace(-3, 0.5, D_SAE)
        message = refused(tmp_path, config("jumprelu"), tensors(threshold=logs))
        assert "the logarithm may have been stored" in message

    def test_a_truncated_weight_file(self, tmp_path: Path) -> None:
        file = write(tmp_path, config(), tensors()) / "sae_weights.safetensors"
        file.write_bytes(file.read_bytes()[:-8])
        with pytest.raises(CheckpointError, match=r"sae_weights\.safetensors as safetensors"):
            load_sae(tmp_path)

    def test_weights_without_a_config(self, tmp_path: Path) -> None:
        (write(tmp_path, config(), tensors()) / "cfg.json").unlink()
        with pytest.raises(UnknownFormatError, match=r"'W_dec' \[10, 4\]"):
            load_sae(tmp_path)
        missing = r"cfg\.json is missing beside sae_weights\.safetensors"
        with pytest.raises(UnknownFormatError, match=missing):
            load_sae(tmp_path)

    def test_a_config_without_weights(self, tmp_path: Path) -> None:
        (write(tmp_path, config(), tensors()) / "sae_weights.safetensors").unlink()
        with pytest.raises(CheckpointError, match=r"only cfg\.json"):
            load_sae(tmp_path)


def test_other_weight_files_beside_do_not_confuse(tmp_path: Path) -> None:
    write(tmp_path, config(), tensors())
    save_file({"sparsity": torch.zeros(D_SAE)}, tmp_path / "sparsity.safetensors")
    torch.save({"optimizer": 1}, tmp_path / "trainer_state.pt")
    assert isinstance(load_sae(tmp_path), SAE)


def test_the_name_of_the_folder_and_of_the_weights_does_not_matter(tmp_path: Path) -> None:
    folder = write(tmp_path / "gemma_topk_k64", config(), tensors())
    (folder / "sae_weights.safetensors").rename(folder / "weights.safetensors")
    found = load_sae(folder).cfg
    assert (found.architecture, found.k) == ("standard", None)


@pytest.mark.parametrize("centred", [True, False])
def test_a_model_whose_writing_weights_were_centred_is_read_centred(
    tmp_path: Path, centred: bool
) -> None:
    options = {"model_from_pretrained_kwargs": {"center_writing_weights": centred}}
    cfg = load_sae(write(tmp_path, config(metadata=options), tensors())).cfg
    assert cfg.centred == centred
    assert cfg.facts["centred"].how == "file"
    assert not load_sae(write(tmp_path / "without", config(), tensors())).cfg.centred


@pytest.mark.parametrize(
    "model", ["gpt2-small", "EleutherAI/pythia-70m-deduped", "facebook/opt-1b"]
)
@pytest.mark.parametrize("hook", ["hook_resid_pre", "hook_mlp_out", "hook_attn_out"])
def test_a_model_that_may_have_been_centred_is_taken_as_it_is_with_a_note(
    tmp_path: Path, model: str, hook: str
) -> None:
    metadata = METADATA | {"model_name": model, "hook_name": f"blocks.1.{hook}"}
    folder = write(tmp_path, config(metadata=metadata), tensors())
    cfg = load_sae(folder).cfg
    assert (cfg.centred, cfg.facts["centred"].how) == (False, "assumed")
    assert any("--set centred=true" in note for note in cfg.notes)
    said = load_sae(folder, settings={"centred": "true"}).cfg
    assert (said.centred, said.facts["centred"].how) == (True, "user")
    assert not any("centred=true" in note for note in said.notes)


@pytest.mark.parametrize(
    ("model", "hook"),
    [("gemma-2b", "hook_resid_post"), ("gpt2-small", "attn.hook_z"), ("gpt2-small", "mlp.hook_in")],
)
def test_centring_is_no_question_where_it_makes_no_difference(
    tmp_path: Path, model: str, hook: str
) -> None:
    metadata = METADATA | {"model_name": model, "hook_name": f"blocks.1.{hook}"}
    cfg = load_sae(write(tmp_path, config(metadata=metadata), tensors())).cfg
    assert "centred" not in cfg.facts
    assert not any("centred" in note for note in cfg.notes)


def test_a_transcoder_is_asked_about_by_what_it_writes(tmp_path: Path) -> None:
    metadata = METADATA | {"model_name": "gpt2", "hook_name": "blocks.1.ln2.hook_normalized"}
    metadata |= {"hook_name_out": "blocks.1.hook_mlp_out"}
    cfg = config("transcoder", d_out=D_IN, apply_b_dec_to_input=False, metadata=metadata)
    assert "centred" in load_sae(write(tmp_path, cfg, tensors())).cfg.facts
