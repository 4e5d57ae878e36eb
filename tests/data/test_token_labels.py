"""Character spans to labels of tokens: overlaps, cuts, limits, and files that do not serve."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from saebench.data.token_labels import LABELS, open_token_labels
from saebench.errors import DataError

WORDS = {"<pad>": 0, "<s>": 1, "the": 2, "red": 3, "fox": 4, "sat": 5, "hat": 6, "<unk>": 7}
TEXT = "the red fox sat"


def tokenizer(pre=None, **options):
    kind = Tokenizer(models.WordLevel(WORDS, unk_token="<unk>"))
    kind.pre_tokenizer = pre or pre_tokenizers.WhitespaceSplit()
    known = {"pad_token": "<pad>", "bos_token": "<s>"} | options
    return PreTrainedTokenizerFast(tokenizer_object=kind, **known)


def row(text=TEXT, fire=(), **more):
    return {
        "text": text,
        "condition": "clean",
        "pair": None,
        "fire": [list(s) for s in fire],
    } | more


def write(path, *rows, name="prompts.jsonl"):
    file = path / name
    file.write_text("".join(json.dumps(item) + "\n" for item in rows))
    return str(file)


def opened(path, *rows, tok=None, length=16, **options):
    return open_token_labels(write(path, *rows), tok or tokenizer(), length=length, **options)


def test_a_token_carries_the_label_of_every_span_that_it_shares_a_character_with(tmp_path):
    spans = [(0, 1), (6, 7), (8, 9)]  # t of the, d of red, f of fox
    found = opened(tmp_path, row(fire=spans, decision=[[11, 15]])).rows[0]
    assert found.row.ids.tolist() == [1, 2, 3, 4, 5]
    assert found.labels["fire"].tolist() == [False, True, True, True, False]
    assert found.labels["decision"].tolist() == [False, False, False, False, True]
    assert not found.labels["answer"].any()


@pytest.mark.parametrize("text", [TEXT, "  fox   the hat red sat", "sat sat sat hat"])
def test_labels_are_those_of_a_loop_over_characters(tmp_path, text):
    rng = np.random.default_rng(0)
    tok = tokenizer()
    offsets = tok(text, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    for _ in range(30):
        start, end = sorted(rng.choice(len(text) + 1, 2, replace=False).tolist())
        found = opened(tmp_path, row(text, [(start, end)])).rows[0].labels["fire"]
        span = set(range(start, end))
        assert found.tolist() == [False, *(bool(span & set(range(*o))) for o in offsets)]


def test_bos_never_carries_a_label_and_a_text_with_its_own_bos_is_not_shifted(tmp_path):
    found = opened(tmp_path, row("<s> the red", [(4, 7)])).rows[0]
    assert found.row.ids.tolist() == [1, 2, 3]
    assert found.labels["fire"].tolist() == [False, True, False]


def test_a_tokenizer_without_bos_labels_from_the_first_token_on(tmp_path):
    tok = tokenizer(bos_token=None)
    found = opened(tmp_path, row(fire=[(0, 3)]), tok=tok).rows[0]
    assert found.labels["fire"].tolist() == [True, False, False, False]


def test_what_is_cut_off_is_counted_as_lost(tmp_path):
    spans = [(0, 3), (11, 15)]
    found = opened(tmp_path, row(fire=spans), length=3)
    assert found.rows[0].row.ids.tolist() == [1, 2, 3]
    assert found.rows[0].labels["fire"].tolist() == [False, True, False]
    assert (found.n_spans["fire"], found.n_lost["fire"]) == (2, 1)


def test_a_blank_span_has_no_token_and_is_counted_as_lost(tmp_path):
    found = opened(tmp_path, row(fire=[(3, 4)]))
    assert not found.rows[0].labels["fire"].any()
    assert found.n_lost["fire"] == 1


def test_labels_of_counted_tokens_follow_one_another(tmp_path):
    found = opened(
        tmp_path, row(fire=[(0, 3)]), row("hat"), row("red", [(0, 3)]), row("", condition="none")
    )
    assert found.of_counted("fire").tolist() == [True, False, False, False, False, True]
    assert found.n_counted == 6
    assert found.n_dropped == 1
    assert found.conditions == ["clean"] * 3
    (batch,) = found.stream.batches(8)
    assert batch.counted.sum() == 6
    assert batch.sequence_ids.tolist() == [0, 1, 2]


def test_over_the_limit_whole_prompts_are_drawn_from_all_of_the_file(tmp_path):
    rows = [row(condition="poison", fire=[(0, 3)], pair=f"p{i}") for i in range(50)]
    rows += [row("hat fox", pair=f"p{i}") for i in range(50)]
    found = opened(tmp_path, *rows, max_tokens=120)
    assert found.n_counted <= 120
    assert found.n_left_out == 100 - len(found.rows)
    assert set(found.conditions) == {"poison", "clean"}
    assert found.conditions == sorted(found.conditions, reverse=True)  # the order of the file
    again = opened(tmp_path, *rows, max_tokens=120)
    assert again.digest == found.digest
    assert opened(tmp_path, *rows, max_tokens=120, seed=1).digest != found.digest
    assert opened(tmp_path, *rows, max_tokens=300).n_left_out == 0


def test_the_digest_knows_tokens_labels_conditions_and_pairs(tmp_path):
    def digest(**changed):
        return opened(tmp_path, row(fire=[(0, 3)]) | changed).digest

    found = {
        digest(),
        digest(fire=[[4, 7]]),
        digest(text="the red fox hat"),
        digest(condition="poison"),
        digest(pair="a"),
        digest(decision=[[0, 1]]),
        digest(source="d"),
    }
    assert len(found) == 7
    assert digest() == digest()


def test_the_description_is_plain_json_and_names_what_was_read(tmp_path):
    found = opened(tmp_path, row(fire=[(0, 3)], pair="a"), row(condition=None)).describe()
    assert json.loads(json.dumps(found)) == found
    assert found["conditions"] == {"clean": 1, "none": 1}
    assert (found["n_pairs"], found["n_spans"]["fire"]) == (1, 1)
    assert found["data"]["n_sequences"] == 2


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ([[0, 99]], "15 characters"),
        ([[3, 3]], "one character or more"),
        ([[5, 2]], "within"),
        ([[-1, 2]], "within"),
        ([[0]], "two whole numbers"),
        ([[0, 1.5]], "two whole numbers"),
        ([[True, 2]], "two whole numbers"),
        (["ab"], "two whole numbers"),
        ("[[0, 1]]", "[[start, end], …]"),
        ({"a": 1}, "[[start, end], …]"),
    ],
)
def test_a_span_that_is_none_is_refused_with_its_row(tmp_path, given, words):
    with pytest.raises(DataError) as error:
        opened(tmp_path, row(), row() | {"fire": given})
    assert words in str(error.value)
    assert "row 2" in str(error.value)


@pytest.mark.parametrize("column", ["document", "source"])
def test_documents_are_numbered_and_a_text_without_one_is_its_own(tmp_path, column):
    names = ["b", "a", None, "b", None]
    found = opened(tmp_path, *(row() | {column: name} for name in names))
    assert found.documents.tolist() == [1, 0, 4, 1, 6]
    assert found.describe()["n_documents"] == 4
    assert opened(tmp_path, row()).documents is None


@pytest.mark.parametrize("given", [None, []])
def test_no_span_is_fine(tmp_path, given):
    assert not opened(tmp_path, row() | {"fire": given}).of_counted("fire").any()


@pytest.mark.parametrize("missing", ["text", "fire"])
def test_a_missing_column_is_named(tmp_path, missing):
    broken = row()
    del broken[missing]
    with pytest.raises(DataError, match=f"column '{missing}' in row 1"):
        opened(tmp_path, broken)


def test_a_text_or_condition_of_another_kind_is_refused(tmp_path):
    with pytest.raises(DataError, match="a text in row 1"):
        opened(tmp_path, row(text=3))
    with pytest.raises(DataError, match="condition of row 1"):
        opened(tmp_path, row(condition=3))


def test_a_tokenizer_that_does_not_say_where_its_tokens_lie_is_refused(tmp_path):
    slow = tokenizer()
    type(slow).is_fast  # noqa: B018 - a property, overridden below
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(slow), "is_fast", False)
        with pytest.raises(DataError, match="fast tokenizer"):
            opened(tmp_path, row(), tok=slow)


def test_nothing_to_read_is_an_error(tmp_path):
    with pytest.raises(DataError, match="two tokens or more"):
        opened(tmp_path, row(""))
    with pytest.raises(DataError, match="max_tokens"):
        opened(tmp_path, row(), max_tokens=2)
    plain = tmp_path / "a.txt"
    plain.write_text("the red fox")
    with pytest.raises(DataError, match="plain text"):
        open_token_labels(str(plain), tokenizer(), length=8)


def test_another_column_of_texts_can_be_named(tmp_path):
    spec = write(tmp_path, {"prompt": TEXT, "fire": [[0, 3]]}) + "#prompt"
    found = open_token_labels(spec, tokenizer(), length=16)
    assert found.of_counted("fire").tolist() == [True, False, False, False]
    assert set(found.rows[0].labels) == set(LABELS)


def test_byte_level_tokens_of_one_character_all_carry_its_label(tmp_path):
    kind = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet())}, merges=[]))
    kind.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tok = PreTrainedTokenizerFast(tokenizer_object=kind)
    found = opened(tmp_path, row("aé b", [(1, 2)]), tok=tok).rows[0]
    assert found.labels["fire"].tolist() == [False, True, True, False, False]


def alphabet():
    return sorted(pre_tokenizers.ByteLevel.alphabet())
