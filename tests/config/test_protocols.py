"""The tables and options about single suites: groups, seeds, fake features, probing."""

import pytest

from saebench.config import load_config, merge_options
from saebench.config.parts import groups_by_seed
from saebench.errors import ConfigError
from saebench.grouping import groups_of
from saebench.protocols import FakeProtocol, ProbingProtocol, SeedsProtocol, Task

SEEDS = 'suites = ["seeds"]'


def written(tmp_path, text):
    (tmp_path / "saebench.toml").write_text(text)
    return load_config(tmp_path / "saebench.toml", cwd=tmp_path)


def test_without_tables_the_published_protocols_hold(tmp_path):
    config = written(tmp_path, "")
    assert config.fake_features == FakeProtocol()
    assert config.seeds == SeedsProtocol()
    assert config.probing == ProbingProtocol()
    assert config.groups == ()


def test_tables_change_single_values(tmp_path):
    config = written(
        tmp_path,
        """
        [seeds]
        threshold = 0.5
        [fake_features]
        unit = "sequence"
        threshold = 2
        special = false
        length = 64
        [probing]
        pooling = "last"
        max_train = 500
        """,
    )
    assert config.seeds == SeedsProtocol(threshold=0.5)
    assert config.fake_features == FakeProtocol(
        unit="sequence", threshold=2.0, special=False, length=64
    )
    assert config.probing == ProbingProtocol(pooling="last", max_train=500)


def test_tasks_are_folders_known_names_or_tables(tmp_path):
    (tmp_path / "labelled" / "part").mkdir(parents=True)
    config = written(
        tmp_path,
        """
        [probing]
        tasks = [
            "labelled/part",
            "sst2",
            { name = "mine", train = "a.jsonl", test = "b.jsonl", label = "y", document = "d" },
        ]
        """,
    )
    assert config.probing.tasks == (
        Task("part", "labelled/part", "", "text", "label"),
        Task("sst2", "sst2", "", "text", "label"),
        Task("mine", "a.jsonl", "b.jsonl", "text", "y", "d"),
    )


def test_groups_have_names_patterns_sources_blocks_and_gates(tmp_path):
    config = written(
        tmp_path,
        """
        suites = ["seeds"]
        [[group]]
        name = "faithful-k8"
        saes = ["faithful-k8-*"]
        source = "faithful"
        block = "k8"
        gates = { shared_decoder = ">= 0.3" }
        """,
    )
    (spec,) = config.groups
    assert (spec.group.name, spec.group.saes) == ("faithful-k8", ("faithful-k8-*",))
    assert (spec.group.label, spec.group.block) == ("faithful", "k8")
    assert set(spec.gates) == {"shared_decoder"}


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("[seeds]\nthreshhold = 0.5", "unknown key 'threshhold'"),
        ("[fake_features]\nunit = 'word'", "unknown value 'word'"),
        ("[fake_features]\nshare = 1.5", "found 1.5"),
        ("[fake_features]\nspecial = 1", "expected true or false"),
        ("[fake_features]\nrelative = true", "as a quantile"),
        ("[fake_features]\nn_sequences = 2.5", "expected a whole number"),
        ("[probing]\npooling = 'sum'", "unknown value 'sum'"),
        ("[probing]\ntasks = 'part'", "Write a list of tasks"),
        ("[probing]\ntasks = ['a/part', 'b/part']", "two are called 'part'"),
        ("[[group]]\nname = 'a'", "Name its checkpoints"),
        ("[[group]]\nsaes = ['a']", "'name' is missing"),
        ("[[group]]\nname='a'\nsaes=['x']\n[[group]]\nname='a'\nsaes=['y']", "two are called 'a'"),
        ("[[group]]\nname='a'\nsaes=['x']\ngates={shared_decoder='> 0'}", "is not in suites"),
    ],
)
def test_a_wrong_table_is_refused_with_what_to_do(tmp_path, table, words):
    with pytest.raises(ConfigError, match=words.replace("(", r"\(")):
        written(tmp_path, table)


