"""Windows of tokens: cut where tokens are, whatever a tokenizer does with spaces."""

from saebench.measure.concepts.examples import AFTER, BEFORE, window


def spaced(ids):
    """As tokenizers whose words carry the space in front of them, which decoding strips from the first."""
    return "".join(f" w{i}" for i in ids).lstrip()


def joined(ids):
    return "".join(f"<{i}>" for i in ids)


def test_a_window_is_cut_at_the_token_and_says_where_text_was_left_out():
    found = window(list(range(100)), 50, joined)
    assert found["token"] == "<50>"
    assert found["before"] == "… " + joined(range(50 - BEFORE, 50))
    assert found["after"] == joined(range(51, 51 + AFTER)) + " …"


def test_the_ends_of_a_text_are_not_said_to_be_cut():
    ids = [3, 4, 5]
    assert window(ids, 0, joined) == {"before": "", "token": "<3>", "after": "<4><5>"}
    assert window(ids, 2, joined) == {"before": "<3><4>", "token": "<5>", "after": ""}


def test_the_space_in_front_of_a_token_is_kept():
    found = window([1, 2, 3], 1, spaced)
    assert (found["before"], found["token"], found["after"]) == ("w1", " w2", " w3")


def test_a_tokenizer_that_rewrites_what_went_before_still_gives_the_token():
    def rewriting(ids):
        return "é" if list(ids) == [1, 2] else "".join({1: "?", 2: "!", 3: "x"}[i] for i in ids)

    assert window([1, 2, 3], 1, rewriting)["token"] == "!"
