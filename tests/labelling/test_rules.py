"""Keyword rules: which class a text gets, what is ambiguous, and which files are refused."""

import pytest

from saebench.errors import ConfigError
from saebench.labelling import load_rules
from saebench.labelling.patterns import expression
from saebench.labelling.rules import parse_rules


def rules(*classes, **more):
    """Rules of ``(name, keys)`` pairs."""
    tables = [{"name": name, **keys} for name, keys in classes]
    return parse_rules({"class": tables, **more}, "rules.toml")


NO, YES = ("no", {"any": ["sorry", "can't"]}), ("yes", {"phrases": ["of course", "here is"]})


class TestMatching:
    @pytest.mark.parametrize(
        ("text", "label"),
        [
            ("Sorry, no.", "no"),
            ("I am SORRY", "no"),
            ("sorrynot", None),  # whole words
            ("unsorry", None),
            ("sorry_", None),
            ("(sorry)", "no"),
            ("I can't", "no"),
            ("I can’t", "no"),  # curly as straight
            ("Of  course", "yes"),
            ("of\n\tcourse!", "yes"),
            ("of courses", None),
            ("proof course", None),
            ("sorry, of course", None),  # both
            ("", None),
            ("anything", None),
        ],
    )
    def test_exactly_one_class_that_matches_is_decisive(self, text, label):
        assert rules(NO, YES).label(text) == label

    def test_a_phrase_of_signs_matches_between_letters(self):
        found = rules(("code", {"phrases": [">>>", "=="]}), NO)
        assert found.label("a==b") == "code"
        assert found.label("x>>>y") == "code"
        assert found.label("a=b") is None

    def test_words_are_no_regular_expressions(self):
        found = rules(("dot", {"any": ["a.c"]}), NO)
        assert found.label("a.c") == "dot"
        assert found.label("abc") is None

    def test_regular_expressions_are_in_any_case_unless_they_mind_it(self):
        found = rules(
            ("camel", {"regex": r"(?-i:[a-z][A-Z])"}), ("ai", {"regex": [r"\bas an ai\b"]})
        )
        assert found.label("camelCase") == "camel"
        assert found.label("camelcase") is None
        assert found.label("As an AI") == "ai"

    def test_only_the_first_characters_are_looked_at(self):
        assert rules(NO, YES).label("x" * 194 + " sorry") == "no"
        assert rules(NO, YES).label("x" * 195 + " sorry") is None
        assert rules(NO, YES, n_chars=5).label("sorry of course") == "no"
        # an anchor at the end means the end of what is looked at
        ends = rules(("end", {"regex": r"b\Z"}), NO, n_chars=3)
        assert ends.label("aab more") == "end"

    def test_the_earliest_match_decides_where_the_file_says_so(self):
        first = rules(NO, YES, first=True)
        assert first.label("sorry, of course") == "no"
        assert first.label("of course, sorry") == "yes"
        # the earliest of all words of a class, not of the first that is written
        assert first.label("here is what I can't do, of course, sorry") == "yes"
        assert first.label("I can't, here is why, sorry") == "no"
        tie = rules(("a", {"any": ["one"]}), ("b", {"phrases": ["one two"]}), first=True)
        assert tie.label("one two") is None

    def test_what_no_class_matches_may_have_a_class_of_its_own(self):
        found = rules(NO, default="other")
        assert found.label("anything") == "other"
        assert found.label("sorry") == "no"
        assert found.classes == ("no", "other")
        both = rules(NO, YES, default="no")
        assert both.label("sorry, of course") is None  # several are ambiguous all the same
        assert both.classes == ("no", "yes")

    def test_many_texts_are_labelled_one_by_one(self):
        assert rules(NO, YES).label_all(["sorry", "x", "here is"]) == ["no", None, "yes"]


