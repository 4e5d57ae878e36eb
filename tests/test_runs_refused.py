"""What does not fit together is refused with one line, before a language model is in memory if it can be."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from saebench import cli
from tests import kinds
from tests.kind_runs import USAGE, Runs, opened, refuse_models


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    with opened(tmp_path_factory.mktemp("kinds")) as found:
        yield found


@pytest.fixture
def no_models(monkeypatch: pytest.MonkeyPatch) -> None:
    refuse_models(monkeypatch)


Refused = Callable[..., str]


@pytest.fixture
def refused(runs: Runs, capsys: pytest.CaptureFixture[str]) -> Refused:
    """The one line that refuses a run."""

    def run(name: str, *more: str) -> str:
        capsys.readouterr()
        assert runs.command(name, *more, out="refused") == USAGE
        (line,) = capsys.readouterr().err.strip().splitlines()
        return line

    return run


@pytest.mark.usefixtures("no_models")
class TestBeforeAModelIsLoaded:
    """What can be known from files is refused before gigabytes are read."""

    @pytest.mark.parametrize("name", ["model-crosscoder", "difference"])
    def test_two_models_are_read_and_one_is_given(
        self, runs: Runs, name: str, capsys: pytest.CaptureFixture[str]
    ) -> None:
        options = runs.options(name, runs.root / "out" / "refused")
        options.remove(f"--model={runs.models[1]}")
        assert cli.main(["run", str(runs.path(name)), *options]) == USAGE
        line = capsys.readouterr().err
        assert "the 2 language models that checkpoint reads" in line
        assert f"only 1 was given ({runs.models[0]})" in line
        assert "Give --model once for each, in this order" in line

    @pytest.mark.parametrize(
        ("name", "count"), [("sae", 2), ("difference", 2), ("model-crosscoder", 3)]
    )
    def test_more_models_are_given_than_are_read(
        self, runs: Runs, name: str, count: int, capsys: pytest.CaptureFixture[str]
    ) -> None:
        options = runs.options(name, runs.root / "out" / "refused")
        kept = [o for o in options if not o.startswith(("--model=", "--set=direction"))]
        given = [f"--model={runs.models[i % 2]}" for i in range(count)]
        assert cli.main(["run", str(runs.path(name)), *given, *kept]) == USAGE
        line = capsys.readouterr().err
        read = count - 1
        noun = "1 language model" if read == 1 else "2 language models"
        assert f"checkpoint reads {noun}: {count} were given ({runs.models[0]}, " in line
        assert ("for a difference SAE add --set direction=difference_ftb" in line) == (read == 1)

    def test_models_with_other_tokens(
        self, runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        other = shutil.copytree(runs.models[1], tmp_path / "other")
        tokenizer = json.loads((other / "tokenizer.json").read_text("utf-8"))
        vocabulary = tokenizer["model"]["vocab"]
        first, second = [token for token, i in vocabulary.items() if i in (1000, 1001)]
        vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
        (other / "tokenizer.json").write_text(json.dumps(tokenizer), "utf-8")
        options = runs.options("model-crosscoder", runs.root / "out" / "refused")
        options[1] = f"--model={other}"
        assert cli.main(["run", str(runs.path("model-crosscoder")), *options]) == USAGE
        assert "their tokenizers have different vocabularies" in capsys.readouterr().err

    def test_models_of_other_depths(
        self, runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        other = shutil.copytree(runs.models[1], tmp_path / "other")
        config = json.loads((other / "config.json").read_text("utf-8"))
        config["num_hidden_layers"] -= 1
        (other / "config.json").write_text(json.dumps(config), "utf-8")
        options = runs.options("model-crosscoder", runs.root / "out" / "refused")
        options[1] = f"--model={other}"
        assert cli.main(["run", str(runs.path("model-crosscoder")), *options]) == USAGE
        line = capsys.readouterr().err
        assert "models of one depth" in line
        assert f"{config['num_hidden_layers'] + 1} and {config['num_hidden_layers']} layers" in line

    def test_the_difference_of_a_model_and_itself(
        self, runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        copy = shutil.copytree(runs.models[0], tmp_path / "copy")
        options = runs.options("difference", runs.root / "out" / "refused")
        options[1] = f"--model={copy}"
        assert cli.main(["run", str(runs.path("difference")), *options]) == USAGE
        line = capsys.readouterr().err
        assert "two models, the difference of which checkpoint reads" in line
        assert "model and copy have the same config and weights (digest " in line
        assert "Give the base model and the fine-tuned one" in line

    def test_a_misspelt_setting(self, refused: Refused) -> None:
        line = refused("difference", "--set=directon=difference_ftb")
        assert "did you mean 'direction'?" in line

    def test_a_setting_or_role_that_a_format_has_no_use_for(self, refused: Refused) -> None:
        line = refused("sae", "--set=k=4")
        assert "--set k=4: a saelens checkpoint has no use for it" in line
        assert "has no use for it" in refused("sae", "--map=encoder=W_enc")

    def test_a_value_that_a_setting_cannot_have(self, refused: Refused) -> None:
        assert "one of difference_ftb, difference_bft" in refused(
            "difference", "--set=direction=forwards"
        )
        assert "a positive integer" in refused("hand-made", "--set=k=-3")
        assert "lift2" in refused("hand-made", "--map=encoder=lift2")

    def test_settings_that_do_not_fit_the_number_of_sources(self, refused: Refused) -> None:
        assert "2 hook points" in refused("layer-crosscoder", f"--set=sites={kinds.SITE}")
        line = refused("model-crosscoder", "--set=direction=difference_ftb")
        assert "it reads 2 side by side" in line

    def test_one_hook_point_for_what_reads_several(self, refused: Refused) -> None:
        line = refused("cross-layer", f"--site={kinds.SITE}")
        assert "4 hook points there, not one" in line
        assert "--set sites=" in line
        assert "--set site_out" in refused("cross-layer", f"--set=site_out={kinds.SITE}")

    @pytest.mark.parametrize(
        ("name", "models", "expected"),
        [("sae", "a,b", "1 language model "), ("difference", "a", "2 language models ")],
    )
    def test_names_of_more_or_fewer_models_than_are_read(
        self, refused: Refused, name: str, models: str, expected: str
    ) -> None:
        assert f"{expected}for --set models={models}" in refused(name, f"--set=models={models}")

    def test_one_revision_for_two_models(self, refused: Refused) -> None:
        assert "revision" in refused("model-crosscoder", "--revision=main")

    def test_what_the_files_leave_open_is_asked_for(
        self, runs: Runs, capsys: pytest.CaptureFixture[str]
    ) -> None:
        said = runs.options("hand-made", runs.root / "out" / "refused")
        bare = [option for option in said if not option.startswith(("--set", "--map"))]
        assert cli.main(["run", str(runs.path("hand-made")), *bare]) == USAGE
        line = capsys.readouterr().err
        assert all(name in line for name in ("lift", "drop", "--map"))


def test_widths_that_are_not_those_of_the_model(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    path, narrow = runs.path("sae"), runs.root / "narrow"
    shutil.copytree(path, narrow)
    config = json.loads((path / "cfg.json").read_text())
    (narrow / "cfg.json").write_text(json.dumps(config | {"d_in": kinds.D // 2}))
    w = load_file(path / "sae_weights.safetensors")
    half = slice(kinds.D // 2)
    cut = {"W_enc": w["W_enc"][half], "W_dec": w["W_dec"][:, half], "b_dec": w["b_dec"][half]}
    cut = {key: value.contiguous() for key, value in (w | cut).items()}
    save_file(cut, narrow / "sae_weights.safetensors")
    options = runs.options("sae", runs.root / "out" / "refused")
    assert cli.main(["run", str(narrow), *options]) == USAGE
    line = capsys.readouterr().err
    assert f"d_in {kinds.D // 2}" in line
    assert f"width {kinds.D}" in line
