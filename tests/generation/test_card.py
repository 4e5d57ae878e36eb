"""The card of generated text: what hubs read, what a reader sees, and what is left to its owner."""

from pathlib import Path

import pytest
import yaml

from saebench.errors import DataError, OutputError
from saebench.generation import GenerationSettings, generate
from saebench.generation.card import write_card
from saebench.generation.comparing import add_reference
from saebench.generation.manifest import read_manifest
from saebench.generation.statistics import describe_ids, unigram_distances
from saebench.models import LanguageModel

MODEL = Path(__file__).parents[2] / "fixtures" / "model"


@pytest.fixture(scope="module")
def model():
    return LanguageModel.load(MODEL, device="cpu")


@pytest.fixture
def made(model, tmp_path):
    return generate(model, GenerationSettings(tokens=500, length=16, batch_size=8), tmp_path)


def card(made):
    return (made.folder / "README.md").read_text("utf-8")


def test_front_matter_names_files_and_source_and_leaves_the_license_open(made):
    front = yaml.safe_load(card(made).split("---\n")[1])
    assert front["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*.parquet"}]
    assert front["source_model"] == "model"
    assert "license" not in front


def test_the_card_tells_settings_digest_and_statistics(made, model):
    text = card(made)
    assert "| temperature | `1.0` |" in text
    assert model.digest[:16] in text
    assert "| tokens | 500 |" in text
    assert "reference" not in text.split("## Statistics")[1]


def test_a_reference_stands_beside_with_its_distances(made, model):
    rows = list(made.sequences())
    assert add_reference(made, rows[:20], spec="x|`y`", cut="cut", packed=False)
    own = describe_ids(rows, vocab_size=model.vocab_size, eos_id=1)
    other = describe_ids(rows[:20], vocab_size=model.vocab_size, eos_id=1)
    stored = read_manifest(made.folder).reference
    assert stored["statistics"] == other.to_json()
    assert stored["distances"] == unigram_distances(own.counts, other.counts).to_json()
    assert f"| tokens | 500 | {other.n_tokens} |" in card(made)
    assert "`x¦'y'`" in card(made)


def test_a_packed_reference_has_no_numbers_of_whole_documents(made):
    add_reference(made, made.sequences(), spec="x", cut="joined", packed=True)
    stored = read_manifest(made.folder).reference["statistics"]
    assert stored["eos_share"] is stored["first_entropy"] is None
    assert stored["entropy"] == made.manifest.statistics["entropy"]


def test_the_size_of_the_vocabulary_is_the_models_whatever_the_folder_says(made, model):
    made.manifest.statistics["vocab_size"] = 10**15
    add_reference(made, made.sequences(), spec="x", cut="cut", packed=False)
    assert read_manifest(made.folder).statistics["vocab_size"] == model.vocab_size


def test_an_empty_reference_is_refused(made):
    with pytest.raises(DataError):
        add_reference(made, [], spec="x", cut="cut", packed=True)


def test_what_its_owner_wrote_around_the_statistics_stays(made):
    path = made.folder / "README.md"
    own = card(made).replace("# license: yours", "license: mit\n# license: yours") + "\nMy words.\n"
    path.write_text(own)
    add_reference(made, made.sequences(), spec="x", cut="cut", packed=False)
    after = card(made)
    assert "license: mit" in after
    assert after.endswith("\nMy words.\n")
    assert "total variation | 0 |" in after


def test_a_card_without_markers_is_left_alone(made):
    path = made.folder / "README.md"
    path.write_text("all mine")
    assert not write_card(made.folder, made.manifest)
    assert path.read_text() == "all mine"


def test_line_ends_of_its_owner_stay(made):
    path = made.folder / "README.md"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n") + "My wörds.\r\n".encode())
    before = path.read_bytes()
    assert write_card(made.folder, made.manifest)
    assert path.read_bytes() == before


def test_a_card_in_another_encoding_is_refused_and_kept(made):
    path = made.folder / "README.md"
    before = path.read_bytes() + "My wörds.\n".encode("latin-1")
    path.write_bytes(before)
    with pytest.raises(OutputError, match=r"README\.md.*UTF-8.*Convert"):
        write_card(made.folder, made.manifest)
    assert path.read_bytes() == before
