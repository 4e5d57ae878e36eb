"""Groups of checkpoints in a run: what is observed, which directions are compared, what is refused."""

import io
import json
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from saebench.activations import JumpReLU, ReLU
from saebench.codes import SparseCodes
from saebench.config import load_config
from saebench.errors import ConfigError
from saebench.evals.seeds import CodeSample, FiringCounts
from saebench.evals.seeds.directions import directions, units, why_none
from saebench.measure import prepare
from saebench.measure.jobs import run_jobs
from saebench.measure.progress import counted
from saebench.measure.run import Target
from saebench.measure.seeds import SeedsJob, check_group, group_key, identity
from saebench.metrics.catalogue import SEEDS
from saebench.passes import SubjectView
from saebench.record import Record
from saebench.sae import SAE, Crosscoder, CrossLayerTranscoder, SAEConfig, UntiedGatedSAE
from saebench.sae.normalization import Affine, AverageNorm, LayerNorm, Whitening
from saebench.sae.pursuit import MatchingPursuit
from saebench.train import save_checkpoint
from tests.small_runs import random_sae
from tests.small_world import SITE, make_world

D, M = 6, 9


def rand(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + 31 * len(shape)))


def weights(width=D, m=M, width_out=None):
    out = width_out or width
    return {"W_enc": rand(width, m), "W_dec": rand(m, out, seed=1), "b_dec": torch.zeros(out)}


def sae(cfg=None, kind=SAE, activation=None, **parts):
    return kind(cfg or SAEConfig("test", D, M, D), activation or ReLU(), **(weights() | parts))


def view(codes, ids):
    none = torch.empty(0)
    return SubjectView(none, none, codes, none, ids)


def stream(lengths, d_sae=7, seed=0):
    """Codes of sequences of these lengths, and the sequence of each token."""
    ids = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    rng = np.random.default_rng(seed)
    dense = rng.uniform(1, 2, (len(ids), d_sae)) * (rng.random((len(ids), d_sae)) < 0.4)
    return torch.from_numpy(dense).float(), ids


def sparse(dense):
    rows, columns = dense.nonzero(as_tuple=True)
    offsets = torch.zeros(len(dense) + 1, dtype=torch.int32)
    offsets[1:] = torch.bincount(rows, minlength=len(dense)).cumsum(0)
    return SparseCodes(dense[rows, columns], columns.int(), offsets, dense.shape[1])


def observed(observer, dense, ids, per_batch):
    for first in range(0, int(ids.max()) + 1, per_batch):
        rows = (ids >= first) & (ids < first + per_batch)
        observer.update(view(sparse(dense[rows]), ids[rows]))
    return observer


class TestObservers:
    @pytest.mark.parametrize("per_batch", [1, 2, 5, 9])
    @pytest.mark.parametrize(("n_tokens", "kept"), [(1, 4), (4, 4), (5, 10), (1000, 29)])
    def test_whole_sequences_are_kept_until_enough_tokens_are_there(
        self, per_batch, n_tokens, kept
    ):
        dense, ids = stream([4, 6, 3, 7, 2, 7])
        table = observed(CodeSample(7, n_tokens), dense, ids, per_batch).table()
        np.testing.assert_array_equal(table.codes.toarray(), dense[:kept])
        assert table.sequence_ids.tolist() == ids[:kept].tolist()

    def test_nothing_seen_is_an_empty_table(self):
        assert CodeSample(7, 10).table().codes.shape == (0, 7)

    def test_firings_and_their_mass_are_counted_over_the_whole_text(self):
        dense, ids = stream([4, 6, 3])
        found = observed(FiringCounts(7), dense, ids, 2)
        assert found.fired.tolist() == (dense != 0).sum(0).tolist()
        np.testing.assert_allclose(found.mass, dense.double().sum(0))
        assert found.n_tokens == 13

    def test_neither_asks_for_predictions_or_reconstructions(self):
        for one in (CodeSample(3, 1), FiringCounts(3)):
            assert not one.needs_predictions
            assert not one.needs_reconstruction