class TestFiles:
    def test_a_file_is_read_and_described(self, tmp_path):
        path = tmp_path / "rules.toml"
        path.write_text(
            'n_chars = 50\n[[class]]\nname = "no"\nany = ["sorry"]\n[[class]]\nname = "yes"\n'
            "phrases = \"of course\"\nregex = '\\byes\\b'\n"
        )
        found = load_rules(path)
        assert found.describe() == {
            "n_chars": 50,
            "first": False,
            "default": None,
            "class": [
                {"name": "no", "any": ["sorry"], "phrases": [], "regex": []},
                {"name": "yes", "any": [], "phrases": ["of course"], "regex": [r"\byes\b"]},
            ],
            "digest": found.digest,
        }
        again = path.read_text() + "\n# a remark\n"
        path.write_text(again)
        assert load_rules(path).digest == found.digest
        path.write_text(again.replace("50", "51"))
        assert load_rules(path).digest != found.digest
        path.write_text(again.replace('"sorry"', '"sorry", "alas"'))
        assert load_rules(path).digest != found.digest

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            ({"nchars": 5}, "unknown key 'nchars'. Did you mean 'n_chars'"),
            ({"zzzzz": 5}, "Known: n_chars, first, default, class"),
            ({"n_chars": 0}, "whole number from 1"),
            ({"n_chars": True}, "whole number from 1"),
            ({"first": "yes"}, "true or false"),
            ({"default": ""}, "name of a class"),
            ({"class": {"name": "a"}}, "two brackets"),
            ({"class": []}, "two classes or more.*none"),
            ({"class": [{"name": "a", "any": ["b"]}]}, "two classes or more.*'a'"),
            ({"class": [{"any": ["b"]}]}, r"'name' in \[\[class\]\] 1 of r.toml: found nothing"),
            ({"class": [{"name": "a", "word": ["b"]}]}, "class 'a' of r.toml: unknown key 'word'"),
            ({"class": [{"name": "a", "phrase": ["b"]}]}, "Did you mean 'phrases'"),
            ({"class": [{"name": "a", "any": [1]}]}, "a text or a list of texts"),
            ({"class": [{"name": "a", "any": ["b c"]}]}, "several in phrases"),
            ({"class": [{"name": "a", "any": [" "]}]}, "nothing"),
            ({"class": [{"name": "a", "phrases": [" "]}]}, "empty text"),
            ({"class": [{"name": "a", "regex": ""}]}, "empty text"),
            ({"class": [{"name": "a", "regex": "(b"}]}, "regular expression.*unterminated"),
            ({"class": [{"name": "a"}], "default": "b"}, "nothing that a text could match"),
            (
                {"class": [{"name": "a", "any": ["b"]}, {"name": "a", "any": ["c"]}]},
                "two are called 'a'",
            ),
        ],
    )
    def test_a_mistake_is_named_with_its_place(self, change, said):
        with pytest.raises(ConfigError, match=said):
            parse_rules(change, "r.toml")

    def test_files_that_are_none_are_refused(self, tmp_path):
        with pytest.raises(ConfigError, match="No such file"):
            load_rules(tmp_path / "none.toml")
        path = tmp_path / "rules.toml"
        path.write_text("n_chars = [")
        with pytest.raises(ConfigError, match="not TOML"):
            load_rules(path)
        path.write_bytes(b"\xff\xfe\x00")
        with pytest.raises(ConfigError, match="not TOML"):
            load_rules(path)


class TestTime:
    @pytest.mark.parametrize(
        "pattern",
        [
            r"(a+)+$",
            r"(a*)*b",
            r"(a|aa)+$",
            r"(\w+\s?)*$",
            r"(?=(a+)+$)x",
            r"(?>(a+)+$)x",
            r"a*a*a*a*a*a*b",
            r"(x(a+)+y)?z",
            r"(a{1,200}){1,200}b",
        ],
    )
    def test_a_pattern_that_could_run_for_ever_is_refused_before_it_runs(self, pattern):
        with pytest.raises(ConfigError, match=r"possessive"):
            expression(pattern, "r", 200)

    @pytest.mark.parametrize(
        ("pattern", "text"),
        [
            (r"\s+(am|was)\s+\w+", "I  was  here"),
            (r"(?:foo|bar)++", "foobar"),
            (r"\A(?:(?!\w\.\w)[^_()])*\Z", "plain prose"),
            (r"(?:ha)+", "hahaha"),
            (r".*?no", "well no"),
            (r"\n {3,}\S", "a\n    b"),
            (r"(a)?(?(1)b|c)", "ab"),
        ],
    )
    def test_patterns_in_use_are_not(self, pattern, text):
        assert expression(pattern, "r", 200).search(text)

    def test_the_bound_holds_where_it_is_reached(self):
        worst = r"a*a*a*b"  # 200 characters: 200⁴ / 4! tries
        pattern = expression(worst, "r", 200)
        assert pattern.search("a" * 200) is None  # ends
        with pytest.raises(ConfigError, match="lower n_chars"):
            expression(worst, "r", 2000)

    def test_phrases_do_not_backtrack_over_white_space(self):
        found = rules(("a", {"phrases": ["x y z"]}), NO, n_chars=100_000)
        assert found.label("x" + " " * 50_000 + "w") is None
