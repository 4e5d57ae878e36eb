import ast
import inspect
from dataclasses import fields, replace

import pytest

from saebench.errors import ConfigError
from saebench.train import Recipe, load_recipe, load_recipes
from saebench.train import recipe as module

BASE = 'model = "m"\ndata = "d.jsonl"\nsite = "blocks.0.hook_resid_post"\n'


@pytest.fixture
def toml(tmp_path):
    def write(text, base=BASE):
        path = tmp_path / "recipe.toml"
        path.write_text(base + text)
        return path

    return write


def test_every_field_is_documented_under_it():
    (cls,) = (
        node
        for node in ast.parse(inspect.getsource(module)).body
        if isinstance(node, ast.ClassDef) and node.name == "Recipe"
    )
    documented = {
        before.target.id
        for before, after in zip(cls.body, cls.body[1:], strict=False)
        if isinstance(before, ast.AnnAssign)
        and isinstance(after, ast.Expr)
        and isinstance(after.value, ast.Constant)
    }
    assert documented == {item.name for item in fields(Recipe)}


def test_a_file_gives_its_values_and_the_defaults(toml):
    recipe = load_recipe(toml("expansion = 8\nk = 4\nlr = 1\n"))
    assert (recipe.model, recipe.k, recipe.expansion, recipe.lr) == ("m", 4, 8, 1)
    assert recipe.aux_coefficient == 1 / 32
    assert recipe.grad_clip == 1.0


@pytest.mark.parametrize(
    ("wrong", "near"), [("batchsize = 3", "batch_size"), ("heldout = 'x'", "held_out")]
)
def test_an_unknown_key_suggests_the_nearest_known_one(toml, wrong, near):
    with pytest.raises(ConfigError, match=f"Did you mean '{near}'"):
        load_recipe(toml("d_sae = 8\n" + wrong))


@pytest.mark.parametrize(
    "line",
    [
        "k = 2.5",
        "k = true",
        'k = "4"',
        "k = 0",
        "overwrite = 1",
        'architecture = "relu"',
        'mask = "pad"',
        "decay = 1.5",
        "lr = -1",
        "lr = 0",
        "tokens = 2047",
        "batch_size = 2_000_000",
        "warmup = 0.9",
        "decay = 0.96",
        "context_size = 1",
        "tokens = 0",
        "model = 3",
    ],
)
def test_values_of_a_wrong_type_or_range_are_refused_by_name(toml, line):
    base = BASE if not line.startswith("model") else BASE.replace('model = "m"\n', "")
    with pytest.raises(ConfigError, match=line.split()[0]):
        load_recipe(toml(f"d_sae = 8\n{line}\n", base))


@pytest.mark.parametrize(
    ("lines", "found"), [("", "neither"), ("d_sae = 8\nexpansion = 2", "both")]
)
def test_the_width_is_given_exactly_once(toml, lines, found):
    with pytest.raises(ConfigError, match=found):
        load_recipe(toml(lines))


@pytest.mark.parametrize("name", ["model", "data", "site"])
def test_what_a_run_cannot_do_without_is_asked_for(toml, name):
    base = "".join(line + "\n" for line in BASE.splitlines() if not line.startswith(name))
    with pytest.raises(ConfigError, match=f"'{name}' is missing"):
        load_recipe(toml("d_sae = 8", base))


def test_a_missing_or_broken_file_is_a_clear_error(tmp_path, toml):
    with pytest.raises(ConfigError, match=r"absent\.toml"):
        load_recipe(tmp_path / "absent.toml")
    with pytest.raises(ConfigError, match="TOML"):
        load_recipe(toml("k = = 3"))


def test_several_saes_change_keys_of_one_recipe(toml):
    path = toml("k = 4\nd_sae = 8\n[[sae]]\nseed = 1\nout = 'a'\n[[sae]]\nk = 2\nout = 'b'\n")
    first, second = load_recipes(path)
    assert (first.seed, first.k, first.out) == (1, 4, "a")
    assert (second.seed, second.k, second.out) == (0, 2, "b")
    with pytest.raises(ConfigError, match="2"):
        load_recipe(path)


@pytest.mark.parametrize(
    ("lines", "complaint"),
    [
        ("[[sae]]\nseed = 1\n[[sae]]\nbatch_size = 9\n", "batch_size"),
        ("[[sae]]\nout = 'a'\n[[sae]]\nout = 'a'\n", "'a' and 'a' are the same"),
        ("[[sae]]\nout = 'a'\n[[sae]]\nout = 'b/../a/'\n", "are the same"),
        ("[[sae]]\nout = 'a/b'\n[[sae]]\nout = 'a'\n", "lie one in the other"),
        ("[[sae]]\nsed = 1\n", "seed"),
    ],
)
def test_saes_of_one_run_share_the_stream_and_nothing_else(toml, lines, complaint):
    with pytest.raises(ConfigError, match=complaint):
        load_recipes(toml("d_sae = 8\n" + lines))


def test_a_folder_to_save_in_can_be_required(toml):
    with pytest.raises(ConfigError, match="'out' is missing"):
        load_recipes(toml("d_sae = 8"), needs_out=True)


@pytest.mark.parametrize("lines", ["warmup = 0.7\ndecay = 0.3", "warmup = 40\ndecay = 1"])
def test_a_warmup_and_a_decay_that_fit_are_taken(toml, lines):
    assert load_recipe(toml(f"d_sae = 8\n{lines}")).decay


@pytest.mark.parametrize(
    ("data", "held_out"),
    [
        ("d.jsonl", "d.jsonl"),
        ("d.jsonl", "./sub/../d.jsonl#text"),
        ("d.jsonl#a", "link.jsonl#b"),
        ("sub", "sub/e.jsonl"),
        ("sub/e.jsonl", "sub"),
        ("hf:org/name#train", "hf:org/name@main#train:text"),
    ],
)
def test_held_out_text_that_is_trained_on_is_refused(tmp_path, monkeypatch, data, held_out):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    for name in ("d.jsonl", "sub/e.jsonl"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "link.jsonl").symlink_to("d.jsonl")
    with pytest.raises(ConfigError, match="held_out"):
        Recipe(d_sae=8, data=data, held_out=held_out)


@pytest.mark.parametrize(
    ("data", "held_out"),
    [
        ("d.jsonl", "e.jsonl"),
        ("sub", "sub2/e.jsonl"),
        ("hf:org/name#train", "hf:org/name#test"),
        ("hf:org/name/en#train", "hf:org/name/fr#train"),
        ("hf:org/name#train", "name"),
    ],
)
def test_held_out_text_of_another_place_is_taken(data, held_out):
    assert Recipe(d_sae=8, data=data, held_out=held_out).held_out == held_out


def test_derived_numbers():
    recipe = Recipe(expansion=8, k=4, tokens=1000, batch_size=300)
    assert recipe.width(16) == 128
    assert recipe.steps == 4
    assert recipe.aux_latents(16) == 8
    assert replace(recipe, aux_k=0).aux_latents(16) == 0
    assert recipe.peak_lr(2**14) == pytest.approx(1e-3)
    assert recipe.peak_lr(2**12) == pytest.approx(2e-3)  # a quarter of the width, twice the rate
    assert replace(recipe, lr=0.5).peak_lr(2**12) == 0.5
    with pytest.raises(ConfigError, match="k = 4"):
        replace(recipe, expansion=0.1).width(16)
