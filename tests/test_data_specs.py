"""The grammar of data specs: what each text means, and that its own text means the same again."""

import pytest

from saebench.data_specs import (
    Faithful,
    Shuffled,
    Text,
    Uniform,
    Unigram,
    parse_spec,
    relocate,
)
from saebench.errors import DataError

FILE = Text("text/a.jsonl#body")
HUB = Text("hf:org/name/config@main#train:text")
MEANINGS = {
    "text/a.jsonl#body": FILE,
    "hf:org/name/config@main#train:text": HUB,
    "what?a=1.txt": Text("what?a=1.txt"),
    "uniform.txt": Text("uniform.txt"),
    "uniforms": Text("uniforms"),
    "./uniform": Text("./uniform"),
    "./shuffled:a.txt": Text("./shuffled:a.txt"),
    "uniform": Uniform(),
    "uniform?": Uniform(),
    "uniform?seed=3&special=false": Uniform(3, False),
    "uniform?n_tokens=1_000&n_sequences=7": Uniform(n_sequences=7, n_tokens=1000),
    "unigram:text/a.jsonl#body": Unigram(FILE),
    "unigram:text/a.jsonl#body?random_seed=2&text_tokens=50": Unigram(FILE, 2, text_tokens=50),
    "shuffled:hf:org/name/config@main#train:text?within=corpus": Shuffled(HUB, within="corpus"),
    "shuffled:./uniform": Shuffled(Text("./uniform")),
    "shuffled:uniform?seed=3&random_seed=4": Shuffled(Uniform(3), 4),
    "shuffled:unigram:a?random_seed=1&random_seed=2": Shuffled(Unigram(Text("a"), 2), 1),
    "shuffled:unigram:a?random_seed=1": Shuffled(Unigram(Text("a")), 1),
    "faithful:org/model?tokens=100&length=9&temperature=0.5&top_p=0.9&seed=1": Faithful(
        "org/model", 100, 9, 0.5, 0.9, 1
    ),
    "shuffled:a?seed=3": Shuffled(Text("a"), 3),
    "unigram:a?special=false&seed=3": Unigram(Text("a"), 3, special=False),
    "shuffled:unigram:a?seed=1": Shuffled(Unigram(Text("a"), 1)),
    "shuffled:unigram:a?seed=1&within=corpus&seed=2": Shuffled(
        Unigram(Text("a"), 2), 1, within="corpus"
    ),
    "shuffled:unigram:a?random_seed=1&seed=2": Shuffled(Unigram(Text("a"), 2), 1),
    "shuffled:uniform?seed=3": Shuffled(Uniform(3)),
    "shuffled:uniform?seed=1&seed=3": Shuffled(Uniform(3), 1),
    "shuffled:faithful:m?seed=1&seed=3": Shuffled(Faithful("m", seed=3), 1),
    "shuffled:shuffled:uniform?seed=1&seed=2&seed=3": Shuffled(Shuffled(Uniform(3), 2), 1),
    "unigram:shuffled:faithful:./m?seed=2&within=corpus&text_tokens=9": Unigram(
        Shuffled(Faithful("./m", seed=2), within="corpus"), text_tokens=9
    ),
}


@pytest.mark.parametrize("text", MEANINGS)
def test_a_spec_means_what_it_says_and_its_text_means_the_same(text):
    source = parse_spec(text)
    assert source == MEANINGS[text]
    assert parse_spec(str(source)) == source


def test_the_inner_spec_keeps_its_own_value_where_the_outer_one_has_the_default():
    source = Shuffled(Unigram(Text("a"), random_seed=5), random_seed=0)
    assert parse_spec(str(source)) == source


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("uniform?seed", "after uniform"),
        ("uniform#text", None),
        ("uniform?sed=1", "unknown key 'sed'.*seed, special"),
        ("uniform?seed=1&seed=2", "'seed' is given twice"),
        ("uniform?seed=-1", "0 or more"),
        ("uniform?seed=x", "found 'x'"),
        ("uniform?special=no", "true or false"),
        ("uniform?n_tokens=0", "1 or more"),
        ("unigram:a?n_sequences=0", "1 or more"),
        ("shuffled:a?within=text", "sequence or corpus"),
        ("shuffled:a?sed=1", "unknown key 'sed'.*random_seed, within"),
        ("shuffled:unigram:a?temperature=1", "unknown key 'temperature'"),
        ("shuffled:", "nothing after 'shuffled:'"),
        ("unigram:?random_seed=1", "nothing after 'unigram:'"),
        ("faithful:?tokens=5", "faithful:MODEL"),
        ("faithful:m?length=1", "2 or more"),
        ("faithful:m?temperature=0", "above 0"),
        ("faithful:m?temperature=nan", "above 0"),
        ("faithful:m?top_p=1.1", "at most 1"),
        ("shuffled:a?seed=1&seed=2", "'seed' is given twice"),
        ("shuffled:a?random_seed=1&seed=2", "'seed' is given twice"),
        ("shuffled:uniform?seed=1&seed=2&seed=3", "'seed' is given twice"),
        ("shuffled:" * 3000 + "a", "8 words at most"),
        ("shuffled:" * 8 + "uniform", "8 words at most"),
        ("faithful:m?random_seed=1", "unknown key 'random_seed'.*tokens"),
    ],
)
def test_what_means_nothing_is_refused_with_what_would(text, said):
    if said is None:
        assert parse_spec(text) == Text(text)  # a path: opening it says that it is not there
        return
    with pytest.raises(DataError, match=said):
        parse_spec(text)


def test_paths_and_models_inside_a_spec_are_moved_and_nothing_else():
    def moved(text):
        return str(relocate(parse_spec(text), "p/{}".format, "m/{}".format))

    assert moved("a.txt#x") == "p/a.txt#x"
    assert moved("shuffled:unigram:a.txt?random_seed=1&random_seed=2") == (
        str(Shuffled(Unigram(Text("p/a.txt"), 2), 1))
    )
    assert moved("shuffled:faithful:x?tokens=5") == str(Shuffled(Faithful("m/x", 5)))
    assert moved("shuffled:hf:o/n#train") == "shuffled:hf:o/n#train"
    assert moved("uniform?seed=2") == "uniform?seed=2"


def test_a_file_that_a_move_would_turn_into_a_word_keeps_its_dot():
    moved = relocate(parse_spec("./uniform"), lambda path: path.removeprefix("./"), str)
    assert str(moved) == "./uniform"
    assert parse_spec(str(moved)) == Text("./uniform")


def test_eight_words_are_not_too_many():
    text = "shuffled:" * 7 + "uniform"
    assert str(parse_spec(text)).startswith(text)
    assert parse_spec("shuffled:" * 8 + "a.txt")
