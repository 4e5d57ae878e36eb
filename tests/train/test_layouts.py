"""What is saved in a layout and loaded again is the same dictionary, with the same facts about it."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from saebench.activations import JumpReLU, ReLU, TopK
from saebench.cli import main
from saebench.loading import load_sae, open_checkpoint
from saebench.sae import SAE
from saebench.sae.normalization import Affine, AverageNorm, ConstantNorm
from saebench.train import save_checkpoint
from tests.train.dictionaries import MODELS, SITE, D, F, activations, dictionary

CLOSE = 5e-6  # of the largest value, in float32
EDGE = 1e-5  # pre-activations so near to their threshold may fall on either side
NAMES = ("site", "sites", "models", "difference", "k", "n_sources", "n_targets", "d_in", "d_sae")
ANY_NORMALIZATION = pytest.mark.parametrize("kind", ["none", "scale", "centre", "standardize"])
ANY_DTYPE = pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
ANY_BIAS = pytest.mark.parametrize("subtracts", [True, False], ids=["b_dec", "no-b_dec"])


def assert_close(found: Tensor, expected: Tensor, tolerance: float = CLOSE) -> None:
    worst = float((found - expected).abs().max())
    assert worst <= tolerance * float(expected.abs().max()), f"worst difference {worst:.3g}"


def assert_same(sae: SAE, loaded: SAE, *, size: float = 1.0, tolerance: float = CLOSE) -> None:
    """Codes and their support, reconstructions, decoder norms and facts."""
    cfg = sae.cfg
    x = activations(cfg.n_sources, seed=2, size=size)
    shaped = x.reshape(-1, cfg.n_sources, D) if cfg.n_sources > 1 else x
    before, after = sae.encode(shaped), loaded.encode(shaped)
    active = before != 0
    assert 0.05 < float(active.float().mean()) < 0.6, "the case shows nothing"
    differing = active != (after != 0)
    if bool(differing.any()):  # only where a code is at its threshold
        at_edge = torch.maximum(before, after) - thresholds_of(sae)
        assert float(at_edge[differing].abs().max()) <= EDGE
    assert_close(after[~differing], before[~differing], tolerance)
    assert_close(loaded.reconstruct(x)[1], sae.reconstruct(x)[1], tolerance)
    assert_close(loaded.decoder_norms(), sae.decoder_norms(), tolerance)
    for name in NAMES:
        assert getattr(loaded.cfg, name) == getattr(cfg, name), name


def thresholds_of(sae: SAE) -> Tensor:
    assert isinstance(sae.activation, JumpReLU)
    return sae.activation.threshold.expand(F)


class TestOurOwn:
    @ANY_NORMALIZATION
    @ANY_DTYPE
    @ANY_BIAS
    def test_an_sae_has_its_normalisation_folded_into_the_weights(
        self, tmp_path: Path, kind: str, dtype: str, subtracts: bool
    ) -> None:
        sae = dictionary(1, kind, dtype=dtype, subtracts=subtracts)
        loaded = load_sae(save_checkpoint(sae, tmp_path / "a"))
        assert_same(sae, loaded)
        assert loaded.cfg.normalization == "none"
        assert torch.equal(thresholds_of(loaded), thresholds_of(sae))

    def test_the_numbers_folded_are_on_record(self, tmp_path: Path) -> None:
        sae = dictionary(1, "standardize")
        norm = sae.normalization
        assert isinstance(norm, Affine)
        folder = save_checkpoint(sae, tmp_path / "a", provenance={"seeds": {"weights": 3}})
        ours = json.loads((folder / "cfg.json").read_text())["saebench"]
        assert ours["seeds"] == {"weights": 3}
        for name in ("scale", "shift", "scale_out", "shift_out"):
            stored = torch.tensor(ours["folded_normalization"][name])
            assert torch.equal(stored, getattr(norm, name)), name
        scaled = save_checkpoint(dictionary(1, "scale"), tmp_path / "b")
        stored = json.loads((scaled / "cfg.json").read_text())["saebench"]["folded_normalization"]
        assert isinstance(stored["scale"], float)
        assert stored["shift"] == 0

    def test_folded_matrices_keep_16_bits_only_where_those_hold_them(self, tmp_path: Path) -> None:
        sae = dictionary(1, "scale", dtype="bfloat16")
        for scale, expected in ((2.0, torch.bfloat16), (1.7, torch.float32)):
            sae.normalization = Affine(torch.tensor(scale))
            folder = save_checkpoint(sae, tmp_path / str(scale))
            assert load_file(folder / "sae_weights.safetensors")["W_enc"].dtype == expected

    @pytest.mark.parametrize("difference", ["1-0", "0-1"])
    def test_a_difference_keeps_its_direction_and_both_models(
        self, tmp_path: Path, difference: str
    ) -> None:
        sae = dictionary(1, "centre", difference=difference)
        folder = save_checkpoint(sae, tmp_path / "a", provenance={"models": [{"id": "org/base"}]})
        loaded = load_sae(folder)
        assert_same(sae, loaded)
        assert loaded.cfg.reads == sae.cfg.reads
        assert loaded.cfg.facts["difference"].source == "cfg.json: saebench.reads.difference"
        assert loaded.cfg.provenance["saebench"]["models"] == [{"id": "org/base"}]

    @pytest.mark.parametrize("n_sources", [2, 3])
    @pytest.mark.parametrize("sites", [True, False], ids=["sites", "site"])
    @ANY_NORMALIZATION
    @ANY_DTYPE
    def test_a_crosscoder_comes_back_as_it_was(
        self, tmp_path: Path, n_sources: int, sites: bool, kind: str, dtype: str
    ) -> None:
        sae = dictionary(n_sources, kind, sites=sites, dtype=dtype)
        folder = save_checkpoint(sae, tmp_path / "a", provenance={"seeds": {"weights": 3}})
        loaded = load_sae(folder)
        assert_same(sae, loaded)
        x = activations(n_sources, seed=3)
        assert torch.equal(loaded.reconstruct(x)[1], sae.reconstruct(x)[1])
        assert (loaded.cfg.dtype, loaded.cfg.normalization) == (dtype, sae.normalization.name)
        assert loaded.cfg.model == MODELS[0]
        assert loaded.cfg.provenance["saebench"]["seeds"] == {"weights": 3}

    @pytest.mark.parametrize("activation", [ReLU(), TopK(4)], ids=["relu", "topk"])
    @ANY_BIAS
    def test_a_crosscoder_keeps_its_activation(
        self, tmp_path: Path, activation: ReLU | TopK, subtracts: bool
    ) -> None:
        sae = dictionary(2, subtracts=subtracts)
        sae.activation = activation
        loaded = load_sae(save_checkpoint(sae, tmp_path / "a"))
        x = activations(2)
        assert torch.equal(loaded.encode(x.reshape(-1, 2, D)), sae.encode(x.reshape(-1, 2, D)))
        assert type(loaded.activation) is type(activation)

    def test_a_crosscoder_that_undoes_other_numbers_than_it_applies_keeps_both(
        self, tmp_path: Path
    ) -> None:
        sae = dictionary(2, "standardize")
        norm = sae.normalization
        assert isinstance(norm, Affine)
        out = {"scale_out": 1.5 / norm.scale, "shift_out": norm.shift + 1}
        sae.normalization = Affine(norm.scale, norm.shift, **out)
        loaded = load_sae(save_checkpoint(sae, tmp_path / "a"))
        assert_same(sae, loaded)

    def test_tokens_of_one_norm_are_a_normalisation_without_numbers(self, tmp_path: Path) -> None:
        sae = dictionary(2, "none")
        sae.normalization = ConstantNorm(2)
        loaded = load_sae(save_checkpoint(sae, tmp_path / "a"))
        x = activations(2)
        assert torch.equal(loaded.reconstruct(x)[1], sae.reconstruct(x)[1])

    def test_factors_estimated_on_data_are_stored(self, tmp_path: Path) -> None:
        sae = dictionary(2, "none")
        sae.normalization = AverageNorm(2)
        sae.normalization.estimate(activations(2, n=300))
        loaded = load_sae(save_checkpoint(sae, tmp_path / "a"))
        x = activations(2)
        assert_close(loaded.reconstruct(x)[1], sae.reconstruct(x)[1])

    def test_a_bias_in_front_of_the_encoder_that_is_not_the_decoders_is_moved_behind_it(
        self, tmp_path: Path
    ) -> None:
        for n_sources in (1, 2):
            sae = dictionary(n_sources, "standardize")
            sae.b_in = torch.linspace(-1, 1, n_sources * D)
            assert_same(sae, load_sae(save_checkpoint(sae, tmp_path / str(n_sources))))

    def test_activations_of_a_centred_model_are_on_record(self, tmp_path: Path) -> None:
        for n_sources in (1, 2):
            sae = dictionary(n_sources)
            sae.cfg = replace(sae.cfg, centred=True)
            assert load_sae(save_checkpoint(sae, tmp_path / str(n_sources))).cfg.centred


class TestDictionaryLearning:
    def save(self, sae: SAE, folder: Path, **options: object) -> SAE:
        return load_sae(save_checkpoint(sae, folder, layout="dictionary_learning", **options))  # type: ignore[arg-type,return-value]

    @ANY_NORMALIZATION
    @ANY_DTYPE
    @ANY_BIAS
    def test_an_sae_comes_back_as_it_was(
        self, tmp_path: Path, kind: str, dtype: str, subtracts: bool
    ) -> None:
        sae = dictionary(1, kind, dtype=dtype, subtracts=subtracts)
        loaded = self.save(sae, tmp_path / "a")
        assert_same(sae, loaded)
        if kind != "standardize":
            assert loaded.cfg.dtype == dtype
        assert loaded.cfg.model == MODELS[0]
        assert loaded.cfg.facts["normalization"].value == ("none" if kind == "none" else "affine")

    @pytest.mark.parametrize("difference", ["1-0", "0-1"])
    def test_a_difference_needs_no_settings(self, tmp_path: Path, difference: str) -> None:
        sae = dictionary(1, "centre", difference=difference)
        loaded = self.save(sae, tmp_path / "a", provenance={"seeds": {"weights": 3}})
        assert_same(sae, loaded)
        assert loaded.cfg.reads == sae.cfg.reads
        assert loaded.cfg.facts["difference"].how == "file"
        assert not [note for note in loaded.cfg.notes if "--set" in note]
        assert loaded.cfg.provenance["saebench"]["seeds"] == {"weights": 3}

    def test_the_training_config_has_the_keys_of_the_forks_runs(self, tmp_path: Path) -> None:
        sae = dictionary(1, "centre", difference="1-0", target=100.0)
        recipe = {"target_rms": 100.0, "normalization": "centre", "lr": 1e-4}
        self.save(sae, tmp_path / "a", provenance={"recipe": recipe})
        found = yaml.safe_load((tmp_path / "a" / "training_config.yaml").read_text())
        assert (found["target"], found["layer"], found["k"]) == ("difference_ftb", 1, sae.cfg.k)
        assert found["normalization"] == {"enabled": True, "target_rms": 100.0}
        assert (found["lr"], found["expansion_factor"]) == (1e-4, F / D)

    @pytest.mark.parametrize("n_sources", [2, 3])
    @pytest.mark.parametrize("sites", [True, False], ids=["sites", "site"])
    @pytest.mark.parametrize("kind", ["none", "scale", "centre"])
    @ANY_DTYPE
    @ANY_BIAS
    def test_a_crosscoder_comes_back_as_it_was(
        self, tmp_path: Path, n_sources: int, sites: bool, kind: str, dtype: str, subtracts: bool
    ) -> None:
        sae = dictionary(n_sources, kind, sites=sites, dtype=dtype, subtracts=subtracts)
        loaded = self.save(sae, tmp_path / "a")
        assert_same(sae, loaded)
        assert loaded.cfg.dtype == dtype

    @pytest.mark.parametrize("n_sources", [1, 2])
    @pytest.mark.parametrize("size", [1e-3, 300.0, 1e5])
    def test_activations_of_any_size_lose_no_digits(
        self, tmp_path: Path, n_sources: int, size: float
    ) -> None:
        sae = dictionary(n_sources, "centre", size=size)
        assert_same(sae, self.save(sae, tmp_path / "a"), size=size)

    @pytest.mark.parametrize(
        "site", ["blocks.2.hook_mlp_out", "blocks.0.hook_resid_pre", "blocks.3.attn.hook_z"]
    )
    @pytest.mark.parametrize("n_sources", [1, 2])
    def test_a_hook_point_that_is_no_layers_output_is_named(
        self, tmp_path: Path, site: str, n_sources: int
    ) -> None:
        sae = dictionary(n_sources)
        sae.cfg = replace(sae.cfg, site=site)
        assert self.save(sae, tmp_path / "a").cfg.site == site

    def test_hook_points_of_several_layers_are_named(self, tmp_path: Path) -> None:
        sae = dictionary(2, sites=True)
        sae.cfg = replace(sae.cfg, sites=("blocks.0.hook_mlp_out", "blocks.0.hook_resid_post"))
        assert self.save(sae, tmp_path / "a").cfg.sites == sae.cfg.sites

    def test_a_latent_without_a_direction_never_fires(self, tmp_path: Path) -> None:
        sae = dictionary(2, "scale")
        sae.W_dec[3] = 0
        sae.activation = JumpReLU(thresholds_of(sae).clone())
        sae.activation.threshold[3] = math.inf
        loaded = self.save(sae, tmp_path / "a")
        assert_same(sae, loaded)


class TestOpenInterp:
    def save(self, sae: SAE, folder: Path, **options: object) -> SAE:
        return load_sae(save_checkpoint(sae, folder, layout="open_interp", **options))  # type: ignore[arg-type,return-value]

    @pytest.mark.parametrize("kind", ["none", "scale"])
    @ANY_DTYPE
    @ANY_BIAS
    def test_a_crosscoder_of_two_models_comes_back_as_it_was(
        self, tmp_path: Path, kind: str, dtype: str, subtracts: bool
    ) -> None:
        sae = dictionary(2, kind, dtype=dtype, subtracts=subtracts)
        loaded = self.save(sae, tmp_path / "a", provenance={"seeds": {"weights": 3}})
        assert_same(sae, loaded)
        assert torch.equal(loaded.activation.threshold, sae.activation.threshold)  # type: ignore[arg-type]
        assert loaded.cfg.provenance["saebench"]["seeds"] == {"weights": 3}

    def test_thresholds_need_no_form(self, tmp_path: Path) -> None:
        sae = dictionary(2)
        sae.activation = JumpReLU(torch.linspace(-0.2, 1, F))
        loaded = self.save(sae, tmp_path / "a")
        x = activations(2).reshape(-1, 2, D)
        assert_close(loaded.encode(x), sae.encode(x))


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    layout=st.sampled_from(["saebench", "dictionary_learning", "open_interp"]),
    kind=st.sampled_from(["none", "scale", "centre", "standardize"]),
    n_sources=st.integers(1, 3),
    sites=st.booleans(),
    dtype=st.sampled_from(["float32", "bfloat16", "float16"]),
    subtracts=st.booleans(),
    seed=st.integers(0, 10_000),
    size=st.sampled_from([0.01, 1.0, 50.0]),
)
def test_every_combination_is_the_same_dictionary_or_refused(
    tmp_path_factory: pytest.TempPathFactory,
    layout: str,
    kind: str,
    n_sources: int,
    sites: bool,
    dtype: str,
    subtracts: bool,
    seed: int,
    size: float,
) -> None:
    from saebench.errors import OutputError

    sites = sites and n_sources > 1
    sae = dictionary(
        n_sources, kind, sites=sites, dtype=dtype, subtracts=subtracts, seed=seed, size=size
    )
    expressible = {
        "saebench": True,
        "dictionary_learning": n_sources == 1 or kind != "standardize",
        "open_interp": n_sources == 2 and not sites and kind in ("none", "scale"),
    }
    folder = tmp_path_factory.mktemp("layout") / "a"
    if not expressible[layout]:
        with pytest.raises(OutputError, match=layout):
            save_checkpoint(sae, folder, layout=layout)
        assert not folder.exists()
        return
    assert_same(sae, load_sae(save_checkpoint(sae, folder, layout=layout)), size=size)


@pytest.mark.parametrize(
    ("layout", "n_sources", "difference", "shown"),
    [
        ("saebench", 1, "1-0", "1-0"),
        ("saebench", 3, None, "saebench crosscoder"),
        ("dictionary_learning", 1, "0-1", "0-1"),
        ("dictionary_learning", 3, None, "org/other"),
        ("open_interp", 2, None, "org/tuned"),
    ],
)
def test_inspect_shows_the_facts(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    layout: str,
    n_sources: int,
    difference: str | None,
    shown: str,
) -> None:
    sae = dictionary(n_sources, "scale", difference=difference)
    rows = [{"step": 1, "fve": 0.5}]
    folder = save_checkpoint(sae, tmp_path / "a", layout=layout, history=rows)
    assert main(["inspect", str(folder)]) == 0
    text = capsys.readouterr().out
    assert shown in text
    assert SITE in text
    assert str(D) in text
    assert [json.loads((folder / "training.jsonl").read_text())] == rows
    assert open_checkpoint(folder).digests  # of the files that were read
