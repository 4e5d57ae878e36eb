"""What users get: the wheel, built and installed in a clean environment, run from an empty folder."""

import json
import os
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CACHES = {"__pycache__", ".pytest_cache", ".hypothesis", ".benchmarks"}

pytestmark = pytest.mark.slow


def run(*command, cwd, **variables):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PYTEST"))}
    environment |= {"HF_HUB_OFFLINE": "1", **variables}
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of the wheel and the sdist: that is built from the checkout, and the wheel from it."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", out, ROOT, cwd=out)
    return out


@pytest.fixture(scope="module")
def wheel(built):
    return next(built.glob("*.whl"))


@pytest.fixture(scope="module")
def sdist(built):
    """What the sdist holds, as paths from its only folder."""
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = [member.name for member in archive.getmembers() if member.isfile()]
    assert len({name.split("/")[0] for name in names}) == 1
    return {name.partition("/")[2] for name in names}


@pytest.fixture(scope="module")
def clean(wheel, tmp_path_factory):
    """The folder of programs of an environment that holds the wheel, its dependencies, and no more."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, with_pip=True)
    constraints = ROOT / "constraints.txt"
    run(
        folder / "bin" / "pip", "install", "--quiet", "-c", constraints, f"{wheel}[plots]",
        cwd=folder,
    )  # fmt: skip
    return folder / "bin"


@pytest.fixture(scope="module")
def demo(clean, tmp_path_factory):
    """What the demo printed, and the folder it was started in."""
    empty = tmp_path_factory.mktemp("empty")
    return run(clean / "saebench", "demo", cwd=empty), empty


def test_the_wheel_ships_suites_and_fixtures_and_nothing_at_the_top_level(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"saebench"}
    for needed in (
        "saebench/suites/test_reconstruction.py",
        "saebench/suites/defaults.toml",
        "saebench/suites/pytest.ini",
        "saebench/fixtures/demo.toml",
        "saebench/fixtures/model/model.safetensors",
        "saebench/fixtures/finetuned/model.safetensors",
        "saebench/fixtures/pair/prompts.jsonl",
        "saebench/fixtures/diffing/crosscoder.recipe.toml",
        "saebench/fixtures/text/heldout.jsonl",
        "saebench/fixtures/text/LICENSE.PSF",
        "saebench/fixtures/saes/topk-s0/sae_weights.safetensors",
        "saebench/py.typed",
    ):
        assert needed in names


def test_the_wheel_states_both_licences_and_holds_their_texts(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        folder = next(name for name in names if name.endswith(".dist-info/METADATA"))[
            : -len("METADATA")
        ]
        metadata = archive.read(f"{folder}METADATA").decode()
        apache = archive.read(f"{folder}licenses/LICENSE").decode()
        psf = archive.read(f"{folder}licenses/fixtures/text/LICENSE.PSF").decode()
    assert "License-Expression: Apache-2.0 AND PSF-2.0\n" in metadata
    assert "Apache License" in apache
    assert "END OF TERMS AND CONDITIONS" in apache
    assert "PYTHON SOFTWARE FOUNDATION LICENSE VERSION 2" in psf


def test_the_sdist_holds_what_testing_it_needs(sdist):
    for needed in (
        ".ci/run",
        "LICENSE",
        "constraints.txt",
        "fixtures/labelled/part/train.jsonl",
        "fixtures/recipes/demo.toml",
        "fixtures/study/recipe.toml",
        "fixtures/text/LICENSE.PSF",
        "reports/demo/README.md",
        "reports/demo/plots/fve.png",
        "reports/demo/report.json",
        "suites/pytest.ini",
        "tests/benchmarks/bench_pass.py",
        "tests/oracles/golden/dictionary_learning/AutoEncoder/ae.pt",
        "tests/oracles/golden/saelens/flat-topk/sae_weights.safetensors",
        "tests/oracles/install.sh",
        "tests/small_world.py",
        "tests/test_packaging.py",
        "tests/train/conftest.py",
    ):
        assert needed in sdist


def test_the_sdist_holds_every_helper_and_golden_file_of_the_tests(sdist):
    here = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "tests").rglob("*")
        if path.is_file() and not CACHES.intersection(path.parts)
    }
    assert {name for name in sdist if name.startswith("tests/")} == here


def test_the_sdist_holds_no_caches(sdist):
    assert not [name for name in sdist if CACHES.intersection(name.split("/"))]
    assert not [name for name in sdist if name.endswith((".pyc", ".lock"))]


def test_the_demo_runs_from_an_empty_folder(demo):
    printed, folder = demo
    assert "26 passed" in printed
    report = json.loads((folder / "saebench-demo" / "report.json").read_text())
    assert [record["checkpoint"]["name"] for record in report["records"]] == [
        "topk-s0",
        "topk-s1",
        "batchtopk-s0",
        "batchtopk-s1",
    ]
    assert [group["checkpoint"]["name"] for group in report["groups"]] == ["topk", "batchtopk"]
    assert {verdict["status"] for verdict in report["verdicts"]} == {"PASS"}
    assert (folder / "saebench-demo" / "README.md").is_file()
    assert sorted(p.name for p in (folder / "saebench-demo" / "plots").iterdir()) == [
        "alive.png",
        "density.png",
        "fve.png",
    ]
    assert sorted(p.name for p in folder.iterdir()) == ["saebench-demo"]


def test_the_suites_are_found_by_their_import_name(clean, demo):
    _, folder = demo
    config = run(
        clean / "python", "-c",
        "import saebench.fixtures as f, pathlib; print(pathlib.Path(f.__file__).parent / 'demo.toml')",
        cwd=folder,
    ).strip()  # fmt: skip
    printed = run(
        clean / "pytest", "--pyargs", "saebench.suites", f"--saebench-config={config}",
        "--saebench-out=saebench-demo", "-p", "no:cacheprovider", "-k", "topk-s0 and fve",
        cwd=folder,
    )  # fmt: skip
    assert "2 passed" in printed  # batchtopk-s0 matches as well


def test_a_plain_import_does_not_import_torch(clean, tmp_path):
    code = "import saebench, saebench.plugin, sys; print('torch' in sys.modules)"
    assert run(clean / "python", "-c", code, cwd=tmp_path).strip() == "False"


def test_the_package_runs_as_a_module(clean, tmp_path):
    printed = run(clean / "python", "-m", "saebench", "--version", cwd=tmp_path)
    assert printed == run(clean / "saebench", "--version", cwd=tmp_path)
    assert printed.startswith("saebench ")
