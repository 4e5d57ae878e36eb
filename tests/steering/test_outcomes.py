"""Classes of completions by rules, and the tokens that the classes' words start with."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from saebench.labelling.rules import parse_rules
from saebench.steering.outcomes import ClassTokens, class_tokens, label_outcomes

VOCAB = {"<unk>": 0, "<s>": 1, "must": 2, "Must": 3, "may": 4, "shall": 5, "not": 6, "of": 7}


@pytest.fixture(scope="module")
def tokenizer():
    made = Tokenizer(models.WordLevel(VOCAB, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, unk_token="<unk>", bos_token="<s>")


def rules(*classes, **more):
    tables = [
        {"name": name, **({"regex": words} if name.startswith("re") else {"phrases": words})}
        for name, words in classes
    ]
    return parse_rules({"class": tables, **more}, "test")


DUTY = ("duty", ["must", "shall not"])
LICENCE = ("licence", ["may", "shall"])


def test_labels_are_one_zero_and_missing():
    found = label_outcomes(
        ["you must", "you may", "must or may", "nothing"],
        rules(DUTY, LICENCE),
        ("licence", "duty"),
        "duty",
    )
    np.testing.assert_array_equal(found, [1, 0, np.nan, np.nan])


def test_a_class_that_the_concept_lacks_is_no_outcome():
    three = rules(DUTY, LICENCE, ("other", ["of"]))
    assert np.isnan(label_outcomes(["of it"], three, ("licence", "duty"), "duty")).all()


def test_first_tokens_of_words_in_any_case_set_classes_apart(tokenizer):
    found = class_tokens(rules(DUTY, LICENCE), tokenizer, "duty")
    assert found.positive == (2, 3)  # "shall" starts words of both
    assert found.negative == (4,)
    assert found.describe(tokenizer) == {"positive": ["must", "Must"], "negative": ["may"]}


def test_unknown_words_are_no_tokens(tokenizer):
    found = class_tokens(rules(("duty", ["must", "zzz"]), ("licence", ["yyy"])), tokenizer, "duty")
    assert found.positive == (2, 3)
    assert found.negative == ()


def test_without_words_there_is_a_reason(tokenizer):
    only = rules(("re one", [r"a\b"]), ("re two", ["b"]))
    assert "only regular expressions" in class_tokens(only, tokenizer, "re one").reason
    assert "no rules" in class_tokens(None, tokenizer, "duty").reason


def test_the_difference_is_that_of_log_probabilities():
    logits = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    shares = logits.double().softmax(-1)
    both = ClassTokens((2, 3), (4,)).difference(logits)
    expected = (shares[:, 2] + shares[:, 3]).log() - shares[:, 4].log()
    torch.testing.assert_close(both, expected)
    odds = ClassTokens((2, 3), ()).difference(logits)
    share = shares[:, 2] + shares[:, 3]
    torch.testing.assert_close(odds, (share / (1 - share)).log())
    torch.testing.assert_close(ClassTokens((), (2, 3)).difference(logits), -odds)
