"""The trainer finds the atoms of a world in which they are known."""

import pytest
import torch

from saebench.errors import ConfigError, DataError
from saebench.train import Recipe, train_on

TRAINING = {"d_sae": 64, "k": 3, "tokens": 120_000, "batch_size": 256, "lr": 5e-3}
TRAINING |= {"dead_window": 10_000, "buffer_size": 4096, "log_every": 100}


@pytest.fixture(scope="module")
def run(planted):
    recipes = [Recipe(architecture=name, **TRAINING) for name in ("topk", "batchtopk")]
    return train_on(planted.chunks(1), recipes, heldout=planted.sample(4096), progress=False)


@pytest.mark.parametrize("which", [0, 1], ids=["topk", "batchtopk"])
class TestTraining:
    def test_recovers_the_planted_atoms(self, run, planted, which):
        cosine = run.trainers[which].sae().W_dec @ planted.atoms.T
        assert cosine.max(0).values.mean() > 0.95

    def test_raises_held_out_fve(self, run, which):
        fve = [row["fve"] for row in run.histories[which]]
        assert fve[0] < fve[-1]
        assert fve[-1] > 0.85

    def test_reaches_the_asked_l0_on_held_out_tokens(self, run, which):
        assert run.histories[which][-1]["l0"] == pytest.approx(3, rel=0.1)

    def test_logs_every_hundred_steps_and_the_last(self, run, which):
        rows = run.histories[which]
        assert [row["step"] for row in rows] == [100, 200, 300, 400, 469]
        assert rows[-1]["tokens"] == 120_000
        assert rows[0]["lr"] == pytest.approx(5e-3)
        assert rows[-1]["lr"] == pytest.approx(5e-3 / 94)  # the fall takes a fifth of 469 steps


SHORT = {**TRAINING, "tokens": 8_000, "log_every": 10}


@pytest.mark.parametrize("architecture", ["topk", "batchtopk"])
def test_the_same_seeds_give_the_same_bits(planted, architecture):
    def weights(**changes):
        recipe = Recipe(**{**SHORT, "architecture": architecture, "dead_window": 512, **changes})
        run = train_on(planted.chunks(1), [recipe], progress=False)
        return run.trainers[0].sae().state_dict()

    first, second = weights(), weights()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not torch.equal(first["W_dec"], weights(seed=1)["W_dec"])
    assert not torch.equal(first["W_dec"], weights(shuffle_seed=1)["W_dec"])


def test_an_sae_is_the_same_alone_and_among_others(planted):
    recipes = [Recipe(**SHORT), Recipe(**{**SHORT, "seed": 1, "k": 5})]
    together = train_on(planted.chunks(1), recipes, progress=False).trainers[1].sae()
    alone = train_on(planted.chunks(1), recipes[1:], progress=False).trainers[0].sae()
    assert torch.equal(together.W_dec, alone.W_dec)


def test_recipes_with_different_streams_are_refused(planted):
    with pytest.raises(ConfigError, match="batch_size"):
        train_on(planted.chunks(1), [Recipe(**SHORT), Recipe(**{**SHORT, "batch_size": 9})])


def test_a_stream_that_ends_early_ends_training_with_a_last_row(planted):
    chunks = [next(planted.chunks(1, 700))]
    run = train_on(iter(chunks), [Recipe(**SHORT)], heldout=planted.sample(100), progress=False)
    assert run.trainers[0].tokens == 700
    assert [row["step"] for row in run.histories[0]] == [3]


def test_no_activations_at_all_are_an_error():
    with pytest.raises(DataError):
        train_on(iter(()), [Recipe(**SHORT)])


def test_each_row_of_history_is_handed_out_as_it_is_made(planted):
    seen = []
    run = train_on(
        planted.chunks(1),
        [Recipe(**SHORT)],
        progress=False,
        on_log=lambda i, row: seen.append((i, row)),
    )
    assert seen == [(0, row) for row in run.histories[0]]


def test_progress_is_shown_on_stderr_where_asked_for(planted, capsys):
    train_on(planted.chunks(1), [Recipe(**SHORT)], heldout=planted.sample(100), progress=True)
    captured = capsys.readouterr()
    assert "tok/s" in captured.err
    assert "fve=" in captured.err
    assert captured.out == ""
