import pytest

from saebench.train.overlap import overlaps

SAME = [
    ("a.jsonl", "shuffled:a.jsonl"),
    ("shuffled:a.jsonl?random_seed=1", "shuffled:./a.jsonl?within=corpus"),
    ("shuffled:hf:o/n@v1#train:text", "hf:o/n#train"),
    ("uniform?seed=1&n_tokens=100", "uniform?seed=1&n_tokens=200"),
    ("uniform", "shuffled:uniform?seed=0"),
    ("unigram:a.jsonl", "unigram:./a.jsonl#text?random_seed=0"),
    ("faithful:o/m?tokens=100", "faithful:o/m?tokens=200&seed=0&temperature=1.0"),
]
APART = [
    ("a.jsonl", "uniform"),
    ("a.jsonl", "./uniform"),
    ("a.jsonl", "unigram:a.jsonl"),
    ("uniform?seed=1", "uniform?seed=2"),
    ("uniform", "uniform?special=false"),
    ("uniform", "unigram:a.jsonl"),
    ("unigram:a.jsonl", "unigram:a.jsonl?random_seed=1"),
    ("unigram:a.jsonl", "unigram:b.jsonl"),
    ("faithful:o/m", "faithful:o/m?seed=1"),
    ("faithful:o/m", "faithful:o/m?temperature=0.5"),
    ("faithful:o/m", "faithful:o/other"),
    ("faithful:o/m", "o/m"),
]


@pytest.mark.parametrize(("data", "held_out"), SAME)
def test_specs_that_share_tokens_overlap(data, held_out):
    assert overlaps(data, held_out)
    assert overlaps(held_out, data)


@pytest.mark.parametrize(("data", "held_out"), APART)
def test_specs_that_share_none_do_not(data, held_out):
    assert not overlaps(data, held_out)
    assert not overlaps(held_out, data)


def test_a_model_is_one_folder_however_it_is_named(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)
    assert overlaps("faithful:model", f"faithful:{tmp_path}/model?tokens=5")
