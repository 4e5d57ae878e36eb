"""The house: imports follow the flow of data and never point back; what is light stays light."""

import ast
import subprocess
import sys
import tomllib
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "saebench"

# Each name may import from those in earlier lines, and from its own line only where it is a package
# of its own (a family of modules that share a room).
LAYERS = (
    ("_version", "errors", "protocols", "settings"),
    ("codes", "activations", "stats", "environment", "weights"),
    ("data_specs", "precision", "whole_files"),
    ("quantisation", "labelling", "concepts"),
    ("sae", "sites", "record", "files", "layout"),
    ("metrics", "models", "reference", "store"),
    ("generation", "matching", "probing"),
    ("causal", "data", "steering"),
    ("adapters", "gates", "locating", "unchanged"),
    ("diagnosis", "config"),
    ("inspection",),
    ("loading", "predictions"),
    ("passes", "train", "report"),
    ("comparison", "evals", "grouping", "model_choice"),
    ("measure",),
    ("plan", "session"),
    ("plugin",),
    ("cli",),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
FREE = {"__init__", "__main__"}


def room_of(path: Path) -> str:
    """The top-level module or sub-package that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(path: Path) -> set[str]:
    """The rooms of saebench that a file imports, at the top or inside a function."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = (
                [node.module]
                if node.module != "saebench"
                else [f"saebench.{a.name}" for a in node.names]
            )
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        rooms |= {name.split(".")[1] for name in names if name.startswith("saebench.")}
    return rooms - {"suites", "fixtures"}


SOURCES = sorted(p for p in PACKAGE.rglob("*.py") if room_of(p) not in FREE)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_only_to_earlier_layers(path):
    room = room_of(path)
    assert room in RANK, f"{room} has no place in LAYERS"
    is_package = (PACKAGE / room).is_dir()
    for other in imported_rooms(path):
        if other == room and is_package:
            continue
        assert RANK[other] < RANK[room], f"{room} imports {other}, which is not in an earlier layer"


def test_no_room_is_named_for_nothing():
    names = {p.stem for p in PACKAGE.rglob("*.py")}
    assert not names & {"utils", "util", "helpers", "common", "misc"}


def test_modules_stay_under_400_lines():
    long = {
        p.name: n
        for p in [*PACKAGE.rglob("*.py"), *ROOT.glob("tests/**/*.py")]
        if (n := len(p.read_text().splitlines())) > 400
    }
    assert not long


def test_every_package_is_in_the_wheel():
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {".".join(p.parent.relative_to(ROOT).parts) for p in PACKAGE.rglob("__init__.py")}
    assert found <= set(known)


def test_layers_are_listed_once():
    names = [name for layer in LAYERS for name in layer]
    assert len(names) == len(set(names))
    assert all(a for a, b in pairwise(LAYERS) if b)


HEAVY = (
    *("torch", "transformers", "datasets", "huggingface_hub", "matplotlib", "scipy", "sklearn"),
    *("numpy", "pyarrow"),
)


@pytest.mark.parametrize(
    "statement", ["import saebench", "import saebench.plugin", "import saebench.cli"]
)
def test_light_imports_pull_in_nothing_heavy(statement):
    code = f"import sys; {statement}; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_are_listed_once_and_all_resolve():
    import saebench

    assert len(set(saebench.__all__)) == len(saebench.__all__)
    kinds = {"SAE", "Crosscoder", "CrossLayerTranscoder", "Dictionary"}
    assert kinds | {"load_sae", "__version__"} <= set(saebench.__all__)
    assert all(getattr(saebench, name) is not None for name in saebench.__all__)