class TestDirections:
    def test_a_plain_sae_has_its_decoder_rows_and_encoder_columns(self):
        one = sae()
        assert directions(one, "decoder").equal(one.W_dec)
        assert directions(one, "encoder").equal(one.W_enc.T)
        assert units(one, "decoder") == "units of activations"

    @pytest.mark.parametrize(
        "normalization",
        [
            Affine(torch.rand(D) + 0.5, rand(D)),
            Affine(torch.tensor(0.3)),
            AverageNorm(1, torch.tensor([2.0])),
            Whitening(rand(D), rand(D, D), torch.linalg.inv(rand(D, D))),
        ],
        ids=["affine", "scalar", "average", "whitening"],
    )
    def test_a_fixed_normalisation_is_undone_on_both_sides(self, normalization):
        cfg = SAEConfig("test", D, M, D, normalization=normalization.name)
        one = sae(cfg, normalization=normalization, b_enc=torch.full((M,), 50.0))
        x, step = rand(1, D, seed=7), rand(1, D, seed=8)
        # the change of each pre-activation along a step is the encoder row times the step
        change = one.encode(x + step) - one.encode(x)
        torch.testing.assert_close(
            step @ directions(one, "encoder").T, change, rtol=1e-3, atol=1e-4
        )
        # a code of one adds its decoder row
        added = one.decode(torch.eye(M)) - one.decode(torch.zeros(M, M))
        torch.testing.assert_close(directions(one, "decoder"), added, rtol=1e-4, atol=1e-5)
        assert "undone" in units(one, "decoder")

    def test_a_normalisation_token_by_token_leaves_the_units_of_the_files(self):
        cfg = SAEConfig("test", D, M, D, normalization="layer_norm")
        one = sae(cfg, normalization=LayerNorm())
        assert directions(one, "encoder").equal(one.W_enc.T)
        assert units(one, "encoder") == "units of the files (layer_norm)"

    def test_a_transcoder_does_not_undo_the_normalisation_of_its_input_on_its_output(self):
        cfg = SAEConfig("test", D, M, D, normalization="affine", undo_normalization=False)
        one = sae(cfg, normalization=Affine(torch.rand(D) + 1))
        assert directions(one, "decoder").equal(one.W_dec)
        assert not directions(one, "encoder").equal(one.W_enc.T)

    def test_a_negative_scale_turns_a_latent_over(self):
        scale = torch.ones(M)
        scale[2] = -3
        one = sae(latent_scale=scale, b_enc=torch.full((M,), 0.0))
        added = one.decode(torch.eye(M)) - one.decode(torch.zeros(M, M))
        cosine = torch.nn.functional.cosine_similarity(directions(one, "decoder"), added)
        torch.testing.assert_close(cosine, torch.ones(M))
        assert directions(one, "encoder")[2].equal(-one.W_enc[:, 2])

    def test_a_crosscoder_has_its_sources_side_by_side(self):
        cfg = SAEConfig("crosscoder", D, M, D, n_sources=2, n_targets=2)
        one = Crosscoder(cfg, ReLU(), **weights(2 * D))
        assert directions(one, "decoder").shape == directions(one, "encoder").shape == (M, 2 * D)

    def test_a_cross_layer_transcoder_has_zeros_where_it_neither_reads_nor_writes(self):
        layers = [
            SAE(
                SAEConfig("jumprelu", D, M, D, n_targets=2 - s),
                JumpReLU(torch.zeros(M)),
                **weights(width_out=(2 - s) * D),
            )
            for s in range(2)
        ]
        cfg = SAEConfig("clt", D, 2 * M, D, n_sources=2, n_targets=2)
        one = CrossLayerTranscoder(cfg, layers, [[0, 1], [1]], torch.zeros(2, D))
        decoder, encoder = directions(one, "decoder"), directions(one, "encoder")
        added = (one.decode(torch.eye(2 * M))).flatten(1)
        torch.testing.assert_close(decoder, added)
        assert encoder[:M, :D].equal(layers[0].W_enc.T)
        assert encoder[M:, D:].equal(layers[1].W_enc.T)
        assert not encoder[:M, D:].any()
        assert not encoder[M:, :D].any()

    def test_what_has_no_plain_encoder_says_so(self):
        gated = sae(kind=UntiedGatedSAE, W_gate=rand(D, M), b_gate=torch.zeros(M))
        pursuit = MatchingPursuit(
            SAEConfig("mp", D, M, D),
            W_dec=rand(M, D),
            b_dec=torch.zeros(D),
            residual_threshold=0.0,
            max_rounds=3,
            stop_on_repeat=True,
        )
        for one, word in ((gated, "gate"), (pursuit, "pursuit")):
            assert directions(one, "encoder") is None
            assert word in why_none(one, "encoder")
            assert directions(one, "decoder") is not None

    def test_vectors_that_would_not_fit_are_not_made(self, monkeypatch):
        monkeypatch.setattr("saebench.evals.seeds.directions.MAX_WEIGHTS", M * D - 1)
        assert directions(sae(), "decoder") is None
        assert "too many" in why_none(sae(), "decoder")


def target(name, **facts):
    facts = {"site": SITE, "model": "org/model"} | facts
    cfg = replace(SAEConfig("test", D, M, D), **facts)
    return Target(name, SimpleNamespace(sae=SimpleNamespace(cfg=cfg)))