def test_options_change_what_the_file_says(tmp_path):
    suites = 'suites = ["seeds", "fake_features", "probing"]\n'
    config = written(tmp_path, suites + "[fake_features]\nshare = 0.2\n[seeds]\ntop_k = 5")
    merged = merge_options(
        config,
        groups=["topk=topk-s0,topk-s1"],
        tasks=["ag_news", "mine=some/folder"],
        fake=["unit=sequence", "threshold=1.5", "special=false", "n_sequences=1_000"],
        matching=["threshold=0.9"],
        probe=["classifier=one_epoch"],
    )
    assert merged.fake_features == FakeProtocol(
        share=0.2, unit="sequence", threshold=1.5, special=False, n_sequences=1000
    )
    assert merged.seeds == SeedsProtocol(threshold=0.9, top_k=5)
    assert merged.probing.classifier == "one_epoch"
    assert [task.name for task in merged.probing.tasks] == ["ag_news", "mine"]
    assert merged.probing.tasks[1].train == "some/folder"
    assert merged.groups[0].group.saes == ("topk-s0", "topk-s1")


@pytest.mark.parametrize("option", ["unit=word", "colour=red", "n_sequences=many", "share"])
def test_a_wrong_option_is_refused(tmp_path, option):
    with pytest.raises(ConfigError):
        merge_options(written(tmp_path, 'suites = ["fake_features"]'), fake=[option])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tasks": ["sst2"]}, "--task: its suite 'probing' does not run"),
        ({"fake": ["unit=sequence"]}, "--fake: its suite 'fake_features' does not run"),
        ({"groups": ["a=b*"]}, "Add --suite seeds"),
        ({"gates": ["shared_decoder >= 0.5"]}, "the gate on shared_decoder: its suite 'seeds'"),
        ({"suites": ["seeds"], "gates": ["fve >= 0.9"]}, "its suite 'reconstruction' does not run"),
    ],
)
def test_what_would_be_passed_over_because_its_suite_does_not_run_is_refused(
    tmp_path, options, words
):
    with pytest.raises(ConfigError, match=words):
        merge_options(written(tmp_path, ""), **options)


def test_a_gate_switched_off_needs_no_suite(tmp_path):
    merge_options(written(tmp_path, ""), gates=["shared_decoder = false"])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("sequences = 16", "data = . spec = .…., n_sequences = … ."),
        ("context_size = 64", "context_size = … ."),
        ("[seeds]\nthreshold = 2", "A cosine above 1 cannot be"),
        ("[fake_features]\nn_sequences = 0", "Write at least 1"),
    ],
)
def test_the_next_step_is_one_that_can_be_taken(tmp_path, text, words):
    with pytest.raises(ConfigError, match=words):
        written(tmp_path, text)


# --- which checkpoints belong together ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "groups"),
    [
        (["topk-s0", "topk-s1", "relu"], {"topk": ("topk-s0", "topk-s1")}),
        (["a_seed42", "a_seed49"], {"a": ("a_seed42", "a_seed49")}),
        (["k8.seed=1", "k8.seed=2"], {"k8": ("k8.seed=1", "k8.seed=2")}),
        (["run-s0-k8", "run-s1-k8"], {"run-k8": ("run-s0-k8", "run-s1-k8")}),
        (["topk-s0", "batchtopk-s0"], {}),
        (["layer1", "layer2"], {}),
        (["saes1", "saes2"], {}),
        (["a", "a-s0", "a-s1"], {"a-seeds": ("a-s0", "a-s1")}),
        (["topkseed1", "topkseed2"], {"topk": ("topkseed1", "topkseed2")}),
    ],
)
def test_names_that_differ_in_a_seed_only_make_a_group(names, groups):
    assert groups_by_seed(names) == groups


def test_configured_groups_hold_the_names_that_match_their_patterns(tmp_path):
    config = merge_options(written(tmp_path, SEEDS), groups=["a=x-*", "b=y-0,y-2"])
    names = ("x-0", "x-1", "y-0", "y-1", "y-2")
    members = {name: found for name, (_, found) in groups_of(config, names).items()}
    assert members == {"a": ("x-0", "x-1"), "b": ("y-0", "y-2")}


def test_names_are_no_patterns_where_no_group_is_configured(tmp_path):
    names = ("t[a]-s0", "t[a]-s1", "a*-s0", "a*-s1", "axx-s0")
    members = {name: found for name, (_, found) in groups_of(written(tmp_path, ""), names).items()}
    assert members == {"t[a]": ("t[a]-s0", "t[a]-s1"), "a*": ("a*-s0", "a*-s1")}


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ([], "no group is configured"),
        (["a=x-0"], "only x-0"),
        (["a=z-*"], "none of x-0, y-0"),
        (["x-0=x-*"], "a checkpoint goes by that name"),
    ],
)
def test_a_group_that_cannot_be_compared_is_refused(tmp_path, groups, words):
    config = merge_options(written(tmp_path, SEEDS), groups=groups)
    with pytest.raises(ConfigError, match=words):
        groups_of(config, ("x-0", "y-0"))
