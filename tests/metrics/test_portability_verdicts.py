"""Verdicts on shifts, and clean predictions of two models, against hand-made cases."""

import numpy as np
import pytest
import torch

from saebench.errors import ConfigError
from saebench.metrics import prediction
from saebench.metrics.portability.results import measurements, predictions
from saebench.metrics.portability.sums import DivergenceSums, Resampling
from saebench.metrics.portability.verdict import equivalence, exceeded, overall
from saebench.metrics.prediction import Losses
from saebench.metrics.sums import GroupSums
from saebench.protocols import PortabilityProtocol
from saebench.stats import Interval
from tests.metrics.two_models import PROTOCOL, N, Sums, found, world


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.1, 0.1, "equivalent"),
        (-0.19, 0.199, "equivalent"),
        (0.1, 0.3, "inconclusive"),
        (-0.3, 0.1, "inconclusive"),
        (-0.3, 0.3, "inconclusive"),
        (0.2, 0.3, "different"),
        (-0.5, -0.2, "different"),
        (-0.1, 0.2, "inconclusive"),
        (None, None, "inconclusive"),
    ],
)
def test_an_interval_inside_outside_or_across_the_margin(low, high, expected):
    assert equivalence(Interval(low, high), 0.2) == expected


def test_one_difference_decides_and_one_doubt_leaves_doubt():
    assert overall(["equivalent", "equivalent"]) == "equivalent"
    assert overall(["equivalent", "inconclusive"]) == "inconclusive"
    assert overall(["inconclusive", "different"]) == "different"


def test_the_rule_is_passed_at_its_limit_and_names_what_is_over():
    protocol = PortabilityProtocol(fve_drop=0.2, alive_shift=0.5)
    assert exceeded(0.2, 0.5, protocol) == []
    assert exceeded(0.2, -0.5, protocol) == []
    assert exceeded(0.21, 0, protocol) == ["fve_drop"]
    assert exceeded(-5, -0.51, protocol) == ["alive_shift"]
    assert exceeded(0.3, 0.6, protocol) == ["fve_drop", "alive_shift"]


def losses(seed: int = 0) -> tuple[GroupSums, GroupSums, DivergenceSums, torch.Tensor]:
    """Sums over 60 positions of 15 sequences, and ``ce₀ ce₁ kl kl_reverse`` themselves ``[4, 60]``."""
    columns = torch.rand(4, 60, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    ids = torch.arange(60) // 4
    floors = [prediction.floor_sums(), prediction.floor_sums()]
    parts = [DivergenceSums(), DivergenceSums()]
    for part, rows in zip(parts, (slice(0, 30), slice(30, 60)), strict=True):
        for sums, ce in zip(floors, columns[:2, rows], strict=True):
            sums.count(ids[rows])
            sums.add("ce_clean", ce, ids[rows])
        part.update(Losses(columns[1, rows], columns[2, rows], columns[3, rows]), ids[rows])
    parts[0].merge(parts[1])
    return *floors, parts[0], columns


def test_clean_predictions_are_means_over_positions_and_their_shift_is_paired():
    reference, variant, divergence, columns = losses()
    made = predictions(reference, variant, divergence, n_sequences=15)
    got = {item.name.removeprefix("port_"): item for item in made.values()}
    for name, column in zip(
        ("ce_reference", "ce_variant", "kl", "kl_reverse"), columns, strict=True
    ):
        assert got[name].value == pytest.approx(float(column.mean()))
    difference = columns[1] - columns[0]
    assert got["ce_shift"].value == pytest.approx(float(difference.mean()))
    draws = (Resampling(15).weights() @ difference.reshape(15, 4).sum(1) / 60).numpy()
    bounds = got["ce_shift"].low, got["ce_shift"].high
    assert bounds == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])))


def test_vocabularies_of_other_sizes_leave_losses_and_no_divergence():
    reference, variant, _, _ = losses()
    made = predictions(reference, variant, None, n_sequences=15)
    assert {item.name for item in made.values()} == {
        *("port_ce_reference", "port_ce_variant", "port_ce_shift")
    }


def test_predictions_of_other_positions_are_refused():
    reference, variant, divergence, _ = losses()
    variant.count(torch.tensor([3]))
    with pytest.raises(ConfigError, match="tokens in each group"):
        predictions(reference, variant, divergence, n_sequences=15)


@pytest.mark.parametrize(
    ("n", "verdict"), [(2, "inconclusive"), (19, "inconclusive"), (20, "equivalent")]
)
def test_equivalence_takes_twenty_sequences(n, verdict):
    data = world()
    data |= {f"{name}1": data[f"{name}0"] for name in ("x", "y", "f")}
    sums = Sums().over(data, np.arange(6 * n)).both()
    made = measurements(sums, PROTOCOL, n_sequences=n, n_resamples=100)
    item = made.measurements["port_equivalent@1"]
    assert item.detail["verdict"] == verdict
    assert item.value == (verdict == "equivalent")
    if verdict == "inconclusive":
        assert item.detail["reason"].startswith(f"{n} sequences are too few")
        for bounds in made.details["equivalence_intervals"].values():
            assert bounds["reason"] == item.detail["reason"]
    else:
        assert "reason" not in item.detail


def test_tokens_that_fall_silent_on_one_side_count_as_nothing_in_common():
    data = world()
    data["f1"] = data["f0"].clone()
    lively = int((data["f0"] != 0).any(1).sum())
    both = N - lively
    fell = torch.nonzero((data["f0"] != 0).any(1)).squeeze(1)[:50]
    data["f1"][fell] = 0
    item = found(data)[0]["sample_correlation"]
    assert item.value == pytest.approx((lively - 50) / lively)
    assert item.detail["tokens"] == lively
    assert item.detail["share_silent_on_one"] == pytest.approx(50 / N)
    assert item.detail["share_silent_on_both"] == pytest.approx(both / N)
