"""What a card says of ablated latents, the CSV and the plot: from the record alone, whatever is in it."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from markdown_it import MarkdownIt

from saebench.causal.equivalence import Equivalence
from saebench.causal.measurements import of_pair
from saebench.causal.results import Latents, PairResult, summaries
from saebench.report import causal_plot
from saebench.report.causal import section
from saebench.report.causal_table import csv_text
from tests.causal.shift_tables import independent, probes_of, table_of, with_arm
from tests.report.records import make_record

HOSTILE = "<img src=x onerror=1> | [a](http://b) `c`\n# d \x1b[31m"
N = 40


def details(alike=True, **parts):
    """Of latents that do the same in both models but for noise, three gaps and one without a row."""
    probes = probes_of([40] * N)
    shifts = independent(probes)
    generator = np.random.default_rng(1)
    if alike:
        values = shifts.kl["latent"][0] * generator.lognormal(0, 0.2, len(probes))
        for latent in (0, 1, 2):
            mine = probes.latent == latent
            values[mine] = generator.permutation(values[mine]) + 0.01
        shifts = with_arm(shifts, "latent", 1, values)
    norms = np.ones((N, 2))
    norms[5, 0] = 0
    shifts = with_arm(shifts, "latent", 0, np.where(probes.latent == 5, 0, shifts.kl["latent"][0]))
    names = np.array(["shared"] * 30 + ["other"] * 10)
    cosine = np.where(np.arange(N) == 5, np.nan, np.linspace(1, 0.4, N))
    table = table_of(probes, shifts, N)
    found = Equivalence.of(table, norms, min_probes=30, n_resamples=100, seed=0)
    who = Latents(np.arange(N), names, norms, cosine, np.roll(np.arange(N), 1), table.n_probes)
    result = PairResult(who, found, 30, 0.7, 0.5, 100, 0)
    plain = {
        "mode": "pair",
        "protocol": {"n_probes": 64, "min_probes": 30},
        "site": ["blocks.1.hook_resid_post"] * 2,
        "models": ["base", "chat"],
        "selection": [{"class": "shared", "n": 99, "n_enough": 50, "n_tested": 30}],
        "n_probes": len(probes),
        "n_sequences": 100,
        "classes": {
            name: {"statistics": summaries(values), "undefined": result.undefined(name)}
            for name, values in result.classes.items()
        },
        "gaps": result.gaps(),
        "latents": result.columns,
        **parts,
    }
    return json.loads(json.dumps(plain, allow_nan=False)), result


def record(found, result=None):
    made = make_record("cc")
    values = of_pair(result, n_tokens=9, n_sequences=9) if result else {}
    return replace(made, details={"causal": found}, measurements={**made.measurements, **values})


def test_latents_above_the_nulls_are_said_to_be():
    text = section(record(*details()))
    assert "**Verdict.** Ablating a shared latent gives shifts that correlate r = 0.9" in text
    assert (
        "(median of 29 of 99 alive shared latents; 49 fire in fewer than 30 sequences, "
        "20 were not drawn for the sample, 1 have no such value)"
    ) in text
    shared = text.split("\n\n")[0]
    assert "Random directions of equal norm give less (" in shared
    assert "Other latents of the class give less (" in shared
    assert ": so much of the correlation is specific to the latent." in shared
    assert "give as much" not in shared


def test_latents_that_nulls_equal_are_not_praised():
    text = section(record(*details(alike=False)))
    for name in ("Random directions of equal norm", "Other latents of the class"):
        assert f"{name} are not told apart from the latents (" in text
    assert "whether the correlation is specific to the latent stays open" in text
    assert "give as much" not in text


def against(arm, low, high, n=12, value=0.01):
    """The sentence on one null whose difference has this interval."""
    found, _ = details()
    shared = found["classes"]["shared"]["statistics"]
    shared[f"pearson_over_{arm}"] = {"value": value, "n": n, "low": low, "high": high}
    text = section(record(found)).split("\n\n")[0]
    name = {"random": "Random directions", "mismatched": "Other latents of the class"}[arm]
    found = text[text.index(name) :]
    return found.split(" Other latents")[0] if arm == "random" else found


CASES = [
    (None, None, "cannot be told apart from 12 latents (", "stays open"),
    (0.01, None, "cannot be told apart from 12 latents (", "stays open"),
    (0.1, 0.3, "give less (", "so much of the correlation is specific"),
    (0.01, 0.03, "give less, by less than 0.05 (", "so much of the correlation is specific"),
    (-0.3, -0.1, "give more (", "the correlation is not specific"),
    (-0.03, -0.01, "give more, by less than 0.05 (", "the correlation is not specific"),
    (-0.05, 0.05, "give as much, within ±0.05 (", "the correlation is not specific"),
    (0.0, 0.0, "give as much, within ±0.05 (", "the correlation is not specific"),
    (-0.06, 0.01, "are not told apart from the latents (", "stays open"),
    (-0.01, 0.06, "are not told apart from the latents (", "stays open"),
    (0.0, 0.3, "are not told apart from the latents (", "stays open"),
]


@pytest.mark.parametrize(("low", "high", "words", "meaning"), CASES)
def test_a_null_is_judged_by_the_interval_of_the_difference(low, high, words, meaning):
    random, mismatched = (against(arm, low, high) for arm in ("random", "mismatched"))
    assert words in random
    assert words in mismatched
    assert meaning in mismatched
    assert "specific" not in random
    says = "this arm shows only that the models respond alike" in random
    assert says == (words.startswith(("give as", "give more", "are not")))
    assert "says nothing about these latents" not in random


def test_one_latent_far_above_a_null_is_not_said_to_be_equalled():
    text = against("random", None, None, n=1, value=0.85)
    assert "cannot be told apart from 1 latent (" in text
    assert "no interval" in text
    assert "as much" not in text


def test_other_latents_have_sentences_of_their_own():
    text = section(record(*details())).split("\n\n")[1]
    assert text.startswith("Ablating a latent of the class other gives shifts that correlate r = ")
    assert "(median of 10 other latents)" in text
    assert "Random directions of equal norm" in text


@pytest.mark.parametrize(
    ("numbers", "words"),
    [
        (
            (1109, 858, 858, 858),
            "858 of 1,109 alive shared latents; the others fire in fewer than 30",
        ),
        ((858, 858, 858, 858), "all 858 alive shared latents)"),
        ((900, 900, 100, 100), "100 of 900 alive shared latents; the others were not drawn"),
        ((900, 900, 900, 899), "899 of 900 alive shared latents; the others have no such value"),
        ((None, 858, 858, 858), "median of 858 shared latents)"),
    ],
)
def test_the_verdict_says_which_latents_were_not_tested(numbers, words):
    found, _ = details()
    n, enough, tested, median_of = numbers
    row = {"class": "shared", "n": n, "n_enough": enough, "n_tested": tested}
    found["selection"] = [row]
    found["classes"]["shared"]["statistics"]["pearson"]["n"] = median_of
    assert words in section(record(found)).split("\n\n")[0]


def test_intervals_over_all_latents_are_called_those_of_a_sample_of_like_ones():
    words = "as if these latents were a sample of like ones; all were tested"
    found, result = details()
    assert words not in section(record(found, result))
    found["selection"][0] |= {"n_enough": 30}
    text = section(record(found, result))
    assert f"Those over shared latents are {words}" in text
    assert "measured .83 to .92" in text


def test_differences_name_the_statistic_that_they_are_of():
    found, result = details()
    text = section(record(found, result))
    (header,) = (
        line for line in text.splitlines() if line.startswith("| Class | Pearson | Pearson")
    )
    columns = [cell.strip() for cell in header.strip("|").split("|")]
    (row,) = (
        line for line in text[text.index(header) :].splitlines()[:5] if line.startswith("| shared")
    )
    cells = dict(zip(columns, (cell.strip() for cell in row.strip("|").split("|")), strict=True))
    shared = found["classes"]["shared"]["statistics"]
    for title, key in (("Pearson", "pearson"), ("Partial", "partial_log")):
        for arm in ("random", "mismatched"):
            item = shared[f"{key}_over_{arm}"]
            assert cells[f"{title} less {arm}'s"].startswith(f"{item['value']:.3g}"[:4])


def test_the_sample_the_undefined_and_the_gaps_are_told():
    found, result = details()
    text = section(record(found, result))
    assert "| shared | 99 | 50 | 30 | random sample |" in text
    assert "Undefined, not 0: 1 shared (base decoder row is 0: no shift)." in text
    gaps = result.gaps()
    assert (len(gaps["latents"]), len(gaps["sure"])) == (3, 2)
    assert "2 of 29 shared latents are gaps for sure: cosine > 0.700, and the whole" in text
    assert "3 have r < 0.500 at such a cosine" in text
    rows = [line for line in text.splitlines() if "| yes |" in line or "| no |" in line]
    assert [int(line.split("|")[1]) for line in rows] == gaps["latents"]
    assert ["| yes |" in line for line in rows] == [True, True, False]
    assert "ρ = " in text


def test_without_any_correlation_the_verdict_says_that_it_is_not_known():
    found, _ = details()
    found["classes"] = {}
    assert "is not known" in section(record(found))


def test_a_refused_part_gives_its_reason_and_none_at_all_gives_nothing():
    assert section(make_record()) == ""
    text = section(record({"reason": HOSTILE}))
    assert text.startswith("Not measured: ")
    assert "<img" not in text.replace("\\<img", "")


def test_tables_have_as_many_cells_in_every_row():
    html = MarkdownIt("commonmark").enable("table").render(section(record(*details())))
    for table in html.split("<table>")[1:]:
        rows = table.split("</table>")[0].split("<tr>")[1:]
        assert len({row.count("<td") + row.count("<th") for row in rows if "<t" in row}) == 1


def test_hostile_names_do_nothing_in_markdown():
    found, result = details(site=[HOSTILE], models=[HOSTILE, HOSTILE])
    found["selection"][0]["class"] = HOSTILE
    found["classes"]["shared"]["undefined"] = {HOSTILE: 3}
    text = section(record(found, result))
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(text)
    for bad in ("<img", "<a ", "<h1", "\x1b"):
        assert bad not in html


@pytest.mark.parametrize(
    "broken",
    [
        {"classes": 3, "gaps": None, "latents": "x", "selection": "y", "protocol": []},
        {"classes": {"shared": {"statistics": {"pearson": {"value": "0.5", "low": []}}}}},
        {"gaps": {"latents": [999, None, "x"], "sure": 3, "n_known": "k"}},
        {"latents": {"latent": [1, 2], "pearson": [0.5], "cosine": ["a", None]}},
        {"mode": "single", "latents": {"latent": [1], "effect": ["much"]}, "selection": [7]},
        {"latents": {"latent": []}},
    ],
)
def test_stored_parts_of_another_shape_break_nothing(broken):
    found = {**details()[0], **broken}
    one = record(found)
    assert isinstance(section(one), str)
    assert isinstance(csv_text(one), str)
    if causal_plot.has_data(one):
        assert causal_plot.caption(one)


def test_the_csv_parses_back_and_no_text_is_a_formula():
    found, _ = details()
    found["latents"]["reason"][3] = "=cmd|' /C calc'!A0,\n\"x\""
    found["latents"]["cosine"][4] = -0.25
    rows = list(csv.DictReader(io.StringIO(csv_text(record(found)))))
    assert len(rows) == N
    assert list(rows[0])[:3] == ["latent", "class", "cosine"]
    assert list(rows[0])[-1] == "reason"
    assert [int(row["latent"]) for row in rows] == found["latents"]["latent"]
    assert [float(row["pearson"]) if row["pearson"] else None for row in rows] == found["latents"][
        "pearson"
    ]
    assert rows[3]["reason"].startswith("'=cmd")
    assert float(rows[4]["cosine"]) == -0.25
    assert rows[5]["pearson"] == ""
    assert rows[5]["reason"] == "base decoder row is 0: no shift"


def with_null(values, *, stored):
    """A record with random-direction correlations of its three gaps; older ones do not count them."""
    found, result = details()
    for latent, value in zip(found["gaps"]["latents"], values, strict=True):
        found["latents"]["random_pearson"][found["latents"]["latent"].index(latent)] = value
    low, tested = (found["gaps"].pop(key) for key in ("n_random_below", "n_random_known"))
    if stored:
        known = [v for v in values if v is not None]
        assert low <= tested
        found["gaps"] |= {
            "n_random_below": sum(v < 0.5 for v in known),
            "n_random_known": len(known),
        }
    return record(found, result)


def test_the_plot_has_a_dot_per_known_latent_and_the_same_bytes_again():
    one = with_null((0.1, 0.9, 0.4), stored=True)
    assert causal_plot.has_data(one)
    assert causal_plot.plot(one)[:8] == b"\x89PNG\r\n\x1a\n"
    assert causal_plot.plot(one) == causal_plot.plot(one)
    axes = causal_plot.causal_plot(one).axes[0]
    dots = {
        c.get_label(): len(c.get_offsets()) for c in axes.collections if len(c.get_offsets()) > 1
    }
    assert dots == {"shared (29)": 27, "gap, random low too (2)": 2, "other (10)": 10}
    (rings,) = (c for c in axes.collections if c.get_label().startswith("gap, random"))
    assert len(rings.get_facecolors()) == 0
    columns = one.details["causal"]["latents"]
    place = {j: i for i, j in enumerate(columns["latent"])}
    gaps = [place[j] for j in one.details["causal"]["gaps"]["latents"]][::2]
    assert sorted(y for _, y in rings.get_offsets()) == sorted(columns["pearson"][i] for i in gaps)
    words = [text.get_text() for text in axes.get_legend().get_texts()]
    assert "gap, random low too (2)" in words
    assert [line.get_ydata()[0] for line in axes.lines] == pytest.approx(
        [
            one.details["causal"]["classes"]["shared"]["statistics"][f"{null}_pearson"]["value"]
            for null in ("random", "mismatched")
        ]
    )
    assert causal_plot.caption(one).endswith(
        "39 latents; 3 in the region of gaps, 2 for sure; in 2 of 3 a random direction is below it, too"
    )


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize(
    ("values", "words", "hollow"),
    [
        ((0.1, 0.9, 0.499), "In 2 of 3 a random direction correlates below 0.500 on the same", 2),
        ((0.1, 0.5, None), "In 1 of 2 a random direction correlates below 0.500 on the same", 1),
        ((0.5, 0.9, 0.9), "In none of 3 does a random direction correlate below 0.500", 0),
        ((None, None, None), "", 0),
    ],
)
def test_gaps_of_any_direction_are_told_from_those_of_the_latent(values, words, hollow, stored):
    one = with_null(values, stored=stored)
    text = section(one)
    assert words in text
    assert ("these contexts differ for any direction" in text) == (hollow > 0)
    assert ("random direction correlate" in text) == bool(words)
    assert "| Pearson, random |" in text
    labels = [c.get_label() for c in causal_plot.causal_plot(one).axes[0].collections]
    assert (f"gap, random low too ({hollow})" in labels) == (hollow > 0)
    assert any("gap, random" in label for label in labels) == (hollow > 0)


def test_without_two_models_there_is_nothing_to_plot():
    found, _ = details()
    found["latents"] = {"latent": [1, 2], "effect": [0.1, 0.2]}
    assert not causal_plot.has_data(record(found))
    assert not causal_plot.has_data(make_record())
