"""What is printed of labels: a consensus of judges is no judge beside them."""

from __future__ import annotations

from saebench.labelling.consensus import consensus
from saebench.labelling.summary import summary

A = ["x", "x", "y", "y", "x", "y", "x", "y", "y", "x"] * 4
B = ["x", "y", "y", "y", "x", "y", "x", "x", "y", "x"] * 4


def test_judges_who_disagree_do_not_agree_with_their_own_consensus():
    votes = {"a": A, "b": B}
    text = "\n".join(summary(consensus(votes, "all"), votes, name="consensus", consensus=True))
    assert "| a, b | 40 | 0.800" in text
    assert "consensus" not in text
    assert "1.000" not in text


def test_three_judges_have_one_figure_of_all_of_them():
    votes = {"a": A, "b": B, "c": A}
    text = "\n".join(summary(consensus(votes, "majority"), votes, consensus=True))
    assert text.count("Fleiss' κ of all") == 1
    assert "Fleiss" not in "\n".join(summary(A, {"a": A, "b": B}, consensus=True))


def test_rules_are_scored_against_every_judge():
    text = "\n".join(summary(A, {"b": B}, name="rules"))
    assert "rules against b, 40 texts" in text
    assert "| rules, b | 40 | 0.800" in text
