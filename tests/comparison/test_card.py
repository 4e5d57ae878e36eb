"""The card says what stands in the comparison, escapes what others wrote, and names what is missing."""

from __future__ import annotations

import re

import pytest
from markdown_it import MarkdownIt

from saebench.comparison.card import render_comparison
from saebench.comparison.document import compare
from saebench.comparison.inference import SignTest, Spread
from saebench.comparison.seeds import seeds_of
from saebench.comparison.text import mean_and_sd, p_text, tally
from tests.comparison.studies import group, matched, probed, record, report, small_study
from tests.report.records import section

HOSTILE = "<b>x</b> | [a](http://e.vil) `y` <!-- saebench:end --> \x1b[31m\u202e"


def card(*reports, **more):
    named = {f"run{i}": one for i, one in enumerate(reports)}
    return render_comparison(compare(named, **more), {"a picture": "plots/x y.png"})


def table_row(text, start):
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {start} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_values_are_means_with_sd_and_n():
    values = section(card(small_study()), "Values by group")
    first = values.partition("### m, k16")[0]
    assert table_row(first, "FVE")[2:] == [
        "0.7005 (sd 0.00071, n 2)",
        "0.7105 (sd 0.00071, n 2)",
    ]
    assert table_row(first, "Shared latents (decoder)")[2:] == ["0.500", "0.600"]
    assert "n − 1" in values


def test_baselines_and_floors_stand_beside_what_has_to_beat_them():
    tasks = {"sst2": {"latents": {"accuracy": 0.75}, "baseline": {"accuracy": 0.8}}}
    records = [probed(name, tasks, mse=2.0) for name in "ab"]
    floor = {"shared_encoder": 0.3, "shared_decoder": 0.4, "shared_floor": 0.1}
    study = report(records, [group("g", "a", **floor), group("h", "b", **floor)])
    text = card(study)
    values = section(text, "Values by group").partition("<details>")[0]
    rows = [line for line in values.splitlines() if " higher | " in line or " | – | " in line]
    assert [line.split(" | ")[0].strip("| ") for line in rows] == [
        *("Probe accuracy on activations", "Probe accuracy on latents"),
        *("Shared latents (decoder)", "Shared latents (decoder, chance)"),
        "Shared latents (encoder)",
    ]
    compared = section(text, "Sources against each other").partition("<details>")[0]
    assert "activations" not in compared
    assert "chance)" not in compared


def test_pictures_are_linked():
    assert "![a picture](plots/x%20y.png)" in card(small_study())


def test_plus_minus_is_never_written():
    assert "±" not in card(small_study())


def test_the_table_of_two_sources_has_wins_p_and_the_smallest_p():
    text = section(card(small_study()), "Sources against each other")
    cells = table_row(text.partition("#### Seeds")[0], "FVE")
    assert cells[1:] == [
        *("higher", "2", "0.750", "0.760", "-0.0100", "–", "0.50", "0.50", "0–0–2"),
    ]
    assert "0.33 | 0.33" in text  # two seeds on each side cannot do better
    assert "A place is one language model and one block" in text


def test_without_a_chance_to_pass_there_is_no_column_of_corrected_p_but_a_sentence():
    text = section(card(small_study()), "Sources against each other")
    assert "p (Holm)" not in text
    assert "so few places allow is 0.50, so no row could be below 0.05" in text
    assert "so few seeds allow is 0.33, so no row could be below 0.05" in text
    many = section(
        card(small_study(blocks=[f"k{n}" for n in range(6)])), "Sources against each other"
    )
    table, _, shuffled = many.partition("#### Seeds")
    assert table_row(table, "FVE")[7:] == ["0.031", "0.031", "0.062", "0–0–6"]
    assert "so few places allow" not in many
    assert "p (Holm)" not in shuffled.partition("<details>")[0]
    assert "conservative" in many


def test_the_usual_p_over_cells_stands_beside_and_is_called_optimistic():
    records, groups = [], []
    for block in ("k8", "k16"):
        for place, source in enumerate("ab"):
            arms = {"latents": {"accuracy": 0.7 + 0.1 * place}}
            name = f"{source}-{block}"
            records.append(probed(name, {f"t{n}": arms for n in range(5)}))
            groups.append(group(name, [name], source=source, block=block))
    whole = card(report(records, groups))
    text = section(whole, "Sources against each other")
    assert "| Wins–ties–losses | Sign test p if cells were independent |" in text
    found = table_row(text.partition("#### Seeds")[0], "Probe accuracy on latents")
    assert found[2] == "2"
    assert found[-4:] == ["0.50", "0.50", "0–0–10", "0.002"]
    assert "optimistic: cells of a place share their checkpoints" in text
    assert "they are no replicates" in section(whole, "Limitations")
    assert (
        "if cells were"
        not in section(card(small_study()), "Sources against each other").partition("###")[2]
    )


