"""The parts of a card about one checkpoint: what it is, how to load it, results. Markdown."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from saebench.gates import Verdict
from saebench.record import Record
from saebench.report import escape
from saebench.report.base_model import regime
from saebench.report.digits import count, number
from saebench.report.front_matter import loads_in_saelens, models_measured, writes_elsewhere
from saebench.report.parts import fake_features, probing
from saebench.report.places import HUB, portable, reference
from saebench.report.results import (
    all_rows,
    documents,
    headline_rows,
    label,
    tokens_counted,
)
from saebench.report.stored import mapping
from saebench.report.table import markdown_grid, markdown_table

FACTS = (
    ("architecture", "Architecture"),
    ("model", "Trained on model"),
    ("site", "Hook point read"),
    ("site_out", "Hook point written"),
    ("sites", "Hook points read"),
    ("sites_out", "Hook points written"),
    ("models", "Models read"),
    ("n_sources", "Activations read side by side"),
    ("difference", "Difference read"),
    ("d_in", "Input width (d_in)"),
    ("d_out", "Output width (d_out)"),
    ("d_sae", "Latents (d_sae)"),
    ("k", "k"),
    ("normalization", "Input normalisation"),
    ("dtype", "Stored precision"),
)
# What the configuration has no field for, and the numbers still depend on.
RULES = {
    "subtract_b_dec": "b_dec subtracted from the input",
    "rescale_by_decoder_norm": "Latents ranked by decoder norm",
    "relu": "Rectified",
    "threshold": "Threshold",
    "input_scale": "Input scale",
    "adds_b_enc": "b_enc added before the activation",
    "orientation": "Orientation of the encoder in the file",
    "decoder_orientation": "Orientation of the decoder in the file",
    "centred": "Activations centred in training",
    "model_processing": "Model processed in training",
}
NOT_SHOWN = {"n_targets", "undo_normalization"}  # told above where they say something
EACH = ("fve", "ce_clean", "ce_spliced", "ce_recovered", "kl")
LISTED = 8  # of a list in a cell
ARGUMENT_LENGTH = 4_000  # of a snippet, which must not be cut inside of a text
CENTRED = "# x centred: x - x.mean(-1, keepdim=True), as the run did"
ESTIMATED = "estimated on "  # how the source of a fact begins that was taken from data
# What our trainer did where all that the files hold is called affine.
AFFINE = {
    "scale": "mean norm scaled to √d",
    "centre": "mean taken out, norm scaled",
    "standardize": "mean taken out, divided by the deviation of each dimension, norm scaled",
}
HOW = {"user": "given by the user", "assumed": "assumed"}


def what_it_is(record: Record) -> str:
    """A table of the checkpoint's facts, each with the place it was read from."""
    cfg = record.checkpoint.get("cfg", {})
    facts = record.checkpoint.get("facts", {})
    same_out = cfg.get("d_out") == cfg.get("d_in") and cfg.get("site_out") in (
        None,
        cfg.get("site"),
    )
    rows = []
    for field, title in FACTS:
        value = cfg.get(field)
        if value is None or value in ([], ()) or (same_out and field in ("site_out", "d_out")):
            continue
        if field == "n_sources" and value == 1:
            continue
        if field == "difference":
            value = " − ".join(f"model {number}" for number in str(value).split("-"))
        shown = _shown(value) + (_affine(record) if field == "normalization" else "")
        rows.append([title, shown, _source(facts.get(field))])
    known = {field for field, _ in FACTS} | NOT_SHOWN
    for field in sorted(set(facts) - known, key=lambda name: (name not in RULES, name)):
        fact = facts[field]
        value = fact.get("value") if isinstance(fact, Mapping) else None
        if value is not None:
            title = RULES.get(field) or _code(field)
            rows.append([title, _shown(value), _source(fact)])
    kind = record.checkpoint.get("format") or cfg.get("format")
    rows.append(["File format", _code(kind), _code(", ".join(record.checkpoint.get("files", {})))])
    table = markdown_grid(["Fact", "Value", "Read from"], rows)
    notes = [f"- {escape.markdown_text(note)}" for note in record.checkpoint.get("notes", ())]
    return "\n\n".join([table, "\n".join(notes)]).strip()


