"""What a card says of a checkpoint under a variant: seven rows, two verdicts, and why there are none."""

import json

from saebench.metrics.definitions import definition
from saebench.record import Measurement, Record

VALUES = {
    "fve_reference": (0.8, 0.79, 0.81),
    "fve_variant": (0.76, 0.75, 0.77),
    "fve_drop": (0.05, 0.04, 0.06),
    "l0_reference": (16.0, None, None),
    "l0_variant": (16.0, None, None),
    "l0_ratio": (1.0, 1.0, 1.0),
    "alive_reference": (1000.0, None, None),
    "alive_variant": (900.0, None, None),
    "alive_shift": (-0.1, -0.15, -0.05),
    "drift": (0.2, 0.19, 0.21),
    "error_over_drift": (2.5, 2.4, 2.6),
    "survival": (0.6, 0.5, 0.7),
    "sample_correlation": (0.97, 0.96, 0.98),
    "top_k_agreement": (0.9, 0.89, 0.91),
    "ce_reference": (3.0, 2.9, 3.1),
    "ce_variant": (3.1, 3.0, 3.2),
    "ce_shift": (0.1, 0.09, 0.11),
    "kl": (0.04, 0.03, 0.05),
}
DETAILS = {
    "protocol": {"fve_drop": 0.2, "alive_shift": 0.5, "survival": 0.9, "top_k": 10},
    "variant": {"name": "nf4", "precision": "nf4"},
    "regime": {"regime": "nf4", "backend": "reference", "emulated": False},
    "latents": {
        "eligible": 800,
        "surviving": 480,
        "min_firings": 10,
        "silent_on_variant": 3,
        "alive_on_both": 890,
        "alive_on_reference_only": 110,
        "alive_on_variant_only": 10,
        "correlation_quantiles": {"0.5": 0.93},
        "by_peak": [
            {"n": 400, "peak_from": 0.1, "peak_to": 2.0, "survival": 0.4, "median": 0.85},
            {"n": 400, "peak_from": 2.0, "peak_to": 9.0, "survival": 0.8, "median": 0.95},
        ],
    },
    "equivalence_intervals": {
        "fve_drop": {"low": 0.042, "high": 0.058},
        "alive_shift": {"low": -0.14, "high": -0.06},
    },
}
RULE = {
    "verdict": "portable",
    "exceeded": [],
    "limits": {"fve_drop": 0.2, "alive_shift": 0.5},
}
TESTED = {
    "verdict": "equivalent",
    "parts": {"fve_drop": "equivalent", "alive_shift": "equivalent"},
    "margins": {"fve_drop": 0.2, "alive_shift": 0.5},
    "level": 0.9,
}


REFERENCE = {
    "id": "tiny",
    "digest": "d" * 64,
    "precision": {"regime": "float32", "backend": "torch"},
}
NO_FIGURE = "no published figure for this regime"


def made(
    details=DETAILS,
    values=VALUES,
    rule=RULE,
    tested=TESTED,
    k=16,
    regime="nf4",
    backend="reference",
    reference=REFERENCE,
    reasons=None,
):
    found = [
        Measurement(
            definition(f"port_{name}").metric,
            *numbers,
            detail={"fixed_by_k": k} if name == "l0_ratio" else {},
        )
        for name, numbers in values.items()
    ]
    found += [
        Measurement(
            definition(f"port_{name}").metric, float(not detail.get("exceeded")), detail=detail
        )
        for name, detail in (("portable", rule), ("equivalent", tested))
        if detail
    ]
    found += [
        Measurement(definition(f"port_{name}").metric, None, reason=reason)
        for name, reason in (reasons or {}).items()
    ]
    record = Record(
        "k" * 64,
        {"name": "topk@nf4", "of": "topk", "case": "nf4"},
        {
            "id": "tiny|nf4",
            "digest": "d" * 64,
            "precision": {"regime": regime, "backend": backend},
            "reference": reference,
        },
        {},
        {},
        {one.metric: one for one in found},
        part="portability",
        details={"portability": details},
    )
    return Record.from_json(json.loads(json.dumps(record.to_json())))


def cells(text, start):
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in line.strip("|").split("|")]