def test_tasks_left_out_are_named():
    arms = {"latents": {"accuracy": 0.5}}
    records = [probed("a", {"x": arms, "y": arms}), probed("b", {"x": arms})]
    text = card(report(records, [group("g", "a"), group("h", "b")]))
    words = "means over tasks leave out y, which not every checkpoint there has"
    assert words in section(text, "Sources against each other")
    assert words in section(text, "Limitations")


def test_what_no_seed_changes_has_neither_sd_nor_n():
    tasks = {"sst2": {"latents": {"accuracy": 0.75}, "baseline": {"accuracy": 0.8}}}
    records = [probed(name, tasks, ce_clean=3.5, l0=8.5) for name in "abcd"]
    text = section(card(report(records, [group("g", "ab"), group("h", "cd")])), "Values by group")
    assert "| CE clean | – | 3.50 | 3.50 |" in text
    assert "| Probe accuracy on activations | – | 0.800 | 0.800 |" in text
    assert "| Probe accuracy on activations | sst2 | 0.800 | 0.800 |" in text
    assert "| Probe accuracy on latents | higher | 0.750 (sd 0, n 2) | 0.750 (sd 0, n 2) |" in text
    assert "| L0 | – | 8.50 (sd 0, n 2) | 8.50 (sd 0, n 2) |" in text


def test_models_stand_side_by_side_where_there_are_two():
    runs = [
        report(
            [record(n, model=m, fve=0.5 + 0.1 * (n == "a")) for n in "ab"],
            [group(n, n, model=m) for n in "ab"],
        )
        for m in ("m1", "m2")
    ]
    text = section(card(*runs), "Sources against each other")
    assert "| Metric | m1 | m2 |" in text
    assert "| FVE | 0.100 (1–0–0) | 0.100 (1–0–0) |" in text
    assert "| Metric | m |" not in card(small_study())


def test_probe_scores_are_shown_task_by_task():
    tasks = {"sst2": {"latents": {"accuracy": 0.75}}, "cola": {"latents": {"accuracy": 0.25}}}
    records = [probed("a", tasks), probed("b", tasks)]
    text = section(card(report(records, [group("g", "a"), group("h", "b")])), "Values by group")
    assert "| Probe accuracy on latents | sst2 | 0.750 (n 1) | 0.750 (n 1) |" in text
    assert "| Probe accuracy on latents | higher | 0.500 (n 1) | 0.500 (n 1) |" in text


def test_names_of_others_stay_text():
    records = [record(HOSTILE + end, model=HOSTILE, fve=0.5) for end in "ab"]
    groups = [
        group(HOSTILE + end, [HOSTILE + end], model=HOSTILE, source=HOSTILE + end, block=HOSTILE)
        for end in "ab"
    ]
    tasks = {HOSTILE: {HOSTILE: {"accuracy": 0.5}}}
    records = [*records, probed("c", tasks, model=HOSTILE)]
    pairs = [matched("c", HOSTILE + "a", 0.5)]
    groups.append(group("z", ["c", HOSTILE + "a"], model=HOSTILE, pairs=pairs))
    text = card(report(records, groups))
    assert text.count("<!-- saebench:end -->") == 1
    assert not set("\x1b\u202e") & set(text)
    body = text.partition("---\n\n")[2]
    rendered = MarkdownIt().enable("table").render(body)
    assert "<b>" not in rendered
    assert "href" not in rendered
    for grid in re.findall(r"(?:^\|.*\|\n)+", body, re.MULTILINE):
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in grid.splitlines()}
        assert len(columns) == 1


def test_a_group_of_one_is_compared_and_the_card_says_what_that_lacks():
    text = card(
        report([record("a", fve=0.5), record("b", fve=0.6)], [group("g", "a"), group("h", "b")])
    )
    assert "at least two checkpoints (seeds)" in section(text, "Limitations")
    assert "g is one checkpoint" in section(text, "How alike the seeds are")
    assert "0.500 (n 1)" in text


def test_what_was_not_matched_is_a_dash_and_a_group_without_pairs_says_so():
    text = section(card(small_study()), "How alike the seeds are")
    assert "| encoder: mean matched cosine | – | – | – | – |" in text
    assert "| decoder: proven best | 1 of 1 |" in text
    groups = [group("g", "ab"), group("h", "cd")]
    bare = card(report([record(n, fve=0.5) for n in "abcd"], groups))
    assert "g was not matched: run the seeds suite" in bare


