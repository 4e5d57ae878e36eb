"""How far a training is: lines where there is no terminal, not too many of them, and silence by default."""

import pytest

from saebench.train import train_on, train_recipes
from saebench.train.progress import Lines, duration, shown
from saebench.train.recipe import Recipe
from tests.small_world import SITE, make_world

FIGURES = {"fve": "0.68"}


class Clock:
    """A clock that is set by hand."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def said():
    return []


def lines(said, **options):
    clock = Clock()
    return clock, Lines(1000, said.append, clock=clock, **options)


def test_a_line_says_tokens_rate_time_left_and_the_held_out_figure(said):
    clock, one = lines(said)
    one.update(250)
    clock.now = 10.0
    one.set_postfix(FIGURES)
    expected = "training: 250 of 1,000 tokens, 25 tokens/s, about 30 s left, held-out FVE 0.68"
    assert said == [expected]


def test_several_saes_share_a_line_which_says_whose_figure_it_is(said):
    _, one = lines(said, n_saes=3)
    one.set_postfix(FIGURES)
    assert said[0].endswith("held-out FVE 0.68 (first of 3 SAEs)")


def test_no_line_comes_sooner_than_half_a_minute_after_the_last(said):
    clock, one = lines(said)
    shown_at = []
    for second in range(0, 100, 10):
        clock.now = float(second)
        before = len(said)
        one.set_postfix(FIGURES)
        shown_at += [second] * (len(said) - before)
    assert shown_at == [0, 30, 60, 90]


def test_the_rate_counts_from_when_the_run_began(said):
    clock = Clock()
    clock.now = 20.0
    one = Lines(1000, said.append, clock=clock, started=10.0)
    one.update(100)
    one.set_postfix({})
    assert "10 tokens/s, about 90 s left" in said[0].replace("2 min", "90 s")
    assert "FVE" not in said[0]


def test_durations_have_the_unit_that_fits():
    assert [duration(s) for s in (0.2, 89, 90, 5399, 7200)] == [
        "1 s",
        "89 s",
        "2 min",
        "90 min",
        "2.0 h",
    ]


def test_nothing_is_shown_where_stderr_is_no_terminal_unless_asked_for(capsys):
    with shown(100, None) as bar:
        bar.update(100)
        bar.set_postfix(FIGURES)
    assert capsys.readouterr().err == ""


def test_a_function_gets_lines_of_a_run_and_streams_stay_empty(capsys, said):
    import torch

    recipe = Recipe(d_sae=16, k=2, tokens=256, batch_size=32, buffer_size=64, log_every=2)
    x = torch.randn(256, 8, generator=torch.Generator().manual_seed(0))
    run = train_on([x], [recipe], heldout=x[:64], progress=said.append)
    assert said[0] == "training: reading the first 64 of 256 tokens"
    assert said[1].startswith("training: 64 of 256 tokens, ")
    assert f"held-out FVE {run.histories[0][0]['fve']:.4g}" in said[1]
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


def test_a_recipe_says_what_it_loads_and_reads_first(tmp_path, said):
    world = make_world(tmp_path)
    (tmp_path / "recipe.toml").write_text(
        f"model = '{world.model}'\ndata = '{world.data}'\nsite = '{SITE}'\nd_sae = 32\nk = 4\n"
        "tokens = 512\nbatch_size = 64\nbuffer_size = 128\ncontext_size = 16\nheldout_tokens = 64\n"
        f"device = 'cpu'\nk_start = 8\nk_anneal = 0.5\nout = '{tmp_path / 'sae'}'"
    )
    (line,) = train_recipes([tmp_path / "recipe.toml"], progress=said.append)
    assert said[0] == f"training: loading {world.model}"
    assert "64 held-out tokens" in said[1]
    assert f"sae: SAE of {SITE}, topk, k 4 (k_start 8), 32 latents, held-out FVE " in line
    assert "dead latents not known (fewer than 1,000,000 tokens)" in line