class TestGroups:
    @pytest.mark.parametrize(
        ("facts", "asked", "found"),
        [
            ({"d_in": 7, "d_out": 7}, "one width", "d_in 6: a; d_in 7: b"),
            ({"d_out": 7}, "one width", "d_in 6, d_out 7: b"),
            ({"n_sources": 2, "n_targets": 2}, "one width", "d_in 2 × 6: b"),
            ({"site": "blocks.2.hook_resid_post"}, "one hook point", "blocks.2.hook_resid_post: b"),
            ({"site_out": "blocks.1.hook_mlp_out"}, "one hook point", "→ blocks.1.hook_mlp_out"),
            ({"model": "org/other"}, "one language model", "org/model: a; org/other: b"),
        ],
    )
    def test_checkpoints_that_cannot_be_compared_are_refused(self, facts, asked, found):
        with pytest.raises(ConfigError) as caught:
            check_group("topk", [target("a"), target("b", **facts)])
        assert asked in caught.value.asked
        assert "'topk'" in caught.value.asked
        assert found in caught.value.found
        assert "Group checkpoints of one" in caught.value.next_step

    @pytest.mark.parametrize("names", [(), ("a",), ("a", "a")])
    def test_a_group_needs_two_checkpoints(self, names):
        with pytest.raises(ConfigError, match="two or more checkpoints"):
            check_group("topk", [target(name) for name in names])

    def test_other_numbers_of_latents_names_of_a_site_and_unstated_models_are_fine(self):
        members = [target("a"), target("b", d_sae=50), target("c", model=None)]
        check_group("topk", [*members, target("d", site="model.layers.1", k=8)])
        two = {"model": "gpt2"}, {"model": "openai-community/gpt2"}
        check_group("topk", [target(str(i), **facts) for i, facts in enumerate(two)])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    world = make_world(tmp_path_factory.mktemp("seeds"))
    for seed in (1, 2, 3):
        one = random_sae(seed)
        one.cfg = replace(one.cfg, site=SITE, model="counting")
        save_checkpoint(one, world.folder / "saes" / f"s{seed}")
    path = world.folder / "saebench.toml"
    names = ("s1", "s2", "s3")
    path.write_text(world.config("seeds = { n_tokens = 200, top_k = 4 }", saes=names))
    config = replace(load_config(path), out=world.folder / "out")
    return prepare(config, [(spec.ref.split("/")[-1], spec.ref, spec) for spec in config.saes])


@pytest.fixture(scope="module")
def records(run):
    groups = [("all", run.targets), ("two", run.targets[:2])]
    return {record.name: record for record in run_jobs(run, [SeedsJob(run, groups)])}


class TestRuns:
    def test_every_group_has_a_record_with_every_metric(self, run, records):
        assert list(records) == ["all", "two"]
        record = records["all"]
        assert record.part == "seeds"
        assert set(record.measurements) == {one.metric for one in SEEDS}
        assert set(record.definitions) == set(record.measurements)
        assert record.checkpoint["members"] == ["s1", "s2", "s3"]
        assert record.checkpoint["files"].keys() == {"s1", "s2", "s3"}
        assert len(record.details["seeds"]["pairs"]) == 3
        assert record.details["seeds"]["threshold"] == 0.7
        assert all(item.value is not None for item in record.measurements.values())
        assert record.key == group_key(run, "all", run.targets)

    def test_a_record_survives_strict_json(self, records):
        for record in records.values():
            text = json.dumps(record.to_json(), allow_nan=False)
            assert Record.from_json(json.loads(text)) == record

    def test_a_pair_says_the_same_in_every_group_it_is_in(self, records):
        assert (
            records["two"].details["seeds"]["pairs"][0]
            == records["all"].details["seeds"]["pairs"][0]
        )

    def test_the_key_depends_on_members_name_and_protocol(self, run):
        key = group_key(run, "all", run.targets)
        other = replace(run, config=replace(run.config, seeds=replace(run.config.seeds, top_k=9)))
        assert identity(other)["seeds"]["top_k"] == 9
        keys = {
            key,
            group_key(other, "all", run.targets),
            group_key(run, "any", run.targets),
            group_key(run, "all", run.targets[:2]),
        }
        assert len(keys) == 4

    def test_aliveness_is_that_of_the_whole_text_and_codes_of_its_first_tokens(self, run, records):
        pair = records["two"].details["seeds"]["pairs"][0]
        assert 200 <= pair["functional"]["n_tokens"] < 200 + 16
        measured = records["two"].measurements
        assert measured["shared_decoder@1"].n_tokens > measured["functional_shared@1"].n_tokens
        assert measured["functional_shared@1"].n_tokens == pair["functional"]["n_tokens"]

    def test_a_group_that_cannot_be_compared_is_refused_before_anything_runs(self, run):
        with pytest.raises(ConfigError, match="two or more"):
            SeedsJob(run, [("one", run.targets[:1])])

    def test_every_pair_moves_the_bar_on_a_terminal(self, run, monkeypatch):
        class Terminal(io.StringIO):
            def isatty(self):
                return True

        monkeypatch.setattr("sys.stderr", Terminal())
        list(run_jobs(run, [SeedsJob(run, [("all", run.targets)])]))
        shown = sys.stderr.getvalue()
        assert "comparing the seeds of all" in shown
        assert "3/3" in shown

    def test_nothing_is_shown_where_there_is_no_terminal(self, run, monkeypatch):
        monkeypatch.setattr("sys.stderr", io.StringIO())
        assert list(counted([1, 2], "comparing", "pair")) == [1, 2]
        assert not sys.stderr.getvalue()