def test_different_text_or_masks_within_a_cell_are_pointed_out():
    data = {"digest": "other", "mask": "none", "context_size": 128}
    records = [record("a", fve=0.5), record("b", fve=0.6, part={"data": data})]
    text = card(report(records, [group("g", "a"), group("h", "b")]))
    limits = section(text, "Limitations")
    assert "**m: measured on different text**" in limits
    assert "different token masks" in limits
    assert "contexts" not in limits
    assert "measured on" not in section(card(small_study()), "Limitations")


def test_checkpoints_in_no_group_are_listed():
    text = card(report([record(n, fve=0.5) for n in "abc"], [group("g", "a"), group("h", "b")]))
    assert "In no group, and left out: `c`." in text


def test_the_same_reports_give_the_same_card_and_hand_written_text_stays():
    comparison = compare({"run": small_study()})
    first = render_comparison(comparison, {})
    assert render_comparison(comparison, {}, first) == first
    edited = first.replace("<!-- saebench:begin -->", "By hand.\n\n<!-- saebench:begin -->")
    edited = edited.replace("tags:\n", "license: mit\ntags:\n- mine\n")
    again = render_comparison(comparison, {}, edited)
    assert again == edited


@pytest.mark.parametrize(
    ("spread", "text"),
    [
        (Spread(None, None, 0), "–"),
        (Spread(0.5, None, 1), "0.500 (n 1)"),
        (Spread(0.5, 0.0, 3), "0.500 (sd 0, n 3)"),
        (Spread(0.81234, 0.0123, 3), "0.812 (sd 0.012, n 3)"),
        (Spread(0.81234, 0.04, 3), "0.812 (sd 0.040, n 3)"),
        (Spread(1963.2, 123.4, 3), "1963 (sd 123, n 3)"),
    ],
)
def test_a_spread_says_what_its_numbers_are(spread, text):
    assert mean_and_sd(spread) == text


def test_p_values_and_tallies_as_text():
    assert [p_text(p) for p in (None, 1.0, 0.3018, 0.0352, 0.0001)] == [
        *("–", "1.00", "0.30", "0.035", "< 0.001"),
    ]
    assert tally(SignTest(10, 1, 4, None, None)) == "10–1–4"


def test_histograms_of_pairs_add_up_and_other_bins_are_left_out():
    odd = {"decoder": {"histogram": {"edges": [0.0, 1.0], "counts": [9]}}}
    pairs = [matched("a", "b", 0.6), matched("a", "c", 0.4), {**odd, "a": "b", "b": "c"}]
    groups = [group("g", "abc", pairs=pairs)]
    (one,) = compare({"r": report([record(n) for n in "abc"], groups)}).gathered.groups
    seeds = seeds_of(one)
    assert seeds.histogram.counts == (2, 4, 10)
    assert seeds.histogram.n_pairs == 2
    assert seeds.histogram.floor == pytest.approx(0.2)
    assert seeds.column(0) == pytest.approx([0.6, 0.4])


def test_shared_shares_at_every_threshold_are_means_over_pairs():
    pairs = [
        matched(a, b, 0.5, decoder={"curve": {"thresholds": [0.5, 0.7], "shared": shares}})
        for a, b, shares in (("a", "b", [0.8, 0.4]), ("a", "c", [0.6, 0.0]))
    ]
    study = report([record(n) for n in "abc"], [group("g", "abc", pairs=pairs)])
    (one,) = compare({"r": study}).seeds
    assert one.curve == ((0.5, pytest.approx(0.7)), (0.7, pytest.approx(0.2)))
    assert "| 0.5 | 0.700 |" in section(card(study), "How alike the seeds are")


@pytest.mark.parametrize(
    "damage",
    [
        {"decoder": None},
        {"decoder": {"histogram": None, "curve": {"thresholds": [0.5], "shared": []}}},
        {"decoder": {"histogram": {"edges": [0, 1], "counts": [1, 2]}}},
        {"decoder": {"histogram": {"edges": [0, "x"], "counts": [1]}}},
        {"decoder": {"histogram": 3, "matched_cosine": "x"}, "floor": []},
    ],
)
def test_a_damaged_pair_is_all_dashes(damage):
    groups = [group("g", "ab", pairs=[{"a": "a", "b": "b", **damage}])]
    (one,) = compare({"r": report([record(n) for n in "ab"], groups)}).gathered.groups
    seeds = seeds_of(one)
    assert seeds.histogram is None
    assert seeds.curve == ()
    assert set(seeds.pairs[0].values) == {None}