def _shown(value: object) -> str:
    """A value for a cell: counts with separators, lists with commas, the rest as code."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return count(value)
    if isinstance(value, list | tuple):
        value = ", ".join(map(str, value[:LISTED])) + (", …" if len(value) > LISTED else "")
    return escape.code_span(portable(value), cell=True)


def _affine(record: Record) -> str:
    """``, from standardize: …`` of an affine normalisation that our trainer says it made."""
    trained = mapping(mapping(record.checkpoint.get("provenance")).get("saebench"))
    kind = mapping(trained.get("normalization")).get("kind")
    affine = mapping(record.checkpoint.get("cfg")).get("normalization") == "affine"
    if not affine or not isinstance(kind, str) or kind not in AFFINE:
        return ""
    return f", trained with {_code(kind)}: {AFFINE[kind]}"


def how_to_load(record: Record) -> str:
    """A snippet for saebench, and one for SAELens where it can load the files."""
    cfg = record.checkpoint.get("cfg", {})
    name = json.dumps(escape.terminal(reference(record)), ensure_ascii=False)
    width = cfg.get("d_in", "d_in")
    if (sources := cfg.get("n_sources") or 1) != 1:
        width = f"{sources}, {width}"
    decode = "sae.decode(f)" if cfg.get("normalization") in (None, "none") else "sae.decode(f, x)"
    given, lacking = _given(record)
    flat = f"x.reshape(-1, {sources * cfg['d_in']})" if lacking else ""
    ours = [
        "from saebench import load_sae",
        "",
        f"sae = load_sae({name}{given})",
        *([f"sae.calibrate({flat})  # the files lack {', '.join(lacking)}"] if lacking else []),
        *_subtracted(record),
        *([CENTRED] if record.checkpoint.get("centred") else []),
        f"f = sae.encode(x)  # x[..., {width}] -> f[..., {cfg.get('d_sae', 'd_sae')}]",
        "y_hat = sae(x)" if writes_elsewhere(cfg) else f"x_hat = {decode}",
    ]
    parts = [escape.code_block(ours, "python")]
    if loads_in_saelens(record):
        parts += ["With SAELens:", escape.code_block(_saelens(record), "python")]
    return "\n\n".join(parts)


def _subtracted(record: Record) -> list[str]:
    """A comment that says which activations are subtracted from which; none without a difference."""
    cfg = record.checkpoint.get("cfg", {})
    sign = str(cfg.get("difference") or "").split("-")
    if len(sign) != 2:
        return []
    names = cfg.get("models") or [model.get("id") for model in models_measured(record)]
    known = {
        str(number): f" ({escape.terminal(portable(name), 120)})"
        for number, name in enumerate(names)
        if name
    }
    of, minus = (f"model {escape.terminal(n)}{known.get(n, '')}" for n in sign)
    return [f"# x = activations of {of} − those of {minus}"]


def _given(record: Record) -> tuple[str, list[str]]:
    """The arguments of ``load_sae`` that make the checkpoint what was measured.

    What the user said, and what was estimated on data; the names of estimates that no setting can
    give come second.
    """
    given = record.checkpoint.get("given") or {}
    settings, lacking = dict(given.get("settings") or {}), []
    for name, fact in record.checkpoint.get("facts", {}).items():
        if isinstance(fact, Mapping) and str(fact.get("source")).startswith(ESTIMATED):
            if (text := _as_setting(name, fact.get("value"))) is None:
                lacking.append(name)
            else:
                settings[name] = text
    parts = [", allow_pickle=True"] if given.get("allow_pickle") else []
    for name, value in {**given, "settings": settings}.items():
        if value and name in ("site", "settings", "tensors"):
            text = json.dumps(value, ensure_ascii=False)
            parts.append(f", {name}={escape.terminal(text, ARGUMENT_LENGTH)}")
    return "".join(parts), lacking


def _as_setting(name: str, value: object) -> str | None:
    """An estimate as the text of a setting; one for each layer is none."""
    values = value if isinstance(value, list | tuple) and name == "input_scale" else [value]
    if not all(isinstance(item, float | int) for item in values):
        return None
    return ",".join(f"{item:.9g}" for item in values)


def evaluation(record: Record, verdicts: Sequence[Verdict]) -> str:
    """What was measured on, the results table, and every other measurement folded away."""
    headline = headline_rows(record, verdicts)
    shown = {row.metric for row in headline}
    rest = [row for row in all_rows(record) if row.metric not in shown]
    parts = [measured_on(record), markdown_table(headline)]
    if each := by_activation(record):
        parts += ["Each activation written:", each]
    parts += [text for text in (fake_features(record), probing(record)) if text]
    if rest:
        summary = f"<details><summary>{count(len(rest))} more measurements</summary>"
        parts += [summary, markdown_table(rest), "</details>"]
    return "\n\n".join(parts)


def by_activation(record: Record) -> str:
    """A table of what several activations have each, empty where one is written."""
    columns = [m for m in EACH if "by_reading" in _detail(record, m)]
    if not columns:
        return ""
    names = list(_detail(record, columns[0])["by_reading"])
    writes = record.checkpoint.get("writes") or ()
    words = writes if len(writes) == len(names) else names  # with the names of the models
    rows = [
        [_code(portable(word)), *(_each(record, metric, name) for metric in columns)]
        for word, name in zip(words, names, strict=True)
    ]
    titles = ["Activation", *(escape.markdown_text(label(record, m)) for m in columns)]
    return markdown_grid(titles, rows, right=range(1, len(titles)))


def _detail(record: Record, metric: str) -> Mapping[str, Any]:
    measured = record.get(metric)
    return measured.detail if measured is not None else {}


def _each(record: Record, metric: str, name: str) -> str:
    value = _detail(record, metric)["by_reading"].get(name)
    return "–" if value is None else number(value)


def measured_on(record: Record) -> str:
    """One sentence: data, sequences, documents, tokens, model."""
    data = record.data
    size = f"{count(data.get('n_sequences') or 0)} sequences"
    if data.get("context_size"):
        size += f" of up to {count(data['context_size'])} tokens"
    n_documents = documents(record)
    if n_documents:
        size += f" from {count(n_documents)} document{'' if n_documents == 1 else 's'}"
    tokens = f"{count(tokens_counted(record))} tokens counted"
    if data.get("n_tokens"):
        tokens += f" of {count(data['n_tokens'])} read"
    models = models_measured(record)
    names = [escape.code_span(portable(m.get("id") or "unnamed model")) for m in models]
    model = " and ".join(names)
    said = regime(record.model) or record.model.get("dtype")
    how = f" in {escape.markdown_text(said)}" if said else ""
    run_by = record.model.get("precision")
    backend = run_by.get("backend") if isinstance(run_by, Mapping) else None
    if backend not in (None, "torch"):
        how += f" (run by {escape.markdown_text(backend)})"
    if sae_dtype := _other_sae_dtype(record):
        how += f", the checkpoint in {escape.markdown_text(sae_dtype)}"
    spec = escape.code_span(portable(data.get("spec") or "unnamed data"))
    return f"Measured on {spec}: {size}, {tokens}, through {model}{how}."


def _other_sae_dtype(record: Record) -> str:
    """The precision of the checkpoint's own products where it is not the usual one."""
    said = str(record.policy.get("sae_dtype") or "float32")
    return "" if said == "float32" else said


def _saelens(record: Record) -> list[str]:
    found = HUB.fullmatch(reference(record))
    if found is None or not found["path"]:
        place = escape.terminal(reference(record))
        if found is not None:
            place = f"path/to/{found['repo'].rpartition('/')[2]}"
        call = f"SAE.load_from_disk({json.dumps(place, ensure_ascii=False)})"
    else:
        call = f"SAE.from_pretrained({json.dumps(found['repo'])}, {json.dumps(found['path'])})"
    return ["from sae_lens import SAE", "", f"sae = {call}"]


def _source(fact: Mapping[str, Any] | None) -> str:
    if not fact:
        return "–"
    source = _code(fact.get("source")) if fact.get("source") else ""
    how = HOW.get(str(fact.get("how")), "")
    return f"{how}: {source}" if how and source else how or source or "–"


def _code(value: object) -> str:
    return escape.code_span(value if value is not None else "", cell=True, limit=escape.CELL_LENGTH)
