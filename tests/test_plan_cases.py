"""What a plan says of cases: what is read for them, and what stands in the way, before anything runs."""

import json
from dataclasses import replace

import pytest

from saebench.config import Config, SAESpec
from saebench.config.schema import DataSpec, ModelSpec
from saebench.errors import ModelError
from saebench.models import locate
from saebench.plan import plan
from saebench.protocols import Concept, Variant
from tests.small_world import LENGTH, make_world


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return make_world(tmp_path_factory.mktemp("plan"))


@pytest.fixture(scope="module")
def texts(world):
    path = world.folder / "texts.jsonl"
    rows = [
        {"text": f"w{2 + n % 5} w{3 + n % 7}", "label": "ab"[n % 2], "prompt": f"w{4 + n % 9}"}
        for n in range(24)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def planned(world, **options):
    config = Config(
        model=ModelSpec(str(world.model)),
        data=DataSpec(str(world.data), context_size=LENGTH),
        out=world.folder / "out",
        device="cpu",
        **options,
    )
    return plan(config, [("bad", str(world.bad), SAESpec(str(world.bad)))])


def test_a_concept_that_is_not_there_shows_in_the_plan(world, texts):
    concepts = (Concept("there", str(texts)), Concept("gone", str(world.folder / "gone.jsonl")))
    found = planned(world, suites=("concepts", "cv_probing"), concepts=concepts)
    assert found.count("gone cannot be measured") == 2
    assert "there cannot" not in found
    assert "24 texts; for each checkpoint 5 × 20 fits and up to 1,000 shuffles" in found


def test_steering_says_how_much_is_written(world, texts):
    concept = Concept("there", str(texts), prompt="prompt")
    found = planned(world, suites=("steering",), concepts=(concept,))
    assert "88 completions of up to 24 tokens" in found
    without = planned(world, suites=("steering",), concepts=(replace(concept, prompt=""),))
    assert "there cannot be measured" in without


def test_a_folder_has_no_revisions(world):
    with pytest.raises(ModelError, match="has no revisions"):
        locate(str(world.model), revision="v1")


def test_a_variant_that_is_not_there_shows_in_the_plan(world):
    variants = (Variant("rounded", precision="rtn4"), Variant("gone", str(world.folder / "gone")))
    variants += (Variant("old", str(world.model), "v1"),)
    found = planned(world, suites=("portability",), variants=variants)
    assert "3 cases (rounded, gone, old), 3 to measure" in found
    assert "gone cannot be measured" in found
    assert "old cannot be measured" in found
    assert "rounded cannot" not in found
