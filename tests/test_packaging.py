"""What users get: the wheel, built and installed in a clean environment, run from an empty folder."""

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

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
    """The wheel, built from the sdist, which is built from the checkout."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--outdir", out, ROOT, cwd=out)
    return next(out.glob("*.whl"))


@pytest.fixture(scope="module")
def clean(built, tmp_path_factory):
    """The folder of programs of an environment that holds the wheel, its dependencies, and no more."""
    folder = tmp_path_factory.mktemp("clean")
    venv.create(folder, with_pip=True)
    constraints = ROOT / "constraints.txt"
    run(
        folder / "bin" / "pip", "install", "--quiet", "-c", constraints, f"{built}[plots]",
        cwd=folder,
    )  # fmt: skip
    return folder / "bin"


@pytest.fixture(scope="module")
def demo(clean, tmp_path_factory):
    """What the demo printed, and the folder it was started in."""
    empty = tmp_path_factory.mktemp("empty")
    return run(clean / "saebench", "demo", cwd=empty), empty


def test_the_wheel_ships_suites_and_fixtures_and_nothing_at_the_top_level(built):
    names = zipfile.ZipFile(built).namelist()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"saebench"}
    for needed in (
        "saebench/suites/test_reconstruction.py",
        "saebench/suites/defaults.toml",
        "saebench/suites/pytest.ini",
        "saebench/fixtures/demo.toml",
        "saebench/fixtures/model/model.safetensors",
        "saebench/fixtures/text/heldout.jsonl",
        "saebench/fixtures/saes/topk-s0/sae_weights.safetensors",
        "saebench/py.typed",
    ):
        assert needed in names


def test_the_demo_runs_from_an_empty_folder(demo):
    printed, folder = demo
    assert "16 passed" in printed
    report = json.loads((folder / "saebench-demo" / "report.json").read_text())
    assert [record["checkpoint"]["name"] for record in report["records"]] == [
        "topk-s0",
        "topk-s1",
        "batchtopk-s0",
        "batchtopk-s1",
    ]
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
