"""``saebench complete`` and ``saebench label``: what they write and print, and how they refuse."""

import csv
import json
from pathlib import Path

import pytest
from sklearn.metrics import cohen_kappa_score, precision_score

from saebench import cli
from saebench.data.concepts import open_concept
from saebench.generation.completions import complete
from saebench.labelling import load_rules
from saebench.models import LanguageModel
from saebench.protocols import Concept

MODEL = str(Path(__file__).parents[1] / "fixtures" / "model")
RULES = """
[[class]]
name = "code"
regex = '[(_=.]'
[[class]]
name = "prose"
any = ["the", "a", "of", "is"]
"""
PROMPTS = ["Return the", "If the value of", "This", "Return a list of the", "An object that"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write(
        tmp_path / "prompts.jsonl",
        [{"prompt": p, "document": f"d{i}"} for i, p in enumerate(PROMPTS)],
    )
    (tmp_path / "rules.toml").write_text(RULES)
    return tmp_path


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def read(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


@pytest.fixture
def saebench(folder, capsys):
    def run(*arguments):
        code = cli.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert (code, err) == (0, "")
        return out

    return run


@pytest.fixture
def refused(folder, capsys):
    def run(*arguments):
        before = sorted(path.name for path in folder.iterdir())
        code = cli.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        (line,) = err.strip().splitlines()
        assert code == 4
        assert "Traceback" not in out + err
        assert sorted(path.name for path in folder.iterdir()) == before
        return line

    return run


COMPLETE = ("complete", MODEL, "--prompts", "prompts.jsonl", "--out", "c.jsonl", "--device", "cpu")


class TestComplete:
    def test_it_writes_every_prompt_with_every_seed(self, saebench):
        out = saebench(*COMPLETE, "--seeds", "0,3", "--max-new-tokens", 5)
        rows = read("c.jsonl")
        expected = complete(
            LanguageModel.load(MODEL, device="cpu"), PROMPTS, seeds=(0, 3), max_new_tokens=5
        )
        assert [row["completion"] for row in rows] == [item.text for item in expected]
        assert list(rows[0]) == [
            *("prompt", "completion", "seed", "prompt_id", "n_new", "ended", "document")
        ]
        assert [(row["prompt_id"], row["seed"]) for row in rows] == [
            (p, s) for p in range(5) for s in (0, 3)
        ]
        assert all(row["document"] == f"d{row['prompt_id']}" for row in rows)
        assert "10 completions of 5 prompts, " in out
        assert " tokens: c.jsonl" in out

    def test_the_file_beside_it_says_by_which_model_and_how(self, saebench):
        saebench(*COMPLETE, "--max-new-tokens", 4, "--precision", "nf4+reference", "--limit", 2)
        said = json.loads(Path("c.completions.json").read_text())
        assert said["model"]["precision"]["regime"] == "nf4+reference"
        assert said["model"]["digest"] == LanguageModel.load(MODEL, device="cpu").digest
        assert said["settings"]["max_new_tokens"] == 4
        assert (said["prompts"]["spec"], said["prompts"]["n_prompts"]) == ("prompts.jsonl", 2)
        assert said["n_completions"] == 2

    def test_a_second_run_gives_the_same_bytes(self, saebench, folder):
        files = ("c.jsonl", "c.completions.json")
        saebench(*COMPLETE, "--max-new-tokens", 4, "--temperature", 0.7, "--top-p", 0.9)
        first = [(folder / name).read_bytes() for name in files]
        saebench(*COMPLETE, "--max-new-tokens", 4, "--temperature", 0.7, "--top-p", 0.9)
        assert [(folder / name).read_bytes() for name in files] == first

    def test_rules_add_labels_and_counts(self, saebench):
        out = saebench(*COMPLETE, "--seeds", "0,1,2,3", "--rules", "rules.toml")
        rows, rules = read("c.jsonl"), load_rules("rules.toml")
        assert [row["label"] for row in rows] == [rules.label(row["completion"]) for row in rows]
        for name, text in (("code", "code"), ("prose", "prose"), (None, "(ambiguous)")):
            n = sum(row["label"] == name for row in rows)
            assert f"| {text} | {n} | {n / 20:.3f} [" in out
        assert json.loads(Path("c.completions.json").read_text())["rules"]["digest"] == rules.digest

    def test_prompts_may_be_in_any_table_and_column(self, saebench, folder):
        with (folder / "q.csv").open("w", newline="") as handle:
            csv.writer(handle).writerows([["question"], *([p] for p in PROMPTS)])
        arguments = ("complete", MODEL, "--out", "c.jsonl", "--max-new-tokens", 3)
        saebench(*arguments, "--prompts", "q.csv#question")
        by_column = read("c.jsonl")
        write(folder / "texts.jsonl", [{"text": p} for p in PROMPTS])
        saebench(*arguments, "--prompts", "texts.jsonl")
        assert read("c.jsonl") == by_column

    def test_completions_are_data_of_a_concept(self, saebench, folder):
        saebench(*COMPLETE, "--seeds", "0,1,2,3,4,5", "--max-new-tokens", 12)
        tokenizer = LanguageModel.load(MODEL, device="cpu").tokenizer
        concept = Concept("c", "c.jsonl", text="completion", prompt="prompt", rules="rules.toml")
        found = open_concept(concept, tokenizer, length=64, held_out=0)
        assert found.facts["splits"]["train"].keys() == {"code", "prose"}
        written = found.facts["data"]["data"]["written_by"]
        assert written["model"]["class"] == "GPTNeoXForCausalLM"
        assert written["settings"]["seeds"] == [0, 1, 2, 3, 4, 5]

    @pytest.mark.parametrize(
        ("change", "said"),
        [
            (("--seeds", "0,x"), "--seeds '0,x': not whole numbers. Write 0,1,2"),
            (("--seeds", "0,0"), "each once"),
            (("--temperature", "0", "--seeds", "0,1"), "all would give the same completion"),
            (("--max-new-tokens", "0"), "max_new_tokens = 0"),
            (("--max-new-tokens", "300"), "the context of model has 256"),
            (("--precision", "nf5"), "nf5"),
            (("--out", "c.csv"), "not the name of a file of JSON lines. Write NAME.jsonl"),
            (("--limit", "0"), "--limit 0"),
            (("--prompts", "none.jsonl"), "none.jsonl"),
            (("--prompts", "prompts.jsonl#quest"), "columns 'prompt', 'document'"),
            (("--rules", "none.toml"), "none.toml"),
            (("--prompts", "rules.toml"), "Convert the data"),
        ],
    )
    def test_what_is_wrong_is_said_before_anything_is_written(self, refused, change, said):
        assert said in refused(*COMPLETE, *change)

    @pytest.mark.parametrize(
        ("row", "said"),
        [
            ({"prompt": ""}, "row 1 of 'p.jsonl': an empty cell"),
            ({"prompt": 3}, "a int"),
            ({"prompt": "a", "seed": 1}, "without a column 'seed'"),
            ({"q": "a"}, "columns 'q'"),
            ("a", "a row without any"),
            ({"prompt": "a", "x": float("nan")}, "as JSON"),
        ],
    )
    def test_rows_that_are_no_prompts_are_named(self, refused, folder, row, said):
        write(folder / "p.jsonl", [row])
        assert said in refused(*COMPLETE, "--prompts", "p.jsonl")

    def test_prompts_with_labels_cannot_be_labelled_again(self, refused, saebench, folder):
        write(folder / "p.jsonl", [{"prompt": "This", "label": "x"}])
        line = refused(*COMPLETE, "--prompts", "p.jsonl", "--rules", "rules.toml")
        assert "without a column 'label'" in line
        saebench(*COMPLETE, "--prompts", "p.jsonl", "--max-new-tokens", 2)
        assert read("c.jsonl")[0]["label"] == "x"

    def test_no_prompt_at_all_is_refused(self, refused, folder):
        (folder / "p.jsonl").write_text("")
        assert "no row at all" in refused(*COMPLETE, "--prompts", "p.jsonl")


TEXTS = ["of the", "f(x)", "is a", "x = 1", "what", "the f(x)", "a b", "b_c"]
GOLD = ["prose", "code", "prose", "code", "code", None, "code", "code"]
LABEL = ("label", "t.jsonl", "--rules", "rules.toml", "--out", "l.jsonl")


class TestLabel:
    @pytest.fixture(autouse=True)
    def texts(self, folder):
        write(
            folder / "t.jsonl",
            [
                {"text": t, "gold": g, "n": i}
                for i, (t, g) in enumerate(zip(TEXTS, GOLD, strict=True))
            ],
        )

    def test_it_adds_a_column_and_prints_what_there_is(self, saebench):
        out = saebench(*LABEL)
        expected = load_rules("rules.toml").label_all(TEXTS)
        assert expected == ["prose", "code", "prose", "code", None, None, "prose", "code"]
        rows = read("l.jsonl")
        assert [row["label"] for row in rows] == expected
        assert [(row["text"], row["gold"], row["n"]) for row in rows] == list(
            zip(TEXTS, GOLD, range(8), strict=True)
        )
        assert "| code | 3 | 0.375 [" in out
        assert "| (ambiguous) | 2 | 0.250 [" in out
        assert "8 rows with a column label: l.jsonl" in out

    def test_a_judge_is_set_beside_the_rules(self, saebench):
        out = saebench(*LABEL, "--judge", "gold", "--column", "rule")
        rows = read("l.jsonl")
        both = [(r["rule"], r["gold"]) for r in rows if r["rule"] and r["gold"]]
        kappa = cohen_kappa_score(*zip(*both, strict=True))
        equal = sum(a == b for a, b in both) / len(both)
        assert f"| rules, gold | {len(both)} | {equal:.3f} [" in out
        assert f"] | {kappa:.3f}" in out
        mine, gold = zip(*[(r["rule"] or "?", r["gold"]) for r in rows if r["gold"]], strict=True)
        prose = precision_score(gold, mine, labels=["prose"], average=None)[0]
        assert f"| prose | {prose:.3f} [" in out
        assert "rules against gold, 7 texts" in out

    def test_the_column_of_the_text_is_named_in_the_spec_or_by_itself(self, saebench):
        saebench("label", "t.jsonl#gold", *LABEL[2:])
        by_spec = read("l.jsonl")
        saebench(*LABEL, "--text", "gold")
        assert read("l.jsonl") == by_spec
        assert {row["label"] for row in by_spec} == {None}

    def test_judges_alone_give_their_consensus(self, saebench, folder):
        votes = [("a", "a", "b"), ("a", "b", None), ("b", "b", "b"), ("a", None, None)]
        write(folder / "v.jsonl", [dict(zip("xyz", vote, strict=True)) for vote in votes])
        judges = ("--judge", "x", "--judge", "y", "--judge", "z", "--out", "l.jsonl")
        out = saebench("label", "v.jsonl", *judges)
        assert [row["label"] for row in read("l.jsonl")] == ["a", None, "b", "a"]
        assert "Fleiss' κ of all" in out
        saebench("label", "v.jsonl", *judges, "--consensus", "all")
        assert [row["label"] for row in read("l.jsonl")] == [None, None, "b", None]

    def test_a_file_may_be_labelled_in_place_and_keeps_its_provenance(self, saebench):
        saebench(*COMPLETE, "--max-new-tokens", 4)
        before = json.loads(Path("c.completions.json").read_text())
        saebench("label", "c.jsonl", "--rules", "rules.toml", "--out", "c.jsonl")
        assert "label" in read("c.jsonl")[0]
        after = json.loads(Path("c.completions.json").read_text())
        assert after["model"] == before["model"]
        assert after["made_of"] == before["sha256"] != after["sha256"]
        assert after["labels"]["rules"]["digest"] == load_rules("rules.toml").digest

    def test_completions_of_a_prompt_are_resampled_together(self, saebench):
        saebench(*COMPLETE, "--seeds", "0,1,2", "--max-new-tokens", 4)
        saebench("label", "c.jsonl", "--rules", "rules.toml", "--out", "l.jsonl", "--column", "one")
        rows = [{**row, "two": row["one"] or "code"} for row in read("l.jsonl")]
        write(Path("two.jsonl"), rows)
        arguments = ("label", "two.jsonl", "--rules", "rules.toml", "--out", "m.jsonl")
        assert "| rules, two |" in saebench(*arguments, "--judge", "two")

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (("label", "t.jsonl", "--out", "l.jsonl"), "neither --rules nor two columns"),
            (("label", "t.jsonl", "--judge", "gold", "--out", "l.jsonl"), "two columns of judges"),
            ((*LABEL, "--judge", "silver"), "column 'silver' in row 1 of 't.jsonl'"),
            ((*LABEL, "--text", "body"), "columns 'text', 'gold', 'n'"),
            ((*LABEL, "--text", "n"), "a int"),
            ((*LABEL, "--column", "gold"), "give --judge gold too"),
            ((*LABEL, "--consensus", "all"), "--rules give the labels"),
            ((*LABEL, "--out", "l.csv"), "Write NAME.jsonl"),
            (("label", "no.jsonl", *LABEL[2:]), "no.jsonl"),
            (("label", "rules.toml", *LABEL[2:]), "Convert the data"),
        ],
    )
    def test_what_is_wrong_is_refused(self, refused, arguments, said):
        assert said in refused(*arguments)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--help"], "\n    complete  "),
        (["--help"], "\n    label  "),
        (["complete", "--help"], "prompt_id"),
        (["label", "--help"], "[[class]]"),
    ],
)
def test_both_commands_are_listed_with_examples(capsys, arguments, said):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 0
    assert said in capsys.readouterr().out
