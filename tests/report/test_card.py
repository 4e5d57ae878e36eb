"""A card says what the checkpoint is, how to load it, what was measured and what was not."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from markdown_it import MarkdownIt

from saebench.gates import Waiver
from saebench.record import Measurement
from saebench.report import render_card
from saebench.report.places import portable
from tests.report.records import N_SEQUENCES, TODAY, make_record, make_verdicts, section

MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
LIMITS = {"fve": ">= 0.85", "l0": "32 ± 10%", "kl": "<= 0.1"}
COMMAND = "saebench run saes/topk-s0 --model ./model --data heldout.jsonl"


def card_of(*records, verdicts=(), **parts):
    return render_card(records, verdicts, command=COMMAND, **parts)


def headings(card):
    body = card.partition("\n---\n")[2]
    tokens = MARKDOWN.parse(body)
    return [
        "#" * int(token.tag[1]) + " " + tokens[place + 1].content
        for place, token in enumerate(tokens)
        if token.type == "heading_open"
    ]


def test_a_card_on_one_checkpoint_has_every_section():
    assert headings(card_of(make_record())) == [
        "# topk-s0",
        "## What it is",
        "## How to load it",
        "## Training",
        "## Evaluation",
        "## Definitions",
        "## Which positions count",
        "## Limitations",
        "## Reproduce",
        "## Provenance",
    ]


def test_a_card_on_a_set_compares_first_and_then_has_a_section_each():
    found = headings(card_of(make_record("a"), make_record("b", shift=-0.02)))
    assert found[:4] == ["# 2 sparse autoencoders", "## Comparison", "## a", "### What it is"]
    assert "## b" in found
    assert found.count("### Evaluation") == 2
    assert found.count("## Definitions") == 1


def test_the_summary_states_kind_size_site_headline_numbers_and_verdict():
    record = make_record()
    card = card_of(record, verdicts=make_verdicts(record, **LIMITS))
    assert (
        "A sparse autoencoder: topk, 128 → 2,048 latents, k 32, blocks.2.hook\\_resid\\_post. Measured: "
        "FVE **0.812** [0.806, 0.818], CE recovered **0.964** [0.963, 0.965], "
        "L0 **31.87** [31.81, 31.93], Dead latents **0.0415** [0.0371, 0.0459]. "
        "1 of 3 limits holds, 2 fail."
    ) in card


def test_every_fact_says_where_it_was_read():
    card = card_of(make_record())
    assert "| Architecture | `topk` | `cfg.json: architecture` |" in card
    assert "| Hook point read | `blocks.2.hook_resid_post` | given by the user: `--site` |" in card
    assert "| Input normalisation | `none` | assumed: `the format's default` |" in card
    assert "- the decoder rows have unit norm" in card


def test_loading_snippets_name_the_pinned_reference_and_saelens_only_where_it_can_load():
    commit = "c" * 40
    hub = make_record(checkpoint={"reference": "hf:org/saes@main:l2/topk", "commit": commit})
    card = card_of(hub)
    assert f'sae = load_sae("hf:org/saes@{commit}:l2/topk")' in card
    assert 'sae = SAE.from_pretrained("org/saes", "l2/topk")' in card
    other = make_record(checkpoint={"format": "dictionary_learning"})
    assert "sae_lens" not in card_of(other)
    assert 'SAE.load_from_disk("fixtures/saes/topk-s0")' in card_of(make_record())


def test_decoding_a_normalised_sae_takes_the_input_along():
    cfg = {**make_record().checkpoint["cfg"], "normalization": "layer_norm"}
    assert "x_hat = sae.decode(f, x)" in card_of(make_record(checkpoint={"cfg": cfg}))
    assert "x_hat = sae.decode(f)\n" in card_of(make_record())


def test_snippets_are_python():
    name = 'quote"back\\slash\n`tick'
    card = card_of(make_record(checkpoint={"name": name, "reference": name}))
    snippets = [t.content for t in MARKDOWN.parse(card) if t.type == "fence" and t.info == "python"]
    assert len(snippets) == 2
    for snippet in snippets:
        compile(snippet, "card", "exec")


def test_training_shows_what_matters_first_and_folds_the_rest_away():
    shown, _, folded = section(card_of(make_record()), "Training").partition("<details>")
    assert shown.strip().splitlines()[2:] == [
        "| Setting | Value |",
        "| --- | --- |",
        "| Architecture | `topk` |",
        "| k | 32 |",
        "| Latents (d_sae) | 2048 |",
        "| Tokens trained on | 2,000,000 |",
        "| Times the data were read (epochs) | 3 |",
        "| Learning rate | 0.0005 |",
        "| Batch size (tokens) | 2048 |",
        "| Seeds | `weights 0, shuffle 7` |",
        "| Training data | `fixtures/text/train.jsonl` |",
        f"| Digest of the training data | `{'7a' * 32}` |",
        "| Sequences read | 15,770 |",
        "| Held-out FVE, final | 0.8119 |",
        "| Held-out L0, final | 32 |",
        "| Dead window (tokens without firing) | 500,000 |",
        "| Base model | `fixtures/model` |",
        f"| Digest of the base model | `{'5f' * 32}` |",
        "| Tokens per second | 16334.4 |",
    ]
    assert folded.strip().splitlines() == [
        "<summary>7 more settings</summary>",
        "",
        "| Setting | Value |",
        "| --- | --- |",
        "| `saebench.version` | `0.1.0` |",
        "| `saebench.recipe.expansion` | 16 |",
        "| `saebench.recipe.tokens` | 2,000,000 |",
        "| `saebench.recipe.warmup` | 0.05 |",
        "| `saebench.recipe.betas` | `[0.9, 0.999]` |",
        "| `saebench.final.loss` | 0.171 |",
        "| `saebench.environment.torch` | `2.13.0` |",
        "",
        "</details>",
    ]


def test_training_by_others_is_shown_as_it_is_stated_or_said_to_be_unstated():
    stated = {"sae_lens_version": "6.1.0", "lr": 0.0005, "saebench": "a word"}
    card = card_of(make_record(checkpoint={"provenance": stated}))
    assert "| `sae_lens_version` | `6.1.0` |" in card
    assert "| `lr` | 0.0005 |" in card
    assert "Not stated in the files" in card_of(make_record(checkpoint={"provenance": {}}))


def test_a_training_config_of_any_size_stays_readable():
    many = {f"key{number}": number for number in range(100)}
    card = card_of(make_record(checkpoint={"provenance": many}))
    assert "40 more in the checkpoint's own files." in card


def test_evaluation_names_data_tokens_and_model():
    assert (
        "Measured on `fixtures/text/heldout.jsonl`: 512 sequences of up to 128 tokens, "
        "65,024 tokens counted of 65,536 read, through `fixtures/model` in float32."
    ) in card_of(make_record())


def test_definitions_carry_formula_unit_and_source_from_the_record():
    card = card_of(make_record())
    assert "| `fve@1` | FVE | `1 − Σᵢ‖eᵢ‖² / Σᵢ‖xᵢ − x̄‖²` | fraction | higher | pooled, as" in card
    assert "`meanᵢ Σⱼ\\|fᵢⱼ\\|`" in card


def test_limitations_list_failures_waivers_and_what_could_not_be_measured():
    record = make_record(missing={"ce_recovered": "ablation does not hurt the model"})
    waiver = Waiver("*", "l0", "known", TODAY)
    verdicts = make_verdicts(record, waiver, fve=">= 0.85", l0="<= 10", ce_recovered=">= 0.9")
    limitations = (
        card_of(record, verdicts=verdicts).partition("## Limitations")[2].partition("##")[0]
    )
    lines = limitations.strip().splitlines()
    assert lines[0].startswith("- FVE 0.812 \\[0.806, 0.818\\] is below the gate \\>= 0.85")
    assert lines[1].startswith("- CE recovered cannot be judged against the gate")
    assert "waived until 2026-06-01 (known)" in lines[2]
    assert lines[3] == "- CE recovered was not evaluated: ablation does not hurt the model"
    assert "density at 4.6e-05 (3/n, 95 %)" in lines[4]
    assert "still grew by 2.1 % over the last doubling" in lines[5]
    assert "do not cover other text" in lines[-1]


def test_what_was_counted_ablated_and_resampled_is_stated():
    assert (
        "Mask policy `special`: positions that hold a special token (BOS, EOS, padding) are not counted. "
        "Other positions keep their clean activation in every continuation. "
        "Ablation: zero, and the mean over the first 32 sequences. "
        "Resampled: sequences, in at most 512 groups, 1,000 resamples, seed 0. Documents are packed."
    ) in card_of(make_record())


def test_what_holds_for_several_checkpoints_is_said_once():
    card = card_of(make_record("a"), make_record("b"))
    assert card.count("a latent counts as dead when it did not fire on 65,024 tokens") == 1
    assert "- **a**, **b**: a latent counts as dead" in card


def test_a_comparison_shows_the_baselines_under_fve():
    card = card_of(make_record("a"), make_record("b"))
    table = card.partition("## Comparison")[2].split("\n\n")[1].splitlines()
    assert [line.split(" | ")[0] for line in table[2:5]] == [
        "| FVE",
        "| FVE of a random SAE",
        "| FVE of PCA",
    ]


def test_provenance_has_files_digests_versions_and_the_date_of_the_record():
    card = card_of(make_record())
    for text in (
        "ab" * 32,
        "5f" * 32,
        "d1" * 32,
        "torch 2.13.0",
        "2026-05-30T12:00:00+00:00",
        COMMAND,
    ):
        assert text in card


def test_provenance_identifies_every_model_and_the_labelled_prompts_and_the_base_sae():
    first, second = ({"id": f"org/{name}", "digest": name * 16} for name in ("base", "chat"))
    text = {
        "own": False,
        "digest": "77" * 32,
        "data": {"spec": "/data/pair/prompts.jsonl", "digest": "88" * 32},
    }
    base = {"sae": "hf:org/saes@main:l2", "digest": "99" * 32, "fve": None}
    found = {"text": text, "baselines": {"base_sae": base}}
    card = card_of(make_record(model={**first, "others": [second]}, details={"difference": found}))
    for row in (
        "| model 0 id | `org/base` |",
        f"| model 0 digest | `{'base' * 16}` |",
        "| model 1 id | `org/chat` |",
        f"| model 1 digest | `{'chat' * 16}` |",
        "| labelled prompts spec | `prompts.jsonl` |",
        f"| labelled prompts digest | `{'88' * 32}` |",
        f"| labelled prompts digest with labels | `{'77' * 32}` |",
        "| base SAE | `hf:org/saes@main:l2` |",
        f"| base SAE digest | `{'99' * 32}` |",
    ):
        assert row in card
    own = card_of(make_record(details={"difference": {"text": {"own": True, "digest": "7"}}}))
    assert "labelled prompts" not in own.partition("## Provenance")[2]


def test_records_that_share_model_and_policy_share_these_sections():
    together = card_of(make_record("a"), make_record("b"))
    assert together.count("Mask policy") == together.count("| model id |") == 1
    apart = card_of(make_record("a"), make_record("b", policy={"mask": "none"}))
    assert apart.count("Mask policy") == 2


def test_up_to_four_checkpoints_are_columns_and_more_are_rows():
    few = card_of(*(make_record(f"s{n}") for n in range(4)))
    assert "|  | `s0` | `s1` | `s2` | `s3` |" in few
    many = card_of(*(make_record(f"s{n}") for n in range(5)))
    assert "| `s4` | 0.812 [0.806, 0.818] |" in many


def test_pictures_have_words_and_paths_without_surprises():
    card = card_of(make_record(), images={"FVE [x]": "my plots/fve (1).png"})
    assert "![FVE \\[x\\]](my%20plots/fve%20%281%29.png)" in card


def test_paths_of_this_computer_do_not_reach_the_card():
    record = make_record(
        checkpoint={"reference": "/home/someone/saes/topk-s0"},
        model={"id": "/home/someone/model"},
        data={"spec": "C:\\Users\\someone\\text.txt", "n_sequences": 1, "n_tokens": 2},
    )
    card = card_of(record)
    assert "someone" not in card
    assert 'load_sae("path/to/topk-s0")' in card
    assert 'SAE.load_from_disk("path/to/topk-s0")' in card
    assert portable("relative/path") == "relative/path"


def with_small_baseline(name):
    record = make_record(name)
    small = replace(record.measurements["fve_random_init@1"], n_sequences=32, n_tokens=4062)
    return replace(record, measurements={**record.measurements, "fve_random_init@1": small})


def test_a_baseline_on_fewer_sequences_says_so_wherever_it_stands():
    card = card_of(with_small_baseline("a"), with_small_baseline("b"))
    cell = "0.287 [0.281, 0.293] (32 sequences)"
    assert f"| FVE of a random SAE | {cell} | {cell} |" in card
    assert card.count("random-init SAE: 0.287 (32 sequences) · PCA") == 2
    assert card.count("| FVE of a random SAE | 0.287 | [0.281, 0.293] | on 32 sequences |") == 2
    assert f"({N_SEQUENCES} sequences)" not in card_of(make_record("a"), make_record("b"))


def test_what_has_no_interval_has_an_empty_one_and_the_reason():
    record = make_record()
    alone = Measurement("fve@1", 0.8123, reason="no interval: 1 sequence")
    few = replace(record, measurements={**record.measurements, "fve@1": alone})
    card = card_of(few, verdicts=make_verdicts(few, fve=">= 0.5"))
    row = next(line for line in card.splitlines() if line.startswith("| FVE |"))
    assert row.startswith("| FVE | 0.812 |  | `>= 0.5` | pass | mean predictor: 0 ·")
    assert row.endswith("· no interval: 1 sequence |")
    assert "FVE **0.812**, CE recovered" in card
    assert "| FVE | 0.812 | 0.812 |" in card_of(few, replace(few))


def test_the_same_records_give_the_same_bytes_whatever_the_order_of_their_keys():
    record = make_record()
    shuffled = replace(record, measurements=dict(reversed(record.measurements.items())))
    stored = type(record).from_json(json.loads(json.dumps(record.to_json())))
    assert card_of(record) == card_of(shuffled) == card_of(stored)


def test_regenerating_over_an_existing_card_changes_no_byte():
    record = make_record()
    first = card_of(record)
    edited = first.replace("# topk-s0", "# Our SAE\n\nBy hand.").replace(
        "tags:", "license: mit\ntags:"
    )
    assert card_of(record, existing=edited) == edited


EVIL = (
    "x | y\n\n# Owned\n\n<script>alert(1)</script> <!-- saebench:end --> ![p](https://evil.example/p.png) "
    "[l](https://evil.example) `code` \x1b[31m \u202e"
)

HOSTILE = {
    "recipe": {"architecture": EVIL, "k": [EVIL]},
    "seeds": {EVIL: 1},
    "model": {"id": EVIL, "digest": "another" + EVIL},
    "data": EVIL,
    EVIL: {EVIL: EVIL},
}


@pytest.mark.parametrize("ours", [{}, {"saebench": EVIL}, {"saebench": HOSTILE}])
@pytest.mark.parametrize("together", [1, 2])
def test_hostile_values_everywhere_leave_the_structure_of_the_card_as_it_is(together, ours):
    record = make_record(missing={"kl": EVIL})
    evil = replace(
        record,
        checkpoint={
            **record.checkpoint,
            "name": EVIL,
            "reference": EVIL,
            "commit": EVIL,
            "files": {EVIL: EVIL},
            "notes": [EVIL],
            "facts": {"architecture": {"value": EVIL, "source": EVIL, "how": EVIL}},
            "cfg": {**record.checkpoint["cfg"], "architecture": EVIL, "site": EVIL, "model": EVIL},
            "provenance": {EVIL: {EVIL: EVIL}, "list": [EVIL], **ours},
        },
        model=dict.fromkeys(record.model, EVIL),
        data={**record.data, "spec": EVIL, "mask": EVIL},
        policy={**record.policy, "mask": EVIL, "ablation": EVIL, "resampling": EVIL},
        definitions={
            metric: dict.fromkeys(definition, EVIL)
            for metric, definition in record.definitions.items()
        },
        environment={EVIL: EVIL},
        created=EVIL,
        key=EVIL,
    )
    records = [evil, make_record("b")][:together]
    verdicts = [replace(v, name=evil.name, message=EVIL) for v in make_verdicts(record, **LIMITS)]
    card = render_card(records, verdicts, command=EVIL)
    plain = render_card([make_record("a"), make_record("b")][:together], [], command=COMMAND)
    assert len(headings(card)) == len(headings(plain))
    html = MARKDOWN.render(card.partition("\n---\n")[2])
    for forbidden in ("<script", "<img", "<a ", "\x1b", "\u202e"):
        assert forbidden not in html
    # the definitions once, the measurements of each, and the training of what our trainer made
    folds = 1 + len(records) + (together == 2) + isinstance(ours.get("saebench"), dict)
    assert html.count("<details>") == html.count("</details>") == folds
    assert (isinstance(ours.get("saebench"), dict)) == ("on another model" in card)
    assert render_card(records, verdicts, command=EVIL, existing=card) == card
